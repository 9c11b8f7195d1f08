"""DenseNet, AlexNet, widths and small inputs, against float64 NumPy and counts of other code."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from anatcl_jax import models
from anatcl_jax.bench import counts
from anatcl_jax.devices import parallel
from anatcl_jax.errors import UserError
from anatcl_jax.frozen import extract
from anatcl_jax.models.alexnet3d import AlexNet3D
from anatcl_jax.models.densenet3d import DenseNet3D
from anatcl_jax.models.resnet3d import BasicBlock, ResNet3D
from anatcl_jax.training import optim, step, tracking, train
from anatcl_jax.training.checkpoint import Checkpoints
from anatcl_jax.weights import stored, write
from anatcl_jax.weights.load import Weights, check, load_weights, untrained
from anatcl_jax.weights.run_config import check_config
from configs.pretrain import get_config
from tests.models.test_models import random_variables, reference_conv, windows
from tests.small_run import small_config


class Reference:
  """Layers in float64 NumPy, their parameters looked up by name."""

  def __init__(self, variables):
    self.flat = {'/'.join(path): np.asarray(value, np.float64)
                 for path, value in traverse_util.flatten_dict(variables).items()}

  def conv(self, x, name, stride, padding):
    return reference_conv(x, self.flat[f'params/{name}/kernel'], stride, padding)

  def norm_relu(self, x, name):
    mean, var = (self.flat[f'batch_stats/{name}/{value}'] for value in ('mean', 'var'))
    scale, bias = (self.flat[f'params/{name}/{value}'] for value in ('scale', 'bias'))
    return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)


def pooled(x, size, stride, padding, how=np.max):
  return how([value for _, value in windows(x, size, stride, padding, -np.inf)], axis=0)


def reference_densenet(variables, x, block_sizes, small):
  net = Reference(variables)
  x = net.norm_relu(net.conv(x, 'conv0', *((1, 1) if small else (2, 3))), 'norm0')
  x = x if small else pooled(x, 3, 2, 1)
  for block, size in enumerate(block_sizes, start=1):
    if block > 1:
      x = net.norm_relu(x, f'transition{block - 1}_norm')
      x = pooled(net.conv(x, f'transition{block - 1}_conv', 1, 0), 2, 2, 0, np.mean)
    for layer in range(1, size + 1):
      name = f'denseblock{block}_denselayer{layer}'
      y = net.conv(net.norm_relu(x, f'{name}_norm1'), f'{name}_conv1', 1, 0)
      y = net.conv(net.norm_relu(y, f'{name}_norm2'), f'{name}_conv2', 1, 1)
      x = np.concatenate([x, y], -1)
  return net.norm_relu(x, 'norm5').mean((1, 2, 3))


def reference_alexnet(variables, x, small):
  net = Reference(variables)
  paddings = [(1, 1) if small else (2, 0), (1, 0), (1, 1), (1, 1), (1, 1)]
  for layer, (stride, padding) in enumerate(paddings, start=1):
    x = net.norm_relu(net.conv(x, f'conv{layer}', stride, padding), f'bn{layer}')
    if layer == 2 or layer == 1 and not small:
      x = pooled(x, 3, 3, 0)
  return x.max((1, 2, 3))


def reference_small_resnet(variables, x, small):
  """One BasicBlock that keeps its input's size and width."""
  assert small
  net = Reference(variables)
  x = net.norm_relu(net.conv(x, 'conv1', 1, 1), 'bn1')
  y = net.norm_relu(net.conv(x, 'layer1_0/conv1', 1, 1), 'layer1_0/bn1')
  mean, var = (net.flat[f'batch_stats/layer1_0/bn2/{value}'] for value in ('mean', 'var'))
  scale, bias = (net.flat[f'params/layer1_0/bn2/{value}'] for value in ('scale', 'bias'))
  y = (net.conv(y, 'layer1_0/conv2', 1, 1) - mean) / np.sqrt(var + 1e-5) * scale + bias
  return np.maximum(x + y, 0).mean((1, 2, 3))


@pytest.mark.parametrize('small, make, reference, features', [
    (False, functools.partial(DenseNet3D, (1, 2, 1)), functools.partial(
        reference_densenet, block_sizes=(1, 2, 1)), 5),
    (True, functools.partial(DenseNet3D, (1, 2, 1)), functools.partial(
        reference_densenet, block_sizes=(1, 2, 1)), 5),
    (False, AlexNet3D, reference_alexnet, 8),
    (True, AlexNet3D, reference_alexnet, 8),
    (True, functools.partial(ResNet3D, (1,), BasicBlock), reference_small_resnet, 4)])
