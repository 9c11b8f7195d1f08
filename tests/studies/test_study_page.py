"""The page of a study: intervals, sentences and cells by hand, and files that are damaged."""

from __future__ import annotations

import json
import math
import pathlib
import re

import numpy as np
import pytest

from anatcl_jax.config import flat
from anatcl_jax.config_files import load
from anatcl_jax.errors import UserError
from anatcl_jax.studies import (
    comparison,
    findings,
    objectives,
    results,
    study_figures,
    study_page,
)
from anatcl_jax.studies.comparison import Estimate
from anatcl_jax.studies.findings import Finding, Verdict
from anatcl_jax.studies.results import BY_NAME

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
SETTINGS = {'phantom': {'subjects': 1200, 'sites': 8, 'held_out_sites': 3, 'confounded': 'site'},
            'pretraining': 0.6, 'training': '--config.epochs=20', 'folds': 5, 'labels': '25,50',
            'replicates': 4}
LINES = {'covariates': '', 'untrained': 'pretrain',
         'yaware': 'pretrain --config.loss.terms.anatomy.weight=0',
         'global-region': 'pretrain:variant=global',
         'rbf-10': 'pretrain:variant=rbf,effective_positives=0.1'}
PEOPLE = np.array([0, -0.01, 0, 0.01, 0.0])     # what each resampling of people adds to all scores
DISEASE = {'covariates': 0.6, 'untrained': 0.61, 'yaware': 0.7, 'global-region': 0.71,
           'rbf-10': 0.8}


def row(objective: str, seed: int, scores: dict[str, np.ndarray] | None = None) -> dict:
  """Seeds 0, 1, 2 lie 0.002 apart, and yaware and rbf-10 stray from that, one against the other.

  What objectives and seeds leave are 12 squares of 0.001 of 6 degrees, a variance of 2e-6.
  """
  if scores is None:
    stray = {'yaware': 0.001, 'rbf-10': -0.001}.get(objective, 0) * (1, -2, 1)[seed]
    scores = {'disease_auc_unseen': DISEASE[objective] + 0.002 * (seed - 1) + stray + PEOPLE}
    if objective != 'covariates':
      scores['age_mae_unseen'] = (7 + 0.1 * (objective == 'rbf-10') + 0.01 * seed + 10 * stray
                                  + PEOPLE)
  return {'objective': objective, 'seed': seed, 'minutes': 3.0, 'cpu_minutes': 1.5,
          'training': {'effective_positives/anatomy': 6.3 + seed} if 'rbf' in objective else {},
          'scores': {name: list(map(float, of)) for name, of in scores.items()},
          'line': LINES.get(objective, 'pretrain')}


def rows() -> list[dict]:
  return [row(name, seed) for name in LINES for seed in range(1 if name == 'covariates' else 3)]


def write(path: pathlib.Path, lines: list[dict], settings: dict = SETTINGS) -> pathlib.Path:
  head = {'made_by': 'made by anatcl_jax', 'synthetic': True, 'study': settings}
  path.write_text(''.join(json.dumps(line) + '\n' for line in (head, *lines)))
  return path


@pytest.fixture(scope='module')
def study(tmp_path_factory) -> results.Results:
  return results.read(write(tmp_path_factory.mktemp('study') / 'results.jsonl', rows()))


# Intervals.

REST = comparison.Variance(3.0, 2)


def test_an_interval_over_seeds_and_people_by_hand():
  """Variances 1 of people (2 degrees) and 3 / 3 of seeds (2): 2, of 4 / (1/2 + 1/2) degrees."""
  people = np.array([0, -1.0, 0, 1])
  one = comparison.estimate(np.array([[0.0], [1], [5]]) + people, REST)
  assert one.value == 2 and one.over_seeds
  assert one.high - one.value == pytest.approx(2.776445 * math.sqrt(2))     # t of 4 degrees
  alone = comparison.estimate(people[None], REST, seedless=True)
  assert alone.over_seeds and alone.high == pytest.approx(4.302653)         # t of 2 degrees
  lonely = comparison.estimate(people[None], REST)
  assert not lonely.over_seeds and math.isnan(lonely.p) and lonely.high == alone.high


def test_the_last_bits_of_a_library_turn_no_digit_of_a_page():
  """Least squares of another NumPy gave 0.4595 as the number below it, and the page said 0.459."""
  for near in (np.nextafter(0.4595, 0), 0.4595, np.nextafter(0.4595, 1)):
    one = comparison.estimate(near + np.array([[0, -0.1, 0, 0.1]]), None)
    assert one.value == 0.4595 and f'{one.value:.3f} {(-one).value:.3f}' == '0.460 -0.460'


