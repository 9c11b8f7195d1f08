"""One task, every representation: out-of-fold predictions, scores with intervals, comparisons."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from anatcl_jax.evaluation import estimators, metrics, splits, statistics
from anatcl_jax.evaluation.estimators import Fit, Predicted
from anatcl_jax.evaluation.fitted import FittedProbe
from anatcl_jax.evaluation.given_splits import GivenSplits
from anatcl_jax.evaluation.harmonization import Harmonization
from anatcl_jax.evaluation.representations import Variants
from anatcl_jax.evaluation.results import (
  COVARIATES,
  FOLDS,
  GIVEN,
  HARMONISED,
  METRIC_NAMES,
  SEEN_AND_UNSEEN,
  UNSEEN_FOLDS,
  Outcome,
  is_baseline,
  is_derived,
  plain,
)
from anatcl_jax.evaluation.splits import Split
from anatcl_jax.evaluation.statistics import Estimate
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import METRICS

PROTOCOLS = ('auto', 'cross_validation')


@dataclasses.dataclass(frozen=True)
class Settings:
  """How probes are evaluated; see configs/probe.py."""

  folds: int = 5
  inner_folds: int = 5
  seed: int = 0
  estimators: tuple[str, ...] = ('linear',)
  fewest: int = 10
  protocol: str = 'auto'
  jobs: int = 1
  harmonization: Harmonization | None = None


@dataclasses.dataclass(frozen=True)
class Protocol:
  """The scans of a task that are used, how they are split, and that in words and as a name."""

  target: Target
  splits: list[Split]
  words: str
  design: str = ''                   # Outcome.design


@dataclasses.dataclass(frozen=True)
class Scored:
  """An outcome, its metrics and how they hang on each person, and how it was split."""

  outcome: Outcome
  estimates: dict[str, Estimate]
  protocol: Protocol
  probes: tuple[FittedProbe, ...] = ()     # of the folds; none of the mean


@dataclasses.dataclass(frozen=True)
class Networks:
  """Rows of networks that are trained on a task: what they may spend, and what trains them."""

  budget: str                                              # in words
  train: Callable[[Protocol], dict[str, list[Predicted]]]  # by row, a prediction a split


def of_networks(protocol: Protocol, networks: Networks) -> list[Scored]:
  """The rows of networks, each trained on the fitted side of every split."""
  return [_scored(protocol, name, estimators.NETWORK, found)
          for name, found in networks.train(protocol).items()]


def choose_protocol(target: Target, seen: np.ndarray, settings: Settings,
                    given: GivenSplits | None = None) -> Protocol:
  """How a target is split; people `seen` [rows of the table] in pretraining are never predicted.

  Splits of a file are as they are `given`. Else, where there are such people, the probe is fitted
  on them and predicts all others, unless settings.protocol is `cross_validation`, which leaves them
  out altogether.

  Raises:
    UserError: too few people on a side.
  """
  if given:
    return Protocol(*given.of_target(target), GIVEN)
  if not seen[target.rows].any():
    folds = splits.grouped_folds(target, settings.folds, settings.seed)
    return Protocol(target, folds, f'{len(folds)}-fold cross-validation', FOLDS)
  if settings.protocol == 'cross_validation':
    unseen = target.select(~seen[target.rows])
    folds = splits.grouped_folds(unseen, settings.folds, settings.seed)
    return Protocol(unseen, folds, f'{len(folds)}-fold cross-validation among people held out in '
                                   'pretraining', UNSEEN_FOLDS)
  return Protocol(target, splits.seen_and_unseen(target, seen),
                  'fitted on people of pretraining, tested on people held out in it',
                  SEEN_AND_UNSEEN)


def evaluate(protocol: Protocol, inputs: dict[str, Variants], settings: Settings,
             advance: Callable[[], None] = lambda: None) -> list[Scored]:
  """Every representation by every estimator, on the same splits.

  Of a representation with several variants (seeds of an untrained encoder) the first stands for it,
  here and everywhere, chosen before anything was predicted; its note says what all of them score.

  Args:
    inputs: by name, arrays [scans of the target, F].
    advance: called after each split that was predicted.
  """
  target = protocol.target
  inner = splits_of_search(protocol, settings)
  runs = [(name, estimator, x) for name, variants in inputs.items()
          for estimator in ((estimators.MEAN,) if name == estimators.MEAN else settings.estimators)
          for x in variants]
  predicted = iter(estimators.predictions(
      [Fit(estimator, x, target, split, search, settings.seed) for _, estimator, x in runs
       for split, search in zip(protocol.splits, inner)], settings.jobs, advance))
  tried: dict[tuple[str, str], list[Scored]] = {}
  for name, estimator, _ in runs:
    own = list(itertools.islice(predicted, len(protocol.splits)))
    tried.setdefault((name, estimator), []).append(
        _scored(protocol, name, estimator, own))
  return [first_variant(own) for own in tried.values()]


def first_variant(tried: list[Scored]) -> Scored:
  """The first, with a note of what the variants score by the main metric."""
  first, metric = tried[0], tried[0].outcome.task.main_metric
  if len(tried) == 1:
    return first
  scores = [one.outcome.score[metric] for one in tried]
  note = (f'{first.outcome.features}: seed 0 of {len(tried)} stands for it; '
          f'{METRIC_NAMES.get(metric, metric)} of all '
          + ', '.join(f'{value:.3g}' for value in scores) + f' (mean {np.mean(scores):.3g})')
  outcome = dataclasses.replace(first.outcome, seeds=len(tried),
                                note='; '.join(filter(None, [first.outcome.note, note])))
  return dataclasses.replace(first, outcome=outcome)


def splits_of_search(protocol: Protocol, settings: Settings) -> list[list[Split]]:
  """The grid search's folds, of each split of the protocol."""
  return estimators.inner_splits(protocol.target, protocol.splits, settings.inner_folds,
                                 settings.seed)


