"""Probes: the same as scikit-learn written out, no leak, chance for shuffled labels, the splits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, r2_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import estimators, splits
from anatcl_jax.evaluation.estimators import Fit
from anatcl_jax.evaluation.evaluate import Settings, choose_protocol, evaluate
from anatcl_jax.evaluation.target import read_target
from anatcl_jax.evaluation.tasks import CLASSIFICATION, REGRESSION, Task, read_tasks
from tests.evaluation.probing import cohort_of, target_of

QUICK = Settings()
FEW = Settings(folds=2, inner_folds=2)


def _grid_search(model, key, x, y, folds, metric):
  """The strength with the best mean score over folds, as anyone would write it."""
  means = []
  for strength in (0.01, 0.1, 1.0, 10.0, 100.0):
    scores = []
    for fit, test in folds:
      scaler = StandardScaler().fit(x[fit])
      fitted = model(**{key: strength}).fit(scaler.transform(x[fit]), y[fit])
      scores.append(metric(y[test], fitted.predict(scaler.transform(x[test]))))
    means.append(np.mean(scores))
  best = (0.01, 0.1, 1.0, 10.0, 100.0)[int(np.argmax(means))]
  scaler = StandardScaler().fit(x)
  return lambda new: model(**{key: best}).fit(scaler.transform(x), y), scaler


@pytest.mark.parametrize('classification', [False, True])
def test_nested_cross_validation_is_the_one_written_out(classification):
  rng = np.random.default_rng(0)
  count = 120
  x = rng.normal(size=(count, 6)) * [1, 5, 0.1, 1, 1, 1] + 3
  y = 2 * x[:, 0] + x[:, 1] + rng.normal(0, 3, count)
  y = (y > np.median(y)).astype(int) if classification else y
  groups = np.array([f'sub-{row // 2:03d}' for row in range(count)])
  target = target_of(y, ('a', 'b') if classification else (), groups)

  bins = y if classification else np.searchsorted(np.quantile(y, [0.2, 0.4, 0.6, 0.8]), y)
  expected = {'mae': [], 'balanced_accuracy': [], 'roc_auc': []}
  for fit, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(x, bins, groups):
    own = y[fit]
    inner_bins = own if classification else np.searchsorted(
        np.quantile(own, [0.2, 0.4, 0.6, 0.8]), own)
    inner = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(
        x[fit], inner_bins, groups[fit]))
    if classification:
      model = lambda C: LogisticRegression(C=C, max_iter=2000, class_weight='balanced')
      fitted, scaler = _grid_search(model, 'C', x[fit], own, inner, balanced_accuracy_score)
      model = fitted(None)
      new = scaler.transform(x[test])
      expected['balanced_accuracy'].append(balanced_accuracy_score(y[test], model.predict(new)))
      expected['roc_auc'].append(roc_auc_score(y[test], model.predict_proba(new)[:, 1]))
    else:
      fitted, scaler = _grid_search(Ridge, 'alpha', x[fit], own, inner, r2_score)
      expected['mae'].append(mean_absolute_error(
          y[test], fitted(None).predict(scaler.transform(x[test]))))

  protocol = choose_protocol(target, np.zeros(count, bool), QUICK)
  one, = evaluate(protocol, {'x': (x,)}, QUICK)
  for metric in ('balanced_accuracy', 'roc_auc') if classification else ('mae',):
    np.testing.assert_allclose(one.outcome.fold_scores[metric], expected[metric], rtol=1e-7)
    low, high = one.outcome.interval[metric]
    assert low < one.outcome.score[metric] < high
    # Folds are as good as equal in size and classes.
    assert one.outcome.score[metric] == pytest.approx(np.mean(expected[metric]), rel=0.01)


@pytest.mark.parametrize('estimator', estimators.ESTIMATORS)
@pytest.mark.parametrize('classes', [(), ('a', 'b')])
@pytest.mark.parametrize('missing', [False, True])
def test_nothing_of_the_test_side_is_learned_from(estimator, classes, missing):
  """A prediction stays the same whatever becomes of the other test scans and of all test labels."""
  rng = np.random.default_rng(1)
  x = rng.normal(size=(60, 4))
  if missing:
    x[::7, 1] = np.nan
  values = (x[:, 0] > 0).astype(float) if classes else x[:, 0] + rng.normal(size=60)
  target = target_of(values, classes)
  split = splits.grouped_folds(target, 5, 0)[0]
  inner = splits.grouped_folds(target.select(split[0]), 3, 0)
  before = estimators.predict(Fit(estimator, x, target, split, inner, 0))

  spoilt, kept = x.copy(), split[1][0]
  others = split[1][1:]
  spoilt[others] = 1e3 * rng.normal(size=(len(others), 4)) + 500
  labels = target.values.copy()
  labels[split[1]] = 1 - labels[split[1]] if classes else -100
  after = estimators.predict(
      Fit(estimator, spoilt, dataclasses.replace(target, values=labels), split, inner, 0))
  assert before.parameters == after.parameters
  assert before.prediction[0] == pytest.approx(after.prediction[0], rel=1e-12)
  assert list(split[1]).index(kept) == 0
  if classes:
    np.testing.assert_allclose(before.probability[0], after.probability[0], rtol=1e-12)


def test_the_scaler_of_the_grid_search_sees_its_own_folds_alone(monkeypatch):
  """Every StandardScaler is fitted on the side that is fitted on, of an inner or an outer fold."""
  fitted_on = []

  class Spy(StandardScaler):
    def fit(self, X, y=None, sample_weight=None):
      fitted_on.append(frozenset(X[:, 0].astype(int)))
      return super().fit(X, y, sample_weight)

  monkeypatch.setattr(estimators, 'StandardScaler', Spy)
  target = target_of(np.random.default_rng(2).normal(size=60))
  x = np.stack([np.arange(60.0), target.values], 1)    # the first column says which scan it is
  protocol = choose_protocol(target, np.zeros(60, bool), QUICK)
  evaluate(protocol, {'x': (x,)}, QUICK)
  allowed = set()
  for fit, _ in protocol.splits:
    allowed.add(frozenset(fit))
    for inner, _ in splits.grouped_folds(target.select(fit), 5, 0):
      allowed.add(frozenset(fit[inner]))
  assert set(fitted_on) == allowed and len(allowed) == 5 + 25


def test_two_sessions_of_a_person_never_stand_on_both_sides():
  """Features that say who someone is, and nothing else, predict nothing if nobody is on both sides.

  Were the sessions of a person split, the probe would look the answer up.
  """
  rng = np.random.default_rng(3)
  people = 60
  identity = np.repeat(rng.normal(size=(people, 100)), 2, axis=0)
  cohort = cohort_of({'score': rng.normal(size=people), 'group': rng.choice(['a', 'b'], people)},
                     sessions=2)
  for task, chance, tolerance in ((Task('s', 'score', REGRESSION), 0.0, 0.4),
                                  (Task('g', 'group', CLASSIFICATION), 0.5, 0.2)):
    target = read_target(task, cohort.table, 10)
    protocol = choose_protocol(target, cohort.seen, FEW)
    for (fit, test), inner in zip(protocol.splits, estimators.inner_splits(
        target, protocol.splits, 2, 0)):
      assert not set(target.groups[fit]) & set(target.groups[test])
      for inner_fit, inner_test in inner:
        assert not set(target.groups[fit][inner_fit]) & set(target.groups[fit][inner_test])
    one, = evaluate(protocol, {'identity': (identity,)}, FEW)
    metric = 'pearson_r' if not target.classes else 'balanced_accuracy'
    assert abs(np.mean(one.outcome.fold_scores[metric]) - chance) < tolerance
    # The leak is there to be found: folds that do not know who is who look the answer up.
    ignorant = dataclasses.replace(target, groups=np.arange(2 * people).astype(str))
    leaking, = evaluate(choose_protocol(ignorant, cohort.seen, FEW), {'identity': (identity,)},
                        FEW)
    assert np.mean(leaking.outcome.fold_scores[metric]) > 0.55
    with pytest.raises(UserError, match='both sides'):
      splits.check_apart(target.groups, (np.array([0]), np.array([1])))


def _columns(task, people, rng):
  """Random labels of a task, some missing and some of other classes."""
  if task.kind == 'classification':
    values = rng.choice([task.positive[0], task.control[0]] if task.positive
                        else ['a', 'b', 'c'], people).astype(object)
    values[:3] = 'n/a'
  else:
    values = rng.normal(50, 10, people)
  healthy = {'diagnosis': np.full(people, 'control')} if task.kind == 'brain_age' else {}
  return {task.column: values} | healthy


_TASKS, _COHORTS = read_tasks('configs/tasks.py')


@pytest.mark.parametrize(
    'name', [name for name, task in _TASKS.items() if task.kind != 'challenge'])
def test_shuffled_labels_give_chance(name):
  """Features that hold the label find it; the same features find a shuffled one as chance would."""
  task, people = _TASKS[name], 120
  rng = np.random.default_rng(sum(map(ord, name)))
  cohort = cohort_of(_columns(task, people, rng))
  target = read_target(task, cohort.table, 10)
  count = len(target.rows)
  codes = (np.eye(len(target.classes))[target.values.astype(int)] if target.classes
           else target.values[:, None] / 10)
  x = np.concatenate([codes + rng.normal(0, 0.3, codes.shape), rng.normal(size=(count, 5))], 1)
  shuffled = dataclasses.replace(target, values=rng.permutation(target.values))
  scores = []
  for own in (target, shuffled):
    one, = evaluate(choose_protocol(own, np.zeros(people, bool), FEW), {'x': (x,)}, FEW)
    metric = 'balanced_accuracy' if target.classes else 'pearson_r'
    scores.append(np.mean(one.outcome.fold_scores[metric]))
  if target.classes:
    # Recalls are shares of the people of a class; 4 standard errors of their mean.
    sizes = [np.sum(target.values == code) for code in range(len(target.classes))]
    chance = 1 / len(sizes)
    error = 4 * np.sqrt(sum(chance * (1 - chance) / size for size in sizes)) / len(sizes)
  else:
    chance, error = 0, 4 / np.sqrt(count)
  assert scores[0] > 0.8 and abs(scores[1] - chance) < error, scores


def test_people_seen_in_pretraining_are_fitted_on_and_never_predicted():
  rng = np.random.default_rng(5)
  seen = rng.random(80) < 0.75
  cohort = cohort_of({'age': rng.normal(50, 10, 80)}, sessions=2, seen=seen)
  target = read_target(_TASKS['age'], cohort.table, 5)
  protocol = choose_protocol(target, cohort.seen, QUICK)
  (fit, test), = protocol.splits
  assert cohort.seen[target.rows[fit]].all() and not cohort.seen[target.rows[test]].any()
  assert len(fit) + len(test) == 160
  apart = choose_protocol(target, cohort.seen,
                          dataclasses.replace(QUICK, protocol='cross_validation'))
  assert not cohort.seen[apart.target.rows].any() and len(apart.splits) == 5
  one, = evaluate(protocol, {'x': (rng.normal(size=(160, 3)),)}, QUICK)
  assert set(one.outcome.participant_id) == set(cohort.table['participant_id'][~cohort.seen])


def test_the_first_of_several_seeds_stands_for_the_untrained_encoder():
  target = target_of(np.random.default_rng(6).normal(size=60))
  x = np.random.default_rng(7).normal(size=(60, 2))
  good, middling, bad = (np.column_stack([target.values * factor, x]) for factor in (9, 0.5, 0))
  middling[:, 0] += x[:, 0]
  protocol = choose_protocol(target, np.zeros(60, bool), FEW)
  alone, = evaluate(protocol, {'untrained': (middling,)}, FEW)
  for seeds in ((middling, bad), (middling, good), (middling, bad, good)):
    one, = evaluate(protocol, {'untrained': seeds}, FEW)
    assert one.outcome.score == alone.outcome.score
    assert f'seed 0 of {len(seeds)} stands for it; MAE of all' in one.outcome.note


def test_parallel_fits_are_the_same():
  target = target_of(np.random.default_rng(8).normal(size=40))
  x = np.random.default_rng(9).normal(size=(40, 3))
  protocol = choose_protocol(target, np.zeros(40, bool), FEW)
  inputs = {'a': (x,), 'b': (x**2,)}
  serial = evaluate(protocol, inputs, FEW)
  parallel = evaluate(protocol, inputs, dataclasses.replace(FEW, jobs=2))
  for one, other in zip(serial, parallel):
    np.testing.assert_array_equal(one.outcome.prediction, other.outcome.prediction)
