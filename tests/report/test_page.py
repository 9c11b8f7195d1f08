"""The report of an evaluation, on SYNTHETIC numbers: what stands there is what was found."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest
from PIL import Image

from anatcl_jax import report
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import tasks, write
from anatcl_jax.evaluation.evaluate import Settings
from anatcl_jax.evaluation.results import score_and_sd
from anatcl_jax.evaluation.run import Extent, run
from anatcl_jax.evaluation.write import shown
from anatcl_jax.report import beyond, methods, page, scores, sections, style, tables
from anatcl_jax.training import curves
from tests.evaluation.probing import cohort_of

TASKS, COHORTS = tasks.read_tasks('configs/tasks.py')


@pytest.fixture(scope='module')
def evaluation():
  rng = np.random.default_rng(1)
  cohort = cohort_of({'age': rng.uniform(20, 80, 60), 'sex': rng.choice(['M', 'F'], 60),
                      'site': rng.choice(['x', 'y'], 60)}, sessions=2)
  age, count = cohort.table['age'].to_numpy(float), len(cohort.table)
  known = np.stack([age + rng.normal(0, 8, count), rng.normal(size=count)], 1)
  encoders = {'ours': (known.astype(np.float32),),
              'untrained': (rng.normal(size=(count, 2)).astype(np.float32),)}
  made = {'command': 'python -m <probe>', 'config': {'inner_folds': 2},
          'cards': {'ours': {'encoder': 'tiny', 'source': 'runs/a&b'}}}
  chosen = tasks.choose_tasks('age,sex,oasis3', TASKS, COHORTS)
  return run(cohort, encoders, chosen, Settings(folds=2, inner_folds=2),
             Extent('20,30', True), made, progress=False)


class Page(html.parser.HTMLParser):
  """Tags in order, images, links, and the text of the table of each section."""

  def __init__(self, text: str):
    super().__init__()
    self.open, self.images, self.links, self.anchors = [], [], [], set()
    self.external = []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    if tag not in ('meta', 'img', 'br'):
      self.open.append(tag)
    if tag == 'img':
      self.images.append(attributes)
    if 'id' in attributes:
      assert attributes['id'] not in self.anchors, attributes['id']
      self.anchors.add(attributes['id'])
    if tag == 'a':
      self.links.append(attributes['href'])
    self.external += [value for name, value in attributes.items()
                      if name in ('src', 'href') and value and value.startswith(('http', '//'))]
    assert tag not in ('script', 'link', 'iframe')

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


@pytest.fixture(scope='module')
def written(evaluation, tmp_path_factory):
  out = tmp_path_factory.mktemp('report')
  workdir = out / 'run'
  workdir.mkdir()
  rows = [{'step': step, 'epoch': step, 'loss': 10.0 - step, 'loss/age': 5.0,
           'effective_positives/age': 3.0} for step in (1, 2, 3)]
  (workdir / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n')
  return report.write(evaluation, out, training=curves.pictures({'ours': workdir}, ['ours']))


def test_the_page_is_whole_and_alone(written):
  """Tags close, links of the contents lead somewhere, nothing is loaded from elsewhere."""
  page = Page(written.read_text())
  assert not page.open and not page.external
  assert all(link.removeprefix('#') in page.anchors for link in page.links)
  assert '@media print' in written.read_text()


def test_every_picture_is_embedded_and_beside_the_page(written):
  page = Page(written.read_text())
  files = {path: path.read_bytes() for path in (written.parent / 'figures').iterdir()}
  embedded = {base64.b64decode(image['src'].partition('base64,')[2]) for image in page.images}
  names = {path.stem for path in files}
  assert embedded <= set(files.values()) and len(embedded) == len(names) >= 10
  assert {path.suffix for path in files} == {'.png', '.svg'} and len(files) == 2 * len(names)
  for path in files:
    if path.suffix == '.png':
      assert Image.open(path).info['dpi'] == pytest.approx((300, 300), abs=0.1)
  assert all(len(image['alt']) > 20 for image in page.images)


def test_each_section_says_in_a_sentence_how_it_is_read(evaluation):
  drawn = sections.sections(sections.Found(evaluation), tuple(sections.SECTIONS))
  assert len(drawn) >= 8
  for one in drawn:
    assert one.how.endswith('.') and '. ' not in one.how and len(one.how) < 260


def test_every_axis_has_a_unit_or_its_range(evaluation):
  """Those of numbers; classes, representations and counts have none."""
  without = {'predicted class', 'true class', 'number of labelled people'}
  for picture in report.pictures(evaluation):
    names = [picture.figure.get_supxlabel(), picture.figure.get_supylabel()]
    for axes in picture.figure.axes:
      own = [axes.get_xlabel(), axes.get_ylabel()]
      assert any([*own, *names]), picture.name
      names += own
    for name in filter(None, names):
      assert name in without or re.search(r'\(.+\)|rate: share of', name), (picture.name, name)


def test_false_and_true_rates_have_their_names(evaluation):
  one = next(one for one in evaluation.outcomes if one.task.name == 'sex')
  confusion = next(picture for picture in report.pictures(evaluation, names='tasks')
                   if picture.name == 'confusion-sex')
  cells = [text.get_text().split('\n') for text in confusion.figure.axes[0].texts]
  male, female = one.classes
  found = dict(zip(['true negative', 'false positive', 'false negative', 'true positive'], (
      ((one.truth == a) & (one.prediction == b)).sum() for a in (male, female)
      for b in (male, female))))
  assert [(cell[1], int(cell[0])) for cell in cells] == list(found.items())


def test_her_diagnosis_and_what_she_predicts_colour_the_embedding(evaluation):
  table = evaluation.table.assign(Diagnosis=np.where(np.arange(120) % 4 < 2, 'HC', 'SCZ'), apoe=1)
  drawn, = beyond.embedding(dataclasses.replace(evaluation, table=table))
  titles = [axes.get_title() for axes in drawn.figure.axes if axes.get_title()]
  assert titles == ['Diagnosis', 'age', 'sex', 'site']
  legend = [text.get_text() for text in drawn.figure.axes[0].get_legend().get_texts()]
  assert legend == ['HC (60)', 'SCZ (60)']


def test_sections_are_chosen_by_name(evaluation, tmp_path):
  text = report.write(evaluation, tmp_path, names='comparisons, leakage').read_text()
  assert re.findall(r'<section id="([a-z-]+)"', text) == [
      'summary', 'comparisons', 'site-leakage', 'notes', 'methods', 'made']
  assert {path.stem for path in (tmp_path / 'figures').iterdir()} == {'leakage'}
  with pytest.raises(UserError, match=r"'comparison'.*comparisons"):
    sections.chosen('tasks,comparison')
  with pytest.raises(UserError, match='all alone, or some of tasks, saliency'):
    sections.chosen('all,tasks')


def test_scores_of_the_table_are_those_of_the_evaluation(written, evaluation):
  section = re.search(r'<section id="task-age">.*?</section>', written.read_text(), re.DOTALL)[0]
  for outcome in evaluation.outcomes:
    if outcome.task.name == 'age':
      mean, sd = score_and_sd(outcome, 'mae')
      row = re.search(rf'<th scope="row">{re.escape(outcome.features)}</th>(.*?)</tr>', section,
                      re.DOTALL)[1]
      cell = re.sub('<[^>]*>', ' ', re.search(r'<td>(.*?)</td>', row)[1])
      low, high = outcome.interval['mae']
      assert cell.split() == [shown(mean), '±', shown(sd), shown(low), 'to', shown(high)]
      assert ('<strong>' in row) == (outcome.features == 'ours')     # it alone knows age
  assert 'n = 60 people, 120 scans' in section


def test_synthetic_is_said_at_every_figure_and_not_of_people(written, evaluation, tmp_path):
  text = written.read_text()
  assert text.count('SYNTHETIC subjects') == 1 + text.count('<figcaption>')
  real = report.write(dataclasses.replace(evaluation, synthetic=False), tmp_path,
                      names='tasks')
  assert 'SYNTHETIC' not in real.read_text() and 'synthetic' not in real.read_text().split(
      '<body>')[1].split('id="made"')[0]


def test_what_the_encoder_was_trained_on_is_another_fact(evaluation, tmp_path):
  both = dataclasses.replace(evaluation, trained_on_synthetic=('ours',))
  drawn, = beyond.embedding(both)
  assert drawn.figure.get_suptitle().splitlines()[1:] == [
      'n = 60 people, 120 scans · SYNTHETIC', 'encoder trained on SYNTHETIC subjects']
  assert write.summary(both).startswith(
      'SYNTHETIC subjects: figures say that the path works, nothing about people\n\n'
      'trained on SYNTHETIC subjects: ours\n\n')
  real = dataclasses.replace(both, synthetic=False)      # scans of people
  text = page.write(real, tmp_path, names='embedding,leakage,labels,reliability').read_text()
  figures = text.count('<figcaption>')
  assert text.count('Trained on SYNTHETIC subjects: ours.') == 1 + figures == 6
  assert text.count('SYNTHETIC') == 2 + figures and 'The scans here are not.' in text
  assert 'tiny from runs/a&amp;b, trained on SYNTHETIC subjects' in text
  intervals, *_ = scores.pictures(real.outcomes[:3], False, True)
  assert intervals.figure.get_suptitle().splitlines()[1:] == [
      'n = 60 people, 120 scans', 'encoder trained on SYNTHETIC subjects']
  assert write.summary(real).startswith('trained on SYNTHETIC subjects: ours\n\n')
  assert 'ours had been trained on synthetic' in methods.paragraph(real)[0]
  write.write_tables(real, tmp_path)
  made = json.loads((tmp_path / 'made.json').read_text())
  assert not made['synthetic'] and made['trained_on_synthetic'] == ['ours']


def test_a_training_has_subjects_of_its_own(written):
  """Curves say what the run was trained on, whatever is probed."""
  workdir = written.parent / 'run'
  drawn = curves.pictures({'ours': workdir, 'other': workdir}, ['ours'])
  assert [picture.synthetic for picture in drawn] == ['SYNTHETIC subjects.', '']
  assert ['SYNTHETIC' in picture.figure.get_suptitle() for picture in drawn] == [True, False]


def test_refused_tasks_methods_and_odd_names(written):
  text = written.read_text()
  refused = re.search(r'<section id="tasks-not-done">.*?</section>', text, re.DOTALL)[0]
  assert 'mmse' in refused and 'no column' in refused
  assert 'python -m &lt;probe&gt;' in text and 'runs/a&amp;b' in text
  methods = re.search(r'<section id="methods">.*?</section>', text, re.DOTALL)[0]
  assert 'ridge regression and logistic regression with balanced' in methods
  assert 'of 2 folds' in methods
  cited = set(re.findall(r'\[(\d+)\]', methods))
  assert cited == {str(i + 1) for i in range(methods.count('<li>'))}
  assert 'arXiv:2408.07079' in methods and 'OpenBHB' not in methods


@pytest.mark.parametrize('tool, cited', [
    ('CAT12', 'from CAT12 [8]'), ('', 'from FreeSurfer [8]'), ('T1Prep', 'from T1Prep.')])
def test_methods_name_the_tools_of_the_data(tool, cited, evaluation):
  """Whose morphometry it is, and what kind of maps; sets of old are FreeSurfer's."""
  one = evaluation.outcomes[0]
  maps = {'tool': 'SPM', 'values': 'modulated gray matter', 'smoothing': '8 mm', 'template': 'x'}
  known = dataclasses.replace(
      evaluation, synthetic=False, made={'data': {'measured_by': tool, 'maps': maps}},
      outcomes=(*evaluation.outcomes, dataclasses.replace(one, features='morphometry')))
  text, references = methods.paragraph(known)
  assert cited in text and 'SPM: modulated gray matter, smoothed by 8 mm' in text
  assert any('FreeSurfer' in reference for reference in references) == (not tool)


