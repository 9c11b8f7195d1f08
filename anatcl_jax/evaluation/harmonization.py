"""ComBat: differences of location and scale between sites, learned on the fitted side of a split.

Johnson, Li and Rabinovic, Biostatistics 8, 2007; Fortin et al., NeuroImage 167, 2018.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas
from sklearn.base import BaseEstimator, TransformerMixin

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, check_name, listed
from anatcl_jax.evaluation.splits import Split
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import CLASSIFICATION

REFUSE, PASS = 'refuse', 'pass'          # what becomes of scans of sites that nobody was fitted on
UNSEEN = (REFUSE, PASS)
_USUAL = ('age', 'sex')                  # what `auto` keeps, as far as a table has it
_UNKNOWN = -1                            # the code of a site that the table does not tell
_PROXY = 0.99                            # |r| with a number to predict, from which a column is it


class ComBat(TransformerMixin, BaseEstimator):
  """Takes [features | code of site | code of person | kept covariates] to harmonised features.

  A feature y of a scan of site i with kept covariates c is modelled as alpha + c beta + sigma
  (gamma_i + delta_i e) and becomes alpha + c beta + sigma e. gamma and delta are empirical Bayes
  estimates over features, iterated until they stand still; with fewer than two features that vary
  they are the site's own. Of a site of one person delta is 1: one person does not show a spread.
  Scans with a code below 0 are of no known site; they are not learned from.

  Args:
    kept: number of covariates whose part is neither removed nor taken for one of sites.
    unseen: `refuse`, or `pass` to leave scans of sites as they are that were not fitted on.
  """

  def __init__(self, kept: int = 0, unseen: str = REFUSE):
    self.kept = kept
    self.unseen = unseen

  def fit(self, x: np.ndarray, y=None) -> ComBat:
    """Learns from x[n, F + 2 + kept], float64, without NaN."""
    features, site, person, covariates = self._parts(x)
    known = site >= 0
    features, site, person, covariates = (
        part[known] for part in (features, site, person, covariates))
    self.sites_, whose = np.unique(site, return_inverse=True)
    if len(self.sites_) < 2:     # there is nothing to tell apart
      return self
    one_hot = np.eye(len(self.sites_))[whose]
    coefficients, *_ = np.linalg.lstsq(np.concatenate([one_hot, covariates], 1), features,
                                       rcond=None)
    of_sites, self.beta_ = np.split(coefficients, [len(self.sites_)])
    self.alpha_ = one_hot.mean(0) @ of_sites
    residual = features - one_hot @ of_sites - covariates @ self.beta_
    sigma = np.sqrt((residual**2).mean(0))
    # A constant feature has a sigma of rounding errors alone.
    varies = sigma > 1e-7 * np.maximum(np.abs(features).max(0), 1e-30)
    self.sigma_ = np.where(varies, sigma, 1)
    z = (features - self.alpha_ - covariates @ self.beta_) / self.sigma_
    self.gamma_, self.delta_ = np.zeros_like(of_sites), np.ones_like(of_sites)
    for i in range(len(self.sites_)):
      own = whose == i
      self.gamma_[i, varies], self.delta_[i, varies] = _location_and_scale(
          z[own][:, varies], one_person=len(set(person[own])) == 1)
    return self

  def transform(self, x: np.ndarray) -> np.ndarray:
    """Features [n, F], harmonised; raises UserError for sites that were not fitted on."""
    features, site, _, covariates = self._parts(x)
    place = np.searchsorted(self.sites_, site).clip(max=max(len(self.sites_) - 1, 0))
    seen = self.sites_[place] == site if len(self.sites_) else np.zeros(len(site), bool)
    if self.unseen == REFUSE and not seen.all():
      raise UserError(f'{np.sum(~seen)} scans are of sites that harmonisation was not fitted on')
    if len(self.sites_) < 2:
      return features
    expected = self.alpha_ + covariates @ self.beta_
    z = ((features - expected) / self.sigma_ - self.gamma_[place]) / self.delta_[place]
    return np.where(seen[:, None], z * self.sigma_ + expected, features)

  def _parts(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
    x = np.asarray(x, np.float64)
    count = x.shape[1] - 2 - self.kept
    return x[:, :count], x[:, count], x[:, count + 1], x[:, count + 2:]


def _location_and_scale(z: np.ndarray, one_person: bool) -> tuple[np.ndarray, np.ndarray]:
  """gamma and delta of a site's z[n, F]: means of the posteriors under priors of all features.

  Priors (normal, inverse gamma) are by the method of moments, as in Johnson et al.
  """
  count, features = z.shape
  mean = z.mean(0)
  variance = z.var(0, ddof=1) if not one_person else np.ones(features)
  if features < 2:
    return mean, np.sqrt(np.where(variance > 0, variance, 1))
  prior, spread = mean.mean(), mean.var(ddof=1)
  if one_person:
    return (spread * count * mean + prior) / (spread * count + 1), np.ones(features)
  middle, width = variance.mean(), variance.var(ddof=1)
  if not width > 1e-12 * middle**2:     # all features vary alike: there is nothing to shrink
    return (spread * count * mean + middle * prior) / (spread * count + middle), np.full(
        features, np.sqrt(middle if middle > 0 else 1))
  shape, rate = (2 * width + middle**2) / width, (middle * width + middle**3) / width
  squares, gamma, scale = (z**2).sum(0), mean, variance
  for _ in range(1000):
    before = gamma, scale
    gamma = (spread * count * mean + scale * prior) / (spread * count + scale)
    squared_error = squares - 2 * gamma * count * mean + count * gamma**2
    scale = (squared_error / 2 + rate) / (count / 2 + shape - 1)
    if max(np.abs(gamma - before[0]).max(), np.abs(scale - before[1]).max()) < 1e-9:
      break
  return gamma, np.sqrt(scale)


@dataclasses.dataclass(frozen=True)
class Harmonization:
  """By which column of the labels, and what is kept."""

  column: str
  keep: tuple[str, ...] = ()
  unseen: str = REFUSE

  @property
  def columns(self) -> tuple[str, ...]:
    return (self.column, *self.keep)


def asked(column: str, keep: str, unseen: str) -> Harmonization | None:
  """What config.harmonize, keep and unseen_sites ask for; None where nothing is harmonised.

  Raises:
    UserError: no such way with unseen sites, or the site is to be removed and kept.
  """
  check_name(unseen, UNSEEN, 'unseen_sites')
  if not column:
    return None
  names = tuple(dict.fromkeys(filter(None, (name.strip() for name in keep.split(',')))))
  if column in names:
    raise UserError(f'config.keep names {column}, which config.harmonize removes')
  return Harmonization(column, () if names == ('none',) else names, unseen)


def in_table(wanted: Harmonization, table: pandas.DataFrame) -> Harmonization:
  """The same with the columns of a table by their names there, and `auto` as age and sex.

  Raises:
    UserError: a column is not there, or there are not two sites.
  """
  by_name = {str(name).lower(): name for name in table.columns}
  if wanted.keep == ('auto',):
    keep = tuple(by_name[name] for name in _USUAL
                 if name in by_name and name != wanted.column.lower())
  else:
    for name in wanted.keep:
      check_name(name.lower(), tuple(by_name), 'column of config.keep')
    keep = tuple(by_name[name.lower()] for name in wanted.keep)
  check_name(wanted.column.lower(), tuple(by_name), 'column of config.harmonize')
  column = by_name[wanted.column.lower()]
  if (count := tables.categories(table[column]).nunique()) < 2:
    raise UserError(f'config.harmonize: column {column} holds {count} value{"" if count else "s"}; '
                    'harmonisation is between two sites or more')
  return Harmonization(column, keep, wanted.unseen)


def coded(table: pandas.DataFrame, names: tuple[str, ...]) -> np.ndarray:
  """Columns of a table as numbers, [n, C]; of text, 0 and 1 for each value but the first.

  NaN is missing.
  """
  columns = []
  for name in names:
    text = tables.categories(table[name])
    missing = text.isna().to_numpy()
    values = pandas.to_numeric(text, errors='coerce').to_numpy(float)
    if np.isnan(values[~missing]).any():
      levels = sorted(set(text[~missing]))
      columns += [np.where(missing, np.nan, text == level) for level in levels[1:]]
    else:
      columns.append(values)
  return np.stack(columns, 1) if columns else np.zeros((len(table), 0))


def columns_of(wanted: Harmonization, target: Target, splits: list[Split],
               table: pandas.DataFrame) -> tuple[np.ndarray, list[str]]:
  """What ComBat needs of each scan of a target beside its features, [m, 2 + kept], and notes.

  A column that is, or tells, what the task predicts is never kept: harmonising a scan would need
  it, and features would come back with the truth in them.

  Raises:
    UserError: why the target can't be harmonised in these splits.
  """
  name, own = target.task.name, table.iloc[target.rows]
  keep = [column for column in wanted.keep if not _tells(column, target, own)]
  notes = [f'{name}: harmonised without keeping {listed(sorted(set(wanted.keep) - set(keep)))}, '
           'which is or tells what is predicted'] if len(keep) < len(wanted.keep) else []
  text = tables.categories(own[wanted.column])
  sites, codes = np.unique(text.fillna('').to_numpy(str), return_inverse=True)
  codes = np.where(text.isna().to_numpy(), _UNKNOWN, codes)
  covariates = coded(own, tuple(keep))
  lacking = np.isnan(covariates).any(1)
  if lacking.any():
    notes.append(f'{name}: {int(lacking.sum())} scans without {listed(keep)} are harmonised with '
                 "the fitted side's mean of it")
  passed: set[str] = set()
  for fit, test in splits:
    fitted = set(codes[fit]) - {_UNKNOWN}
    if len(fitted) < 2:
      raise UserError(f'{name}: not harmonised: a fitted side has a single {wanted.column}')
    passed |= {sites[code] if code != _UNKNOWN else 'unknown'
               for code in set(codes[test]) - fitted}
    _check_told_apart(name, wanted.column, codes[fit], covariates[fit])
  if passed and wanted.unseen == REFUSE:
    raise UserError(f'{name}: not harmonised: nobody of {wanted.column} {listed(sorted(passed))} '
                    'is on the fitted side of some split; --config.unseen_sites=pass leaves those '
                    'scans as they are')
  if passed:
    notes.append(f'{name}: scans of {wanted.column} {listed(sorted(passed))} are not harmonised '
                 'where nobody of theirs is on the fitted side')
  _, people = np.unique(target.groups, return_inverse=True)
  return np.column_stack([codes, people, covariates]), notes


def _tells(column: str, target: Target, table: pandas.DataFrame) -> bool:
  """Whether a column is a task's own, or as good as it: its classes, or its numbers by a line."""
  if column.lower() == target.task.column.lower():
    return True
  text = tables.categories(table[column])
  known = text.notna().to_numpy()
  if target.task.kind == CLASSIFICATION:
    held = pandas.DataFrame({'value': text[known], 'class': target.values[known]})
    by_value = held.groupby('value')['class'].nunique()
    return 2 * len(by_value) <= len(held) and bool((by_value == 1).all()) and (
        held['class'].nunique() > 1)
  numbers = pandas.to_numeric(text, errors='coerce').to_numpy(float)
  known = np.isfinite(numbers)
  if known.sum() < 3 or not np.ptp(numbers[known]) or not np.ptp(target.values[known]):
    return False
  return abs(np.corrcoef(numbers[known], target.values[known])[0, 1]) > _PROXY


def _check_told_apart(name: str, column: str, codes: np.ndarray, covariates: np.ndarray) -> None:
  """Raises UserError where kept covariates, or a sum of some, are the same thing as sites."""
  known = (codes != _UNKNOWN) & ~np.isnan(covariates).any(1)
  covariates = covariates[known] - covariates[known].mean(0)
  covariates = covariates / np.maximum(covariates.std(0), 1e-12)
  one_hot = (codes[known][:, None] == np.unique(codes[known])).astype(float)
  rank = np.linalg.matrix_rank(np.concatenate([one_hot, covariates], 1))
  if rank < one_hot.shape[1] + (np.linalg.matrix_rank(covariates) if covariates.size else 0):
    raise UserError(f'{name}: not harmonised: on a fitted side what config.keep names can\'t be '
                    f'told apart from {column}')
