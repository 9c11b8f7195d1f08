"""Every way to compute a convolution, against XLA's own in float64."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from anatcl_jax.models import convolution, convolution_cpu, pooling, stem_cpu
from anatcl_jax.models.convolution import conv3d, cpu_path
from anatcl_jax.models.pooling import max_pool3d

GRIDS = [(1, 5, 8), (6, 4, 9)]   # odd and even, shorter than a kernel, tiles of 4 left over


@pytest.fixture
def any_size(monkeypatch):
  """The CPU's own paths, however small the volume."""
  monkeypatch.setattr(convolution, '_SMALL', 0)
  monkeypatch.setattr(pooling, '_SMALL', 0)


def expected_conv(x, kernel, stride):
  pad = kernel.shape[0] // 2
  return lax.conv_general_dilated(x, kernel, (stride,) * 3, ((pad, pad),) * 3,
                                  dimension_numbers=('NXYZC', 'XYZIO', 'NXYZC'))


def expected_pool(x):
  return nn.max_pool(x, (3,) * 3, (2,) * 3, ((1, 1),) * 3)


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape)


def assert_close(actual, expected, tolerance=1e-13):
  def check(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
  jax.tree.map(check, actual, expected)


def with_gradients(function, arguments, g):
  result, pull = jax.vjp(function, *arguments)
  return result, pull(g)


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('path, size, stride, channels, features', [
    ('winograd', 3, 1, 3, 5), ('patches', 3, 1, 3, 5), ('patches', 3, 2, 3, 120),
    ('pointwise', 1, 1, 3, 5), ('pointwise', 1, 2, 3, 5), ('stem', 7, 2, 1, 5),
    ('stem', 3, 2, 2, 5)])
def test_each_path_on_cpu(path, size, stride, channels, features, grid, any_size, monkeypatch):
  monkeypatch.setattr(convolution, 'cpu_path', lambda *shapes: path)
  with jax.enable_x64(True):
    x, kernel = normal(2, *grid, channels), normal(size, size, size, channels, features)
    g = normal(*jax.eval_shape(lambda: expected_conv(x, kernel, stride)).shape)
    actual = jax.jit(functools.partial(
        with_gradients, lambda x, k: conv3d(x, k, stride, size // 2)))((x, kernel), g)
    assert_close(actual, with_gradients(lambda x, k: expected_conv(x, k, stride), (x, kernel), g))


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('size, channels', [(7, 1), (5, 3)])
def test_stem_from_space_to_depth(size, channels, grid):
  with jax.enable_x64(True):
    x, kernel = normal(2, *grid, channels), normal(size, size, size, channels, 5)
    assert_close(convolution.space_to_depth_conv(x, kernel, size // 2),
                 expected_conv(x, kernel, 2))


def test_the_rule_for_the_published_encoder():
  """ResNet-18 at 121x145x121, tiny at 30x36x30; XLA keeps small ones, even kernels, other padding.
  """
  def path(grid, channels, features, size=3, stride=1):
    return cpu_path((2, *grid, channels), (size,) * 3 + (channels, features), stride, size // 2)

  assert path((121, 145, 121), 1, 64, 7, 2) == 'stem'
  assert path((31, 37, 31), 64, 64) == path((16, 19, 16), 128, 128) == 'winograd'
  assert path((31, 37, 31), 64, 128, 3, 2) == path((8, 10, 8), 256, 256) == 'patches'
  assert path((4, 5, 4), 512, 512) == path((8, 10, 8), 256, 512, 3, 2) == 'patches'
  assert path((31, 37, 31), 64, 128, 1, 2) == path((8, 8, 8), 16, 16, 1) == 'pointwise'
  assert path((8, 9, 8), 16, 16) == 'winograd' != path((8, 8, 8), 96, 96) == 'patches'
  assert path((4, 4, 4), 16, 16) is None
  assert cpu_path((1, 64, 64, 64, 64), (2, 2, 2, 64, 64), 2, 0) is None
  assert cpu_path((1, 64, 64, 64, 64), (3, 3, 3, 64, 64), 1, 0) is None
  assert cpu_path((1, 64, 64, 64, 64), (3, 3, 3, 64, 64), 3, 1) is None


def test_bfloat16_is_computed_in_float32(any_size):
  x, kernel = jnp.asarray(normal(1, 5, 6, 7, 8), jnp.bfloat16), jnp.asarray(
      normal(3, 3, 3, 8, 4), jnp.bfloat16)
  result = jax.jit(lambda x, k: conv3d(x, k, 1, 1))(x, kernel)
  exact = expected_conv(*(a.astype(jnp.float32) for a in (x, kernel)), 1)
  assert result.dtype == jnp.bfloat16
  # Rounded once, to 8 bits.
  np.testing.assert_allclose(np.float32(result), exact, rtol=2**-8, atol=1e-3)


def _two_layers(x, kernel):
  """A scalar of a stem, a pooling, and one kernel used twice."""
  stem, body = kernel
  y = max_pool3d(conv3d(x, stem, 2, 3))
  return jnp.sum(jnp.sin(conv3d(conv3d(y, body, 1, 1), body, 2, 1)))


def test_under_remat_vmap_and_shard_map(any_size):
  x = normal(4, 1, 13, 12, 11, 1).astype(np.float32)
  kernel = tuple(0.05 * normal(*shape).astype(np.float32)
                 for shape in ((7, 7, 7, 1, 3), (3, 3, 3, 3, 3)))

  def plain(x, kernel):
    stem, body = kernel
    y = expected_pool(expected_conv(x, stem, 2))
    return jnp.sum(jnp.sin(expected_conv(expected_conv(y, body, 1), body, 2)))

  gradient = lambda function: lambda x, kernel: jax.grad(function, (0, 1))(x, kernel)
  expected = [gradient(plain)(one, kernel) for one in x]
  expected = jax.tree.map(lambda *leaves: np.stack(leaves), *expected)
  remat = gradient(jax.checkpoint(_two_layers))
  P = jax.sharding.PartitionSpec
  mesh = jax.make_mesh((4,), ('batch',), axis_types=(jax.sharding.AxisType.Auto,))
  mapped = jax.shard_map(
      lambda x, kernel: jax.tree.map(lambda leaf: leaf[None], remat(x[0], kernel)), mesh=mesh,
      in_specs=(P('batch'), P()), out_specs=P('batch'), check_vma=False)
  for function in (jax.vmap(remat, (0, None)), mapped):
    assert_close(jax.jit(function)(x, kernel), expected, 1e-5)


def test_only_what_is_asked_for_is_computed():
  """Without a gradient of the volume, the stem's slow one is not in the program."""
  x, kernel = jnp.ones((1, 64, 64, 64, 1)), jnp.ones((7, 7, 7, 1, 64))
  assert cpu_path(x.shape, kernel.shape, 2, 3) == 'stem'
  loss = lambda x, kernel: jnp.sum(conv3d(x, kernel, 2, 3) ** 2)
  program = lambda wanted: jax.jit(jax.grad(loss, wanted)).lower(x, kernel).compile().as_text()
  assert ' convolution(' not in program(1) and ' convolution(' in program((0, 1))


def test_winograd_in_float32():
  x, kernel = normal(1, 6, 20, 20, 64).astype(np.float32), normal(3, 3, 3, 64, 8).astype(np.float32)
  exact = expected_conv(x.astype(np.float64), kernel.astype(np.float64), 1)
  assert_close(np.float64(convolution_cpu.winograd(x, kernel)), np.float64(exact), 1e-5)


def test_stem_in_float32():
  """Winograd's points at 2 and 1/2 cost no more than an ordinary sum's rounding."""
  x, kernel = normal(1, 22, 20, 20, 1).astype(np.float32), normal(7, 7, 7, 1, 8).astype(np.float32)
  exact = expected_conv(x.astype(np.float64), kernel.astype(np.float64), 2)
  assert_close(np.float64(stem_cpu.convolved(x, kernel)), np.float64(exact), 3e-6)


def test_xla_is_told_of_layouts_on_gpus_in_bfloat16_where_it_knows_how(monkeypatch):
  assert convolution.compiler_options('bfloat16') == {}          # a CPU
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert convolution.compiler_options('bfloat16') == {'xla_gpu_force_conv_nhwc': True}
  assert convolution.compiler_options('float32') == {}
  assert not convolution._known('xla_gpu_no_such_option')
  monkeypatch.setattr(convolution, '_known', lambda *options: False)
  assert convolution.compiler_options('bfloat16') == {}
