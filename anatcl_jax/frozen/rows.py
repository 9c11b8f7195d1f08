"""Rows of features of many scans: read ahead, in batches, kept as they are finished."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import IO, Any, Protocol

import jax
import numpy as np

from anatcl_jax.cohorts import tables, volume_files
from anatcl_jax.cohorts.volumes import NiftiFile, VolumeOf4D
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.errors import UserError, listed
from anatcl_jax.frozen.extract import read_ahead
from anatcl_jax.frozen.image_encoder import Encoder, batches
from anatcl_jax.progress import progress_bar


class Input(Protocol):
  """A scan to be encoded."""

  participant_id: str
  session: str
  name: str                     # for messages: a file or a record

  def identity(self) -> str:
    """Another where the volume is another."""

  def read(self, encoder: Encoder) -> np.ndarray:
    """The volume as the encoder sees it; UserError where that is not possible."""


@dataclasses.dataclass(frozen=True)
class File:
  """A file of its own, and how it is read."""

  participant_id: str
  session: str
  volume: NiftiFile | VolumeOf4D

  @property
  def name(self) -> str:
    number = getattr(self.volume, 'number', None)
    return f'{self.volume.path}' + (f'[{number}]' if number is not None else '')

  def identity(self) -> str:
    try:
      about = volume_files.state(self.volume.path)
    except OSError:
      return self.name
    usual = self.volume == NiftiFile(self.volume.path)
    return ' '.join(map(str, (self.name, *about, *(() if usual else (self.volume,)))))

  def read(self, encoder: Encoder) -> np.ndarray:
    return encoder.read(self.volume)


@dataclasses.dataclass(frozen=True)
class Record:
  """A record of a shard set."""

  data: ShardSet
  data_identity: str
  record: int

  @property
  def participant_id(self) -> str:
    return self.data.table.at[self.record, 'participant_id']

  @property
  def session(self) -> str:
    return self.data.table.at[self.record, 'session']

  @property
  def name(self) -> str:
    label = tables.joined_identifier(self.participant_id, self.session)
    return f'{self.data.directory}: {label}'

  def identity(self) -> str:
    return f'{self.data_identity} {self.record}'

  def read(self, encoder: Encoder) -> np.ndarray:
    volume, scale = self.data.read_volume(self.record)
    volume = encoder.arrangement(volume).astype(np.float32) * np.float32(scale)
    if not np.isfinite(volume).all():
      raise UserError(f'{self.name}: has voxels that are NaN or infinite')
    return volume


@dataclasses.dataclass(frozen=True)
class Row:
  """Features of a scan, and what its volume looks like."""

  features: np.ndarray          # float32 [F]
  nonzero: float                # share of voxels
  high: float                   # 99th percentile of the voxels that are not zero

  @classmethod
  def of(cls, features: np.ndarray, volume: np.ndarray) -> Row:
    values = volume[volume != 0]
    return cls(features, values.size / volume.size,
               float(np.percentile(values, 99)) if values.size else 0.0)


class Finished:
  """Rows on disk, one line of JSON each after a line that says by which settings they were made.

  Raises:
    UserError: the file holds rows of other settings.
  """

  def __init__(self, path: pathlib.Path, settings: dict[str, Any]):
    self.path, self.rows = path, {}
    first, *lines = path.read_text().splitlines() if path.is_file() else ['']
    if first:
      self._check(first, settings)
      self.rows = dict(filter(None, map(_row_of_line, lines)))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(path.name + '.new')   # without a line that a stop has torn
    with whole.open('w') as file:
      file.write(json.dumps(settings) + '\n')
      file.writelines(_line_of_row(*item) for item in self.rows.items())
    os.replace(whole, path)
    self._file: IO[str] = path.open('a')

  def add(self, rows: dict[str, Row]) -> None:
    """Keeps rows, by the identity of their scans."""
    self.rows |= rows
    self._file.writelines(_line_of_row(*item) for item in rows.items())
    self._file.flush()

  def close(self) -> None:
    self._file.close()

  def remove(self) -> None:
    self.close()
    self.path.unlink()

  def _check(self, line: str, settings: dict[str, Any]) -> None:
    try:
      there = json.loads(line)
      other = [name for name in settings if there.get(name) != settings[name]]
    except (ValueError, AttributeError):
      raise UserError(f'{self.path} is damaged; remove it') from None
    if other:
      raise UserError(f'{self.path} holds rows that a stopped run made with other settings '
                      f'({listed(other)}); give those again, remove it, or choose another --out')


def _line_of_row(identity: str, row: Row) -> str:
  features = base64.b64encode(row.features.astype('<f4').tobytes()).decode()
  return json.dumps([identity, features, row.nonzero, row.high]) + '\n'


def _row_of_line(line: str) -> tuple[str, Row] | None:
  try:
    identity, features, nonzero, high = json.loads(line)
    values = np.frombuffer(base64.b64decode(features, validate=True), '<f4').astype(np.float32)
    return identity, Row(values, nonzero, high)
  except (ValueError, TypeError):
    return None


def make_rows(encoder: Encoder, inputs: list[Input], finished: Finished, *, batch_size: int,
              threads: int, title: str = 'features', show: bool = True
              ) -> tuple[dict[int, Row], dict[int, str]]:
  """Rows of all inputs, and why some can't be used, both by the number of the input.

  Only what is not finished is encoded, and it is kept there as soon as its batch is through.

  Args:
    batch_size: volumes at a time on all devices together, rounded up to a multiple of them.
    threads: that read ahead.
    title: of the progress bar.
    show: a progress bar.
  """
  identities = [one.identity() for one in inputs]
  waiting = [i for i, identity in enumerate(identities) if identity not in finished.rows]
  size = _even_size(len(waiting), batch_size)
  left_out: dict[int, str] = {}
  encoded_shapes = set()

  def read(i: int) -> tuple[int, np.ndarray | UserError]:
    try:
      return i, inputs[i].read(encoder)
    except UserError as error:
      return i, error

  def leave_out(i: int, why: str) -> None:
    left_out[i] = ' '.join(why.split())
    bar.write(f'left out: {left_out[i]}', file=sys.stderr)

  def usable() -> Iterator[tuple[int, np.ndarray]]:
    for i, volume in read_ahead(read, waiting, threads, 2 * size):
      if isinstance(volume, UserError):
        leave_out(i, str(volume))
        bar.update(1)
      else:
        yield i, volume

  with progress_bar(len(inputs), title, 'volumes', len(inputs) - len(waiting), show) as bar:
    for numbers, batch in batches(usable(), size):
      # Filled up, so that no program is compiled for the last few alone.
      padding = size - len(batch) if batch.shape[1:] in encoded_shapes else 0
      encoded_shapes.add(batch.shape[1:])
      features = encoder.encode(np.concatenate([batch, np.repeat(batch[-1:], padding, 0)]))
      made = {}
      for i, row, volume in zip(numbers, features, batch):
        if np.isfinite(row).all():
          made[identities[i]] = Row.of(row, volume)
        else:
          leave_out(i, f'{inputs[i].name}: its features are not finite; its values reach '
                       f'{np.abs(volume).max():.3g}')
      finished.add(made)
      bar.update(len(batch))
  return {i: finished.rows[identity] for i, identity in enumerate(identities)
          if i not in left_out}, left_out


def rows_of_all(encoders: dict[str, Encoder], inputs: list[Input], finished: dict[str, Finished],
                *, batch_size: int, threads: int
                ) -> tuple[list[Input], dict[str, list[Row]], dict[int, str]]:
  """The inputs that every encoder can use, their rows by encoder, and why others are left out.

  Args: as of make_rows.
  """
  left_out: dict[int, str] = {}
  made: dict[str, dict[int, Row]] = {}
  for name, encoder in encoders.items():
    own = [i for i in range(len(inputs)) if i not in left_out]
    rows, without = make_rows(encoder, [inputs[i] for i in own], finished[name],
                              batch_size=batch_size, threads=threads,
                              title=f'features of {name}' if len(encoders) > 1 else 'features')
    made[name] = {own[i]: row for i, row in rows.items()}
    left_out |= {own[i]: why for i, why in without.items()}
  kept = [i for i in range(len(inputs)) if i not in left_out]
  return ([inputs[i] for i in kept],
          {name: [rows[i] for i in kept] for name, rows in made.items()}, left_out)


def _even_size(number: int, batch_size: int) -> int:
  """Of batches as even as they can be, a multiple of the devices: 10 by at most 8 are 5 and 5."""
  devices = jax.device_count()
  most = -(-min(batch_size, max(number, 1)) // devices) * devices
  size = -(-max(number, 1) // -(-max(number, 1) // most))
  return -(-size // devices) * devices
