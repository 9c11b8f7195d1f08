"""From shards to batches: which records make which batch, and reading them ahead with Grain.

The records of a step are a pure function of (seed, step), so the global batch at a step is the same
whatever the number of processes, and a run resumes from the step alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from sklearn.model_selection import KFold

from anatcl_jax.cohorts.volumes import center_crop
from anatcl_jax.data.cache import VolumeCache
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.errors import UserError

Batch = dict[str, Any]   # volume [N, X, Y, Z] as stored, scale [N], attributes {term: [N, ...]}


def split_by_participant(participants: np.ndarray, fold: int, num_folds: int,
                         seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Records to train on and records held out; all scans of a person fall on the same side.

  Args:
    participants: [records], the participant of each record.

  Raises:
    UserError: fewer participants than folds, or no such fold.
  """
  people = np.unique(participants)
  if not 2 <= num_folds <= len(people):
    raise UserError(f'num_folds {num_folds} must lie between 2 and the number of participants, '
                    f'{len(people)}')
  if not 0 <= fold < num_folds:
    raise UserError(f'fold {fold} must lie between 0 and {num_folds - 1}')
  folds = KFold(num_folds, shuffle=True, random_state=seed).split(people)
  held_out = np.isin(participants, people[list(folds)[fold][1]])
  return np.flatnonzero(~held_out), np.flatnonzero(held_out)


_HELDOUT = 1 << 20   # keeps the draw of held-out batches apart from those of epochs


@functools.lru_cache(maxsize=4)
def _epoch_order(records: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(records)


def records_of_step(records: np.ndarray, batch_size: int, seed: int, step: int,
                    damaged: frozenset[int] = frozenset()) -> np.ndarray:
  """Records of the global batch at a step (from 0); each epoch is a new permutation of `records`.

  An epoch has len(records) // batch_size steps: a contrastive loss needs batches of one size, so
  the few records left over sit an epoch out, others in each. In the place of a damaged record
  stands the next whole one after this batch, so that all other batches stay as they are.
  """
  epoch, position = divmod(step, len(records) // batch_size)
  order = _epoch_order(len(records), seed, epoch)
  batch = records[order[position * batch_size:(position + 1) * batch_size]]
  if damaged.isdisjoint(batch.tolist()):
    return batch
  others = records[np.roll(order, -(position + 1) * batch_size)[:-batch_size]]
  gaps = np.isin(batch, list(damaged))
  batch[gaps] = others[~np.isin(others, list(damaged))][:gaps.sum()]
  return batch


def heldout_batches(records: np.ndarray, batch_size: int, devices: int,
                    seed: int) -> list[np.ndarray]:
  """Batches of one size that cover the held-out records, the last ones overlapping.

  Who is in a batch with whom is drawn once, by the seed: in a table that is sorted by age or site,
  rows after one another would be more alike, and their loss another, than in training. The size is
  that of training where there are enough records, since a contrastive loss grows with the batch;
  otherwise the largest part of it that there are enough for, the same on any number of devices that
  divides it.
  """
  size = max((size for size in range(devices, batch_size + 1, devices)
              if not batch_size % size and size <= len(records)), default=0)
  if size < 2:
    return []
  drawn = np.random.default_rng([seed, _HELDOUT]).permutation(records)
  starts = np.linspace(0, len(records) - size, -(-len(records) // size)).round().astype(int)
  return [drawn[start:start + size] for start in starts]


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads a record: its volume as stored, which the step casts and scales, and its attributes."""

  shards: ShardSet
  attributes: dict[str, np.ndarray]   # by term of the loss, a row a record
  crop: tuple[int, ...] | None
  cache: VolumeCache | None = None    # of the same shards and crop

  def __call__(self, record: int) -> Batch:
    volume, scale = (self.cache or self.shards).read_volume(int(record))
    return {'volume': center_crop(volume, self.crop), 'scale': np.float32(scale),
            'attributes': {name: values[record] for name, values in self.attributes.items()}}


@dataclasses.dataclass(frozen=True)
class TrainSchedule:
  """The records of the global batch of each of some steps, as a sequence."""

  records: np.ndarray
  batch_size: int
  seed: int
  steps: range
  damaged: frozenset[int] = frozenset()

  def __len__(self) -> int:
    return len(self.steps)

  def __getitem__(self, index: int) -> np.ndarray:
    return records_of_step(self.records, self.batch_size, self.seed, self.steps[index],
                           self.damaged)


@dataclasses.dataclass(frozen=True)
class _Share:
  """Grain's random access source: one process's records of each batch, one after the other."""

  schedule: Sequence[np.ndarray]      # global batches of one size
  process: int
  processes: int

  @functools.cached_property
  def size(self) -> int:
    return len(self.schedule[0]) // self.processes

  def __len__(self) -> int:
    return len(self.schedule) * self.size

  def __getitem__(self, item: int) -> int:
    index, position = divmod(int(item), self.size)
    return int(self.schedule[index][self.process * self.size + position])


def read_batches(reader: Reader, schedule: Sequence[np.ndarray], threads: int = 4
                 ) -> Iterator[Batch]:
  """This process's share of global batches of records, all of one size, read ahead by threads."""
  if not len(schedule):
    return iter(())
  share = _Share(schedule, jax.process_index(), jax.process_count())
  # Threads share the volumes of a batch, two batches ahead: enough to hide reading behind a step.
  options = grain.ReadOptions(num_threads=threads,
                              prefetch_buffer_size=max(threads, 2 * share.size))
  dataset = grain.MapDataset.source(share).map(reader).to_iter_dataset(options)
  return iter(dataset.batch(share.size))


def named_batches(reader: Reader, schedule: Sequence[np.ndarray]) -> Iterator[Batch]:
  """As `read_batches`, with the number of each `record` instead of its volume and scale."""
  for index in range(len(schedule)):
    own = np.split(schedule[index], jax.process_count())[jax.process_index()]
    yield {'record': own.astype(np.int32),
           'attributes': {name: values[own] for name, values in reader.attributes.items()}}


def train_batches(reader: Reader, records: np.ndarray, batch_size: int, seed: int, steps: range,
                  threads: int = 4) -> Iterator[Batch]:
  """This process's share of the batch of each step."""
  return read_batches(reader, TrainSchedule(records, batch_size, seed, steps,
                                            reader.shards.damaged), threads)
