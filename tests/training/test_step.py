"""One training step on one device, on eight, and under pmap: the same numbers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from anatcl_jax import losses, models
from anatcl_jax.devices import parallel
from anatcl_jax.models.normalization import BatchNorm
from anatcl_jax.training import optim, step
from tests.test_losses import CONFIG

SHAPE = (10, 12, 9)


def _encoder(dtype=jnp.float32, **settings):
  """One residual stage: everything that a larger encoder has, quick to compile."""
  return models.ResNet3D((1,), width=8, stem_kernel=3, dtype=dtype, **settings)


def _mesh(devices):
  return jax.make_mesh((devices,), (parallel.AXIS,), devices=jax.devices()[:devices],
                       axis_types=(jax.sharding.AxisType.Auto,))


def _batch(subjects=16):
  rng = np.random.default_rng(0)
  age = rng.uniform(20, 30, subjects).astype(np.float32)
  morphometry = rng.uniform(size=(subjects, 6, 3)).astype(np.float32)
  age[[1, 2]] = morphometry[[2, 9]] = np.nan      # missing: unevenly spread over the devices
  return {'volume': rng.uniform(size=(subjects, *SHAPE)).astype(np.float32),
          'attributes': {'age': age, 'anatomy': morphometry}}


@functools.cache
def _one_step(devices, mapper='jit', descriptor='global'):
  config = ml_collections.ConfigDict(CONFIG.to_dict())
  config.terms.anatomy.kernel = descriptor
  mesh = _mesh(devices)
  encoder = _encoder(axis_name=parallel.AXIS, repeats=2)
  head = models.get_head('mlp', 16)
  # With plain gradient descent at rate 1, the change of a parameter is its gradient.
  optimizer = optim.optax.sgd(1.0)
  state = step.init_state(encoder, head, optimizer, jax.random.key(0), SHAPE)
  run = parallel.map_over_devices(
      step.make_train_step(encoder, head, optimizer, config, 2, parallel.AXIS), mesh, mapper)
  evaluate = parallel.map_over_devices(
      step.make_eval_step(encoder, head, config, 2, parallel.AXIS), mesh, mapper)
  batch = parallel.shard_rows(_batch(), mesh)
  after, metrics = run(parallel.replicate(state, mesh), batch)
  gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), state.params, after.params)
  return gradient, after, metrics, evaluate(after, batch)


def _assert_close(a, b, relative):
  for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b)):
    scale = np.abs(x).max() + 1e-12
    np.testing.assert_allclose(np.asarray(y) / scale, np.asarray(x) / scale, atol=relative,
                               err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize('devices, mapper, descriptor', [
    (8, 'jit', 'global'), (2, 'jit', 'local'), (8, 'pmap', 'global')])
def test_loss_and_gradient_do_not_depend_on_devices(devices, mapper, descriptor):
  gradient, after, metrics, held_out = _one_step(1, descriptor=descriptor)
  others = _one_step(devices, mapper, descriptor)
  _assert_close(gradient, others[0], 2e-4)
  _assert_close(after.batch_stats, others[1].batch_stats, 1e-5)
  _assert_close(metrics, others[2], 1e-4)
  _assert_close(held_out, others[3], 1e-4)


def test_the_step_is_the_gradient_of_the_loss_written_out():
  """Against autodiff of encoder, head and loss without any axis, views encoded twice.

  Each volume is encoded once in the step: loss, gradient and running statistics stay the same.
  """
  gradient, after, metrics, _ = _one_step(8)
  encoder, head = _encoder(), models.get_head('mlp', 16)
  state = step.init_state(encoder, head, optim.optax.sgd(1.0), jax.random.key(0), SHAPE)
  batch = jax.tree.map(jnp.asarray, _batch())

  def loss_of(params):
    twice = jnp.concatenate([batch['volume']] * 2)[..., None]
    features, updated = encoder.apply(
        {'params': params['encoder'], 'batch_stats': state.batch_stats}, twice, True,
        mutable=['batch_stats'])
    embeddings = head.apply({'params': params['head']}, features)
    pairs = embeddings.reshape(2, -1, embeddings.shape[-1]).swapaxes(0, 1)
    return losses.combined_loss(pairs, batch['attributes'], CONFIG)[0], updated['batch_stats']

  (value, batch_stats), expected = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
      state.params)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  _assert_close(expected, gradient, 5e-4)
  _assert_close(batch_stats, after.batch_stats, 1e-5)


def test_running_variance_counts_every_view():
  """Two rows of one voxel, 1 and 3, each standing for two: variance 1, unbiased 4 / 3, not 2."""
  for repeats, unbiased in ((1, 2.0), (2, 4 / 3)):
    norm = BatchNorm(repeats=repeats)
    x = jnp.array([[[[[1.0]]]], [[[[3.0]]]]])
    variables = norm.init(jax.random.key(0), x, True)
    y, updated = norm.apply(variables, x, True, mutable=['batch_stats'])
    np.testing.assert_allclose(y.ravel(), [-1, 1], atol=1e-4)
    np.testing.assert_allclose(updated['batch_stats']['var'], [0.9 + 0.1 * unbiased], rtol=1e-6)


def test_bfloat16_compute_keeps_float32_state_and_loss():
  encoder = _encoder(jnp.bfloat16)
  head = models.get_head('mlp', 16, dtype=jnp.bfloat16)
  optimizer = optim.adam_with_l2(lambda _: 1e-3, 5e-5)
  state = step.init_state(encoder, head, optimizer, jax.random.key(0), SHAPE)
  run = jax.jit(step.make_train_step(encoder, head, optimizer, CONFIG, 2, None))
  after, metrics = run(state, _batch())
  floats = [leaf for leaf in jax.tree.leaves((after, metrics)) if leaf.dtype != jnp.int32]
  assert all(leaf.dtype == jnp.float32 for leaf in floats)
  in_float32, in_bfloat16 = (
      jax.jit(step.make_eval_step(encoder, head, CONFIG, 2, None))(state, _batch())
      for encoder, head in ((_encoder(), models.get_head('mlp', 16)), (encoder, head)))
  np.testing.assert_allclose(in_bfloat16['loss'], in_float32['loss'], rtol=0.02)
  assert in_bfloat16['loss'] != in_float32['loss']


def test_batch_that_does_not_divide_names_the_nearest():
  with pytest.raises(Exception, match='batch_size 13 does not divide over 8 devices; try 16'):
    parallel.make_mesh(13)
