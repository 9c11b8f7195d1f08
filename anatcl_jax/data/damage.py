"""Which records of a shard set are damaged, found before a run begins, the same on every process.

Whole shards are known by their SHA-256, read once: the workdir remembers their size and time of
change, so that a restart does not read terabytes again. Records are looked at one by one only in a
shard that is not whole. All processes share the shards among them and then their findings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np

from anatcl_jax import paths
from anatcl_jax.data.shards import DamagedRecord, ShardSet
from anatcl_jax.devices import processes
from anatcl_jax.errors import listed
from anatcl_jax.progress import progress_bar

ON_ERROR = ('stop', 'skip')
_MARKER = 'whole_shards.json'


def find_damaged(data: ShardSet, workdir: pathlib.Path, threads: int) -> frozenset[int]:
  """Records that can't be read; on stderr, which they are. All processes call it together."""
  whole = _remembered(workdir)
  stamps = [_stamp(data, i) for i in range(len(data.info['shards']))]
  unknown = [i for i, stamp in enumerate(stamps)
             if stamp is None or whole.get(data.info['shards'][i]['file']) != stamp]
  mine = [i for i in unknown if i % jax.process_count() == jax.process_index()]
  damaged = np.zeros(len(data), bool)
  with (concurrent.futures.ThreadPoolExecutor(threads) as pool,
        progress_bar(len(mine), 'checking shards', 'shards', show=len(mine) > 1) as bar):
    for records in pool.map(lambda i: _damaged_in(data, i), mine):
      damaged[records] = True
      bar.update()
  damaged = np.array(processes.on_any(*damaged))
  if processes.is_first():
    _remember(workdir, {data.info['shards'][i]['file']: stamp for i, stamp in enumerate(stamps)
                        if not damaged[data.records_of(i)].any()})
    if damaged.any():
      names = [f'{data.label(i)} (record {i}, {data.shard_of(i).name})'
               for i in np.flatnonzero(damaged)]
      print(f'WARNING: {len(names)} of {len(data)} records are damaged and left out: '
            f'{listed(names, 20)}', file=sys.stderr)
  return frozenset(np.flatnonzero(damaged).tolist())


@contextlib.contextmanager
def forgotten_on_damage(workdir: pathlib.Path) -> Iterator[None]:
  """Where a record turns out damaged in the body, the next `find_damaged` reads all shards anew."""
  try:
    yield
  except DamagedRecord:   # on any process: the first one may not know
    (workdir / _MARKER).unlink(missing_ok=True)
    raise


def _damaged_in(data: ShardSet, shard: int) -> list[int]:
  info = data.info['shards'][shard]
  with contextlib.suppress(OSError):
    if paths.sha256(data.directory / info['file']) == info['sha256']:
      return []
  damaged = []
  for record in data.records_of(shard):
    try:
      data.read_volume(record)
    except DamagedRecord:
      damaged.append(record)
  return damaged


def _stamp(data: ShardSet, shard: int) -> list | None:
  """What a file that is still the same has: size, time of change, and the digest it was given."""
  info = data.info['shards'][shard]
  try:
    status = (data.directory / info['file']).stat()
  except OSError:
    return None
  return [status.st_size, status.st_mtime_ns, info['sha256']]


def _remembered(workdir: pathlib.Path) -> dict[str, list]:
  try:
    return json.loads((workdir / _MARKER).read_text())
  except (OSError, ValueError):   # not there yet, or cut off: all shards are read
    return {}


def _remember(workdir: pathlib.Path, whole: dict[str, list | None]) -> None:
  temporary = workdir / (_MARKER + '.writing')
  with contextlib.suppress(OSError):   # saves time and no more; train says what it can't write
    workdir.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(whole))
    os.replace(temporary, workdir / _MARKER)
