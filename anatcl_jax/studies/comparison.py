"""How sure the scores of a study are, over people and over seeds, and differences of objectives.

A score v[o, s, b] is one of objective o and seed s, of all people (b = 0) or of one of B
resamplings of those asked, which are the same in every run. Objectives begin with the same
initialisation and order of people in a seed, so seeds are blocks of an analysis of variance, b = 0:

  v[o, s] = objective + seed + rest

Seeds' parts, of mean 0, are taken out of all scores: so objectives of other seeds can be compared.
The mean of objective o over its k seeds has two variances, which add:

  people: the variance over b of the mean over seeds
  seeds:  the variance of the rest over k, with the degrees of freedom of all objectives together

A difference of two objectives is paired: it has replicate b and the seeds that both have on both
sides, and twice the rest. Intervals are the value and t times the root, degrees of freedom after
Satterthwaite, Biometrics Bulletin 2, 1946. As those of Loftus and Masson (Psychonomic Bulletin &
Review 1, 1994) they leave out what a seed does to all objectives alike: it does not matter to a
difference of objectives; one to a row without an encoder, which has no seeds, is of these seeds.

A hierarchical bootstrap (replicate b of the people beside seeds drawn) would need many seeds: drawn
k of k they vary too little by the share 1/k, and percentiles of two or three say next to nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import stats

from anatcl_jax.evaluation import statistics

LEVEL = 0.95
_DECIMALS = 9    # the last bits of least squares, which libraries sum otherwise, turn no 0.4595


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A score or a difference, its interval, and the p of its being 0 (NaN where none is known).

  over_seeds: whether the interval is over seeds too.
  """

  value: float
  low: float
  high: float
  p: float
  over_seeds: bool

  def __neg__(self) -> Estimate:
    return dataclasses.replace(self, value=-self.value, low=-self.high, high=-self.low)


@dataclasses.dataclass(frozen=True)
class Variance:
  """A variance that was estimated, and its degrees of freedom."""

  value: float
  freedom: int


@dataclasses.dataclass(frozen=True)
class Blocks:
  """Of scores of objectives and seeds: what each seed adds, and what is left (None: nothing is)."""

  seeds: dict[int, float]
  rest: Variance | None


def estimate(values: np.ndarray, rest: Variance | None, seedless: bool = False) -> Estimate:
  """The mean over seeds of values[k, 1 + B], less the seeds' parts.

  Args:
    rest: that of the blocks.
    seedless: the row needs no seed (morphometry, covariates), so that one is all there are.
  """
  count = len(values)
  over = [Variance(rest.value / count, rest.freedom)] if rest and count > 1 and not seedless else []
  return _interval(values.mean(0), over, seedless or bool(over))


def difference(values: np.ndarray, against: np.ndarray, rest: Variance | None) -> Estimate:
  """Of two objectives' scores of the same seeds, values[k, 1 + B] less against[k, 1 + B]."""
  twice = Variance(2 * rest.value, rest.freedom) if rest else None
  return estimate(values - against, twice)


def blocks(scores: Mapping[tuple[str, int], float]) -> Blocks:
  """The analysis of variance of scores by objective and seed, by least squares."""
  if not scores:
    return Blocks({}, None)
  (names, own), (seeds, of) = (np.unique([key[i] for key in scores], return_inverse=True)
                               for i in (0, 1))
  design = np.hstack([np.eye(len(names))[own], np.eye(len(seeds))[of]])
  y = np.array(list(scores.values()), float)
  solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
  freedom = len(y) - int(rank)
  left = float(((y - design @ solution)**2).sum())
  parts = solution[len(names):] - solution[len(names):].mean()
  return Blocks(dict(zip(map(int, seeds), map(float, parts))),
                Variance(left / freedom, freedom) if freedom else None)


def _interval(means: np.ndarray, seeds: list[Variance], over_seeds: bool) -> Estimate:
  """Of means [1 + B] over seeds, and of the variance over seeds where it is known."""
  replicates = means[1:][np.isfinite(means[1:])]
  parts = [Variance(float(np.var(replicates, ddof=1)), len(replicates) - 1), *seeds]
  total = sum(part.value for part in parts)
  value, error = round(float(means[0]), _DECIMALS), total**0.5
  if not error:
    return Estimate(value, value, value, float('nan'), over_seeds)
  freedom = total**2 / sum(part.value**2 / part.freedom for part in parts)
  half = error * stats.t.ppf(0.5 + LEVEL / 2, freedom)
  p = 2 * stats.t.sf(abs(value) / error, freedom) if over_seeds else float('nan')
  return Estimate(value, value - half, value + half, float(p), over_seeds)


def holm(estimates: dict[str, Estimate]) -> dict[str, float]:
  """p of each after Holm's correction for all of them that have one."""
  adjusted = statistics.holm(np.array([one.p for one in estimates.values()], float))
  return dict(zip(estimates, map(float, adjusted)))
