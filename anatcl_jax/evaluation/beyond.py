"""Beyond a task's score: other sites, fewer labels, and whether a second scan says the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas

from anatcl_jax.cohorts.identifiers import natural_key
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import estimators, metrics, statistics
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.estimators import Fit
from anatcl_jax.evaluation.evaluate import Protocol, Scored, Settings
from anatcl_jax.evaluation.representations import Variants
from anatcl_jax.evaluation.results import score_and_sd
from anatcl_jax.evaluation.splits import Split, check_apart, grouped_folds
from anatcl_jax.evaluation.target import Target

LEAKAGE = ('features', 'balanced_accuracy', 'sd', 'low', 'high', 'chance', 'n', 'sites')
LEFT_OUT = ('task', 'features', 'site', 'metric', 'score', 'low', 'high', 'n')
CURVES = ('task', 'features', 'metric', 'subjects', 'mean', 'sd', 'repeats')
RELIABILITY = ('features', 'identification', 'chance', 'icc_median', 'icc_low', 'icc_high',
               'icc3_median', 'subjects', 'sessions')

_FEWEST_LABELS = 25
_REPEATS = 3                        # of a learning curve, where there is a single split


def leakage(scored: list[Scored]) -> pandas.DataFrame:
  """How well the site is read from each representation: the outcomes of a task that predicts it."""
  rows = []
  for one in scored:
    outcome = one.outcome
    rows.append((outcome.features, *score_and_sd(outcome, 'balanced_accuracy'),
                 *outcome.interval['balanced_accuracy'],
                 1 / len(outcome.classes), len(outcome.truth), len(outcome.classes)))
  return pandas.DataFrame(rows, columns=LEAKAGE)


def left_out_sites(protocol: Protocol, sites: np.ndarray, settings: Settings
                   ) -> tuple[dict[str, tuple[Split, list[Split]]], dict[str, str]]:
  """Of each site the split that leaves it out and the search's folds, or why it can't be done.

  `sites` [m] are text, '' where not known. What the protocol never fits on or never predicts is not
  here either.
  """
  target = protocol.target
  fit, test = (np.unique(np.concatenate(side)) for side in zip(*protocol.splits))
  found, lacking = {}, {}
  for site in sorted(set(sites[test]) - {''}):
    own = test[sites[test] == site]
    people = set(target.groups[own])
    others = fit[(sites[fit] != site) & ~np.isin(target.groups[fit], list(people))]
    if len(people) < settings.fewest:
      lacking[site] = f'{len(people)} people'
    elif target.classes and len(set(target.values[own])) < 2:
      lacking[site] = 'a single class'
    elif target.classes and len(set(target.values[others])) < len(target.classes):
      lacking[site] = 'the others lack a class'
    else:
      try:
        inner = grouped_folds(target.select(others), settings.inner_folds, settings.seed)
      except UserError:
        lacking[site] = 'the others have too few people for a grid search'
      else:
        found[site] = check_apart(target.groups, (others, own)), inner
  return found, lacking


def leave_one_site_out(protocol: Protocol, sites: np.ndarray, inputs: dict[str, Variants],
                       settings: Settings,
                       advance: Callable[[], None] = lambda: None) -> pandas.DataFrame:
  """The main metric at each site of linear probes that were fitted on all others."""
  target, metric, rows = protocol.target, protocol.target.task.main_metric, []
  left_out, _ = left_out_sites(protocol, sites, settings)
  used = {name: variants[0] for name, variants in inputs.items() if name != estimators.MEAN}
  predicted = iter(estimators.predictions(
      [Fit('linear', x, target, split, inner, settings.seed) for split, inner in left_out.values()
       for x in used.values()], settings.jobs, advance))
  for site, (split, _) in left_out.items():
    for name, got in zip(used, predicted):
      one = statistics.estimates(target, [split], [got.prediction], [got.probability])[metric]
      rows.append((target.task.name, name, site, metric, one.value,
                   *one.interval(metrics.RANGES[metric]), len(split[1])))
  return pandas.DataFrame(rows, columns=LEFT_OUT)


def curve_sizes(text: str, people: int) -> list[int]:
  """Numbers of labelled people: `25,50,100`, or doubled from 25 to all there are for `auto`.

  Raises:
    UserError: neither.
  """
  if text == 'none':
    return []
  if text == 'auto':
    sizes = [_FEWEST_LABELS * 2**power for power in range(20)]
    return [size for size in sizes if size < 0.75 * people] + [people]
  parts = [part.strip() for part in text.split(',')]
  if not all(part.isdigit() and int(part) > 1 for part in parts):
    raise UserError(f'config.learning_curve {text!r} is neither numbers of people such as '
                    '25,50,100 nor auto nor none')
  return sorted({min(int(part), people) for part in parts})


def learning_curve(protocol: Protocol, inputs: dict[str, Variants], text: str, settings: Settings,
                   advance: Callable[[], None] = lambda: None) -> pandas.DataFrame:
  """The main metric of linear probes that are fitted on some of the people only.

  Each split is fitted on people drawn at random, a single split three times; the same people serve
  all representations, and fewer are among more. `mean` is of all folds together, over the draws, so
  that everybody gives the score of the results; `sd` is over folds and draws.
  """
  target, metric = protocol.target, protocol.target.task.main_metric
  names, fits = [], []
  most = fewest_fitted(protocol)
  for size, repeats in repeats_of_curve(protocol, text).items():
    for repeat, number in itertools.product(range(repeats), range(len(protocol.splits))):
      drawn = _draw(target, protocol.splits[number], size if size < most else len(target.rows),
                    settings, (number, repeat))
      for name, variants in inputs.items() if drawn else ():
        names.append((size, name, repeat))
        fits.append(Fit('linear', variants[0], target, *drawn, settings.seed))
  folds: dict[tuple[int, str], list[float]] = {}
  together: dict[tuple[int, str], dict[int, list]] = {}
  for (*key, repeat), fit, got in zip(names, fits,
                                      estimators.predictions(fits, settings.jobs, advance)):
    own, key = target.select(fit.split[1]), tuple(key)
    value = metrics.score(own, got.prediction, got.probability)[metric]
    folds.setdefault(key, []).extend([value] if np.isfinite(value) else [])
    together.setdefault(key, {}).setdefault(repeat, []).append(
        metrics.sums(own, got.prediction, got.probability, np.ones((1, len(own.rows)))))
  rows = []
  for (size, name), draws in together.items():
    values = folds[size, name]
    scores = [metrics.pooled(sum(parts), len(target.classes))[metric][0]
              for parts in draws.values()]
    rows.append((target.task.name, name, metric, size, np.mean(scores),
                 np.std(values, ddof=1) if len(values) > 1 else np.nan, len(values)))
  return pandas.DataFrame(rows, columns=CURVES)


def draws_of_curve(protocol: Protocol, text: str) -> int:
  """How often a learning curve fits each representation."""
  return len(protocol.splits) * sum(repeats_of_curve(protocol, text).values())


def repeats_of_curve(protocol: Protocol, text: str) -> dict[int, int]:
  """Sizes of a curve, and how often each is drawn from a split; all people can't be drawn twice."""
  most = fewest_fitted(protocol)
  return {size: 1 if len(protocol.splits) > 1 or size == most else _REPEATS
          for size in curve_sizes(text, most)}


