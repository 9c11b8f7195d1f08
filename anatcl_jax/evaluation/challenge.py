"""OpenBHB's challenge: age on sites that were never seen, times how much the features know of site.

Dufumier et al., "OpenBHB: a Large-Scale Multi-Site Brain MRI Data-set for Age Prediction and
Debiasing", NeuroImage 263, 2022.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from anatcl_jax.errors import UserError, listed
from anatcl_jax.evaluation import estimators, statistics
from anatcl_jax.evaluation.estimators import Fit
from anatcl_jax.evaluation.evaluate import Protocol, Scored, Settings, first_variant
from anatcl_jax.evaluation.representations import Variants
from anatcl_jax.evaluation.results import Outcome
from anatcl_jax.evaluation.splits import Split, grouped_folds
from anatcl_jax.evaluation.statistics import Estimate
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import CLASSIFICATION, METRICS, Task

EXPONENT = 0.3
_RANGES = {'challenge_score': (0, np.inf), 'site_balanced_accuracy': (0, 1),
           'mae_external': (0, np.inf), 'mae_internal': (0, np.inf),
           'r2_external': (-np.inf, 1), 'r2_internal': (-np.inf, 1)}
_TRAIN, _INTERNAL, _EXTERNAL = 'train', 'internal_test', 'external_test'


def evaluate(target: Target, table: pandas.DataFrame, seen: np.ndarray, inputs: dict[str, Variants],
             settings: Settings) -> list[Scored]:
  """The challenge's score of each representation: lower is better.

  Ridge and logistic regression are tuned by cross-validation on the split `train`. Age is predicted
  for `internal_test` (the same sites) and `external_test` (others), site for `internal_test`.
  Outcomes hold the predictions of age, fold 0 internal and fold 1 external.

  Raises:
    UserError: no column split or site, a split that is empty, or test people seen in pretraining.
  """
  for column in ('split', 'site'):
    if column not in table:
      raise UserError(f'task {target.task.name}: the table has no column {column!r}; it has '
                      f'{listed(list(table.columns), 40)}')
  split = table['split'].astype(str).to_numpy()[target.rows]
  sides = {name: np.flatnonzero(split == name) for name in (_TRAIN, _INTERNAL, _EXTERNAL)}
  for name, rows in sides.items():
    if len(rows) < 2 * settings.inner_folds:
      raise UserError(f'task {target.task.name}: {len(rows)} scans have the split {name}; it has '
                      f'{listed(sorted(set(split)))}')
  known = seen[target.rows]
  if known[sides[_INTERNAL]].any() or known[sides[_EXTERNAL]].any():
    raise UserError(f'task {target.task.name}: the encoder was trained on some of the test scans; '
                    'pretrain on the split train alone')
  target = dataclasses.replace(target, classes=())
  site = _site_target(target, table['site'].astype(str).to_numpy()[target.rows], sides)
  splits = [(sides[_TRAIN], sides[_INTERNAL]), (sides[_TRAIN], sides[_EXTERNAL])]
  protocol = Protocol(target, splits, 'fitted on the split train, tested on internal_test and '
                                      'external_test')
  # The same folds for age and site: many sites have too few people for folds of their own.
  inner = grouped_folds(target.select(sides[_TRAIN]), settings.inner_folds, settings.seed)
  return [_evaluate_one(protocol, site, name, variants, inner, settings)
          for name, variants in inputs.items()]


def challenge_score(mae_external: float, site_balanced_accuracy: float) -> float:
  """MAE of age on external sites (years) x balanced accuracy of site ^ 0.3; lower is better."""
  return mae_external * site_balanced_accuracy**EXPONENT


def predict_site(x: np.ndarray, site: Target, split: Split, inner: list[Split],
                 seed: int) -> np.ndarray:
  """Sites of x[test] by logistic regression, all scans weighted alike as in the challenge."""
  steps, grid = estimators.pipeline('linear', True, seed, bool(np.isnan(x).any()))
  steps = Pipeline([*steps.steps[:-1], ('model', LogisticRegression(max_iter=2000))])
  search = GridSearchCV(steps, grid, cv=inner, scoring='balanced_accuracy')
  return search.fit(x[split[0]], site.values[split[0]].astype(int)).predict(x[split[1]])


def _site_target(target: Target, names: np.ndarray, sides: dict[str, np.ndarray]) -> Target:
  """The site of each scan among those of training; external ones are never asked for."""
  sites = np.unique(names[sides[_TRAIN]])
  if unknown := sorted(set(names[sides[_INTERNAL]]) - set(sites)):
    raise UserError(f'task {target.task.name}: {_INTERNAL} has sites that {_TRAIN} lacks: '
                    f'{listed(unknown)}')
  codes = np.searchsorted(sites, names)
  return dataclasses.replace(target, task=Task('site', 'site', CLASSIFICATION),
                             values=codes.astype(float), classes=tuple(sites))


def _evaluate_one(protocol: Protocol, site: Target, name: str, variants: Variants,
                  inner: list[Split], settings: Settings) -> Scored:
  tried = []
  for x in variants:
    probe = estimators.MEAN if name == estimators.MEAN else 'linear'
    ages = [estimators.predict(Fit(probe, x, protocol.target, split, inner, settings.seed)
                               ).prediction for split in protocol.splits]
    sites = predict_site(x, site, protocol.splits[0], inner, settings.seed)
    tried.append(_scored(protocol, site, name, ages, sites))
  return first_variant(tried)


def _scored(protocol: Protocol, site: Target, name: str, ages: list[np.ndarray],
            sites: np.ndarray) -> Scored:
  target, (inside, outside) = protocol.target, protocol.splits
  internal, external = (
      statistics.estimates(target, [split], [age], [None])
      for split, age in zip((inside, outside), ages))
  accuracy = statistics.estimates(site, [inside], [sites],
                                  [np.eye(len(site.classes))[sites]])['balanced_accuracy']
  estimates = {
      'challenge_score': _product(external['mae'], accuracy),
      'mae_external': external['mae'], 'mae_internal': internal['mae'],
      'r2_external': external['r2'], 'r2_internal': internal['r2'],
      'site_balanced_accuracy': accuracy}
  assert set(estimates) == set(METRICS[target.task.kind])
  tests = np.concatenate([inside[1], outside[1]])
  outcome = Outcome(
      task=target.task, features=name,
      estimator=estimators.MEAN if name == estimators.MEAN else 'linear',
      participant_id=target.scans[tests, 0], session=target.scans[tests, 1],
      truth=target.values[tests], prediction=np.concatenate(ages), probability=None, classes=(),
      fold=np.repeat([0, 1], [len(inside[1]), len(outside[1])]),
      fold_scores={metric: [one.value] for metric, one in estimates.items()},
      score={metric: one.value for metric, one in estimates.items()},
      interval={metric: one.interval(_RANGES[metric]) for metric, one in estimates.items()})
  return Scored(outcome, estimates, protocol)


def _product(mae: Estimate, accuracy: Estimate) -> Estimate:
  """The challenge's score, jackknifed by the people of both sides: each is on one of them."""
  whole = challenge_score(mae.value, accuracy.value)
  without = [challenge_score(mae.without_each, accuracy.value),
             challenge_score(mae.value, accuracy.without_each)]
  return statistics.jackknifed(np.concatenate([[whole], *without]), mae.fitted)