def test_a_second_report_replaces_the_first(written, evaluation):
  """Figures that are no longer there do not stay behind."""
  out = written.parent / 'second'
  report.write(evaluation, out, names='leakage')
  report.write(evaluation, out, names='reliability')
  assert {path.name for path in (out / 'figures').iterdir()} == {
      'reliability.png', 'reliability.svg'}
  assert {path.name for path in out.iterdir()} == {'figures', 'report.html'}


def _methods(evaluation, **changes):
  return methods.paragraph(dataclasses.replace(evaluation, **changes))


def test_the_methods_say_what_was_done(evaluation):
  """The probes that were chosen, the test that stands in the table, and whose tables these are."""
  text, references = _methods(evaluation)
  assert 'by the corrected t test' in text and 'bootstrap' not in text
  assert any(one.startswith('Nadeau') for one in references)
  # Two tasks, each against untrained, morphometry and covariates; and both beside covariates.
  assert 'after Holm [6] over the 6 comparisons of encoders, as they are, with each' in text
  assert ('Secondary comparisons were adjusted in a family of their own: what features add to '
          'covariates (4). Comparisons with the mean were not adjusted.') in text
  other = tuple(dataclasses.replace(one, estimator='svm') for one in evaluation.outcomes
                if one.estimator == 'linear')
  text, _ = _methods(evaluation, outcomes=other)
  assert 'ridge' not in text and 'logistic' not in text
  assert 'linear support vector regression and linear support vector classification' in text
  table = {'data': {'tables': {'ours': 'ours.tsv'}}}
  text, _ = _methods(evaluation, made=table)
  assert text.startswith('Features of ours were taken from tables, for 120 scans')
  assert 'computed with anatcl_jax' not in text
  challenge = dataclasses.replace(other[0], estimator='linear', task=TASKS['openbhb_challenge'])
  text, _ = _methods(evaluation, outcomes=(challenge,))
  assert 'without class weights' in text and 'balanced class weights' not in text


def test_what_is_made_of_a_row_looks_like_it_and_hollow():
  looks = style.marks(['ours', 'ours, harmonised', 'untrained', 'covariates + ours'])
  one, harmonised, other, beside = looks.values()
  assert harmonised == beside == dataclasses.replace(one, face='white') and one.face == one.color
  assert (other.color, other.marker) == (style.COLOURS[1], 's') and other.face == other.color


def test_who_is_predicted_is_said_above_the_tables():
  """People seen in pretraining are fitted on alone: the head, the captions and the deviations."""
  rng = np.random.default_rng(0)
  cohort = cohort_of({'age': rng.uniform(20, 80, 40)}, seen=np.arange(40) < 28)
  x = (rng.normal(size=(40, 2)).astype(np.float32),)
  found = run(cohort, {'ours': x}, tasks.choose_tasks('age', TASKS, COHORTS),
              Settings(inner_folds=2), Extent('none', False), {}, progress=False)
  assert page.lead(found) == ('Probes of n = 40 people, 12 of them predicted: those seen in '
                              'pretraining are fitted on alone')
  table, = [tables.scores_table(list(found.outcomes))]
  assert 'n = 12 people predicted' in table and '±' not in table and 'over folds' not in table
