"""Volumes kept as they are stored, in the host's or the devices' memory, and where they fit."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from anatcl_jax.cohorts.volumes import center_crop
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.devices import parallel, processes
from anatcl_jax.errors import UserError
from anatcl_jax.progress import progress_bar

CACHES = ('auto', 'device', 'memory', 'none')
_MOST = 0.9         # of the memory that is free; the rest is for whatever else the run needs
_MOST_OF_AUTO = 0.5   # where nobody asked for it
_CHUNK = 64         # volumes sent to the devices at a time


@dataclasses.dataclass(frozen=True)
class VolumeCache:
  """Cropped volumes by record, in the dtype of the shards; memory is taken as records are read.

  Threads may share it: two that read the same record for the first time write the same values.
  """

  shards: ShardSet
  crop: tuple[int, ...] | None
  volumes: np.ndarray      # [record, X, Y, Z]
  scales: np.ndarray       # [record], NaN until its volume is there

  def read_volume(self, record: int) -> tuple[np.ndarray, float]:
    """The cropped volume as stored, and its scale; as ShardSet.read_volume, and its errors."""
    if np.isnan(self.scales[record]):
      volume, scale = self.shards.read_volume(record)
      self.volumes[record] = center_crop(volume, self.crop)
      self.scales[record] = scale       # after the volume, which other threads may now take
    return self.volumes[record], float(self.scales[record])


def make_cache(shards: ShardSet, crop: tuple[int, ...] | None) -> VolumeCache:
  """An empty cache in the host's memory, with room for all volumes of a shard set."""
  shape = (len(shards), *shards.volume_shape(crop))
  return VolumeCache(shards, crop, np.empty(shape, np.dtype(shards.info['dtype'])),
                     np.full(len(shards), np.nan))


def on_devices(shards: ShardSet, crop: tuple[int, ...] | None, mesh: jax.sharding.Mesh,
               threads: int) -> dict[str, jax.Array]:
  """The whole set on every device: volume [record, X, Y, Z] as stored, scale [record].

  All processes call it, and each reads all records once; the host keeps few at a time. Those that
  are known to be damaged stay 0.

  Raises:
    DamagedRecord: of another record.
  """
  count, shape, dtype = len(shards), shards.volume_shape(crop), np.dtype(shards.info['dtype'])
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  volumes = jax.jit(functools.partial(jnp.zeros, (count, *shape), dtype),
                    out_shardings=everywhere)()
  # In place: the devices never have the volumes twice.
  put = jax.jit(lambda whole, part, start: jax.lax.dynamic_update_slice_in_dim(
      whole, part, start, 0), donate_argnums=0, out_shardings=everywhere)
  scales = np.zeros(count, np.float32)

  def read(record: int) -> np.ndarray:
    if record in shards.damaged:
      return np.zeros(shape, dtype)
    volume, scales[record] = shards.read_volume(record)
    return center_crop(volume, crop)

  chunk = min(_CHUNK, count)
  with (concurrent.futures.ThreadPoolExecutor(threads) as pool,
        progress_bar(count, 'to the devices', 'volumes',
                     show=processes.is_first() and count > 10 * _CHUNK) as bar):
    for first in range(0, count, chunk):
      first = min(first, count - chunk)    # the last one overlaps: one program serves all
      part = np.stack(list(pool.map(read, range(first, first + chunk))))
      volumes = put(volumes, jax.make_array_from_callback(part.shape, everywhere, part.__getitem__),
                    first)
      volumes.block_until_ready()
      bar.update(chunk)
  return {'volume': volumes, 'scale': parallel.replicate(scales, mesh)}


def choose(setting: str, shards: ShardSet, crop: tuple[int, ...] | None) -> str:
  """Where volumes are kept: `device`, `memory` or `none`, the same on all processes.

  `auto` is the first of them that takes at most half of what is free there; on CPUs, whose devices
  have the host's memory, `memory` before all.

  Raises:
    UserError: they do not fit where `setting` says.
  """
  need = needed_bytes(shards, crop)
  if setting in ('memory', 'device'):
    free = free_memory() if setting == 'memory' else free_on_device()
    if processes.on_any(need > _MOST * free)[0]:
      where = ' on every device' if setting == 'device' else ''
      raise UserError(
          f'config.cache={setting} needs {need / 1e9:.3g} GB{where} for {len(shards)} volumes of '
          f'{shards.info["dtype"]} in {shards.directory}, and {free / 1e9:.3g} GB are free: choose '
          '--config.cache=auto or none, or prepare with a smaller --dtype')
  if setting != 'auto':
    return setting
  rooms = {} if jax.default_backend() == 'cpu' else {'device': free_on_device()}
  rooms['memory'] = free_memory() / jax.process_count()    # they may share one machine
  fits = [not lacking for lacking in processes.on_any(
      *(need > _MOST_OF_AUTO * room for room in rooms.values()))]
  return next((name for name, here in zip(rooms, fits, strict=True) if here), 'none')


def needed_bytes(shards: ShardSet, crop: tuple[int, ...] | None) -> float:
  """Of all volumes of a shard set, cropped and as stored."""
  return float(np.prod((len(shards), *shards.volume_shape(crop)), dtype=float)
               ) * np.dtype(shards.info['dtype']).itemsize


def free_on_device() -> float:
  """Bytes that can be taken on every local device; of CPUs, each one's part of the host's."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all('bytes_limit' in one for one in stats):
    return float(min(one['bytes_limit'] - one.get('bytes_in_use', 0) for one in stats))
  return free_memory() / len(stats)


def free_memory() -> float:
  """Bytes that can be taken without swapping; all of the machine's where that is not told."""
  try:
    with open('/proc/meminfo', encoding='ascii') as lines:
      fields = dict(line.split(':') for line in lines)
    return 1024.0 * int(fields['MemAvailable'].split()[0])
  except (OSError, KeyError, ValueError):
    return float(os.sysconf('SC_PHYS_PAGES')) * os.sysconf('SC_PAGE_SIZE')
