"""How much a group differs from the healthy, adjusted for what else differs between them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas
import scipy.stats

from anatcl_jax.cohorts import tables

_CATEGORIES = ('sex', 'site')


@dataclasses.dataclass(frozen=True)
class Contrast:
  """Group minus healthy, of values in their unit; d is Cohen's, in residual deviations."""

  n: int                        # people of the group
  healthy: int
  mean: float                   # of the group, not adjusted
  sd: float
  healthy_mean: float
  healthy_sd: float
  difference: float             # adjusted, and its 95 % interval
  low: float
  high: float
  d: float
  d_low: float
  d_high: float
  p: float
  note: str = ''


def by_person(people: np.ndarray, table: pandas.DataFrame, values: np.ndarray,
              covariates: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Means of each person's scans: people [p], values [p], and covariates as columns [p, C].

  Numbers are numbers; of sex and site there is a column for each value but the first, what is not
  known being a value of its own. A number that is not known is the mean of those that are.
  """
  names, whose = np.unique(people, return_inverse=True)
  count = np.bincount(whose)

  def mean(column: np.ndarray) -> np.ndarray:
    return np.bincount(whose, column) / count

  columns = []
  for name in covariates:
    text = tables.categories(table[name])
    if name in _CATEGORIES:
      text = text.fillna('').to_numpy(str)
      columns += [mean((text == level).astype(float)) for level in sorted(set(text))[1:]]
    else:
      numbers = pandas.to_numeric(text, errors='coerce').to_numpy(float)
      known = np.isfinite(numbers)
      columns.append(mean(np.where(known, numbers, numbers[known].mean() if known.any() else 0)))
  return names, mean(values), np.stack(columns, 1) if columns else np.zeros((len(names), 0))


def contrast(values: np.ndarray, member: np.ndarray, covariates: np.ndarray) -> Contrast:
  """Of the members [p] of a group against all others, with covariates [p, C], by least squares.

  The interval is Student's with a standard error that does not take the two variances for equal
  (HC3: MacKinnon and White, Journal of Econometrics 29, 1985). d is the adjusted difference over
  the residual deviation within groups; its interval has the error of both. NaN where covariates
  tell the groups apart, or the values, by themselves, or too few people are there.
  """
  group, healthy = values[member], values[~member]
  plain = (len(group), len(healthy), *_mean_sd(group), *_mean_sd(healthy))
  nothing = (np.nan,) * 7
  if min(len(group), len(healthy)) < 2:
    return Contrast(*plain, *nothing, note='too few people')
  y = values - healthy.mean()
  centred = covariates - covariates.mean(0)
  spread = centred.std(0)
  others = np.column_stack([np.ones(len(y)), centred / np.where(spread > 0, spread, 1)])
  design = np.column_stack([member, others])
  rank = np.linalg.matrix_rank(design)
  if rank == np.linalg.matrix_rank(others):
    return Contrast(*plain, *nothing, note='covariates tell the groups apart by themselves')
  if len(y) - rank < 2:
    return Contrast(*plain, *nothing, note='too few people for so many covariates')
  inverse = np.linalg.pinv(design)                        # [columns, people]
  coefficients = inverse @ y
  residual = y - design @ coefficients
  leverage = np.clip((design * inverse.T).sum(1), 0, 1)
  # Who alone has a covariate, such as a site, is fitted exactly and says nothing.
  freed = np.where(leverage < 1 - 1e-8, residual / np.maximum(1 - leverage, 1e-8), 0)
  error = float(np.sqrt(((inverse[0] * freed)**2).sum()))
  freedom = len(y) - rank
  within = float(np.sqrt((residual**2).sum() / freedom))
  if not within > 1e-9 * max(np.abs(values).max(), 1e-30):     # of rounding errors alone
    return Contrast(*plain, *nothing, note='covariates tell the values by themselves')
  half = scipy.stats.t.ppf(0.975, freedom) * error
  difference = float(coefficients[0])
  p = float(2 * scipy.stats.t.sf(abs(difference) / error, freedom)) if error > 0 else np.nan
  d = difference / within if within > 0 else np.nan
  # Hedges and Olkin, Statistical Methods for Meta-Analysis, 1985: d^2 / (2 f) is the deviation's.
  half_d = scipy.stats.t.ppf(0.975, freedom) * np.hypot(
      error / within, d / np.sqrt(2 * freedom)) if within > 0 else np.nan
  return Contrast(*plain, difference, difference - half, difference + half, d, d - half_d,
                  d + half_d, p)


def _mean_sd(values: np.ndarray) -> tuple[float, float]:
  return (float(np.mean(values)) if len(values) else np.nan,
          float(np.std(values, ddof=1)) if len(values) > 1 else np.nan)
