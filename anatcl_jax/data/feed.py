"""Batches on the devices, read and sent ahead of the steps that take them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from anatcl_jax.data import pipeline
from anatcl_jax.devices import parallel


@dataclasses.dataclass(frozen=True)
class Feed:
  """Gives what a compiled step takes after its state, for any schedule of records."""

  reader: pipeline.Reader
  mesh: jax.sharding.Mesh
  threads: int
  cohort: dict[str, jax.Array] | None = None   # cache.on_devices, where volumes are there

  def __call__(self, schedule: Sequence[np.ndarray]) -> Iterator[tuple[Any, ...]]:
    """A tuple a batch, with the cohort where there is one; close it where it is left early.

    Args:
      schedule: records of global batches of one size, which the devices divide.
    """
    batches = (pipeline.read_batches(self.reader, schedule, self.threads)
               if self.cohort is None else pipeline.named_batches(self.reader, schedule))
    with contextlib.closing(parallel.sent_ahead(batches, self.mesh)) as sent:
      for batch in sent:
        yield (batch,) if self.cohort is None else (batch, self.cohort)

  def results(self, function: Callable[..., Any], schedule: Sequence[np.ndarray]) -> list[Any]:
    """What a function of a batch gives for each, perhaps still on its way from the devices.

    The host is at most two batches ahead of them, so that few batches take memory.
    """
    given = []
    for batch in self(schedule):
      given.append(function(*batch))
      jax.block_until_ready(given[-3:-2])
    return given
