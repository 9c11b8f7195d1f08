"""The study of objectives: what is planned, asked and kept, with answers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anatcl_jax import config_files
from anatcl_jax.config import flat
from anatcl_jax.errors import UserError
from anatcl_jax.studies import objectives, questions
from anatcl_jax.studies.objectives import Run
from anatcl_jax.studies.study_data import Asked
from anatcl_jax.training.checks import check_values


def _people(n: int = 150, seed: int = 0) -> Asked:
  """Thickness 0 loses 0.1 a decade; patients lose 1 of thickness 1, of subtype `b` 1 of 2."""
  rng = np.random.default_rng(seed)
  age, male = rng.uniform(20, 80, n), rng.integers(0, 2, n).astype(float)
  patient = rng.random(n) < 0.4
  subtype = np.where(patient, np.where(rng.random(n) < 0.5, 'a', 'b'), '')
  thickness = 2.5 + 0.1 * rng.standard_normal((n, 3))
  thickness[:, 0] -= 0.1 * (age - 50) / 10
  thickness[:, 1] -= patient
  thickness[:, 2] -= subtype == 'b'
  site = np.array(['s1', 's2', 's3'])[np.arange(n) % 3]
  measured = thickness + 0.01 * rng.standard_normal(thickness.shape)
  again = thickness + 0.01 * rng.standard_normal(thickness.shape)
  return Asked(np.arange(n), np.arange(n), age, male, site, site == 's3', patient, subtype,
               1 + 0.03 * rng.standard_normal(n), measured, again, thickness)


@pytest.fixture(scope='module')
def asked() -> tuple[Asked, questions.Scores]:
  people = _people()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(questions, '_DRAWS', 1)
    return people, questions.answers(people.morphometry, people.morphometry_again, people, 2, [40],
                                     4)


@pytest.mark.slow
def test_features_that_are_the_thickness_know_it_and_the_disease(asked):
  _, scores = asked
  assert scores['thickness_r2'][0] > 0.97 and scores['thickness_r2_unseen'][0] > 0.97
  assert scores['thickness_beyond_r2'][0] > 0.95
  assert scores['disease_auc'][0] > 0.99 and scores['disease_auc_unseen'][0] > 0.99
  assert scores['subtype_accuracy'][0] > 0.85
  assert scores['identification'][0] > 0.5 and scores['retest_r'][0] > 0.95
  assert scores['disease_auc_40'][0] > 0.97


@pytest.mark.slow
def test_and_not_what_they_do_not_hold(asked):
  """sd of age 17.3, of which a tenth of a millimetre of noise hides a part; chance of two sites."""
  _, scores = asked
  assert abs(scores['sex_auc'][0] - 0.5) < 0.15 and scores['head_size_r2'][0] < 0.1
  assert abs(scores['site_accuracy'][0] - 0.5) < 0.15 and 'site_accuracy_unseen' not in scores
  assert 5 < scores['age_mae'][0] < 10


def test_covariates_are_age_and_sex_alone():
  people = _people()
  scores = questions.answers(None, None, people, 4, [], 4, known=('age', 'sex'))
  assert not {'age_mae', 'sex_auc', 'thickness_beyond_r2', 'retest_r'} & set(scores)
  # Of three regions age explains the first: 0.03 of 0.04 mm^2 of variance.
  assert scores['thickness_r2'][0] == pytest.approx(0.75 / 3, abs=0.06)


@pytest.mark.slow
def test_replicates_are_the_same_for_all_runs_and_weigh_people(asked):
  people, scores = asked
  assert all(values.shape == (5,) for values in scores.values())
  weights = questions.weightings(5, 3)
  np.testing.assert_array_equal(weights, questions.weightings(5, 3))
  assert weights.shape == (4, 5) and (weights[0] == 1).all() and (weights.sum(1) == 5).all()


def test_scores_by_hand():
  """Four people; the second weighting has the first twice and the last never."""
  weights = np.array([[1.0, 1, 1, 1], [2, 1, 1, 0]])
  truth, predicted = np.array([0.0, 1, 2, 3]), np.array([1.0, 1, 2, 5])
  np.testing.assert_allclose(questions.mean_error(truth, predicted, weights), [3 / 4, 2 / 4])
  np.testing.assert_allclose(questions.r2(truth, predicted, weights), [1 - 5 / 5, 1 - 2 / 2.75])
  half = np.array([0.0, 0, 0, 0])
  np.testing.assert_allclose(
      questions.r2_beyond(truth[:, None], np.stack([predicted, half], -1)[:, None], weights),
      [1 - 5 / 14, 1 - 2 / 5])
  names = np.array(['a', 'a', 'b', 'b'])
  np.testing.assert_allclose(questions.balanced_accuracy(names, np.array(['a', 'b', 'b', 'b']),
                                                         weights), [0.75, (2 / 3 + 1) / 2])
  np.testing.assert_allclose(questions.auc(np.array([0, 0, 1, 1]), np.array([0.0, 2, 1, 3]),
                                           weights), [3 / 4, 2 / 3])


# What is planned.

def test_every_objective_of_the_config_is_a_run_of_pretraining():
  config = config_files.load('study')
  for name, line in config.objectives.items():
    own = objectives.config_of(name, line, config.training)
    check_values(own)
    assert own.encoder == 'tiny' and own.epochs == 100 and own.batch_size == 64
  simclr = objectives.config_of('simclr', config.objectives.simclr, config.training)
  assert {name for name, term in simclr.loss.terms.items() if term.weight} == {'participant_id'}
  assert simclr.loss.method == 'supcon' and simclr.augment == 'all'
  sharp = objectives.config_of('x', config.objectives['rbf-03'], config.training)
  assert sharp.loss.terms.anatomy.effective_positives == 0.03


def test_runs_by_seed_and_those_that_matter_more_often():
  config = config_files.load('study')
  runs = objectives.planned(config)
  counts = {name: sum(run.objective == name for run in runs) for name in
            ('morphometry', 'yaware', 'expw')}
  assert counts == {'morphometry': 1, 'yaware': 5, 'expw': 3}
  assert [run.seed for run in runs] == sorted(run.seed for run in runs)
  assert len({run.name for run in runs}) == len(runs)
  assert objectives.planned(config, ['expw'], [2]) == [Run('expw', 2)]
  with pytest.raises(UserError, match="did you mean 'yaware'"):
    objectives.planned(config, ['yawre'])
  with pytest.raises(UserError, match='x: .*no key of pretraining'):
    objectives.config_of('x', 'pretrain epochs=3', '')


def test_a_file_of_ones_own_has_its_own_objectives(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text('from anatcl_jax import config_files\n\n'
                  'def get_config(arguments=None):\n'
                  "  config = config_files.load('study')\n"
                  "  config.objectives = {'mine': 'pretrain'}\n"
                  "  config.matter = 'mine'\n"
                  '  return config\n')
  config = config_files.load(str(path), 'study')
  assert [name for name in flat(config) if name.startswith('objectives.')] == ['objectives.mine']
  assert len(objectives.planned(config, ['mine'])) == 5


# What is kept.

def test_rows_are_appended_whole_and_once(tmp_path):
  path, study = tmp_path / 'results.jsonl', {'folds': 5}
  for seed, score in ((0, 0.5), (1, 0.7), (0, 0.6)):
    objectives.append(path, study, {'objective': 'a', 'seed': seed, 'line': 'pretrain',
                                    'scores': {'disease_auc': [score, 0.1]}})
  there, rows = objectives.read_results(path)
  assert there == study and [(row['seed'], row['scores']['disease_auc'][0]) for row in rows] == [
      (1, 0.7), (0, 0.6)]
  assert [entry.name for entry in tmp_path.iterdir()] == ['results.jsonl']
  assert json.loads(path.read_text().splitlines()[0])['synthetic'] is True
  assert 'a\t2\t0.650' in objectives.table(rows) and 'SYNTHETIC' in objectives.table(rows)
  with pytest.raises(UserError, match='another folds'):
    objectives.append(path, {'folds': 4}, rows[0])
  path.write_text(path.read_text()[:-20])
  with pytest.raises(UserError, match='damaged'):
    objectives.read_results(path)
