"""Frozen features of the records that a run trains on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from anatcl_jax.data.feed import Feed
from anatcl_jax.training.step import TrainState

MOST = 1000           # scans, drawn by the seed: looking at features must not hold up a long run


def of_records(encode: Callable[..., jax.Array], state: TrainState, feed: Feed,
               records: np.ndarray, batch_size: int) -> Callable[[], np.ndarray]:
  """Features of the state's encoder, frozen, on every process.

  Args:
    encode: step.make_encode_step, mapped over the devices.
    batch_size: of all devices together; the last record fills up the last batch.

  Returns:
    What waits for them: float64 [records, F]. The state is not needed then.
  """
  count = len(records)
  filled = np.minimum(np.arange(-(-count // batch_size) * batch_size), count - 1)
  rows = feed.results(functools.partial(encode, state),
                      list(records[filled].reshape(-1, batch_size)))
  return lambda: np.concatenate(jax.device_get(rows))[:count].astype(np.float64)


def drawn(records: np.ndarray, seed: int | np.random.Generator) -> np.ndarray:
  """At most MOST of some records, in their order."""
  return np.sort(np.random.default_rng(seed).permutation(records)[:MOST])
