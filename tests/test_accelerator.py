"""What must hold on a GPU or TPU: `pytest -m accelerator -n 0`; skipped where there is none.

References are float64 on the CPU, or written out in NumPy. float32 is asked for in full
(`highest`) where a bound says float32: JAX's default on a GPU is TensorFloat32, of 10 bits.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from anatcl_jax import losses, models
from anatcl_jax.devices import parallel
from anatcl_jax.frozen import extract
from anatcl_jax.models import convolution, pooling
from anatcl_jax.training import checkpoint, optim, step, tracking, train
from anatcl_jax.weights.load import Weights
from tests.models.test_models import random_variables, reference_features
from tests.test_losses import CONFIG, METHODS, double_loop
from tests.training.test_train import _config

pytestmark = pytest.mark.accelerator

GRID = (33, 38, 35)
WIDTH = 16
# ||result - reference|| / ||reference||, of features and of all gradients together.
FEATURES = {('float32', 'highest'): 1e-5, ('float32', 'default'): 5e-3,
            ('bfloat16', 'default'): 3e-2}
GRADIENTS = {('float32', 'highest'): 1e-3, ('float32', 'default'): 5e-2,
             ('bfloat16', 'default'): 2e-1}


@pytest.fixture(autouse=True)
def accelerator():
  if jax.default_backend() == 'cpu':
    pytest.skip('no GPU or TPU is here')


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
  """The paths of large volumes, however small these are."""
  monkeypatch.setattr(pooling, '_SMALL', 0)
  monkeypatch.setattr(convolution, '_SMALL', 0)


def relative(actual, expected):
  difference = [np.float64(a) - b for a, b in zip(jax.tree.leaves(actual),
                                                  jax.tree.leaves(expected), strict=True)]
  return _norm(difference) / _norm(jax.tree.leaves(expected))


def _norm(arrays):
  return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


@functools.cache
def _encoder(precision='float32', **settings):
  return models.ResNet3D((1, 1), width=WIDTH, dtype=jnp.dtype(precision), **settings)


def _volumes(count=4, seed=0):
  return np.random.default_rng(seed).normal(size=(count, *GRID)).astype(np.float32)


@pytest.mark.parametrize('precision, exactness', FEATURES)
def test_features(precision, exactness):
  encoder, x = _encoder(precision), _volumes()
  variables = random_variables(encoder, x[:1, ..., None])
  expected = reference_features(variables, x[..., None], (1, 1), False)
  apply = jax.jit(lambda *arguments: encoder.apply(*arguments, False),
                  compiler_options=convolution.compiler_options(precision) or None)
  with jax.default_matmul_precision(exactness):
    error = relative(apply(variables, x[..., None]), expected)
  print(f'features, {precision} at {exactness}: {error:.2g}')
  assert error < FEATURES[precision, exactness]


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_frozen_features(precision):
  """Through the door, on all devices: a row does not depend on the others."""
  encoder = models.get_encoder('tiny')
  x = _volumes(3)
  variables = random_variables(encoder, x[:1, ..., None])
  encode = extract.frozen(Weights('tiny', variables, None, {}), precision=precision)
  rows = encode(x)
  with jax.default_device(jax.devices('cpu')[0]):
    expected = jax.jit(lambda *arguments: encoder.apply(*arguments, False))(variables, x[..., None])
  bound = FEATURES[precision, 'highest' if precision == 'float32' else 'default']
  assert relative(rows, expected) < bound
  assert relative(np.concatenate([encode(x[i:i + 1]) for i in range(3)]), rows) < bound


# ---- The training step ---------------------------------------------------------------------------


def _batch(subjects=8):
  rng = np.random.default_rng(1)
  return {'volume': _volumes(subjects),
          'attributes': {'age': rng.uniform(20, 30, subjects).astype(np.float32),
                         'anatomy': rng.uniform(size=(subjects, 6, 3)).astype(np.float32)}}


def _reference_embeddings(params, volumes):
  """The encoder in training and the head by XLA's own convolutions, as precise as `params`."""
  encoder = params['encoder']

  def conv(x, kernel, stride):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (stride,) * 3, ((pad, pad),) * 3,
                                    dimension_numbers=('NXYZC', 'XYZIO', 'NXYZC'))

  def norm(x, p):
    mean, var = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    return (x - mean) / jnp.sqrt(var + 1e-5) * p['scale'] + p['bias']

  x = nn.relu(norm(conv(volumes[..., None], encoder['conv1']['kernel'], 2), encoder['bn1']))
  x = nn.max_pool(x, (3,) * 3, (2,) * 3, ((1, 1),) * 3)
  for name, stride in (('layer1_0', 1), ('layer2_0', 2)):
    block = encoder[name]
    y = nn.relu(norm(conv(x, block['conv1']['kernel'], stride), block['bn1']))
    y = norm(conv(y, block['conv2']['kernel'], 1), block['bn2'])
    if stride == 2:
      x = norm(conv(x, block['downsample_conv']['kernel'], 2), block['downsample_bn'])
    x = nn.relu(x + y)
  return models.get_head('mlp', 16, dtype=volumes.dtype).apply({'params': params['head']},
                                                               x.mean((1, 2, 3)))


