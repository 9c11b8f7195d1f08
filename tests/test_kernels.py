"""Kernels against values worked out by hand and float64 NumPy double loops."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from anatcl_jax import kernels
from anatcl_jax.errors import UserError


def _cosine(a, b):
  norm = np.linalg.norm(a) * np.linalg.norm(b)
  return a @ b / norm if norm else 0.0


def _morphometry(subjects, seed=0, regions=5, measures=3):
  return np.random.default_rng(seed).normal(size=(subjects, regions, measures))


@pytest.mark.parametrize('name, expected', [
    ('rbf', math.exp(-9 / 8)),                                     # d = 3, sigma = 2
    ('gaussian', math.exp(-9 / 8) / (math.sqrt(2 * math.pi) * 2)),
    ('cauchy', 1 / 19)])
def test_age_kernel_by_hand(name, expected):
  result = kernels.age_kernel(name, jnp.array([20.0, 23.0]), jnp.array([20.0]), 2.0)
  np.testing.assert_allclose(result[1, 0], expected, rtol=1e-6)
  same = expected if name == 'gaussian' else 1
  assert result.shape == (2, 1) and (name == 'gaussian' or result[0, 0] == same)


def test_attribute_kernel_by_hand():
  codes = jnp.array([0, 1, 1])
  np.testing.assert_array_equal(kernels.attribute_kernel('equality', codes, codes[:2]),
                                [[1, 0], [0, 1], [0, 1]])
  scores = jnp.array([1.0, 4.0])
  np.testing.assert_allclose(kernels.attribute_kernel('cauchy', scores, scores, 2.0)[0, 1], 1 / 19)


def test_present_is_what_has_no_gap():
  np.testing.assert_array_equal(kernels.present(jnp.array([1.0, np.nan, np.inf])), [1, 0, 0])
  np.testing.assert_array_equal(kernels.present(jnp.array([0, -1, 3])), [1, 0, 1])
  x = jnp.asarray(_morphometry(3)).at[1, 2, 0].set(np.nan)
  np.testing.assert_array_equal(kernels.present(x), [1, 0, 1])


def test_descriptors_are_double_loops():
  a, b = _morphometry(4), _morphometry(6, seed=1)
  local = [[np.mean([_cosine(x[r], y[r]) for r in range(5)]) for y in b] for x in a]
  whole = [[np.mean([_cosine(x[:, m], y[:, m]) for m in range(3)]) for y in b] for x in a]
  a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
  np.testing.assert_allclose(kernels.local_similarity(a, b), local, atol=1e-6)
  np.testing.assert_allclose(kernels.global_similarity(a, b), whole, atol=1e-6)
  np.testing.assert_allclose(kernels.anatomical_kernel('global', a, b), np.clip(whole, 0, 1),
                             atol=1e-6)


def test_descriptors_of_two_regions_by_hand():
  """Region 1: (3, 4) and (4, 3), cosine 24/25; region 2: a zero vector, cosine 0.

  Local: (24/25 + 0) / 2. Global: measure 1 is (3, 0) and (4, 1), cosine 12/(3 sqrt 17); measure 2
  is (4, 0) and (3, 1), cosine 12/(4 sqrt 10).
  """
  a, b = jnp.array([[[3.0, 4.0], [0.0, 0.0]]]), jnp.array([[[4.0, 3.0], [1.0, 1.0]]])
  np.testing.assert_allclose(kernels.local_similarity(a, b)[0, 0], 12 / 25, rtol=1e-6)
  expected = (12 / (3 * math.sqrt(17)) + 12 / (4 * math.sqrt(10))) / 2
  np.testing.assert_allclose(kernels.global_similarity(a, b)[0, 0], expected, rtol=1e-6)


def test_normalizations_by_hand():
  """Two subjects, two regions, one measure: (1, 3) and (5, 3)."""
  x = np.array([[[1.0], [3.0]], [[5.0], [3.0]]])
  expected = {
      'none': [[1, 3], [5, 3]],
      'minmax_subject': [[0, 1], [1, 0]],
      'minmax_measure': [[0, 0.5], [1, 0.5]],
      'minmax_region': [[0, 0], [1, 0]],           # the second region is constant
      'zscore': [[-1, 0], [1, 0]]}
  assert set(expected) == set(kernels.NORMALIZATIONS)
  for how, values in expected.items():
    np.testing.assert_allclose(kernels.normalize_morphometry(x, how)[..., 0], values, err_msg=how)


@pytest.mark.parametrize('how', ['minmax_measure', 'minmax_region', 'zscore'])
def test_statistics_come_from_the_fitted_subjects_only(how):
  train, other = _morphometry(6), 9 + _morphometry(2, seed=2)
  stats = kernels.fit_morphometry(train, how)
  result = kernels.normalize_morphometry(other, how, stats)
  if how == 'zscore':
    np.testing.assert_allclose(result, (other - train.mean(0)) / train.std(0), rtol=1e-4)
  else:
    assert (result == 1).all()   # far above the training range


def test_rbf_bandwidth_by_hand():
  """Values 0, 1, 3 of one region: squared distances 1, 4, 9, half of their median is 2."""
  x = np.array([0.0, 1, 3]).reshape(3, 1, 1)
  stats = kernels.fit_morphometry(x, 'none', 'rbf')
  assert stats['bandwidth'] == 2
  scaled = kernels.normalize_morphometry(x, 'none', stats)
  squared = (x[:, 0] - x[:, 0].T)**2
  np.testing.assert_allclose(kernels.anatomical_kernel('rbf', scaled, scaled),
                             np.exp(-squared / 2), rtol=1e-5)


def test_whitening_counts_once_what_is_measured_twice():
  """The columns u, u + v and v, unwhitened, would favour u + v; whitened, u and v are left."""
  u, v = np.random.default_rng(0).normal(size=(2, 4000))
  stats_of = lambda *columns: kernels.fit_morphometry(
      np.stack(columns, 1)[..., None], 'zscore', 'whitened')
  kernel_of = lambda *columns: kernels.anatomical_kernel('whitened', *[
      kernels.normalize_morphometry(np.stack(columns, 1)[..., None], 'zscore',
                                    stats_of(*columns))[:20]] * 2)
  expected = np.clip([[_cosine(a, b) for b in np.stack([u, v], 1)[:20]]
                      for a in np.stack([u, v], 1)[:20]], 0, 1)
  np.testing.assert_allclose(kernel_of(u, u + v, v), expected, atol=0.05)
  unwhitened = kernels.normalize_morphometry(np.stack([u, u + v, v], 1)[..., None], 'zscore')[:20]
  assert np.abs(kernels.whole_similarity(unwhitened, unwhitened).clip(0) - expected).max() > 0.3


def test_whitening_makes_the_shrunk_covariance_the_identity():
  x = _morphometry(12)
  stats = kernels.fit_morphometry(x, 'none', 'whitened')
  flat = x.reshape(12, -1)
  covariance, _ = ledoit_wolf(flat)
  np.testing.assert_allclose(stats['whitening'] @ covariance @ stats['whitening'], np.eye(15),
                             atol=1e-5)
  np.testing.assert_allclose(
      kernels.normalize_morphometry(x, 'none', stats).reshape(12, -1),
      (flat - flat.mean(0)) @ stats['whitening'], atol=1e-5)


@pytest.mark.parametrize('how', kernels.NORMALIZATIONS)
@pytest.mark.parametrize('descriptor', kernels.DESCRIPTORS)
def test_a_gap_is_its_subjects_alone(descriptor, how):
  x = _morphometry(8)
  holed = np.insert(x, 3, x[0], 0)
  holed[3, 1, 2] = np.nan
  stats = kernels.fit_morphometry(holed, how, descriptor)
  expected = kernels.fit_morphometry(x, how, descriptor)
  assert stats.keys() == expected.keys()
  for name, value in stats.items():
    np.testing.assert_array_equal(value, expected[name])
  normalized = kernels.normalize_morphometry(holed, how, stats)
  assert np.isnan(normalized[3]).all()
  np.testing.assert_allclose(np.delete(normalized, 3, 0),
                             kernels.normalize_morphometry(x, how, expected), atol=1e-6)


def test_statistics_need_two_complete_subjects():
  x = np.full((3, 2, 1), np.nan)
  x[0] = 1
  with pytest.raises(UserError, match='1 of the training subjects have complete morphometry'):
    kernels.fit_morphometry(x, 'zscore')


def test_effective_positives_by_hand():
  weights = jnp.array([[9.0, 1, 1, 1], [9, 1, 0, 0], [1, 0, 0, 0], [0, 3, 1, 0]])
  others = jnp.ones((4, 4), bool).at[:, 0].set(False)
  entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
  np.testing.assert_allclose(kernels.effective_positives(weights, others),
                             [3, 1, 0, math.exp(entropy)], rtol=1e-6)


def test_unknown_names_name_the_nearest():
  with pytest.raises(UserError, match="did you mean 'cauchy'"):
    kernels.age_kernel('couchy', jnp.ones(1), jnp.ones(1), 1.0)
  with pytest.raises(UserError, match="did you mean 'zscore'"):
    kernels.fit_morphometry(np.ones((2, 1, 1)), 'z-score')
  with pytest.raises(UserError, match="did you mean 'global'"):
    kernels.anatomical_kernel('globl', jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1)))