def test_features_match_float64_reference(small, make, reference, features):
  encoder = make(width=4, small_input=small)
  x = np.random.default_rng(1).normal(size=(2, *((9, 12, 10) if small else (33, 36, 37)), 1))
  variables = random_variables(encoder, x)
  expected = reference(variables, x, small=small)
  actual = jax.jit(encoder.apply)(variables, x)
  assert actual.shape == expected.shape == (2, features)
  assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-5
  assert (np.std(expected, 0) > 1e-3).mean() >= 0.5


# `sum(p.numel() for p in module.parameters())`: MONAI 1.6.1's DenseNet121(3, 1, 1).features, and
# the predecessor's AlexNet3D without the biases of its convolutions, counted by hand.
@pytest.mark.parametrize('name, count, features', [
    ('densenet121', 11_242_624, 1024),
    ('alexnet', 125 * 64 + 27 * (64 * 128 + 128 * 192 + 192 * 192 + 192 * 128)
     + 2 * (64 + 128 + 192 + 192 + 128), 128)])
def test_parameter_counts(name, count, features):
  encoder = models.get_encoder(name)
  rows, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0),
                                   jnp.ones((1, 33, 33, 33, 1)))
  assert sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) == count
  assert rows.shape == (1, features)


@pytest.mark.parametrize('name, small, least', [
    ('densenet121', False, 29), ('densenet121', True, 8), ('alexnet', False, 33),
    ('alexnet', True, 5)])
def test_least_size(name, small, least):
  """The size that is said to be the least works and gives numbers; one voxel less is an error."""
  encoder = models.get_encoder(name, width=2, small_input=small)
  rows, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0),
                           jnp.ones((1, least, least + 1, least, 1)))
  assert rows.shape[0] == 1 and rows.size > 1
  with pytest.raises(UserError, match=f'at least {least} voxels .* {least}x{least - 1}x{least}: '
                                      'take a finer grid') as error:
    jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, least, least - 1, least, 1)))
  assert ('config.small_input=true' in str(error.value)) == (not small)


@pytest.mark.parametrize('name', [
    'resnet18', pytest.param('densenet121', marks=pytest.mark.slow), 'alexnet', 'tiny'])
def test_width_scales_every_layer_and_small_input_keeps_voxels(name):
  shape = (34, 35, 36)
  own = counts.layers(models.get_encoder(name), shape)
  half = counts.layers(models.get_encoder(name, width=own[0].features // 2, small_input=True),
                       shape)
  assert [2 * layer.features for layer in half] == [layer.features for layer in own]
  assert half[0].outputs == half[0].features * np.prod(shape)
  assert half[0].kernel == 27 * half[0].features and own[0].outputs < half[0].outputs / 2


def test_impossible_widths():
  with pytest.raises(UserError, match='width -1'):
    models.get_encoder('alexnet', width=-1)
  with pytest.raises(UserError, match="width '8'"):
    models.get_encoder('alexnet', width='8')
  with pytest.raises(UserError, match='width 3.*even'):
    jax.eval_shape(models.get_encoder('densenet121', width=3).init, jax.random.key(0),
                   jnp.ones((1, 33, 33, 33, 1)))


@pytest.mark.slow
@pytest.mark.parametrize('make', [
    functools.partial(DenseNet3D, (1, 1)), AlexNet3D], ids=['densenet', 'alexnet'])
def test_training_steps_lower_the_loss_and_move_every_parameter(make):
  """Three steps of the published loss."""
  config = get_config()
  config.loss.terms = ConfigDict({'age': config.loss.terms.age.to_dict() | {'sigma': 8.0}})
  encoder, head = make(width=4, small_input=True), models.get_head('mlp', 8)
  rng = np.random.default_rng(0)
  age = rng.uniform(20, 80, 8).astype(np.float32)
  volume = rng.normal(0, 0.1, (8, 9, 10, 9)) + np.sin(
      np.linspace(0, 3, 9)[:, None, None] * age[:, None, None, None] / 30)
  batch = {'volume': volume.astype(np.float32), 'attributes': {'age': age}}
  params = {'encoder': random_variables(encoder, volume[..., None]),
            'head': random_variables(head, np.ones((8, 8 if make is AlexNet3D else 5)))['params']}
  params, statistics = {**params, 'encoder': params['encoder']['params']}, params['encoder'][
      'batch_stats']
  optimizer = optim.adam_with_l2(optax.constant_schedule(3e-3), 0.0)
  state = step.TrainState(jnp.zeros((), jnp.int32), params, statistics, optimizer.init(params))
  train_step = jax.jit(step.make_train_step(encoder, head, optimizer, config.loss, 2, None))
  losses = []
  for _ in range(4):
    state, metrics = train_step(state, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < losses[0] - 0.01
  still = [jax.tree_util.keystr(path) for (path, new), old in zip(
      jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(params))
           if np.array_equal(new, old)]
  assert not still


@pytest.mark.parametrize('make', [
    functools.partial(DenseNet3D, (1, 1)), AlexNet3D], ids=['densenet', 'alexnet'])
def test_rematerialisation_changes_no_number(make):
  """Gradients and BatchNorm's statistics; what is kept for the gradient differs."""
  x = np.random.default_rng(0).normal(size=(3, 9, 8, 9, 1)).astype(np.float32)
  variables = random_variables(make(width=4, small_input=True), x)

  def gradient(remat):
    encoder = make(width=4, small_input=True, remat=remat)

    def loss(params):
      features, updates = encoder.apply({**variables, 'params': params}, x, True,
                                        mutable='batch_stats')
      return jnp.square(features).sum(), updates
    return jax.grad(loss, has_aux=True)

  expected = jax.jit(gradient('none'))(variables['params'])
  actual = jax.jit(gradient('blocks'))(variables['params'])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), actual,
               expected)
  jaxprs = [str(jax.make_jaxpr(gradient(remat))(variables['params'])) for remat in
            ('none', 'blocks')]
  assert 'remat' not in jaxprs[0] and 'remat' in jaxprs[1]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['alexnet', 'densenet121'])
