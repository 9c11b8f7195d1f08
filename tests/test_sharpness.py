"""Rows of a stated sharpness: by hand, against float64 with Brent's root, and over devices."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scipy.optimize import brentq

from anatcl_jax import kernels, losses, sharpness
from anatcl_jax.devices import parallel
from tests.test_losses import CONFIG, double_loop

_SUBJECTS, _VIEWS = 16, 2
_METHODS = ('yaware', 'expw', 'threshold')


def _rows(log_weights, share):
  """Weights of a batch whose every pair has `log_weights`, and their effective positives."""
  return tuple(map(np.asarray, _jitted_rows(np.asarray(log_weights, np.float32), share)))


@jax.jit
def _jitted_rows(log_weights, share):
  others = ~jnp.eye(len(log_weights), dtype=bool)
  power = sharpness.solve_power(log_weights, others, share)
  weights = sharpness.sharpened(log_weights, others, ~others, power)
  return weights, kernels.effective_positives(weights, others)


def test_two_weights_by_hand():
  """Weights 1 and e^-1 of two others: to the power p, the share of the first is 1 / (1 + e^-p)."""
  share_of_first = 0.9
  entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
  log_weights = np.array([[0.0, -3, -4], [-3, 0, -3], [-3, -math.inf, 0]])
  weights, positives = _rows(log_weights, math.exp(entropy) / 2)
  np.testing.assert_allclose(weights[0], [1, 1, (1 - share_of_first) / share_of_first], rtol=1e-5)
  np.testing.assert_allclose(positives[0], math.exp(entropy), rtol=1e-5)
  np.testing.assert_array_equal(weights[1], [1, 1, 1])         # a tie is no one's nearest
  np.testing.assert_array_equal(weights[2], [1, 0, 1])         # a weight of 0 stays 0


@pytest.mark.parametrize('share', [0.05, 0.3, 0.9])
def test_rows_have_the_stated_positives(share):
  distances = np.random.default_rng(0).gamma(2, size=(40, 40)) * 1e-6    # nearly all alike
  _, positives = _rows(-distances, share)
  np.testing.assert_allclose(positives, share * 39, rtol=1e-4)


def test_what_can_not_be_reached_is_as_near_as_can_be():
  nobody, alike = np.full((5, 5), -np.inf), np.zeros((5, 5))
  twins = np.where(np.arange(5) < 3, -1.0, -2.0) * np.ones((5, 1))
  for log_weights, share, expected in (
      (nobody, 0.5, 0), (alike, 0.5, 4), (np.diag(np.arange(4.0), 1) - 10, 0.01, None),
      (twins, 0.25, [2, 2, 2, 3, 3]), (np.where(np.arange(5) < 2, -1, -np.inf) * np.ones((5, 1)),
                                       0.9, [1, 1, 2, 2, 2])):
    weights, positives = _rows(log_weights, share)
    assert np.isfinite(weights).all() and (np.diag(weights) == 1).all()
    if expected is not None:
      np.testing.assert_allclose(positives, expected, rtol=1e-4)


def _term(kernel, share=0.2, sigma=2.0):
  return ml_collections.ConfigDict({'weight': 1.0, 'kernel': kernel, 'sigma': sigma,
                                    'effective_positives': share})


def _anatomy(offset=0.0):
  rng = np.random.default_rng(3)
  x = offset + rng.normal(size=(_SUBJECTS, 6, 3))
  if not offset:
    x[:, 2] = 0                # a zero vector in every subject, and in some two of them
    x[:4, 3] = 0
  return x.astype(np.float32)


def _log_weights(kernel, x):
  """log of the degrees of positiveness, pair by pair in float64, and its largest of each row 0."""
  x = x.astype(float)

  def cosine(a, b):
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return (a * b).sum() / norm if norm else 0

  similarity = {
      'local': lambda a, b: np.mean([cosine(a[r], b[r]) for r in range(6)]),
      'global': lambda a, b: np.mean([cosine(a[:, m], b[:, m]) for m in range(3)]),
      'whitened': cosine,
      'rbf': lambda a, b: np.exp(-np.sum((a - b)**2))}[kernel]
  with np.errstate(divide='ignore'):
    return np.log(np.clip([[similarity(a, b) for b in x] for a in x], 0, None))


def _entropy(weights):
  part = weights[weights > 0] / weights.sum()
  return -np.sum(part * np.log(part))


def _sharpened(log_weights, share):
  """By Brent's method in float64, one row after the other."""
  n = len(log_weights)
  result = np.zeros((n, n))
  for i in range(n):
    others = (np.arange(n) != i) & np.isfinite(log_weights[i])
    below = log_weights[i][others].max() - log_weights[i][others]
    target = math.log(max(share * (n - 1), 1))
    power = math.exp(brentq(lambda log_power, below, target: _entropy(
        np.exp(-math.exp(log_power) * below)) - target, -16, 25, (below, target), xtol=1e-13))
    result[i, others] = np.exp(-power * below)
    result[i, i] = 1
  return result


@pytest.mark.parametrize('kernel, offset', [
    ('local', 0), ('global', 0), ('whitened', 0), ('rbf', 0),
    ('local', 300), ('global', 300)])      # cosines that differ in the fifth digit
def test_rows_of_anatomy_are_the_double_loop(kernel, offset):
  x = _anatomy(offset)
  term = _term(kernel)
  expected = _sharpened(_log_weights(kernel, x), 0.2)
  weights, positives = _rows(kernels.log_kernel(term, x, x), 0.2)
  np.testing.assert_allclose(weights, expected, atol=1e-3 if offset else 1e-4)
  np.testing.assert_allclose(positives, 3, rtol=1e-3)


