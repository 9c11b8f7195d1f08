"""Micro-batches, rematerialisation and donation: less memory, and exactly which numbers stay."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anatcl_jax import losses, models
from anatcl_jax.devices import parallel
from anatcl_jax.models.normalization import BatchNorm
from anatcl_jax.training import optim, step
from tests.test_losses import CONFIG
from tests.training.test_step import SHAPE, _assert_close, _batch, _mesh

HEAD = models.get_head('linear', 16)
GRADIENT_DESCENT = optim.optax.sgd(1.0)   # the change of a parameter is its gradient


class Small(nn.Module):
  """Two dense layers around BatchNorm; quick to compile. `frozen`: by running statistics."""

  axis_name: str | None = None
  repeats: int = 1
  frozen: bool = False

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(32, use_bias=False)(x.reshape(x.shape[0], -1))
    x = BatchNorm(axis_name=self.axis_name, repeats=self.repeats)(x, train and not self.frozen)
    return nn.Dense(8)(jnp.tanh(x))


def _noisy_views(count, index, volumes):
  """Two views with noise by step, subject and view."""

  def view(number, subject, volume):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(count), subject), number)
    return volume + 0.1 * jax.random.normal(key, volume.shape)

  of_subject = jax.vmap(view, (0, None, None))
  return jax.vmap(of_subject, (None, 0, 0))(jnp.arange(2), index, volumes)


@functools.cache
def _state():
  """Parameters do not depend on devices, views or how BatchNorm is used."""
  return step.init_state(Small(), HEAD, GRADIENT_DESCENT, jax.random.key(0), SHAPE)


@functools.cache
def _one_step(devices, micro_batches, make_views, frozen=False):
  """(gradient, state, metrics) of a step from the same state and batch."""
  mesh = _mesh(devices)
  encoder, state = Small(parallel.AXIS, 1 if make_views else 2, frozen), _state()
  run = parallel.map_over_devices(step.make_train_step(
      encoder, HEAD, GRADIENT_DESCENT, CONFIG, 2, parallel.AXIS, make_views=make_views,
      micro_batches=micro_batches), mesh)
  after, metrics = run(parallel.replicate(state, mesh), parallel.shard_rows(_batch(), mesh))
  return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), state.params,
                      after.params), after, metrics


def _written_out(make_views):
  """Loss, gradient and statistics of four micro-batches by autodiff through all at once."""
  encoder, state = Small(repeats=1 if make_views else 2), _state()
  batch = jax.tree.map(jnp.asarray, _batch())
  views = (jax.jit(make_views)(0, jnp.arange(16), batch['volume']) if make_views
           else batch['volume'][:, None])

  def loss_of(params):
    features, statistics = jnp.zeros((16, views.shape[1], 8)), []
    for part in range(4):
      rows = views[part::4]
      encoded, updated = encoder.apply(
          {'params': params['encoder'], 'batch_stats': state.batch_stats},
          rows.reshape(-1, *SHAPE, 1), True, mutable=['batch_stats'])
      features = features.at[part::4].set(encoded.reshape(4, -1, 8))
      statistics.append(updated['batch_stats'])
    embeddings = HEAD.apply({'params': params['head']}, features)
    embeddings = jnp.broadcast_to(embeddings, (16, 2, 16))
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *statistics)
    return losses.combined_loss(embeddings, batch['attributes'], CONFIG)[0], mean

  (loss, statistics), gradient = jax.jit(
      jax.value_and_grad(loss_of, has_aux=True))(state.params)
  return gradient, statistics, loss


@pytest.mark.parametrize('make_views', [None, _noisy_views])
def test_micro_batches_have_the_gradient_of_the_whole_loss(make_views):
  """Each normalised by its own statistics; the same augmentation in both passes."""
  gradient, after, metrics = _one_step(1, 4, make_views)
  expected, statistics, loss = _written_out(make_views)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  _assert_close(expected, gradient, 1e-4)
  _assert_close(statistics, after.batch_stats, 1e-5)


def test_micro_batches_do_not_depend_on_devices():
  gradient, after, metrics = _one_step(1, 4, _noisy_views)
  others = _one_step(4, 4, _noisy_views)
  _assert_close(gradient, others[0], 1e-4)
  _assert_close(after.batch_stats, others[1].batch_stats, 1e-5)
  _assert_close(metrics, others[2], 1e-4)


def test_without_batch_statistics_micro_batches_equal_the_whole_batch():
  whole, parts = (_one_step(2, count, _noisy_views, frozen=True) for count in (1, 4))
  _assert_close(whole[0], parts[0], 1e-4)
  _assert_close(whole[2], parts[2], 1e-5)


@functools.cache
def _variables():
  """Of the small ResNet, the same with and without rematerialisation."""
  encoder = models.ResNet3D((1,), width=4, stem_kernel=3)
  return jax.jit(encoder.init)(jax.random.key(0), np.zeros((1, 8, 8, 8, 1), np.float32))


def _remat(remat):
  """Gradient and statistics of an encoder on two devices; bytes that its gradient keeps."""
  encoder = models.ResNet3D((1,), width=4, stem_kernel=3, axis_name=parallel.AXIS, remat=remat)
  volumes = np.random.default_rng(0).uniform(size=(4, 8, 8, 8, 1)).astype(np.float32)
  variables = _variables()

  def loss_of(params, batch_stats, x):
    features, updated = encoder.apply({'params': params, 'batch_stats': batch_stats}, x, True,
                                      mutable=['batch_stats'])
    return jnp.square(features).sum(), updated['batch_stats']

  def per_device(variables, x):
    (_, statistics), grads = jax.value_and_grad(loss_of, has_aux=True)(
        variables['params'], variables['batch_stats'], x)
    return jax.lax.pmean(grads, parallel.AXIS), statistics

  mesh = _mesh(2)
  run = parallel.map_over_devices(per_device, mesh)
  numbers = run(parallel.replicate(variables, mesh), parallel.shard_rows(volumes, mesh))
  return *numbers, _bytes_kept(encoder.clone(axis_name=None, stage_sizes=(6,)))


def _bytes_kept(encoder):
  """Of the forward pass for the gradient, parameters included."""

  def forward():
    volumes = jnp.zeros((8, 32, 32, 32, 1))
    variables = encoder.init(jax.random.key(0), volumes[:1])
    return jax.vjp(lambda params: encoder.apply(
        variables | {'params': params}, volumes, True, mutable=['batch_stats'])[0],
        variables['params'])[1]

  return sum(leaf.size * leaf.dtype.itemsize
             for leaf in jax.tree.leaves(jax.eval_shape(forward)))


def test_rematerialised_blocks_change_no_number_and_keep_less():
  (gradient, statistics, kept), (same, updated_once, less) = map(_remat, models.REMATS)
  _assert_close(gradient, same, 1e-5)       # of the same parameters
  _assert_close(statistics, updated_once, 1e-6)
  assert jax.tree.structure(gradient) == jax.tree.structure(same)
  assert 2.5 * less < kept, (less, kept)


class PerVoxel(nn.Module):
  """Large activations, few parameters, quick to compile."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train):
    for _ in range(3):
      x = jnp.tanh(BatchNorm(axis_name=self.axis_name)(nn.Dense(8, use_bias=False)(x), train))
    return x.mean((1, 2, 3))


def _compiled(micro_batches):
  """The compiler's account of a train step of 32 volumes, which is not run, and its state."""
  encoder, mesh = PerVoxel(parallel.AXIS), _mesh(1)
  state = jax.eval_shape(lambda key: step.init_state(encoder, HEAD, GRADIENT_DESCENT, key,
                                                     (16, 16, 16)), jax.random.key(0))
  batch = jax.eval_shape(lambda: {'volume': jnp.zeros((32, 16, 16, 16)), 'attributes': {
      'age': jnp.zeros(32), 'anatomy': jnp.zeros((32, 6, 3))}})
  run = parallel.map_over_devices(step.make_train_step(
      encoder, HEAD, GRADIENT_DESCENT, CONFIG, 2, parallel.AXIS, micro_batches=micro_batches),
      mesh, donate_state=True)
  return run.lower(state, batch).compile().memory_analysis(), state


def test_micro_batches_need_less_memory_and_the_state_is_updated_in_place():
  (whole, state), (parts, _) = _compiled(1), _compiled(8)
  assert parts.temp_size_in_bytes < 0.25 * whole.temp_size_in_bytes
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
  assert whole.alias_size_in_bytes >= size
