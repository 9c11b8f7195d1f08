"""How sure the scores of a study are, over people and over seeds, and differences of objectives.

A score is v[s, b]: of k seeds s, of all people (b = 0) and of B resamplings of those asked, which
are the same in every run. Its mean over seeds at b = 0 has two variances, which add:

  people: the variance over b of the mean over seeds of v[s, b]
  seeds:  the variance over seeds of v[s, 0], over k

That is the variance of a hierarchical bootstrap (replicate b of the people beside k - 1 seeds drawn
of k: drawing k of k would lose the share 1/k). The interval is the value and t times the root, its
degrees of freedom after Satterthwaite, Biometrics Bulletin 2, 1946. Where seeds are three and
matter most it covers 93 %, the percentiles of the bootstrap 87 %.

A difference takes people's replicate b on both sides: it is paired. Seeds are not: a seed is an
initialisation and an order of the people, from which two objectives go separate ways, so that the
variances of both sides add. A row without an encoder has no seeds, and no variance over them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from anatcl_jax.evaluation import statistics

LEVEL = 0.95


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

  @property
  def excludes_zero(self) -> bool:
    """Whether the interval does; two-sided, before any correction."""
    return self.low > 0 or self.high < 0

  def __neg__(self) -> Estimate:
    return dataclasses.replace(self, value=-self.value, low=-self.high, high=-self.low)


def estimate(values: np.ndarray, against: np.ndarray | None = None, *, seedless: bool = False,
             against_seedless: bool = False) -> Estimate:
  """The mean over seeds of values[k, 1 + B], or its difference to that of against[j, 1 + B].

  Args:
    seedless: the rows need no seed (morphometry, covariates), so that one is all there are.
  """
  sides = [(values, seedless)] + ([(against, against_seedless)] if against is not None else [])
  means = [side.mean(0) for side, _ in sides]
  whole = means[0] - means[1] if len(means) > 1 else means[0]
  replicates = whole[1:][np.isfinite(whole[1:])]
  variances = [(float(np.var(replicates, ddof=1)), len(replicates) - 1)]
  variances += [(float(np.var(side[:, 0], ddof=1)) / len(side), len(side) - 1)
                for side, _ in sides if len(side) > 1]
  over_seeds = all(len(side) > 1 or none for side, none in sides)
  total = sum(variance for variance, _ in variances)
  value, error = float(whole[0]), total**0.5
  if not error:
    return Estimate(value, value, value, float('nan'), over_seeds)
  freedom = total**2 / sum(variance**2 / degrees for variance, degrees in variances)
  half = error * stats.t.ppf(0.5 + LEVEL / 2, freedom)
  p = 2 * stats.t.sf(abs(value) / error, freedom) if over_seeds else float('nan')
  return Estimate(value, value - half, value + half, float(p), over_seeds)


def holm(estimates: dict[str, Estimate]) -> dict[str, float]:
  """p of each after Holm's correction for all of them that have one."""
  adjusted = statistics.holm(np.array([one.p for one in estimates.values()], float))
  return dict(zip(estimates, map(float, adjusted)))
