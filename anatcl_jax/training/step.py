"""The training state, and what one device does in a training or evaluation step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from anatcl_jax import losses
from anatcl_jax.errors import UserError

# volume [N, X, Y, Z] as stored, perhaps the scale [N] that makes it values, attributes
# {term: [N] or [N, R, M]}
Batch = dict[str, Any]
Metrics = dict[str, jax.Array]

# (step, index [N] of each subject in the global batch, volumes [N, X, Y, Z]) -> [N, V, X', Y', Z']
MakeViews = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class TrainState:
  """All that changes while training; `step` counts finished steps."""

  step: jax.Array
  params: Any                   # {'encoder': ..., 'head': ...}
  batch_stats: Any              # of the encoder's BatchNorm
  opt_state: optax.OptState


@functools.partial(jax.jit, static_argnames=('encoder', 'head', 'optimizer', 'volume_shape'))
def init_state(encoder: nn.Module, head: nn.Module, optimizer: optax.GradientTransformation,
               key: jax.Array, volume_shape: tuple[int, ...]) -> TrainState:
  """A fresh state; parameters depend on the key alone, not on `volume_shape`."""
  encoder_key, head_key = jax.random.split(key)
  volume = jnp.zeros((1, *volume_shape, 1))
  variables = encoder.init(encoder_key, volume, False)
  features = encoder.apply(variables, volume, False)
  params = {'encoder': variables['params'],
            'head': head.init(head_key, features).get('params', {})}
  return TrainState(jnp.zeros((), jnp.int32), params, variables['batch_stats'],
                    optimizer.init(params))


def make_train_step(encoder: nn.Module, head: nn.Module, optimizer: optax.GradientTransformation,
                    loss_config: Any, views: int, axis_name: str | None, *,
                    make_views: MakeViews | None = None, micro_batches: int = 1
                    ) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """One device's share of a training step: (state, batch) -> (state, metrics).

  Args:
    encoder: where `make_views` is None, its BatchNorm counts `views` repeats of each volume.
    make_views: augmented views of volumes; None where all views of a volume are the volume itself,
      which is then encoded once.
    micro_batches: parts that the batch is encoded in, one after the other; 1 for the whole batch.
      They divide this device's subjects. See `_by_micro_batches` for what stays equal.
  """

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    subjects = batch['volume'].shape[0]
    index = losses.first_subject(subjects, axis_name) + jnp.arange(subjects)

    def encode(params, rows):
      """Embeddings [N, V, D] of some subjects, and the encoder's running statistics after them."""
      volumes, index = rows
      if make_views is not None:
        volumes = make_views(state.step, index, volumes)
        volumes = volumes.reshape(-1, *volumes.shape[2:])
      features, updated = encoder.apply(
          {'params': params['encoder'], 'batch_stats': state.batch_stats},
          volumes[..., None], True, mutable=['batch_stats'])
      embeddings = head.apply({'params': params['head']}, features)
      return _views_of(embeddings, views, make_views is None), updated['batch_stats']

    def loss_of(embeddings):
      return losses.combined_loss(embeddings, batch['attributes'], loss_config, axis_name)

    gradient = _whole if micro_batches == 1 else functools.partial(_by_micro_batches,
                                                                   parts=micro_batches)
    (loss, metrics), batch_stats, grads = gradient(
        encode, loss_of, state.params, (_volumes(batch), index))
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


def count_micro_batches(batch_size: int, micro_batch_size: int, devices: int) -> int:
  """Parts that a batch is encoded in; a `micro_batch_size` of 0 is the whole batch.

  Raises:
    UserError: micro-batches do not divide the batch, or do not divide over the devices.
  """
  if not micro_batch_size:
    return 1
  if batch_size % micro_batch_size or micro_batch_size % devices:
    fitting = [size for size in range(devices, batch_size + 1, devices) if not batch_size % size]
    raise UserError(f'micro_batch_size {micro_batch_size} must divide batch_size {batch_size} and '
                    f'be a multiple of the {devices} devices: choose one of '
                    f'{", ".join(map(str, fitting))}, or 0 for the whole batch')
  return batch_size // micro_batch_size


def make_eval_step(encoder: nn.Module, head: nn.Module, loss_config: Any, views: int,
                   axis_name: str | None) -> Callable[[TrainState, Batch], Metrics]:
  """One device's share of an evaluation, with BatchNorm's running statistics, not augmented."""

  def eval_step(state: TrainState, batch: Batch) -> Metrics:
    features = encoder.apply({'params': state.params['encoder'], 'batch_stats': state.batch_stats},
                             _volumes(batch)[..., None], False)
    embeddings = _views_of(head.apply({'params': state.params['head']}, features), views, True)
    loss, metrics = losses.combined_loss(embeddings, batch['attributes'], loss_config, axis_name)
    return {'loss': loss, **metrics}

  return eval_step


