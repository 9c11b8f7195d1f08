"""Volumes on another intensity scale than the others: 0 to 255, x 1000, a slope that was lost."""

from __future__ import annotations

import numpy as np

from anatcl_jax.data.shards import ShardSet
from anatcl_jax.progress import progress_bar

# Ten gray-matter maps of one site differ by 12 % in level; sites and tissue classes by less than
# twice. Raw T1 images, whose scale means nothing, differ among each other, and so allow more.
FACTOR, DEVIATIONS = 2.0, 6.0
FEWEST = 5           # volumes, below which nobody knows what is usual
_TINY = 1e-30


def level_and_spread(volume: np.ndarray) -> tuple[float, float]:
  """99th percentile of the magnitudes, and standard deviation, of the voxels that are not 0."""
  values = volume[volume != 0]
  if not values.size:
    return 0.0, 0.0
  return float(np.percentile(np.abs(values), 99)), float(values.std(dtype=np.float64))


def of_set(data: ShardSet) -> np.ndarray:
  """Level and spread of every volume [records, 2], noted when it was written; else it is read."""
  noted = [pair for shard in data.info['shards'] for pair in shard.get('level_and_spread', ())]
  if len(noted) == len(data):
    return np.array(noted)
  found = []
  with progress_bar(len(data), 'volumes', 'volumes') as bar:
    for record in range(len(data)):
      volume, scale = data.read_volume(record)
      found.append(level_and_spread(volume.astype(np.float32) * np.float32(scale)))
      bar.update()
  return np.array(found)


def on_another_scale(figures: np.ndarray) -> np.ndarray:
  """How many times the usual each volume's figure is where that is unusual, else 1; float [n].

  Unusual is what differs from the median more than FACTOR times, and, in its logarithm, by more
  than DEVIATIONS median absolute deviations (x 1.4826, as of a normal distribution).

  Args:
    figures: [n, k] positive figures of n volumes, such as level and spread; the first of a volume's
      that is unusual counts.
  """
  found = np.ones(len(figures))
  if len(figures) < FEWEST:
    return found
  logs = np.log(np.maximum(figures, _TINY))
  distance = logs - np.median(logs, 0)
  usual = 1.4826 * np.median(np.abs(distance), 0)
  unusual = np.abs(distance) > np.maximum(np.log(FACTOR), DEVIATIONS * usual)
  for column in range(figures.shape[1] - 1, -1, -1):
    found = np.where(unusual[:, column], np.exp(distance[:, column]), found)
  return found


def warnings(labels: list[str], figures: np.ndarray) -> list[str]:
  """A line for each volume that is on another scale than the others, by its label."""
  return [f'{label}: its values are {times:.3g} times those of the others; is it on another '
          'intensity scale (0 to 255, a slope that was lost), or of another kind?'
          for label, times in zip(labels, on_another_scale(figures)) if times != 1]