def test_differences_are_paired_over_people_and_seeds():
  """What people and seeds add is the same on both sides and goes; of the rest 2 3 / 3 stay."""
  both = np.array([[0.0], [70], [-50]]) + 50 * np.array([0, -1.0, 0, 1, 3])
  one = comparison.difference(4 + both, both, comparison.Variance(3.0, 4))
  assert (one.value, one.high - 4) == pytest.approx((4, 2.776445 * math.sqrt(2)))
  assert one.p == pytest.approx(0.0474, abs=1e-4)                           # t = 2.828, 4 degrees
  assert (-one).low == -one.high and (-one).p == one.p
  assert not comparison.difference(4 + both[:1], both[:1], REST).over_seeds


def test_blocks_by_hand():
  """Rows 0 and 10, columns 0 and 1; the rest is 1, -1, -1, 1, of (2 - 1)(2 - 1) degrees."""
  found = comparison.blocks({('a', 0): 0 + 1.0, ('a', 7): 1 - 1.0,
                             ('b', 0): 10 - 1.0, ('b', 7): 11 + 1.0})
  assert found.seeds == pytest.approx({0: -0.5, 7: 0.5})
  assert found.rest.value == pytest.approx(4) and found.rest.freedom == 1
  # b has one seed, which is 3 better than the other: nothing is left to tell from it.
  found = comparison.blocks({('a', 0): 1.0, ('a', 1): 4.0, ('b', 1): 6.0})
  assert found.seeds == pytest.approx({0: -1.5, 1: 1.5}) and found.rest is None
  assert comparison.blocks({}).rest is None


def test_intervals_hold_the_truth_where_seeds_are_few():
  """Two seeds, in which all eight objectives are better or worse alike; of the first two."""
  rng, held = np.random.default_rng(0), np.zeros(2)
  for _ in range(400):
    seeds = 3 * rng.standard_normal(2)
    points = seeds + rng.standard_normal((8, 2))
    found = comparison.blocks({(str(name), seed): points[name, seed]
                               for name in range(8) for seed in range(2)})
    people = rng.standard_normal() + 0 * points                    # a draw of people, alike for all
    a, b = (np.hstack([of[:, None], of[:, None] + rng.standard_normal(60)])
            for of in (points + people)[:2])
    one, other = comparison.estimate(a, found.rest), comparison.difference(
        np.repeat(a[:, :1], 4, 1), np.repeat(b[:, :1], 4, 1), found.rest)
    held += [one.low <= seeds.mean() <= one.high, other.low <= 0 <= other.high]
  assert (held / 400 > 0.92).all() and (held / 400 < 0.98).all()


# Sentences.

def finding(value: float, half: float, p: float, question: str = 'disease_auc_unseen',
            name: str = 'a', over_seeds: bool = True) -> Finding:
  return Finding(name, BY_NAME[question],
                 Estimate(value, value - half, value + half, p, over_seeds), p)


@pytest.mark.parametrize(('value', 'half', 'p', 'verdict'), [
    (0.05, 0.01, 0.001, Verdict.BETTER), (0.015, 0.01, 0.01, Verdict.BETTER),
    (0.01, 0.005, 0.01, Verdict.SLIGHTLY_BETTER), (-0.05, 0.01, 0.001, Verdict.WORSE),
    (-0.01, 0.005, 0.01, Verdict.SLIGHTLY_WORSE), (0.01, 0.005, 0.06, Verdict.NONE),
    (0.05, 0.04, 0.06, Verdict.SUGGESTED), (0.05, 0.06, 0.1, Verdict.OPEN),
    (0.0, 0.03, 0.9, Verdict.OPEN)])
def test_verdicts_by_what_is_shown_and_what_matters(value, half, p, verdict):
  """In disease 0.02 matters."""
  assert finding(value, half, p).verdict is verdict
  assert finding(value, half, p, over_seeds=False).verdict is Verdict.UNKNOWN


def test_a_sentence_says_who_is_better_and_by_how_much():
  found = [finding(0.05, 0.01, 0.001, name='a'), finding(-0.05, 0.01, 0.001, name='b'),
           finding(0.03, 0.01, 0.001, name='c'), finding(0.001, 0.01, 0.9, name='d')]
  assert findings.sentence(found, 'y-Aware') == (
      'better than y-Aware: a by 0.050 (0.040 to 0.060), c by 0.030 (0.020 to 0.040); worse: b; '
      'no difference that matters: d.')
  assert findings.sentence(found[3:], 'y').startswith('better than y: none; no difference that')


def test_less_is_better_of_errors_and_of_leakage(study):
  differences = study.differences('yaware', BY_NAME['age_mae_unseen'])
  assert differences['rbf-10'].value == pytest.approx(-0.1, abs=0.01)     # its error is larger