def make_encode_step(encoder: nn.Module, axis_name: str
                     ) -> Callable[[TrainState, Batch], jax.Array]:
  """The frozen encoder's features [N, F] of the whole batch, gathered from all devices."""

  def encode_step(state: TrainState, batch: Batch) -> jax.Array:
    features = encoder.apply({'params': state.params['encoder'], 'batch_stats': state.batch_stats},
                             _volumes(batch)[..., None], False)
    return jax.lax.all_gather(features, axis_name, tiled=True)

  return encode_step


def make_output_step(encoder: nn.Module, head: nn.Module, axis_name: str
                     ) -> Callable[[TrainState, Batch], jax.Array]:
  """The head's outputs [N, O] of the whole batch, frozen, gathered from all devices."""

  def output_step(state: TrainState, batch: Batch) -> jax.Array:
    features = encoder.apply({'params': state.params['encoder'], 'batch_stats': state.batch_stats},
                             _volumes(batch)[..., None], False)
    return jax.lax.all_gather(head.apply({'params': state.params['head']}, features), axis_name,
                              tiled=True)

  return output_step


def from_cohort(function: Callable[[TrainState, Batch], Any]
                ) -> Callable[[TrainState, Batch, dict[str, jax.Array]], Any]:
  """A step whose batch has the number of each `record` instead of its volume and scale.

  It takes those of all records, which stay on the device, after its batch.
  """

  @functools.wraps(function)
  def gathered(state, batch, cohort):
    return function(state, batch | {name: rows[batch['record']] for name, rows in cohort.items()})

  return gathered


def _volumes(batch: Batch) -> jax.Array:
  volumes = batch['volume'].astype(jnp.float32)
  return volumes * batch['scale'][:, None, None, None] if 'scale' in batch else volumes


def _views_of(embeddings: jax.Array, views: int, identical: bool) -> jax.Array:
  """[N, V, D] from [N, D], which stands for all views where they are identical, or [N V, D]."""
  if identical:
    return jnp.repeat(embeddings[:, None, :], views, axis=1)
  return embeddings.reshape(-1, views, embeddings.shape[-1])


def _whole(encode, loss_of, params, rows):
  """(loss, metrics), running statistics and gradient, of all rows encoded at once."""

  def composed(params):
    embeddings, batch_stats = encode(params, rows)
    loss, metrics = loss_of(embeddings)
    return loss, (metrics, batch_stats)

  (loss, (metrics, batch_stats)), grads = jax.value_and_grad(composed, has_aux=True)(params)
  return (loss, metrics), batch_stats, grads


def _by_micro_batches(encode, loss_of, params, rows, parts):
  """As `_whole`, in the memory of one micro-batch: gradient caching (Gao et al., RepL4NLP 2021).

  All embeddings are made without keeping what their gradient needs, the loss is differentiated with
  respect to them, and each micro-batch is encoded once more to pull its part of that gradient back.
  Loss and gradient are exactly those of the whole batch's contrasts where BatchNorm normalises each
  micro-batch (over all devices) by its own mean and variance. Running statistics move once a step,
  towards the mean of the micro-batches' statistics.

  Micro-batch k is every `parts`-th subject from the k-th: the same ones on any number of devices.
  """
  split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]), rows)
  part = lambda k: jax.tree.map(lambda x: x[:, k], split)

  embeddings, batch_stats = jax.lax.map(lambda k: encode(params, part(k)), jnp.arange(parts))
  batch_stats = jax.tree.map(lambda x: x.mean(0), batch_stats)
  # [parts, N / parts, V, D] to subjects in order and back.
  in_order = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
  value_and_grad = jax.value_and_grad(lambda x: loss_of(in_order(x)), has_aux=True)
  (loss, metrics), pulled = value_and_grad(embeddings)

  def add_part(grads, k):
    pull_back = jax.vjp(lambda params: encode(params, part(k))[0], params)[1]
    return jax.tree.map(jnp.add, grads, pull_back(pulled[k])[0]), None

  grads, _ = jax.lax.scan(add_part, jax.tree.map(jnp.zeros_like, params), jnp.arange(parts))
  return (loss, metrics), batch_stats, grads
