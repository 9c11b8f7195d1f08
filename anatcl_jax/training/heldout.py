"""The loss of people who are not trained on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from anatcl_jax.data.feed import Feed
from anatcl_jax.training.step import Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Heldout:
  """Evaluates a state on the same batches each time."""

  eval_step: Callable[..., Metrics]
  feed: Feed
  schedule: Sequence[np.ndarray]      # records of global batches

  def __call__(self, state: TrainState) -> Callable[[], dict[str, float]]:
    """Begins, and gives what waits for the figures; the state is not needed then."""
    rows = self.feed.results(functools.partial(self.eval_step, state), self.schedule)
    return lambda: means(jax.device_get(rows))


def means(rows: Sequence[Metrics]) -> dict[str, float]:
  """The unweighted mean of each metric over the batches, its name after heldout/."""
  return {f'heldout/{name}': float(np.mean([row[name] for row in rows])) for name in rows[0]}
