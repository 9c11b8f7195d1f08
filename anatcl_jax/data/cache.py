"""Volumes kept in memory as they are stored: read from disk once a run, in the first epoch."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from anatcl_jax.cohorts.volumes import center_crop
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.errors import UserError

CACHES = ('none', 'memory')
_LEFT_OVER = 0.1    # of the memory that is free, for whatever else the run needs


@dataclasses.dataclass(frozen=True)
class VolumeCache:
  """Cropped volumes by record, in the dtype of the shards; memory is taken as records are read.

  Threads may share it: two that read the same record for the first time write the same values.
  """

  shards: ShardSet
  crop: tuple[int, ...] | None
  volumes: np.ndarray      # [record, X, Y, Z]
  scales: np.ndarray       # [record], NaN until its volume is there

  @property
  def bytes(self) -> int:
    """That the volumes take once all are read."""
    return self.volumes.nbytes

  def read_volume(self, record: int) -> tuple[np.ndarray, float]:
    """The cropped volume as stored, and its scale; as ShardSet.read_volume, and its errors."""
    if np.isnan(self.scales[record]):
      volume, scale = self.shards.read_volume(record)
      self.volumes[record] = center_crop(volume, self.crop)
      self.scales[record] = scale       # after the volume, which other threads may now take
    return self.volumes[record], float(self.scales[record])


def make_cache(shards: ShardSet, crop: tuple[int, ...] | None) -> VolumeCache:
  """An empty cache with room for all volumes of a shard set.

  Raises:
    UserError: they do not fit the memory that is free.
  """
  shape, dtype = (len(shards), *shards.volume_shape(crop)), np.dtype(shards.info['dtype'])
  need, free = float(np.prod(shape, dtype=float)) * dtype.itemsize, free_memory()
  if need > (1 - _LEFT_OVER) * free:
    raise UserError(f'config.cache=memory needs {need / 1e9:.3g} GB for {len(shards)} volumes of '
                    f'{dtype.name} in {shards.directory}, and {free / 1e9:.3g} GB are free: choose '
                    '--config.cache=none, or prepare with a smaller --dtype')
  return VolumeCache(shards, crop, np.empty(shape, dtype), np.full(len(shards), np.nan))


def free_memory() -> float:
  """Bytes that can be taken without swapping; all of the machine's where that is not told."""
  try:
    with open('/proc/meminfo', encoding='ascii') as lines:
      fields = dict(line.split(':') for line in lines)
    return 1024.0 * int(fields['MemAvailable'].split()[0])
  except (OSError, KeyError, ValueError):
    return float(os.sysconf('SC_PHYS_PAGES')) * os.sysconf('SC_PAGE_SIZE')