@pytest.mark.parametrize('kernel', ['rbf', 'gaussian', 'cauchy'])
def test_rows_of_ages_reach_far(kernel):
  """Ages so far apart that the kernel itself is 0 in float32."""
  age = np.array([8, 20, 41, 67, 68, 90, 91, 93], np.float32)
  squared = (age[:, None] - age[None]).astype(float)**2
  log_weights = -np.log1p(0.5 * squared) if kernel == 'cauchy' else -squared / (2 * 0.5**2)
  weights, _ = _rows(kernels.log_kernel(_term(kernel, sigma=0.5), age, age), 0.3)
  np.testing.assert_allclose(weights, _sharpened(log_weights, 0.3), atol=1e-4)


def _batch():
  rng = np.random.default_rng(1)
  age = rng.uniform(8, 90, _SUBJECTS).astype(np.float32)
  anatomy = _anatomy()
  age[[1, 2, 3]] = np.nan                # all of the second of eight devices, and half the first
  anatomy[9, 0, 1] = np.nan
  age[5] = age[11]
  return {'input': rng.normal(size=(_SUBJECTS, _VIEWS, 4)).astype(np.float32), 'age': age,
          'anatomy': anatomy}


def _config(method, budget=64):
  return ml_collections.ConfigDict(CONFIG.to_dict() | {
      'method': method, 'memory_budget_mb': budget,
      'terms': {'age': _term('rbf').to_dict(), 'anatomy': _term('global', 0.25).to_dict()}})


def _loss(params, batch, method, axis_name=None, budget=64):
  return losses.combined_loss(batch['input'] @ params, {name: batch[name] for name in (
      'age', 'anatomy')}, _config(method, budget), axis_name)


def test_the_loss_is_the_double_loop_and_leaves_the_missing_out():
  batch, params = _batch(), np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)
  for method in _METHODS:
    (value, metrics), gradient = jax.jit(jax.value_and_grad(
        functools.partial(_loss, method=method), has_aux=True))(params, batch)
    assert np.isfinite(gradient).all()
    expected = 0
    for name in ('age', 'anatomy'):
      known = np.isfinite(batch[name].reshape(_SUBJECTS, -1)).all(1)
      attribute = batch[name][known]
      log_weights = (-(attribute[:, None].astype(float) - attribute[None])**2 / 8 if name == 'age'
                     else _log_weights('global', attribute))
      share = _config(method).terms[name].effective_positives
      # As float32 has them: `threshold` counts what is smaller, and the smallest are all 0.
      weights = _sharpened(log_weights, share).astype(np.float32)
      weights[weights < np.finfo(np.float32).tiny] = 0
      loss = double_loop((batch['input'] @ params)[known].astype(float), weights, method)
      np.testing.assert_allclose(metrics[f'loss/{name}'], loss, rtol=1e-4, err_msg=method)
      np.testing.assert_allclose(metrics[f'effective_positives/{name}'],
                                 share * (known.sum() - 1), rtol=1e-3)
      expected += loss
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@functools.cache
def _on_devices(devices, mapper, budget=64, methods=_METHODS):
  mesh = jax.make_mesh((devices,), (parallel.AXIS,), devices=jax.devices()[:devices],
                       axis_types=(jax.sharding.AxisType.Auto,))

  def all_methods(params, batch):
    results = []
    for method in methods:
      value, by_params = jax.value_and_grad(_loss, has_aux=True)(
          params, batch, method, parallel.AXIS, budget)
      results.append((value, jax.lax.pmean(by_params, parallel.AXIS)))
    return results

  params = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)
  run = parallel.map_over_devices(all_methods, mesh, mapper)
  return run(parallel.replicate(params, mesh), parallel.shard_rows(_batch(), mesh))


@pytest.mark.parametrize('devices, mapper, budget, methods', [
    (2, 'jit', 0.01, _METHODS[:1]), (8, 'jit', 64, _METHODS),
    pytest.param(2, 'jit', 0.01, _METHODS, marks=pytest.mark.slow),
    pytest.param(8, 'pmap', 64, _METHODS, marks=pytest.mark.slow)])
def test_loss_and_gradient_do_not_depend_on_devices(devices, mapper, budget, methods):
  for method, one, many in zip(methods, _on_devices(1, 'jit'), _on_devices(devices, mapper, budget,
                                                                          methods)):
    for expected, value in zip(jax.tree.leaves(one), jax.tree.leaves(many)):
      np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-5, err_msg=method)


@pytest.mark.parametrize('kernel', ['equality', 'rbf'])
def test_a_batch_of_one_value_is_attracted_alike(kernel):
  """One site, or one age: nobody is nearer than another, whatever the share."""
  batch = _batch() | {'age': np.zeros(_SUBJECTS, np.int32 if kernel == 'equality' else np.float32)}
  config = _config('yaware')
  config.terms = {'age': _term(kernel)}
  run = jax.jit(jax.value_and_grad(lambda features: losses.combined_loss(
      features, {'age': batch['age']}, config), has_aux=True))
  (value, metrics), gradient = run(batch['input'])
  alike = double_loop(batch['input'].astype(float), np.ones((_SUBJECTS, _SUBJECTS)))
  np.testing.assert_allclose(value, alike, rtol=1e-5)
  np.testing.assert_allclose(metrics['effective_positives/age'], _SUBJECTS - 1, rtol=1e-5)
  assert np.isfinite(gradient).all()
