"""Leaks are found: each check of test_evaluation_probes.py fails on code broken on purpose."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from anatcl_jax.data import attributes
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import cohort as cohorts
from anatcl_jax.evaluation import estimators, representations, splits
from anatcl_jax.evaluation.estimators import Fit
from anatcl_jax.evaluation.evaluate import Settings, choose_protocol
from anatcl_jax.evaluation.target import read_target
from anatcl_jax.evaluation.tasks import REGRESSION, Task
from tests.evaluation.probing import cohort_of, target_of

FEW = Settings(folds=3, inner_folds=3)


def _predictions(x, target, splits_of, changed):
  """Of the first test scan of a fold, with the other test scans as they are, or spoilt."""
  split = splits_of[0]
  inner = estimators.inner_splits(target, [split], 3, 0)[0]
  found = []
  for spoil in (False, True):
    own, labels = x.copy(), target.values.copy()
    if spoil:
      own[split[1][1:]] = changed
      labels[split[1]] = -100
    found.append(estimators.predict(
        Fit('linear', own, dataclasses.replace(target, values=labels), split, inner, 0)))
  return found


def check_nothing_is_learned_from_the_test_side(x, target):
  """Raises AssertionError where the test side changes a prediction or the grid search."""
  for changed in (1e3, -50.0):
    before, after = _predictions(x, target, splits.grouped_folds(target, 3, 0), changed)
    assert before.parameters == after.parameters
    assert before.prediction[0] == pytest.approx(after.prediction[0], rel=1e-9)


@pytest.fixture
def regression():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(45, 6))
  return x, target_of(x[:, 0] + rng.normal(size=45))


def test_a_scaler_that_sees_the_test_fold_is_found(regression, monkeypatch):
  x, target = regression
  check_nothing_is_learned_from_the_test_side(x, target)
  original = estimators._predict

  class Leaking(StandardScaler):
    every = None

    def fit(self, X, y=None, sample_weight=None):
      return super().fit(Leaking.every)

  def predict(name, x, *rest):
    Leaking.every = x
    return original(name, x, *rest)

  monkeypatch.setattr(estimators, '_predict', predict)
  monkeypatch.setattr(estimators, 'StandardScaler', Leaking)
  with pytest.raises(AssertionError):
    check_nothing_is_learned_from_the_test_side(x, target)


def test_morphometry_that_is_normalised_with_the_test_fold_is_found():
  """The baseline comes as measured, and is brought to one scale within each fit alone."""
  cohort = cohort_of({'age': np.random.default_rng(1).normal(50, 10, 45)})
  target = read_target(Task('age', 'age', REGRESSION), cohort.table, 5)

  def check(morphometry):
    """A scan's row stays the same whatever becomes of the others."""
    spoilt = dataclasses.replace(cohort, morphometry=cohort.morphometry.copy())
    spoilt.morphometry[1:] *= 3
    np.testing.assert_array_equal(morphometry(target.task, cohort)[0],
                                  morphometry(target.task, spoilt)[0])

  check(representations.morphometry)
  check_nothing_is_learned_from_the_test_side(
      representations.morphometry(target.task, cohort), target)
  with pytest.raises(AssertionError):
    check(lambda *given: StandardScaler().fit_transform(representations.morphometry(*given)))


def test_statistics_of_pretraining_that_see_the_held_out_fold_are_found(shard_set):
  """The normalisation of morphometry before the loss is fitted on the training records."""
  raw = {'anatomy': shard_set.morphometry}
  terms = {'anatomy': _Term('morphometry', 'zscore')}
  fit = np.arange(15)

  def check(records):
    spoilt = {'anatomy': np.concatenate([raw['anatomy'][:15], 100 + raw['anatomy'][15:]])}
    one, other = (attributes.fit_attributes(values, records, terms) for values in (raw, spoilt))
    for name, values in one['anatomy'].items():
      np.testing.assert_array_equal(values, other['anatomy'][name])

  check(fit)
  with pytest.raises(AssertionError):
    check(np.arange(20))


@dataclasses.dataclass(frozen=True)
class _Term:
  attribute: str
  normalization: str
  kernel: str = 'global'
  weight: float = 1.0


def test_a_grid_search_that_sees_the_test_fold_is_found(regression):
  """Folds of the search lie within the fitted side; those of all scans would tell of the others."""
  x, target = regression
  every = splits.grouped_folds(target, 3, 0)
  for (fit, test), inner in zip(every, estimators.inner_splits(target, every, 3, 0)):
    for inner_fit, inner_test in inner:
      assert not {*fit[inner_fit], *fit[inner_test]} & set(test)
  # A strength chosen by the score on the test side depends on its labels.
  split = every[0]
  leaking = [(np.arange(len(split[0])), np.arange(len(split[0]), 45))]
  chosen = set()
  for sign in (1, -1):
    labels = target.values.copy()
    labels[split[1]] *= sign
    order = np.concatenate(split)
    whole = order, split[1]
    chosen.add(tuple(estimators.predict(Fit(
        'linear', x, dataclasses.replace(target, values=labels), whole, leaking, 0)
        ).parameters.values()))
  assert len(chosen) == 2


def test_folds_that_ignore_who_is_who_are_found(monkeypatch):
  cohort = cohort_of({'age': np.random.default_rng(2).normal(50, 10, 30)}, sessions=2)
  target = read_target(Task('age', 'age', REGRESSION), cohort.table, 5)
  assert len(choose_protocol(target, cohort.seen, FEW).splits) == 3

  class Ignorant(StratifiedKFold):
    def split(self, x, y, groups):
      return super().split(x, y)

  monkeypatch.setattr(splits, 'StratifiedGroupKFold', Ignorant)
  with pytest.raises(UserError, match='has scans on both sides of a split'):
    choose_protocol(target, cohort.seen, FEW)
  with pytest.raises(UserError, match='has scans on both sides of a split'):
    estimators.inner_splits(target, [(np.arange(40), np.arange(40, 60))], 3, 0)


def test_one_seen_session_marks_the_person(training_set, tmp_path):
  """Whoever was trained on is marked with all scans; a mask by scan would leave a session over."""
  people = training_set.table['participant_id']
  run = {'fold': 0, 'num_folds': 5, 'seed': 0, 'data_identity': training_set.identity(),
         'data_dir': str(training_set.directory)}
  table = training_set.table.assign(session='ses-9')     # other scans of the same people
  cohort = dataclasses.replace(cohorts.of_shards(training_set), table=table)
  marked = cohorts.mark_seen(cohort, run, tmp_path)
  assert marked.seen.sum() == 32 and len(people) == 40
  half = np.where(np.arange(40) % 2, marked.seen, False)
  target = read_target(Task('age', 'age', REGRESSION), table, 5)
  twice = dataclasses.replace(target, groups=np.repeat(target.groups[::2], 2))
  with pytest.raises(UserError, match='both sides'):
    splits.seen_and_unseen(twice, half)
