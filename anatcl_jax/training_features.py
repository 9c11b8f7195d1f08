"""Frozen features of the records that a run trains on, and the range that they take."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from anatcl_jax import parallel, processes
from anatcl_jax.data.pipeline import Reader
from anatcl_jax.step import Batch, TrainState

RANGE_FILE = 'features_range.json'
MOST = 1000           # scans, drawn by the seed: looking at features must not hold up a long run


def of_records(encode: Callable[[TrainState, Batch], jax.Array], state: TrainState, reader: Reader,
               records: np.ndarray, mesh: jax.sharding.Mesh, *, batch_size: int,
               threads: int) -> np.ndarray:
  """Features [records, F] of the state's encoder, frozen, on every process.

  Args:
    encode: step.make_encode_step, mapped over the devices.
    batch_size: of all devices together; the last record fills up the last batch.
  """
  count = len(records)
  batches = np.minimum(np.arange(-(-count // batch_size) * batch_size), count - 1)
  rows = []
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for batch in batches.reshape(-1, batch_size):
      own = np.split(records[batch], jax.process_count())[jax.process_index()]
      volumes = np.stack([row['volume'] for row in pool.map(reader, own)])
      rows.append(np.asarray(encode(state, parallel.shard_rows({'volume': volumes}, mesh))))
  return np.concatenate(rows)[:count].astype(np.float64)


def drawn(records: np.ndarray, seed: int | np.random.Generator) -> np.ndarray:
  """At most MOST of some records, in their order."""
  return np.sort(np.random.default_rng(seed).permutation(records)[:MOST])


def note_range(workdir: pathlib.Path, features: np.ndarray, step: int) -> None:
  """Writes the lowest and highest value of each feature [records, F] at a step to the workdir."""
  if processes.is_first():
    temporary = workdir / f'{RANGE_FILE}.writing'
    temporary.write_text(json.dumps({'step': step, 'low': features.min(0).tolist(),
                                     'high': features.max(0).tolist()}))
    os.replace(temporary, workdir / RANGE_FILE)


def read_range(workdir: pathlib.Path, step: int) -> dict[str, list[float]] | None:
  """What note_range wrote at this step; None where it did not, or the file is damaged."""
  try:
    noted = json.loads((workdir / RANGE_FILE).read_text())
    return {side: noted[side] for side in ('low', 'high')} if noted['step'] == step else None
  except (OSError, ValueError, KeyError, TypeError):
    return None