def test_a_whole_run(name, training_set, tmp_path):
  """The loss falls, every parameter moves, and weights by path are the same encoder's."""
  run = tmp_path / 'run'
  config = small_config(training_set.directory, encoder=name, epochs=3, encoder_width=8,
                        small_input=True)
  config.loss.terms.anatomy.normalization = 'zscore'
  train.train(config, run)
  rows = tracking.read_metrics(run)
  assert np.mean([row['loss'] for row in rows[-4:]]) < np.mean([row['loss'] for row in rows[:4]])

  weights = load_weights(run)
  assert (weights.card['width'], weights.card['small_input']) == (8, True)
  before = untrained(weights, config.seed)
  assert not [path for path, new in stored.by_name(weights.variables).items()
              if np.array_equal(new, stored.by_name(before.variables)[path])]
  volumes = np.stack([training_set.read_volume(record)[0] for record in (0, 1)]).astype(np.float32)
  encoder = models.get_encoder(name, width=8, small_input=True)
  expected = jax.jit(encoder.apply)(weights.variables, volumes[..., None])
  np.testing.assert_allclose(extract.frozen(weights)(volumes), expected, rtol=1e-3, atol=1e-5)

  write.write_folder(weights, tmp_path / 'folder')
  again = load_weights(tmp_path / 'folder')
  assert again.card == weights.card and again.encoder == name
  jax.tree.map(np.testing.assert_array_equal, again.variables, weights.variables)


@pytest.mark.parametrize('name, card, message', [
    ('resnet18', {'width': 4}, 'no resnet18 of another width'),
    ('tiny', {'small_input': True}, 'or for small inputs; convert to a folder'),
    ('alexnet', {}, 'only ResNets')])
def test_the_released_module_has_no_such_encoder(name, card, message, tmp_path):
  encoder = models.get_encoder(name, **card)
  weights = Weights(name, random_variables(encoder, np.zeros((1, 34, 34, 34, 1))), None, card)
  with pytest.raises(UserError, match=message):
    write.write_released(weights, tmp_path / 'a.pth')
  assert not list(tmp_path.iterdir())


def test_a_workdir_gives_the_encoder_that_its_config_says(tmp_path):
  """Through the card: an encoder of another width would find parameters misshapen."""
  config = get_config('encoder=alexnet')
  config.encoder_width, config.small_input, config.remat = 6, True, 'blocks'
  check_config(tmp_path, config.to_dict() | {'data': {'grid': None, 'synthetic': True}})
  encoder, _, _ = train.compile_program(config, parallel.make_mesh(8), 5).init.args
  assert (encoder.width, encoder.small_input, encoder.remat) == (6, True, 'blocks')
  assert encoder.repeats == config.views and encoder.axis_name == parallel.AXIS
  variables = random_variables(encoder, np.zeros((1, 9, 9, 9, 1)))
  state = step.TrainState(np.array(1), {'encoder': variables['params'], 'head': {}},
                          variables['batch_stats'], {})
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(state, {}, {})
  weights = load_weights(tmp_path)
  assert (weights.card['width'], weights.card['small_input']) == (6, True)
  jax.tree.map(np.testing.assert_array_equal, weights.variables, variables)
  volumes = np.random.default_rng(0).normal(size=(2, 8, 9, 10)).astype(np.float32)
  expected = reference_alexnet(variables, volumes[..., None].astype(np.float64), small=True)
  np.testing.assert_allclose(extract.frozen(weights)(volumes), expected, rtol=1e-3, atol=1e-4)
  del weights.card['width']
  with pytest.raises(UserError, match='not weights of alexnet: .* has shape'):
    check(weights, tmp_path)