def test_answers_name_the_best_and_how_little_it_is(study):
  found = findings.findings(study, 'yaware')
  head, (text,) = findings.answer(study, found, results.WITH_ANATOMY)
  assert head == 'better in disease'
  assert text == ('disease: 1 of 2 better; 1 more, by less than matters; the most is rbf-10, '
                  'by 0.100 (0.097 to 0.103)')
  head, (text,) = findings.answer(study, found, (results.PUBLISHED,))
  assert head == 'better, but by less than matters, in disease'
  assert text == 'disease: better, by less than matters by 0.010 (0.007 to 0.013)'
  assert findings.equally_aged(found) == ['untrained', 'global-region', 'rbf-10']


def test_what_is_recommended_is_nowhere_worse(study):
  """Beside global-region: more of disease; an error of age 0.1 years larger, 0.5 matter."""
  published = findings.findings(study, 'global-region')
  assert findings.supported(published).objective == 'rbf-10'
  assert findings.recommendation(study).startswith('`configs/pretrain.py:recommended` is `rbf-10`:')
  worse = {**published, 'site_accuracy': [
      finding(-0.2, 0.1, 0.001, 'site_accuracy', name='rbf-10')]}
  assert findings.supported(worse) is None
  without = results.Results(study.settings, tuple(
      one for one in study.rows if one['objective'] != 'rbf-10'))
  assert findings.recommended(without) == 'global-region'
  assert 'is the published recipe, `global-region`' in findings.recommendation(without)


def test_groups_follow_the_lines_of_the_config():
  groups = {name: results.group_of(name, line) for name, line in load('study').objectives.items()}
  assert {name for name, group in groups.items() if group == results.BASELINES} == {
      'untrained', 'simclr', 'supervised-age', 'supcon-age-bins'}
  assert [groups[name] for name in ('yaware', 'expw', 'local-subject', 'whitened-10', 'rbf-03',
                                    'rbf-10-without-site', 'only-global-region')] == [
      results.AGE, results.AGE, results.PUBLISHED, results.SHARPER, results.SHARPER,
      results.RESIDUALISED, results.ANATOMY]
  assert results.group_of('morphometry', '') == results.BASELINES


# The page.

def test_the_page_has_values_intervals_and_marks_worked_out_by_hand(study):
  """rbf-10: 0.8; of seeds 2e-6 / 3, of people 2e-4 / 3; t of 3.06 degrees is 3.147."""
  text = study_page.page(study, pathlib.Path('study.md'), [('study-a.png', 'A figure.')])
  assert 3.147 * math.sqrt(2e-4 / 3 + 2e-6 / 3) == pytest.approx(0.0258, abs=1e-4)
  assert '| `rbf-10` | 3 | 7.3 | 7.11*<br>' in text
  assert '0.800*<br><sub>0.774 to 0.826</sub>' in text
  assert '| `yaware` (reference) | 3 |' in text and '| `covariates` | 1 |  | – |' in text
  assert 'covariates was not asked or has no answer for age' in text
  assert 'runs: 13; 0.7 hours by their clocks, 0.3 of processors' in text
  assert 'not recorded (13 runs)' in text and '![A figure.](study-a.png)' in text
  assert 'supports no claim' not in text and '**Does anatomy help?' in text


def test_machines_and_versions_come_from_the_rows(tmp_path):
  lines = rows()
  lines[0] |= {'machine': '1 x NVIDIA H100', 'versions': {'jax': '0.10.2'}}
  text = study_page.made(results.read(write(tmp_path / 'r.jsonl', lines)), tmp_path / 'study.md')
  assert '1 x NVIDIA H100 (1 runs: covariates 0)' in text and 'not recorded (12 runs' in text
  assert '\n\n| objective | group |' in text
  assert 'versions: jax 0.10.2' in text


def test_what_is_missing_is_said(tmp_path):
  lines = [one for one in rows() if (one['objective'], one['seed']) not in (
      ('yaware', 1), ('rbf-10', 1), ('rbf-10', 2))]
  study = results.read(write(tmp_path / 'r.jsonl', lines))
  assert 'yaware lacks seed 1' in study.gaps()
  assert any(gap.startswith('rbf-10 has one seed') for gap in study.gaps())
  found = findings.findings(study, 'yaware')['disease_auc_unseen']
  assert {one.objective: one.verdict for one in found}['rbf-10'] is Verdict.UNKNOWN
  text = study_page.page(study, tmp_path / 'study.md', [])
  assert 'one seed in common, nothing claimed: rbf-10' in text


