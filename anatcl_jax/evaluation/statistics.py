"""Uncertainty of scores by the people they are of, tests between representations, reliability."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.stats

from anatcl_jax.evaluation import metrics
from anatcl_jax.evaluation.splits import Split
from anatcl_jax.evaluation.target import Target


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A score of predicted people, and how it hangs on each of them."""

  value: float
  pseudovalues: np.ndarray      # [people predicted]
  fitted: float                 # people that a probe was fitted on, mean over folds
  unseen: float = 0.0           # variance of the pseudovalues that these people can't show

  def __sub__(self, other: Estimate) -> Estimate:
    return Estimate(self.value - other.value, self.pseudovalues - other.pseudovalues, self.fitted,
                    self.unseen + other.unseen)

  def __neg__(self) -> Estimate:
    return dataclasses.replace(self, value=-self.value, pseudovalues=-self.pseudovalues)

  @property
  def without_each(self) -> np.ndarray:
    """The score of all people but one, [people]."""
    count = len(self.pseudovalues)
    return (count * self.value - self.pseudovalues) / (count - 1)

  @property
  def standard_error(self) -> float:
    """Of another draw of the people predicted and of those fitted on; NaN where it is not known.

    s^2 (1/n + 1/m) is its square for n people predicted by probes fitted on m: the correction of
    Nadeau and Bengio, Machine Learning 52, 2003, for what folds share, s^2 (1/k + tested/m) of k
    fold means, with each fold's variance s^2 / tested told from its people (Tukey's jackknife).
    """
    count = len(self.pseudovalues)
    if count < 2 or not np.isfinite(self.pseudovalues).all():
      return np.nan
    variance = np.var(self.pseudovalues, ddof=1) + self.unseen
    return float(np.sqrt(variance * (1 / count + 1 / self.fitted)))

  def interval(self, bounds: tuple[float, float] = (-np.inf, np.inf),
               level: float = 0.95) -> tuple[float, float]:
    """The value and t quantiles of its standard error to both sides, within the metric's range."""
    half = self.standard_error * scipy.stats.t.ppf((1 + level) / 2, len(self.pseudovalues) - 1)
    if not np.isfinite(half):
      return np.nan, np.nan
    return max(bounds[0], self.value - half), min(bounds[1], self.value + half)

  def test(self) -> tuple[float, float]:
    """t and two-sided p of the value being 0: below 0.05 just where the interval excludes it."""
    error = self.standard_error
    if not np.isfinite(error):
      return np.nan, np.nan
    if error == 0:
      return (0.0, 1.0) if self.value == 0 else (np.inf * np.sign(self.value), 0.0)
    t = self.value / error
    return float(t), float(2 * scipy.stats.t.sf(abs(t), len(self.pseudovalues) - 1))


def estimates(target: Target, splits: list[Split], predictions: list[np.ndarray],
              probabilities: list[np.ndarray | None]) -> dict[str, Estimate]:
  """Each metric over all folds together, jackknifed by person.

  predictions and probabilities are those of the scans that each split tests, [n] and [n, classes].
  """
  whole, without = [], []
  for (_, test), prediction, probability in zip(splits, predictions, probabilities):
    own = target.select(test)
    total = metrics.sums(own, prediction, probability, np.ones((1, len(test))))
    whole.append(total)
    without += [metrics.sums(own, prediction, probability, kept) - total
                for kept in _without_each(own.groups)]
  total = np.sum(whole, 0)
  rows = metrics.pooled(np.concatenate([total, total + np.concatenate(without)]),
                        len(target.classes))
  fitted = people_fitted(target, splits)
  found = {metric: jackknifed(values, fitted) for metric, values in rows.items()}
  if target.classes and any(np.ptp(one, 0).any() for one in probabilities):   # no mere guess
    found['balanced_accuracy'] = dataclasses.replace(
        found['balanced_accuracy'], unseen=_unseen(target, splits, predictions))
  return found


