"""Features of a frozen encoder, over all devices."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anatcl_jax import models
from anatcl_jax.cohorts import origins
from anatcl_jax.cohorts.origins import Origin
from anatcl_jax.cohorts.volumes import Grid
from anatcl_jax.config import PRECISIONS
from anatcl_jax.data.arrange import Arrangement
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.devices import parallel
from anatcl_jax.errors import check_name
from anatcl_jax.models import feature_pooling, resnet3d_openvino
from anatcl_jax.models.convolution import compiler_options
from anatcl_jax.models.feature_pooling import MEAN
from anatcl_jax.progress import progress_bar
from anatcl_jax.weights.load import Weights, encoder_options

FROM_CARD = 'card'

Item = TypeVar('Item')
Result = TypeVar('Result')


def frozen(weights: Weights, *, precision: str = 'float32', pool: str = MEAN,
           mesh: jax.sharding.Mesh | None = None) -> Callable[[np.ndarray], np.ndarray]:
  """The encoder of some weights as a function of volumes [N, X, Y, Z] to float32 features [N, F].

  It is compiled once a shape, for all weights of one encoder, by what `engine` says. A row is the
  same, up to float32 rounding, whatever the other rows and the number of devices. With several
  processes each gives its own rows, all as many, and gets the rows of all, in the order of the
  processes.

  Args:
    precision: what the encoder computes in; float32 is full float32 on GPU and TPU too, where
      JAX's default is less.
    pool: what of the encoder, see models.feature_pooling.
    mesh: devices along parallel.AXIS (default: all).

  Raises UserError for an unknown precision, pool or encoder, or a grid that is too small for it.
  """
  check_name(precision, PRECISIONS, 'precision')
  feature_pooling.checked(pool)
  mesh = mesh or parallel.make_mesh(jax.device_count())
  encoder = models.get_encoder(weights.encoder, **encoder_options(weights.card),
                               dtype=jnp.dtype(precision))
  compiled = _program(encoder, precision, pool, mesh)
  variables = parallel.replicate(weights.variables, mesh)
  devices = len(mesh.local_devices)

  def features(volumes: np.ndarray) -> np.ndarray:
    volumes = np.asarray(volumes, np.float32)
    padding = np.broadcast_to(volumes[-1:], (-len(volumes) % devices, *volumes.shape[1:]))
    padded = np.concatenate([volumes, padding]) if len(padding) else volumes
    rows = np.asarray(compiled(variables, parallel.shard_rows(padded, mesh)))
    rows = rows.reshape(-1, len(padded), rows.shape[-1])         # [process, row, F]
    return rows[:, :len(volumes)].reshape(-1, rows.shape[-1])

  return (_by_openvino(encoder, weights.variables, pool, features)
          if _has_openvino(encoder, mesh) else features)


@functools.cache
def _program(encoder: nn.Module, precision: str, pool: str, mesh: jax.sharding.Mesh
             ) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
  exactness = 'highest' if precision == 'float32' else 'default'

  def rows_of_a_device(variables: dict[str, Any], volumes: jax.Array) -> jax.Array:
    with jax.default_matmul_precision(exactness):
      rows = feature_pooling.pooled(encoder, variables, volumes[..., None], pool)
    return jax.lax.all_gather(rows, parallel.AXIS, tiled=True)

  return parallel.map_over_devices(rows_of_a_device, mesh,
                                   compiler_options=compiler_options(precision))


def engine(weights: Weights, precision: str = 'float32',
           mesh: jax.sharding.Mesh | None = None) -> str:
  """What `frozen` computes by, and its version: JAX, or OpenVINO on a CPU that is one device."""
  encoder = models.get_encoder(weights.encoder, **encoder_options(weights.card),
                               dtype=jnp.dtype(precision))
  if _has_openvino(encoder, mesh or parallel.make_mesh(jax.device_count())):
    return f'OpenVINO {resnet3d_openvino.version()}'
  return f'JAX {jax.__version__}'


def engine_note(weights: Weights, precision: str = 'float32') -> str:
  """A sentence with the engine, and with the faster one where that is not installed."""
  text = f'encoded by {engine(weights, precision)} on {jax.default_backend().upper()}'
  if (jax.default_backend() == 'cpu' and precision == 'float32'
      and weights.encoder.startswith('resnet') and not resnet3d_openvino.is_installed()):
    text += '; with OpenVINO in about half the time: pip install openvino'
  return text


def _has_openvino(encoder: nn.Module, mesh: jax.sharding.Mesh) -> bool:
  return (mesh.size == 1 and mesh.devices.flat[0].platform == 'cpu'
          and resnet3d_openvino.can_run(encoder))


def _by_openvino(encoder: nn.Module, variables: dict[str, Any], pool: str,
                 otherwise: Callable[[np.ndarray], np.ndarray]
                 ) -> Callable[[np.ndarray], np.ndarray]:
  """`frozen` by OpenVINO; otherwise volumes whose values it would not tell from an overflow."""
  run = resnet3d_openvino.frozen(encoder, jax.device_get(variables), with_stages=pool != MEAN)
  of_stages = jax.jit(functools.partial(feature_pooling.of_stages, pool=pool))

  def features(volumes: np.ndarray) -> np.ndarray:
    volumes = np.asarray(volumes, np.float32)
    if not max(-volumes.min(), volumes.max()) < resnet3d_openvino.LARGEST:   # NaN too
      return otherwise(volumes)
    own, *stages = run(volumes)
    return np.asarray(of_stages(own, stages)) if stages else own

  return features


def features_of_shards(weights: Weights, data: ShardSet, *, batch_size: int = 32,
                       crop: tuple[int, ...] | None | str = FROM_CARD, precision: str = 'float32',
                       pool: str = MEAN, threads: int = 4, show: bool = True) -> np.ndarray:
  """Features of every record, float32 [len(data), F], the same on every process.

  Args:
    batch_size: volumes at a time on all devices together, rounded up to a multiple of them.
    crop: most voxels along each axis, None for no crop; by default what the card says.
    precision, pool: as in `frozen`.
    threads: that read ahead.
    show: a progress bar.

  Raises:
    RunFailure: a record is damaged.
  """
  arrangement = Arrangement.of(weights.card, **({} if crop == FROM_CARD else {'crop': crop}))
  warn(weights, data)
  encode = frozen(weights, precision=precision, pool=pool)

  def read(record: int) -> np.ndarray:
    volume, scale = data.read_volume(record)
    return arrangement(volume).astype(np.float32) * np.float32(scale)

  devices = jax.device_count()
  size = -(-min(batch_size, len(data)) // devices) * devices
  # The last batch is filled up with its last record, so that one program serves all batches.
  batches = np.minimum(np.arange(-(-len(data) // size) * size), len(data) - 1).reshape(-1, size)
  own = np.split(batches, jax.process_count(), axis=1)[jax.process_index()]
  volumes = read_ahead(read, own.ravel().tolist(), threads, 2 * own.shape[1])
  features = []
  with progress_bar(len(data), 'features', 'volumes', show=show) as bar:
    for batch in batches:
      features.append(encode(np.stack(list(itertools.islice(volumes, own.shape[1])))))
      bar.update(len(np.unique(batch)))
  return np.concatenate(features)[:len(data)]


def warnings(weights: Weights, data: ShardSet) -> list[str]:
  """Sentences where shards are of other maps, or on another grid, than the card of weights says."""
  grid, found = weights.card.get('grid'), []
  if grid and not (own := Grid.of(grid['shape'], grid['affine'])).matches(data.grid):
    found.append(f'the encoder was trained on {own}, and {data.directory} is on {data.grid}: its '
                 'features may mean nothing')
  if why := origins.difference(Origin.of_record(weights.card.get('maps')), data.maps):
    found.append(f'{data.directory}: {why}')
  return found


def warn(weights: Weights, data: ShardSet) -> None:
  """Says them on stderr."""
  for text in warnings(weights, data):
    print(f'WARNING: {text}', file=sys.stderr)


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], threads: int,
               ahead: int) -> Iterator[Result]:
  """read(item) of each item in order, in threads, at most `ahead` results before they are taken."""
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    waiting = collections.deque()
    try:
      for item in items:
        waiting.append(pool.submit(read, item))
        if len(waiting) > ahead:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()