def _scored(protocol: Protocol, name: str, estimator: str, found: list[Predicted]) -> Scored:
  target = protocol.target
  count = len(target.rows)
  prediction, fold = np.full(count, np.nan), np.full(count, -1)
  probability = np.full((count, len(target.classes)), np.nan) if target.classes else None
  fold_scores = {metric: [] for metric in METRICS[target.task.kind]}
  unsettled = 0
  for number, ((_, test), predicted) in enumerate(zip(protocol.splits, found)):
    prediction[test], fold[test] = predicted.prediction, number
    if probability is not None:
      probability[test] = predicted.probability
    unsettled += not predicted.converged
    scores = metrics.score(target.select(test), predicted.prediction, predicted.probability)
    for metric, values in fold_scores.items():
      values.append(scores[metric])
  estimates = statistics.estimates(target, protocol.splits, [one.prediction for one in found],
                                   [one.probability for one in found])
  kept = fold >= 0
  note = f'the {estimator} probe did not converge in {unsettled} folds' if unsettled else ''
  outcome = Outcome(
      task=target.task, features=name, estimator=estimator,
      participant_id=target.scans[kept, 0], session=target.scans[kept, 1],
      truth=target.names(target.values[kept]), prediction=target.names(prediction[kept]),
      probability=None if probability is None else probability[kept], classes=target.classes,
      fold=fold[kept], fold_scores=fold_scores,
      score={metric: one.value for metric, one in estimates.items()},
      interval={metric: one.interval(metrics.RANGES[metric]) for metric, one in estimates.items()},
      note=note, design=protocol.design)
  return Scored(outcome, estimates, protocol,
                tuple(one.probe for one in found if one.probe is not None))


def comparisons(scored: list[Scored]) -> list[dict]:
  """Of one task: each encoder against every other representation, by the main metric.

  What is harmonised stands against the same features as they are, and what stands beside covariates
  against covariates alone: the difference is what harmonisation changes, and what features add.
  A positive difference is in favour of `features`; p is of the corrected t test
  (`statistics.Estimate`). `family` and `p_holm` are left to the caller, over all tasks.
  """
  rows = []
  for i, one in enumerate(scored):
    for j, other in enumerate(scored):
      if _is_question(one.outcome.features, other.outcome.features, j <= i) and (
          other.outcome.estimator in (one.outcome.estimator, estimators.MEAN,
                                     estimators.NETWORK)):
        rows.append(_compare(one, other))
  return rows


def _is_question(name: str, against: str, before: bool) -> bool:
  """Whether a row is compared with another; `before` says that it stands before it, or is it."""
  if is_derived(name):
    return against == (plain(name) if name.endswith(HARMONISED) else COVARIATES)
  return not (is_derived(against) or is_baseline(name)
              or before and not is_baseline(against))


def _compare(one: Scored, other: Scored) -> dict:
  task = one.outcome.task
  metric = task.main_metric
  difference = one.estimates[metric] - other.estimates[metric]
  difference = difference if METRICS[task.kind][metric] else -difference
  (low, high), (t, p) = difference.interval(), difference.test()
  return {'task': task.name, 'metric': metric, 'estimator': one.outcome.estimator,
          'features': one.outcome.features, 'against': other.outcome.features,
          'difference': difference.value, 'low': low, 'high': high, 'test': 'corrected t',
          't': t, 'p': p, 'n': len(one.outcome.truth),
          'folds': len(one.outcome.fold_scores[metric])}