def _unseen(target: Target, splits: list[Split], predictions: list[np.ndarray]) -> float:
  """What classes of which all people are right, or none, add to balanced accuracy's variance.

  Their recalls vary as those of n people do of whom, by Laplace's rule of succession, one in n + 2
  is otherwise.
  """
  own = target.select(np.concatenate([test for _, test in splits]))
  right = np.concatenate(predictions) == own.values
  codes, parts = np.unique(own.values), []
  for code in codes:
    people = len(set(own.groups[own.values == code]))
    alike = len(set(right[own.values == code])) == 1
    parts.append(alike * (people + 1) / (people + 2)**2 / people)
  return len(set(own.groups)) * sum(parts) / len(codes)**2


def people_fitted(target: Target, splits: list[Split]) -> float:
  """How many people the probe of a fold was fitted on, mean over folds."""
  return float(np.mean([len(set(target.groups[fit])) for fit, _ in splits]))


def _without_each(groups: np.ndarray, most: int = 512) -> Iterator[np.ndarray]:
  """Weights [people, n] of 0 for the scans of one person and 1 for the others', in blocks."""
  _, whose = np.unique(groups, return_inverse=True)
  for start in range(0, whose.max() + 1, most):
    people = np.arange(start, min(start + most, whose.max() + 1))
    yield (whose[None] != people[:, None]).astype(float)


def jackknifed(values: np.ndarray, fitted: float) -> Estimate:
  """Of a statistic of all n people and of those without each of them, [1 + n]."""
  count = len(values) - 1
  return Estimate(float(values[0]), count * values[0] - (count - 1) * values[1:], fitted)


def holm(p: np.ndarray) -> np.ndarray:
  """p-values of m tests after Holm, Scandinavian Journal of Statistics 6, 1979; NaN stays."""
  p = np.asarray(p, float)
  known = np.flatnonzero(np.isfinite(p))
  order = known[np.argsort(p[known])]
  adjusted = np.full(p.shape, np.nan)
  factors = np.arange(len(order), 0, -1)
  adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
  return adjusted


def intraclass_correlation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """ICC(2,1) (absolute agreement) and ICC(3,1) (consistency) of values[n, k] or [n, k, F], [F].

  n people, k sessions; two-way analysis of variance after Shrout and Fleiss, Psychological Bulletin
  86, 1979. NaN for a feature that is the same for all.
  """
  values = np.asarray(values, np.float64)
  values = values[..., None] if values.ndim == 2 else values
  people, sessions, _ = values.shape
  grand = values.mean((0, 1))
  by_person, by_session = values.mean(1), values.mean(0)
  between = sessions * ((by_person - grand)**2).sum(0) / (people - 1)
  drift = people * ((by_session - grand)**2).sum(0) / (sessions - 1)
  residual = values - by_person[:, None] - by_session[None] + grand
  error = (residual**2).sum((0, 1)) / ((people - 1) * (sessions - 1))
  # A constant feature has variances of rounding errors alone.
  varies = np.ptp(values.reshape(-1, values.shape[-1]), 0) > 0
  with np.errstate(divide='ignore', invalid='ignore'):
    agreement = (between - error) / (
        between + (sessions - 1) * error + sessions * (drift - error) / people)
    consistency = (between - error) / (between + (sessions - 1) * error)
  return np.where(varies, agreement, np.nan), np.where(varies, consistency, np.nan)


def identification_rate(first: np.ndarray, second: np.ndarray) -> float:
  """How often someone's second session is nearest to their own first, of first[n, F], second[n, F].

  Nearest by correlation of features that are standardised over the first sessions.
  """
  mean, spread = first.mean(0), first.std(0)
  used = spread > 0
  sessions = [(x[:, used] - mean[used]) / spread[used] for x in (first, second)]
  units = [x - x.mean(1, keepdims=True) for x in sessions]
  units = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in units]
  return float(np.mean(np.argmax(units[1] @ units[0].T, 1) == np.arange(len(first))))

