"""ComBat: differences of location and scale between sites, estimated by empirical Bayes.

Johnson, Li and Rabinovic, Biostatistics 8, 2007; Fortin et al., NeuroImage 167, 2018.
"""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.impute import SimpleImputer

from anatcl_jax.errors import UserError

REFUSE, PASS = 'refuse', 'pass'          # what becomes of scans of sites that nobody was fitted on
UNSEEN = (REFUSE, PASS)
UNKNOWN = -1                             # the code of a site that is not known


class ComBat(TransformerMixin, BaseEstimator):
  """Takes [features | code of site | code of person | kept covariates] to harmonised features.

  A feature y of a scan of site i with kept covariates c is modelled as alpha + c beta + sigma
  (gamma_i + delta_i e) and becomes alpha + c beta + sigma e. gamma and delta are empirical Bayes
  estimates over features, iterated until they stand still; with fewer than two features that vary
  they are the site's own. Of a site of one person delta is 1: one person does not show a spread.
  Scans with a code below 0 are of no known site; they are not learned from. For NaN stands the mean
  of those fitted on. A row's result hangs on nothing but the row, to the last bit.

  Args:
    kept: number of covariates whose part is neither removed nor taken for one of sites.
    unseen: `refuse`, or `pass` to leave scans of sites as they are that were not fitted on.
  """

  def __init__(self, kept: int = 0, unseen: str = REFUSE):
    self.kept = kept
    self.unseen = unseen

  def fit(self, x: np.ndarray, y=None) -> ComBat:
    """Learns from x[n, F + 2 + kept]; NaN is missing."""
    self.impute_ = SimpleImputer(keep_empty_features=True).fit(
        np.asarray(x, np.float64)).statistics_
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
    expected = np.broadcast_to(self.alpha_, features.shape)
    for column, beta in zip(covariates.T, self.beta_):     # BLAS sums by how many rows there are
      expected = expected + column[:, None] * beta
    z = ((features - expected) / self.sigma_ - self.gamma_[place]) / self.delta_[place]
    return np.where(seen[:, None], z * self.sigma_ + expected, features)

  def _parts(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
    x = np.asarray(x, np.float64)
    x = np.where(np.isnan(x), self.impute_, x)
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