def test_a_study_of_demo_size_supports_no_claim(tmp_path):
  small = SETTINGS | {'phantom': SETTINGS['phantom'] | {'subjects': 160}}
  lines = [row('untrained', 0), row('rbf-10', 0)]
  text = study_page.page(results.read(write(tmp_path / 'r.jsonl', lines, small)),
                         tmp_path / 'study.md', [])
  assert 'demo size (160 people and 1 seed of an objective) and supports no claim' in text
  assert 'In short' not in text and 'What holds' not in text


def test_the_command_makes_the_same_page_of_the_smaller_file(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(study_figures, 'draw', lambda results: {})
  source = write(tmp_path / 'results.jsonl', rows())
  study_page.main([f'--results={source}', f'--out={tmp_path}/page/study.md'], 'page')
  page = tmp_path / 'page' / 'study.md'
  text, kept = page.read_text(), page.with_name('study-results.jsonl.gz')
  before = kept.read_bytes()
  study_page.main([f'--results={kept}', f'--out={page}'], 'page')
  assert page.read_text() == text and kept.read_bytes() == before
  assert 'SYNTHETIC' in text and 'made by anatcl_jax' in text


@pytest.mark.parametrize(('change', 'told'), [
    (lambda one: one.pop('scores'), 'row 3 is not as'),
    (lambda one: one['scores'].update(disease_auc_unseen=[0.5, 'x', 1, 1, 1]), 'row 3 is not as'),
    (lambda one: one.update(line=5), 'row 3 is not as'),
    (lambda one: one['scores'].update(disease_auc_unseen=[0.5, 0.4]), 'row 3 has other resampl'),
    (lambda one: one.update(seed=0), 'untrained stands twice with seed 0'),
    (lambda one: one.update(line='pretrain:demo'), 'row 3 has objective untrained by another')])
def test_damaged_rows_are_named(tmp_path, change, told):
  lines = rows()
  change(lines[2])
  with pytest.raises(UserError, match=told):
    results.read(write(tmp_path / 'r.jsonl', lines))


def test_files_that_are_no_results(tmp_path):
  with pytest.raises(UserError, match='is not there'):
    results.read(tmp_path / 'none.jsonl')
  with pytest.raises(UserError, match='has no row yet'):
    results.read(write(tmp_path / 'r.jsonl', []))
  with pytest.raises(UserError, match='damaged'):
    results.read(write(tmp_path / 's.jsonl', rows(), {'folds': 5}))
  for name in ('t.jsonl', 't.jsonl.gz'):
    (tmp_path / name).write_bytes(b'\x1f\x8b\x08\x00rest')
    with pytest.raises(UserError, match='damaged'):
      results.read(tmp_path / name)


# Figures.

def test_labels_are_moved_apart_and_stay_in_order():
  for places, gap, moved in (((0.5, 0.1, 0.5), 0.1, (0.45, 0.1, 0.55)), ((1, 1), 0.2, (0.8, 1)),
                             ((0.3,), 0.2, (0.3,))):
    np.testing.assert_allclose(study_figures.spread(np.array(places), gap), moved)


def test_a_figure_says_SYNTHETIC_and_its_labels_do_not_overlap(study):
  figure, words = study_figures.age_and_disease(study)
  assert 'SYNTHETIC' in figure.get_suptitle() and 'intervals' in words
  figure.draw_without_rendering()
  boxes = [text.get_window_extent() for text in figure.axes[0].texts
           if text.get_text() in LINES]
  assert len(boxes) == 4       # covariates have no age
  assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


# The study in docs.

def test_the_page_in_docs_is_what_the_command_makes_of_the_results_beside_it():
  page = DOCS / 'study.md'
  text = page.read_text(encoding='utf-8')
  pictures = [(name, words) for words, name in re.findall(r'^!\[(.*)\]\((.*)\)$', text, re.M)]
  assert len(pictures) == 5 and all((DOCS / name).is_file() for name, _ in pictures)
  made = study_page.page(results.read(study_page.kept(page)), page, pictures)
  assert made.splitlines()[1:] == text.splitlines()[1:]     # the first has the version


def test_recommended_is_the_objective_that_the_study_supports():
  text = (DOCS / 'study.md').read_text(encoding='utf-8')
  name = re.search(r'py:recommended` is (?:the published recipe, )?`(.*?)`', text)[1]
  assert name == findings.recommended(results.read(study_page.kept(DOCS / 'study.md')))
  line = load('study').objectives[name]
  assert flat(load('pretrain:recommended')) == flat(objectives.config_of(name, line, ''))
  assert load('pretrain:recommended,variant=local').loss.terms.anatomy.kernel == 'local'