def fewest_fitted(protocol: Protocol) -> int:
  """People of the smallest fitted side: the right end of a curve, where all of each side are."""
  return min(len(set(protocol.target.groups[fit])) for fit, _ in protocol.splits)


def _draw(target: Target, split: Split, size: int, settings: Settings,
          key: tuple[int, ...]) -> tuple[Split, list[Split]] | None:
  """The split fitted on `size` people, and its grid search; None where a class is too small."""
  people = np.unique(target.groups[split[0]])
  chosen = np.random.default_rng([settings.seed, *key]).permutation(people)[:size]
  fit = split[0][np.isin(target.groups[split[0]], chosen)]
  try:
    return (fit, split[1]), grouped_folds(target.select(fit), settings.inner_folds, settings.seed)
  except UserError:
    return None


def reliability(cohort: Cohort, representations: dict[str, np.ndarray]
                ) -> tuple[pandas.DataFrame, dict[str, np.ndarray]]:
  """Test-retest reliability over the first two sessions of people who have two: a table, and ICCs.

  People seen in pretraining are left out. The ICC(2,1) of each feature is by representation, [F].
  """
  table = cohort.table[~cohort.seen]
  table = table.sort_values('session', kind='stable', key=lambda own: own.map(natural_key))
  pairs = [rows[:2] for _, rows in table.groupby('participant_id').groups.items()
           if len(rows) >= 2]
  rows, icc = [], {}
  for name, values in representations.items():
    known = [pair for pair in pairs if np.isfinite(values[list(pair)]).all()]
    if len(known) < 3:
      continue
    sessions = values[np.array(known)]
    agreement, consistency = statistics.intraclass_correlation(sessions)
    icc[name] = agreement
    finite = agreement[np.isfinite(agreement)]
    low, middle, high = np.quantile(finite, [0.05, 0.5, 0.95]) if len(finite) else [np.nan] * 3
    rows.append((name, statistics.identification_rate(sessions[:, 0], sessions[:, 1]),
                 1 / len(known), middle, low, high,
                 np.nanmedian(consistency) if len(finite) else np.nan, len(known), 2))
  return pandas.DataFrame(rows, columns=RELIABILITY), icc
