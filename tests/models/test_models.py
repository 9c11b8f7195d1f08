"""Encoders, BatchNorm and heads against float64 NumPy written with loops over kernel offsets."""

from __future__ import annotations

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from anatcl_jax import models
from anatcl_jax.errors import UserError
from anatcl_jax.models.normalization import BatchNorm
from anatcl_jax.models.resnet3d import BasicBlock, Bottleneck, ResNet3D

# Trainable parameters of anatcl 0.0.3 (PyPI), `sum(p.numel() for p in model.parameters())` of
# `SupConResNet(name).encoder` and of its MLP head.
RELEASED_COUNTS = {
    'resnet18': (33_160_000, 328_320),
    'resnet34': (63_469_632, 328_320),
    'resnet50': (46_155_072, 4_458_624),
    'resnet101': (85_201_216, 4_458_624),
}

VOLUME = (1, 16, 16, 16, 1)

# Of 0.8, XLA sums on a CPU one by one, and otherwise where a program is another one.
SUMS_IN_PARTS = jax.__version_info__ >= (0, 10)


def random_variables(module, x, seed=0):
  """Random variables of a module, with BatchNorm's far from their initial 0 and 1.

  Drawn by NumPy, because compiling an initialisation takes longer than all else here.
  """
  rng = np.random.default_rng(seed)
  draw = {
      'kernel': lambda shape: rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape),
      'scale': lambda shape: rng.uniform(0.5, 2, shape),
      'var': lambda shape: rng.uniform(0.5, 2, shape),
      'bias': lambda shape: rng.normal(0, 0.5, shape),
      'mean': lambda shape: rng.normal(0, 0.5, shape),
  }
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: draw[path[-1].key](leaf.shape).astype(leaf.dtype), shapes)


# The reference: plain float64 NumPy, every parameter looked up by its path.


