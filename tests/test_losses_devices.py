"""Losses in blocks and over devices: the numbers of one device with the whole batch at once."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anatcl_jax import kernels, losses
from anatcl_jax.devices import parallel
from tests.test_losses import METHODS, methods

_SUBJECTS, _VIEWS = 16, 2
# Three subjects of this batch at a time, five times, and one more.
_THREE_ROWS = 3 * 8 * 4 * _VIEWS * _SUBJECTS * _VIEWS


def _batch():
  """Uneven ages: the missing ones, and those of the young, are on the first devices."""
  rng = np.random.default_rng(1)
  age = np.sort(rng.uniform(8, 90, _SUBJECTS)).astype(np.float32)
  age[[1, 2, 3, 9]] = np.nan
  age[5] = age[11]
  return {'input': rng.normal(size=(_SUBJECTS, _VIEWS, 4)).astype(np.float32), 'age': age}


def _loss(features, age, method, delta_reduction, axis_name=None, budget=None, as_function=False):
  everyone = losses.gather(age, axis_name)
  weights = ((lambda row: kernels.age_kernel('cauchy', age[row][None], everyone, 0.05)[0])
             if as_function else kernels.age_kernel('cauchy', age, everyone, 0.05))
  return losses.weakly_contrastive_loss(
      features, weights, method=method, delta_reduction=delta_reduction, axis_name=axis_name,
      present=kernels.present(age), memory_budget=budget)


@functools.cache
def _on_devices(devices, mapper, budget=None):
  """Of every method: loss, gradient of the features, gradient of parameters as a step takes it."""
  axis = parallel.AXIS
  mesh = jax.make_mesh((devices,), (axis,), devices=jax.devices()[:devices],
                       axis_types=(jax.sharding.AxisType.Auto,))

  def all_methods(params, batch):
    results = []
    for options in METHODS:
      of = lambda params, moved, options=options: _loss(
          batch['input'] @ params + moved, batch['age'], *options, axis_name=axis, budget=budget,
          as_function=bool(budget))
      value, (by_params, by_features) = jax.value_and_grad(of, (0, 1))(
          params, jnp.zeros_like(batch['input']))
      # The collectives' transposes sum what all devices, each with the whole loss, send back.
      results.append((value, jax.lax.all_gather(by_features / devices, axis, tiled=True),
                      jax.lax.pmean(by_params, axis)))
    return results

  run = parallel.map_over_devices(all_methods, mesh, mapper)
  params = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)
  return run(parallel.replicate(params, mesh), parallel.shard_rows(_batch(), mesh)), params


@pytest.mark.parametrize('devices, mapper, budget', [
    (1, 'jit', None), (2, 'jit', _THREE_ROWS), (8, 'jit', None),
    pytest.param(8, 'pmap', None, marks=pytest.mark.slow)])
def test_value_and_gradient_do_not_depend_on_devices(devices, mapper, budget):
  results, params = _on_devices(devices, mapper, budget)
  batch = _batch()
  reference = jax.jit(jax.value_and_grad(_loss), static_argnums=(2, 3))
  for options, (value, by_features, by_params) in zip(METHODS, results):
    expected, gradient = reference(batch['input'] @ params, batch['age'], *options)
    assert expected != 0
    np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=options)
    np.testing.assert_allclose(by_features, gradient, atol=2e-5, err_msg=options)
    np.testing.assert_allclose(by_params, np.einsum('nvi,nvo->io', batch['input'], gradient),
                               atol=2e-4, err_msg=options)


@methods
def test_blocks_change_nothing(method, delta_reduction):
  batch = _batch()
  run = jax.jit(lambda features, age, **how: jax.value_and_grad(_loss)(
      features, age, method, delta_reduction, **how), static_argnames=('budget', 'as_function'))
  value, gradient = run(batch['input'], batch['age'])
  blocked, blocked_gradient = run(batch['input'], batch['age'], budget=_THREE_ROWS,
                                  as_function=True)
  np.testing.assert_allclose(blocked, value, rtol=1e-6)
  np.testing.assert_allclose(blocked_gradient, gradient, atol=1e-6)


def test_effective_positives_leave_the_missing_out():
  age = _batch()['age']
  present = np.isfinite(age)
  weights = kernels.age_kernel('cauchy', age, age, 0.05)
  known = np.asarray(weights)[np.ix_(present, present)]
  expected = kernels.effective_positives(known, ~np.eye(len(known), dtype=bool)).mean()
  for budget in (None, 8 * 4 * _SUBJECTS * 3):
    result = jax.jit(functools.partial(losses.mean_effective_positives, memory_budget=budget))(
        weights, present)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize('method, subjects, megabytes, limit', [
    ('yaware', 8192, 256, 300e6), ('expw', 8192, 64, 100e6), ('threshold', 1024, None, 200e6)])
def test_memory_stays_in_its_budget(method, subjects, megabytes, limit):
  """By the compiler's own account of what value and gradient allocate; nothing is run."""
  features = jax.ShapeDtypeStruct((subjects, 2, 128), jnp.float32)
  age = jax.ShapeDtypeStruct((subjects,), jnp.float32)
  run = jax.jit(jax.value_and_grad(functools.partial(
      _loss, method=method, delta_reduction='sum', budget=megabytes and megabytes * 2**20,
      as_function=True)))
  assert run.lower(features, age).compile().memory_analysis().temp_size_in_bytes < limit
