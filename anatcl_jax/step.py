"""The training state, and what one device does in a training or evaluation step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from anatcl_jax import losses

Batch = dict[str, Any]        # volume [N, X, Y, Z], attributes {term: [N] or [N, R, M]}
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
  """All that changes while training; `step` counts finished steps."""

  step: jax.Array
  params: Any                   # {'encoder': ..., 'head': ...}
  batch_stats: Any              # of the encoder's BatchNorm
  opt_state: optax.OptState


def init_state(encoder: nn.Module, head: nn.Module, optimizer: optax.GradientTransformation,
               key: jax.Array, volume_shape: tuple[int, ...]) -> TrainState:
  """A fresh state; parameters depend on the key alone, not on `volume_shape`."""

  def init(key):
    encoder_key, head_key = jax.random.split(key)
    volume = jnp.zeros((1, *volume_shape, 1))
    variables = encoder.init(encoder_key, volume, False)
    features = encoder.apply(variables, volume, False)
    params = {'encoder': variables['params'],
              'head': head.init(head_key, features).get('params', {})}
    return TrainState(jnp.zeros((), jnp.int32), params, variables['batch_stats'],
                      optimizer.init(params))

  return jax.jit(init)(key)


def make_train_step(encoder: nn.Module, head: nn.Module, optimizer: optax.GradientTransformation,
                    loss_config: Any, views: int, axis_name: str | None
                    ) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """One device's share of a training step: (state, batch) -> (state, metrics)."""

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    def loss_of(params):
      features, updated = encoder.apply(
          {'params': params['encoder'], 'batch_stats': state.batch_stats},
          batch['volume'][..., None], True, mutable=['batch_stats'])
      loss, metrics = _loss(head, params, features, batch, loss_config, views, axis_name)
      return loss, (metrics, updated['batch_stats'])

    gradient = jax.value_and_grad(loss_of, has_aux=True)
    (loss, (metrics, batch_stats)), grads = gradient(state.params)
    if axis_name is not None:
      # Each device has the whole loss differentiated through its own rows, summed over devices by
      # the collectives' transposes: the mean over devices is the gradient of the whole batch.
      grads = jax.lax.pmean(grads, axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {'loss': loss, **metrics, 'gradient_norm': optax.tree.norm(grads),
               'parameter_norm': optax.tree.norm(params)}
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

  return train_step


def make_eval_step(encoder: nn.Module, head: nn.Module, loss_config: Any, views: int,
                   axis_name: str | None) -> Callable[[TrainState, Batch], Metrics]:
  """One device's share of an evaluation, with BatchNorm's running statistics."""

  def eval_step(state: TrainState, batch: Batch) -> Metrics:
    features = encoder.apply({'params': state.params['encoder'], 'batch_stats': state.batch_stats},
                             batch['volume'][..., None], False)
    loss, metrics = _loss(head, state.params, features, batch, loss_config, views, axis_name)
    return {'loss': loss, **metrics}

  return eval_step


def make_encode_step(encoder: nn.Module, axis_name: str
                     ) -> Callable[[TrainState, Batch], jax.Array]:
  """The frozen encoder's features [N, F] of the whole batch, gathered from all devices."""

  def encode_step(state: TrainState, batch: Batch) -> jax.Array:
    features = encoder.apply({'params': state.params['encoder'], 'batch_stats': state.batch_stats},
                             batch['volume'][..., None], False)
    return jax.lax.all_gather(features, axis_name, tiled=True)

  return encode_step


def _loss(head, params, features, batch, loss_config, views, axis_name):
  embeddings = head.apply({'params': params['head']}, features)
  # Without augmentation the views are identical: one is encoded and stands for all of them.
  repeated = jnp.repeat(embeddings[:, None, :], views, axis=1)
  return losses.combined_loss(repeated, batch['attributes'], loss_config, axis_name)