def windows(x, size, stride, padding, fill):
  """Yields each offset of a cubic window, and the values of x at that offset from every output."""
  x = np.pad(x, ((0, 0),) + ((padding, padding),) * 3 + ((0, 0),), constant_values=fill)
  counts = [(axis - size) // stride + 1 for axis in x.shape[1:4]]
  for offset in itertools.product(range(size), repeat=3):
    slices = [slice(o, o + stride * (n - 1) + 1, stride) for o, n in zip(offset, counts)]
    yield offset, x[:, slices[0], slices[1], slices[2]]


def reference_conv(x, kernel, stride, padding):
  return sum(x_offset @ kernel[offset]
             for offset, x_offset in windows(x, kernel.shape[0], stride, padding, 0.0))


def reference_features(variables, x, stage_sizes, bottleneck):
  """Eval-mode features [N, F] of a residual network with 7^3 stem, in float64."""
  flat = {'/'.join(path): np.asarray(value, np.float64)
          for path, value in traverse_util.flatten_dict(variables).items()}

  def conv(x, name, stride, padding):
    return reference_conv(x, flat[f'params/{name}/kernel'], stride, padding)

  def norm(x, name):
    mean, var = flat[f'batch_stats/{name}/mean'], flat[f'batch_stats/{name}/var']
    scale, bias = flat[f'params/{name}/scale'], flat[f'params/{name}/bias']
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

  x = np.maximum(norm(conv(np.asarray(x, np.float64), 'conv1', 2, 3), 'bn1'), 0)
  x = np.max([value for _, value in windows(x, 3, 2, 1, -np.inf)], axis=0)
  for stage, size in enumerate(stage_sizes, start=1):
    for index in range(size):
      block, stride = f'layer{stage}_{index}', 2 if stage > 1 and index == 0 else 1
      # Kernel sizes and strides of the convolutions on the residual path.
      path = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
      y = x
      for number, (kernel_size, step) in enumerate(path, start=1):
        y = conv(y, f'{block}/conv{number}', step, kernel_size // 2)
        y = norm(y, f'{block}/bn{number}')
        if number < len(path):
          y = np.maximum(y, 0)
      if stride == 2 or x.shape[-1] != y.shape[-1]:
        x = norm(conv(x, f'{block}/downsample_conv', stride, 0), f'{block}/downsample_bn')
      x = np.maximum(x + y, 0)
  return x.mean((1, 2, 3))


@pytest.mark.parametrize('block', [BasicBlock, Bottleneck])
@pytest.mark.parametrize('grid', [(13, 18, 15), (16, 11, 20)])
def test_features_match_float64_reference(block, grid):
  stage_sizes = (1, 2, 1)
  encoder = ResNet3D(stage_sizes, block, width=4)
  x = jax.random.normal(jax.random.key(1), (2, *grid, 1))
  variables = random_variables(encoder, x)
  features = jax.jit(encoder.apply)(variables, x)
  expected = reference_features(variables, x, stage_sizes, block is Bottleneck)
  assert features.shape == expected.shape == (2, 64 if block is Bottleneck else 16)
  error = np.linalg.norm(features - expected) / np.linalg.norm(expected)
  assert error < 1e-5


def test_batch_norm_trains_as_float64_reference():
  # At a mean of 1000 float32 is good to 1e-3 of the mean, and E[x^2] - E[x]^2 is noise.
  rng = np.random.default_rng(0)
  x = (1e3 + rng.normal(size=(3, 5, 4, 3, 6))).astype(np.float32)
  module = BatchNorm()
  variables = random_variables(module, x)
  y, updates = module.apply(variables, x, True, mutable='batch_stats')

  values = x.astype(np.float64).reshape(-1, 6)
  mean, var = values.mean(0), values.var(0)
  params, old = variables['params'], variables['batch_stats']
  expected = (x - mean) / np.sqrt(var + 1e-5) * params['scale'] + params['bias']
  np.testing.assert_allclose(y, expected, atol=5e-3)
  new = updates['batch_stats']
  np.testing.assert_allclose(new['mean'], 0.9 * old['mean'] + 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(new['var'], 0.9 * old['var'] + 0.1 * values.var(0, ddof=1), rtol=1e-5)


def test_batch_norm_statistics_of_bfloat16_are_float32():
  x = jnp.asarray(np.random.default_rng(0).normal(3, 1, (4, 9, 9, 9, 2)), jnp.bfloat16)
  module = BatchNorm(momentum=1.0, dtype=jnp.bfloat16)
  variables = random_variables(module, x)
  y, updates = module.apply(variables, x, True, mutable='batch_stats')
  values, new = np.asarray(x, np.float64).reshape(-1, 2), updates['batch_stats']
  assert y.dtype == jnp.bfloat16
  rtol = 1e-5 if SUMS_IN_PARTS else 3e-5     # without n / (n - 1) they are off by 3e-4
  np.testing.assert_allclose(new['mean'], values.mean(0), rtol=rtol)
  np.testing.assert_allclose(new['var'], values.var(0, ddof=1), rtol=rtol)


def test_batch_norm_init_leaves_statistics_and_needs_no_mesh():
  x = jax.random.normal(jax.random.key(0), (4, 3))
  variables = BatchNorm(axis_name='batch').init(jax.random.key(0), x + 5, True)
  assert not variables['batch_stats']['mean'].any()
  assert (variables['batch_stats']['var'] == 1).all()


def test_batch_norm_of_one_value_is_a_user_error():
  module, x = BatchNorm(), jnp.ones((1, 1, 1, 1, 3))
  variables = module.init(jax.random.key(0), x, True)
  with pytest.raises(UserError, match='one value a channel'):
    module.apply(variables, x, True, mutable='batch_stats')


@pytest.mark.parametrize('make', [BatchNorm, functools.partial(ResNet3D, (1,), width=4)],
                         ids=['batch_norm', 'resnet3d'])
def test_synchronized_statistics_equal_one_device(make):
  """Outputs, running statistics and gradients on 4 devices are those of the whole batch on one."""
  # Subjects differ in mean and spread, so that a device's own statistics would be far off.
  spread = jnp.arange(1, 9).reshape(8, 1, 1, 1, 1)
  x = spread * (2 + jax.random.normal(jax.random.key(0), (8, 7, 6, 5, 1)))
  variables = random_variables(make(), x)
  target = jax.random.normal(jax.random.key(1), make().apply(variables, x, False).shape)

  def run(module):
    def step(variables, x, target):
      def loss(params):
        y, updates = module.apply({**variables, 'params': params}, x, True, mutable='batch_stats')
        return jnp.sum(target * y), (y, updates)
      return jax.grad(loss, has_aux=True)(variables['params'])
    return step

  def summed(variables, x, target):
    gradient, outputs = run(make(axis_name='batch'))(variables, x, target)
    return jax.lax.psum(gradient, 'batch'), outputs

  P = jax.sharding.PartitionSpec
  mesh = jax.make_mesh((4,), ('batch',), axis_types=(jax.sharding.AxisType.Auto,))
  mapped = jax.shard_map(summed, mesh=mesh, in_specs=(P(), P('batch'), P('batch')),
                         out_specs=(P(), (P('batch'), P())), check_vma=False)
  expected = jax.jit(run(make()))(variables, x, target)
  actual = jax.jit(mapped)(variables, x, target)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()), actual, expected)


def test_encoder_initialization():
  encoder = ResNet3D((1, 1), Bottleneck, width=16)
  params = jax.jit(encoder.init)(jax.random.key(0), jnp.ones(VOLUME))['params']
  flat = traverse_util.flatten_dict(params)
  kernels = [value for path, value in flat.items() if path[-1] == 'kernel']
  assert len(kernels) == 1 + 4 + 4
  for kernel in kernels:
    fan_out = kernel.shape[-1] * np.prod(kernel.shape[:3])
    standard = np.asarray(kernel) / np.sqrt(2 / fan_out)
    assert abs(standard.std() - 1) < 5 / np.sqrt(2 * standard.size)
    assert abs(standard.mean()) < 5 / np.sqrt(standard.size)
    if standard.size > 4000:
      assert np.abs(standard).max() > 3  # truncated at two standard deviations it would be 2.3
  assert all((value == 1).all() for path, value in flat.items() if path[-1] == 'scale')
  assert all((value == 0).all() for path, value in flat.items() if path[-1] == 'bias')


@pytest.mark.parametrize('kind', ['mlp', 'linear'])
def test_head_initialization_and_values(kind):
  features = np.random.default_rng(0).normal(size=(3, 400)).astype(np.float32)
  head = models.get_head(kind, 300)
  params = head.init(jax.random.key(0), features)['params']
  assert set(params) == ({'hidden', 'output'} if kind == 'mlp' else {'output'})
  bound = 1 / np.sqrt(400)
  for value in jax.tree.leaves(params):
    assert 0.98 * bound < np.abs(value).max() <= bound
    assert abs(np.std(value) / (bound / np.sqrt(3)) - 1) < 0.1
  x = features.astype(np.float64)
  if kind == 'mlp':
    x = np.maximum(x @ params['hidden']['kernel'] + params['hidden']['bias'], 0)
  expected = x @ params['output']['kernel'] + params['output']['bias']
  np.testing.assert_allclose(head.apply({'params': params}, features), expected, atol=1e-5)


def test_head_none_returns_features():
  features = jnp.arange(6.0).reshape(2, 3)
  head = models.get_head('none')
  np.testing.assert_array_equal(head.apply(head.init(jax.random.key(0), features), features),
                                features)


@pytest.mark.parametrize('name', RELEASED_COUNTS)
def test_parameter_counts_match_released(name):
  def init(key):
    features, variables = models.get_encoder(name).init_with_output(key, jnp.ones(VOLUME))
    return variables['params'], models.get_head('mlp').init(key, features)['params']

  shapes = jax.eval_shape(init, jax.random.key(0))
  counts = [sum(leaf.size for leaf in jax.tree.leaves(part)) for part in shapes]
  assert tuple(counts) == RELEASED_COUNTS[name]


def test_bfloat16_keeps_parameters_statistics_and_outputs_float32():
  x = jax.random.normal(jax.random.key(1), (4, 16, 12, 14, 1))
  encoder = models.get_encoder('tiny', dtype=jnp.bfloat16)
  variables = random_variables(encoder, x)

  def apply(encoder):
    return jax.jit(lambda v: encoder.apply(v, x, True, mutable='batch_stats'))(variables)

  features, updates = apply(encoder)
  expected, _ = apply(models.get_encoder('tiny'))
  embeddings, head_variables = models.get_head('mlp', dtype=jnp.bfloat16).init_with_output(
      jax.random.key(2), features)
  for leaf in jax.tree.leaves((variables, updates, head_variables, features, embeddings)):
    assert leaf.dtype == jnp.float32
  error = np.linalg.norm(features - expected) / np.linalg.norm(expected)
  assert error < 0.1
  convolutions = [line for line in str(jax.make_jaxpr(encoder.apply)(variables, x)).splitlines()
                  if '= conv_general_dilated' in line]
  assert len(convolutions) == 9 and all(':bf16[' in line for line in convolutions)


def test_eval_features_do_not_depend_on_the_batch():
  encoder = models.get_encoder('tiny')
  x = jax.random.normal(jax.random.key(1), (3, 12, 13, 14, 1)) * jnp.array([1, 100, 0.01]).reshape(
      3, 1, 1, 1, 1)
  variables = random_variables(encoder, x)
  apply = jax.jit(encoder.apply)
  alone = np.concatenate([apply(variables, x[i:i + 1]) for i in range(3)])
  np.testing.assert_allclose(apply(variables, x), alone, rtol=1e-4)


def test_unknown_names_are_answered_with_the_nearest():
  with pytest.raises(UserError, match="'resnet81'.* 'resnet18'") as error:
    models.get_encoder('resnet81')
  assert all(name in str(error.value) for name in models.encoder_names())
  with pytest.raises(UserError, match="'MLP'.*mlp, linear, none"):
    models.get_head('MLP')
  assert isinstance(models.get_encoder('tiny'), nn.Module)
