"""Shard sets: ArrayRecord volumes with their labels beside them; the format, and reading it.

    <data_dir>/dataset.json       grid, dtype, atlas, measures, shards with counts and sha256
               participants.tsv   one row a record, in record order
               morphometry.npy    float32 [record, region, measure]
               volumes-00000-of-000NN.array_record
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import msgpack
import numpy as np
import pandas
from array_record.python import array_record_data_source

from anatcl_jax.data import tables
from anatcl_jax.data.participants import age_problem, read_participants
from anatcl_jax.data.volumes import Grid, first_line
from anatcl_jax.errors import RunFailure, UserError

SCHEMA_VERSION = 1
DTYPES = ('float32', 'float16', 'uint8')


def encode_record(participant_id: str, session: str, volume: np.ndarray, dtype: str) -> bytes:
  """One record: identifiers and a volume in RAS order, C-contiguous, little-endian.

  uint8 keeps value = stored x scale with the volume's own scale, for values from 0 up.

  Raises:
    UserError: the values do not fit the dtype.
  """
  label = tables.joined_identifier(participant_id, session)
  scale, stored = 1.0, volume
  if dtype == 'uint8':
    if volume.min() < 0:
      raise UserError(f'{label}: values below 0 ({volume.min():g}) do not fit --dtype uint8; '
                      'use float16')
    scale = float(volume.max()) / 255
    stored = np.rint(volume / scale)
  elif dtype == 'float16' and np.abs(volume).max() > np.finfo(np.float16).max:
    raise UserError(f'{label}: values up to {np.abs(volume).max():g} do not fit --dtype float16; '
                    'use float32')
  kind = np.dtype(dtype).newbyteorder('<')
  return msgpack.packb({
      'participant_id': participant_id, 'session': session, 'shape': volume.shape,
      'dtype': kind.str, 'scale': scale, 'data': np.ascontiguousarray(stored, kind).tobytes()})


def decode_record(record: bytes) -> tuple[str, str, np.ndarray, float]:
  """Participant, session, the volume [X, Y, Z] as stored, and the scale that makes it values."""
  fields = msgpack.unpackb(record)
  volume = np.frombuffer(fields['data'], np.dtype(fields['dtype'])).reshape(fields['shape'])
  return fields['participant_id'], fields['session'], volume, fields['scale']


@dataclasses.dataclass(frozen=True)
class ShardSet:
  """An open shard set: row i of `table` and `morphometry` labels record i."""

  directory: pathlib.Path
  info: dict[str, Any]             # dataset.json
  table: pandas.DataFrame
  morphometry: np.ndarray          # float32 [record, region, measure]

  def __len__(self) -> int:
    return len(self.table)

  @property
  def grid(self) -> Grid:
    return Grid.of(self.info['grid']['shape'], self.info['grid']['affine'])

  def volume_shape(self, crop: tuple[int, ...] | None) -> tuple[int, ...]:
    """Of every volume after `center_crop`."""
    shape = self.grid.shape
    return tuple(min(n, m) for n, m in zip(shape, crop or shape))

  @property
  def measures(self) -> tuple[str, ...]:
    return tuple(measure['name'] for measure in self.info['measures'])

  @property
  def synthetic(self) -> bool:
    return self.info['synthetic']

  def identity(self) -> str:
    """Changes with whose scans these are, in which order, on which grid, with which measures."""
    described = [self.table[['participant_id', 'session']].values.tolist(), self.info['grid'],
                 self.info['atlas'], self.measures]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()

  def label(self, record: int) -> str:
    return tables.joined_identifier(*self.table.loc[record, ['participant_id', 'session']])

  def select_measures(self, names: tuple[str, ...]) -> np.ndarray:
    """Morphometry of some measures, float32 [record, region, len(names)].

    Raises:
      UserError: the shards lack one of them; the text lists what they have.
    """
    lacking = [name for name in names if name not in self.measures]
    if lacking:
      raise UserError(f'{self.directory} has no {" and no ".join(lacking)}; its measures are '
                      f'{", ".join(self.measures) or "none"}: choose with '
                      f'--config=...:measures={"+".join(self.measures) or "..."}')
    return self.morphometry[:, :, [self.measures.index(name) for name in names]]

  @functools.cached_property
  def _records(self) -> array_record_data_source.ArrayRecordDataSource:
    return array_record_data_source.ArrayRecordDataSource(
        [str(self.directory / shard['file']) for shard in self.info['shards']])

  def read_volume(self, record: int) -> tuple[np.ndarray, float]:
    """The volume of a record as stored, and its scale.

    Raises:
      RunFailure: the record can't be read, or is not the one that its row names.
    """
    try:
      participant, session, volume, scale = decode_record(self._records[record])
    except Exception as error:  # whatever the reader's C++ or msgpack made of damaged bytes
      raise RunFailure(f'{self.directory}: record {record} ({self.label(record)}) is damaged '
                       f'({str(error)[:120]}); prepare the set again') from None
    if tables.joined_identifier(participant, session) != self.label(record):
      raise RunFailure(f'{self.directory}: record {record} holds {participant!r} where '
                       f'participants.tsv says {self.label(record)}; prepare the set again')
    return volume, scale


def open_shards(data_dir: str | pathlib.Path) -> ShardSet:
  """Opens a shard set and checks that its parts belong together.

  Raises:
    UserError: no shard set there (the text says which command makes one), or parts do not fit.
  """
  directory = pathlib.Path(data_dir)
  try:
    info = json.loads((directory / 'dataset.json').read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise UserError(
        f'{directory} holds no shards (dataset.json): make them with `python -m anatcl_jax.prepare '
        f'bids --volumes GLOB --participants TSV --morphometry TABLE ... --out {directory}`, or '
        'try the synthetic cohort with --config=configs/pretrain.py:demo') from None
  except (OSError, ValueError) as error:
    raise UserError(f'{directory}/dataset.json can\'t be read ({error})') from None
  version = info.get('schema_version') if isinstance(info, dict) else None
  if version != SCHEMA_VERSION:
    raise UserError(f'{directory} has shard schema {version}, this program reads {SCHEMA_VERSION}; '
                    'prepare the set again')
  table = read_participants(directory / 'participants.tsv')
  for participant, age in zip(table['participant_id'], table['age']):
    if not np.isnan(age) and (why := age_problem(age)):
      raise UserError(f'{participant} {why} in {directory}/participants.tsv')
  try:
    morphometry = np.load(directory / 'morphometry.npy')
    files = [(directory / shard['file'], shard['records']) for shard in info['shards']]
  except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
    raise UserError(f'{directory}: morphometry.npy or dataset.json is damaged '
                    f'({first_line(error)}); prepare the set again') from None
  records = sum(count for _, count in files)
  if not records == len(table) == len(morphometry):
    raise UserError(f'{directory}: {records} records, {len(table)} rows in participants.tsv and '
                    f'{len(morphometry)} in morphometry.npy; prepare the set again')
  for path, _ in files:
    if not path.is_file():
      raise UserError(f'{path} is missing; prepare the set again')
  return ShardSet(directory, info, table, morphometry)