@functools.cache
def _fresh():
  """A state, the same wherever it is used."""
  with jax.default_device(jax.devices('cpu')[0]):
    state = step.init_state(_encoder(axis_name=parallel.AXIS, repeats=2),
                            models.get_head('mlp', 16), optim.optax.sgd(1.0), jax.random.key(0),
                            (16, 16, 16))
    return jax.tree.map(np.asarray, state)


@functools.cache
def _reference():
  """Loss, and its gradient, in float64."""
  batch = _batch()

  def loss(params, volumes):
    embeddings = _reference_embeddings(params, volumes)
    return losses.combined_loss(jnp.stack([embeddings] * 2, 1), batch['attributes'], CONFIG)[0]

  with jax.enable_x64(True), jax.default_device(jax.devices('cpu')[0]):
    wide = jax.tree.map(np.float64, (_fresh().params, batch['volume']))
    return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(loss))(*wide))


def _taken(precision, exactness, mapper='jit', devices=None):
  """Loss and gradient of the step as runs compile it."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), (parallel.AXIS,))
  encoder = _encoder(precision, axis_name=parallel.AXIS, repeats=2)
  head = models.get_head('mlp', 16, dtype=jnp.dtype(precision))
  # With plain gradient descent at rate 1, the change of a parameter is its gradient.
  take = parallel.map_over_devices(
      step.make_train_step(encoder, head, optim.optax.sgd(1.0), CONFIG, 2, parallel.AXIS), mesh,
      mapper, compiler_options=convolution.compiler_options(precision))
  state = _fresh()
  with jax.default_matmul_precision(exactness):
    after, metrics = take(parallel.replicate(state, mesh), parallel.shard_rows(_batch(), mesh))
  return float(metrics['loss']), jax.tree.map(lambda a, b: a - np.asarray(b), state.params,
                                              after.params)


@pytest.mark.parametrize('precision, exactness', GRADIENTS)
def test_loss_and_gradient(precision, exactness):
  loss, gradient = _taken(precision, exactness)
  expected, expected_gradient = _reference()
  error = relative(gradient, expected_gradient)
  print(f'gradient, {precision} at {exactness}: {error:.2g}; loss {abs(loss / expected - 1):.2g}')
  assert error < GRADIENTS[precision, exactness]
  assert abs(loss / expected - 1) < GRADIENTS[precision, exactness] / 10


@pytest.mark.parametrize('mapper', parallel.MAPPERS)
def test_mappers_and_devices(mapper):
  """Both mappers on all devices, beside float64 on one CPU."""
  if 8 % len(jax.devices()):
    pytest.skip(f'8 subjects do not divide over {len(jax.devices())} devices')
  loss, gradient = _taken('float32', 'highest', mapper)
  assert relative(gradient, _reference()[1]) < GRADIENTS['float32', 'highest']
  assert abs(loss / _reference()[0] - 1) < 1e-5


def test_one_device_and_several():
  if len(jax.devices()) == 1:
    pytest.skip('one device is here')
  one, all_of_them = (_taken('float32', 'highest', devices=count)[1] for count in (1, None))
  assert relative(all_of_them, one) < GRADIENTS['float32', 'highest']


@pytest.mark.parametrize('method, delta_reduction', METHODS)
def test_losses(method, delta_reduction):
  rng = np.random.default_rng(0)
  features, age = rng.normal(size=(6, 2, 5)), rng.uniform(20, 30, 6)
  weights = np.exp(-(age[:, None] - age)**2 / 8).astype(np.float32)
  value = jax.jit(functools.partial(losses.weakly_contrastive_loss, method=method,
                                    delta_reduction=delta_reduction))(
                                        jnp.asarray(features, jnp.float32), weights)
  expected = double_loop(features, weights.astype(float), method, delta_reduction)
  assert float(value) == pytest.approx(expected, rel=2e-5)


def test_a_run_goes_on_where_it_was(training_set, tmp_path, monkeypatch):
  """From the saved step on, with the losses of a run that was never stopped: cuDNN rounds anew."""
  restored = []

  def noted(*arguments):
    restored.append(checkpoint.restore(*arguments))
    return restored[-1]

  train.train(_config(training_set, epochs=1, cache='none'), tmp_path / 'stopped')
  monkeypatch.setattr(train, 'restore', noted)
  train.train(_config(training_set, epochs=2, cache='device'), tmp_path / 'stopped')
  assert int(restored[0][0].step) == 4
  monkeypatch.setattr(train, 'restore', checkpoint.restore)
  train.train(_config(training_set, epochs=2, cache='none'), tmp_path / 'whole')
  resumed, whole = (tracking.read_metrics(tmp_path / name) for name in ('stopped', 'whole'))
  assert [row['step'] for row in resumed] == list(range(1, 9))
  for a, b in zip(resumed, whole, strict=True):
    assert a['loss'] == pytest.approx(b['loss'], rel=1e-2)
