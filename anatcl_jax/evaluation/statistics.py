"""Uncertainty of scores: bootstrap over people, tests between representations, reliability."""

from __future__ import annotations

import numpy as np
import scipy.stats

from anatcl_jax.evaluation.metrics import mean_of_known, resampled_scores
from anatcl_jax.evaluation.splits import Split
from anatcl_jax.evaluation.tasks import Target


def resample_weights(target: Target, splits: list[Split], resamples: int,
                     seed: int) -> list[np.ndarray]:
  """How often each scan of each fold's test side is in each bootstrap sample, [resamples, n_fold].

  People are drawn with replacement within each fold, with all their scans (Efron and Tibshirani, An
  Introduction to the Bootstrap, 1993). The same samples serve all representations: paired.
  """
  rng = np.random.default_rng(seed)
  weights = []
  for _, test in splits:
    people, whose = np.unique(target.groups[test], return_inverse=True)
    counts = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), resamples)
    weights.append(counts[:, whose].astype(float))
  return weights


def bootstrap(target: Target, prediction: np.ndarray, probability: np.ndarray | None,
              splits: list[Split], weights: list[np.ndarray]) -> dict[str, np.ndarray]:
  """Each metric's mean over folds in every bootstrap sample, [resamples].

  prediction [m] and probability [m, classes] are those of all scans of the target.
  """
  folds = [resampled_scores(target.select(test), prediction[test],
                            None if probability is None else probability[test], share)
           for (_, test), share in zip(splits, weights)]
  return {metric: mean_of_known([fold[metric] for fold in folds]) for metric in folds[0]}


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
  """The percentiles between which the share `level` of the finite values lies; NaN for none."""
  values = values[np.isfinite(values)]
  if not len(values):
    return np.nan, np.nan
  low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def corrected_t_test(differences: np.ndarray, fitted: float, tested: float) -> tuple[float, float]:
  """t and two-sided p of the mean difference over k folds being 0.

  Folds share what they are fitted on, so that the variance s^2 / k of the mean is too small; it is
  taken as s^2 (1/k + tested / fitted), after Nadeau and Bengio, Machine Learning 52, 2003.

  Args:
    differences: [k], of the scores of two representations on each fold.
    fitted: scans that a fold is fitted on.
    tested: scans that it is tested on.
  """
  folds = len(differences)
  if folds < 2:
    return np.nan, np.nan
  mean, variance = np.mean(differences), np.var(differences, ddof=1)
  if variance == 0:
    return (0.0, 1.0) if mean == 0 else (np.inf * np.sign(mean), 0.0)
  t = mean / np.sqrt(variance * (1 / folds + tested / fitted))
  return float(t), float(2 * scipy.stats.t.sf(abs(t), folds - 1))


def bootstrap_p(differences: np.ndarray) -> float:
  """Two-sided p of a difference being 0, by bootstrap samples: twice the rarer sign's share."""
  differences = differences[np.isfinite(differences)]
  if not len(differences):
    return np.nan
  rarer = min(np.sum(differences <= 0), np.sum(differences >= 0))
  return float(min(1, 2 * (rarer + 1) / (len(differences) + 1)))


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

