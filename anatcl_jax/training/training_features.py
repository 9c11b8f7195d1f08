"""Frozen features of the records that a run trains on."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

import jax
import numpy as np

from anatcl_jax.data.pipeline import Reader
from anatcl_jax.devices import parallel
from anatcl_jax.training.step import Batch, TrainState

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
