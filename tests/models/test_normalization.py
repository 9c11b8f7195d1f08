"""BatchNorm with what follows it, and max-pooling, against float64."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anatcl_jax.models import convolution_cpu, pooling
from anatcl_jax.models.densenet3d import DenseNet3D
from anatcl_jax.models.normalization import BatchNorm, batch_statistics, normalized
from anatcl_jax.models.resnet3d import ResNet3D
from tests.models.test_models import SUMS_IN_PARTS, random_variables

GRIDS = [(1, 5, 8), (6, 4, 9)]
# How CPUs pool, and how GPUs and TPUs do.
POOLS = {'cpu': (convolution_cpu.max_pool, convolution_cpu.max_pool_gradient),
         'others': (pooling.largest_of_slices, pooling.gathered_gradient)}


def xla_pool(x):
  return nn.max_pool(x, (3,) * 3, (2,) * 3, ((1, 1),) * 3)


@pytest.fixture(params=POOLS)
def pools(request, monkeypatch):
  """Each platform's pooling, however small the volume."""
  monkeypatch.setattr(pooling, '_SMALL', 0)
  for name, function in zip(('max_pool_with_index', 'max_pool_gradient'), POOLS[request.param],
                            strict=True):
    monkeypatch.setattr(pooling, name, function)


@pytest.mark.parametrize('grid', GRIDS)
def test_max_pool_and_its_gradient_go_to_the_first_maximum(grid, pools):
  # Three values make ties in nearly every window; a constant background makes all of them.
  x = np.random.default_rng(0).integers(-2, 1, (2, *grid, 3)).astype(np.float32)
  x[1] = -1
  expected, pull = jax.vjp(xla_pool, x)
  g = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
  actual, own_pull = jax.vjp(pooling.max_pool3d, x)
  np.testing.assert_array_equal(actual, expected)
  np.testing.assert_array_equal(pooling.max_pool3d(x), expected)
  np.testing.assert_allclose(own_pull(g)[0], pull(g)[0], rtol=1e-6, atol=1e-6)
  # By hand: the first voxel of a window in the order of the axes.
  first = np.zeros_like(x[1])
  for output in np.ndindex(g.shape[1:4]):
    first[tuple(max(2 * o - 1, 0) for o in output)] += g[1][output]
  np.testing.assert_allclose(own_pull(g)[0][1], first, rtol=1e-5, atol=1e-6)


def test_a_maximum_keeps_what_is_no_number(pools):
  x = np.zeros((1, 4, 4, 4, 1), np.float32)
  x[0, 3, 3, 3] = np.nan
  assert np.isnan(pooling.max_pool3d(x)).sum() == np.isnan(xla_pool(x)).sum() == 1


@pytest.mark.parametrize('relu, pool', [(False, False), (True, False), (True, True)])
def test_normalised_and_its_gradients_are_those_of_float64(relu, pool, pools):
  """With a channel of negative scale, whose maximum after normalising is its minimum before."""
  rng = np.random.default_rng(0)
  x = rng.normal(3, 2, (2, 5, 6, 7, 3))
  scale, bias = np.array([1.5, -0.7, 0.4]), np.array([0.1, 0.2, -0.3])

  def expected(x, scale, bias):
    mean, var = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    y = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias
    y = nn.relu(y) if relu else y
    return xla_pool(y) if pool else y

  with jax.enable_x64(True):
    y, pull = jax.vjp(expected, x, scale, bias)
    g = rng.normal(size=y.shape)
    gradients = pull(g)
  arguments = [np.float32(a) for a in (x, scale, bias)]
  own = functools.partial(_of_result, relu=relu, pool=pool)
  actual, own_pull = jax.vjp(own, *arguments)
  for a, b in zip((actual, *own_pull(np.float32(g))), (y, *gradients), strict=True):
    assert np.linalg.norm(a - b) < 2e-6 * np.linalg.norm(b)


def _of_result(x, scale, bias, relu, pool):
  return normalized(x, scale, bias, 1e-5, jnp.float32, None, relu, pool)[0]


def test_statistics_in_one_pass_lose_nothing_to_a_large_mean():
  """Relative errors, at means of 10^4 standard deviations and at an outlier where they begin."""
  rng = np.random.default_rng(0)
  x = rng.normal(0, 1, (4, 9, 9, 9, 3)) + np.array([0, 1e2, 1e4])
  x[0, 4, 4, 4, 0] = 100
  x = x.astype(np.float32)
  mean, var = batch_statistics(x)
  values = np.float64(x).reshape(-1, 3)
  np.testing.assert_allclose(var, values.var(0), rtol=2e-5 if SUMS_IN_PARTS else 1e-4)
  np.testing.assert_allclose((mean - values.mean(0)) / values.std(0), 0, atol=1e-3)


def test_a_constant_channel_has_no_variance():
  mean, var = batch_statistics(np.full((3, 4, 5, 6, 2), 0.1, np.float32))
  np.testing.assert_allclose(mean, 0.1, rtol=1e-6)
  assert (np.asarray(var) >= 0).all() and (np.asarray(var) < 1e-12).all()


@pytest.mark.parametrize('encoder', [ResNet3D((1, 1), width=4), DenseNet3D((1, 1), width=4)],
                         ids=['resnet', 'densenet'])
def test_frozen_the_normalisation_is_part_of_the_convolution(encoder):
  """The same features where the convolution and its normalisation are computed one by one."""
  x = np.random.default_rng(0).normal(size=(2, 13, 18, 15, 1)).astype(np.float32)
  variables = random_variables(encoder, x[:1])

  def one_by_one(call, arguments, keywords, context):
    if isinstance(context.module, BatchNorm) and len(arguments) == 3:
      x, train, convolution = arguments
      return call(convolution(x), train)
    return call(*arguments, **keywords)

  with nn.intercept_methods(one_by_one):
    expected = jax.jit(lambda *a: encoder.apply(*a, False))(variables, x)
  features = jax.jit(lambda *a: encoder.apply(*a, False))(variables, x)
  assert np.linalg.norm(features - expected) < 1e-5 * np.linalg.norm(expected)
  assert (np.asarray(features) != np.asarray(expected)).any()   # two ways indeed


def test_global_maximum_and_its_gradient_go_to_the_first_maximum():
  x = jnp.asarray([[1., 5., 5., 2.], [-1., -3., -2., -1.]]).reshape(2, 2, 2, 1, 1)
  value, gradient = jax.vjp(pooling.global_max, x)
  assert value.tolist() == [[5.], [-1.]]
  of_x, = gradient(jnp.asarray([[2.], [3.]]))
  assert of_x.reshape(2, 4).tolist() == [[0, 2, 0, 0], [3, 0, 0, 0]]
