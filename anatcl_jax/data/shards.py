"""Shard sets: ArrayRecord volumes with their labels beside them; the format, and reading it.

    <data_dir>/dataset.json       grid, dtype, atlas, measures, shards with counts, digests
               participants.tsv   one row a record, in record order
               morphometry.npy    float32 [record, region, measure]
               volumes-00000-of-000NN.array_record

ArrayRecord hashes every chunk, so that a byte that changed in a volume is found when it is read.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import sys
from typing import Any

import msgpack
import numpy as np
import pandas
from array_record.python import array_record_data_source

from anatcl_jax.cohorts import tables
from anatcl_jax.cohorts.ages import age_problem
from anatcl_jax.cohorts.origins import Origin
from anatcl_jax.cohorts.participants import read_participants
from anatcl_jax.cohorts.volumes import Grid, first_line
from anatcl_jax.data import description, digests
from anatcl_jax.errors import RunFailure, UserError, is_out_of_memory

SCHEMA_VERSION = 2     # 1 had no digests of dataset.json, the scans and the label files
DTYPES = description.DTYPES


def encode_record(participant_id: str, session: str, volume: np.ndarray, dtype: str) -> bytes:
  """One record: identifiers and a volume in RAS order, C-contiguous, little-endian.

  uint8 keeps value = stored x scale with the volume's own scale, for values from 0 up.

  Raises:
    UserError: the values do not fit the dtype.
  """
  label = tables.joined_identifier(participant_id, session)
  scale, stored = 1.0, volume
  if dtype == 'uint8':
    scale = float(volume.max()) / 255
    if volume.min() < -scale / 2 or scale <= 0:   # what lies nearer to 0 is rounded to it
      raise UserError(f'{label}: values below 0 ({volume.min():g}) do not fit --dtype uint8; '
                      'use float16')
    stored = np.maximum(np.rint(volume / scale), 0)
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


class DamagedRecord(RunFailure):
  """A record that can't be read, or is not what the labels say."""


@dataclasses.dataclass(frozen=True)
class ShardSet:
  """An open shard set: row i of `table` and `morphometry` labels record i."""

  directory: pathlib.Path
  info: dict[str, Any]             # dataset.json
  table: pandas.DataFrame
  morphometry: np.ndarray          # float32 [record, region, measure]
  damaged: frozenset[int] = frozenset()   # records that are known to be so and are left out

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

  @property
  def maps(self) -> Origin | None:
    """What kind of maps the volumes are; None where that is not known, as of sets of old."""
    return Origin.of_record(self.info.get('maps'))

  @property
  def measured_by(self) -> str:
    """Whose morphometry it is; empty where there is none, or that is not known."""
    return self.info.get('measured_by', '')

  def identity(self) -> str:
    """Changes with whose scans these are, in which order, on which grid, with which measures."""
    described = [self.table[['participant_id', 'session']].values.tolist(), self.info['grid'],
                 self.info['atlas'], self.measures]
    # As every config.json has it: keys in their own order.
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()

  def label(self, record: int) -> str:
    return self._labels[record]

  @functools.cached_property
  def _labels(self) -> list[str]:
    return [tables.joined_identifier(*row)
            for row in self.table[['participant_id', 'session']].itertuples(index=False)]

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

  def whole(self, records: np.ndarray) -> np.ndarray:
    """Those of the records that are not known to be damaged, in the same order."""
    return records[~np.isin(records, list(self.damaged))]

  @functools.cached_property
  def _ends(self) -> list[int]:
    """The record after the last one of each shard."""
    return list(itertools.accumulate(shard['records'] for shard in self.info['shards']))

  def shard_of(self, record: int) -> pathlib.Path:
    return self.directory / self.info['shards'][bisect.bisect_right(self._ends, record)]['file']

  def records_of(self, shard: int) -> range:
    return range(self._ends[shard] - self.info['shards'][shard]['records'], self._ends[shard])

  @functools.cached_property
  def _records(self) -> array_record_data_source.ArrayRecordDataSource:
    # With their numbers of records, files are opened when they are read and not before.
    return array_record_data_source.ArrayRecordDataSource(
        [f'{self.directory / shard["file"]}[0:{shard["records"]}]'
         for shard in self.info['shards']])

  def read_volume(self, record: int) -> tuple[np.ndarray, float]:
    """The volume of a record as stored, and its scale.

    Raises:
      DamagedRecord: it can't be read, or is not the one that its row and dataset.json describe.
    """
    try:
      participant, session, volume, scale = decode_record(self._records[record])
    except Exception as error:  # whatever the reader's C++ or msgpack made of damaged bytes
      if is_out_of_memory(error):
        raise
      raise self._damaged(record, f'can\'t be read ({first_line(error)})') from None
    name = tables.joined_identifier(participant, session)
    if name != self.label(record):
      raise self._damaged(record, f'holds {name!r} where participants.tsv says '
                                  f'{self.label(record)}')
    if volume.shape != self.grid.shape or volume.dtype.name != self.info['dtype']:
      raise self._damaged(record, f'is {volume.dtype} {volume.shape}, not {self.info["dtype"]} '
                                  f'{self.grid.shape} as dataset.json says')
    return volume, scale

  def _damaged(self, record: int, why: str) -> DamagedRecord:
    return DamagedRecord(f'{self.shard_of(record)}: record {record} ({self.label(record)}) {why}; '
                         f'{_REMEDY}')


_REMEDY = ('restore the file or prepare the set again; a new run, in another --workdir, goes '
           'without what is damaged with --config.data.on_error=skip')


def open_shards(data_dir: str | pathlib.Path, all_files: bool = True) -> ShardSet:
  """Opens a shard set and checks that its parts belong together.

  A label file that was changed since it was written is told on stderr.

  Args:
    all_files: whether every shard must be there in its whole length.

  Raises:
    UserError: no shard set there (the text says which command makes one), or parts do not fit.
  """
  directory = pathlib.Path(data_dir)
  info = read_info(directory)
  table = read_participants(directory / 'participants.tsv')
  for participant, age in zip(table['participant_id'], table['age']):
    if not np.isnan(age) and (why := age_problem(age)):
      raise UserError(f'{participant} {why} in {directory}/participants.tsv')
  try:
    morphometry = np.load(directory / 'morphometry.npy')
  except Exception as error:   # whatever NumPy, which parses a header as Python, makes of one
    raise UserError(f'{directory}/morphometry.npy is damaged ({first_line(error)}); prepare the '
                    'set again') from None
  data = ShardSet(directory, info, table, morphometry)
  records = sum(shard['records'] for shard in info['shards'])
  if not records == len(table) == len(morphometry):
    raise UserError(f'{directory}: {records} records, {len(table)} rows in participants.tsv and '
                    f'{len(morphometry)} in morphometry.npy; prepare the set again')
  expected = (len(table), len(info['regions']), len(info['measures']))
  if morphometry.shape != expected or morphometry.dtype != np.float32:
    raise UserError(f'{directory}/morphometry.npy is {morphometry.dtype} {morphometry.shape}, not '
                    f'float32 {expected} as dataset.json says; prepare the set again')
  if all_files:
    _check_lengths(data)
  if info['schema_version'] > 1:
    if digests.of_scans(table) != info['scans']:
      raise UserError(f'{directory}/participants.tsv names other scans, or in another order, than '
                      'the set was prepared with; restore it or prepare the set again')
    for name in digests.changed_labels(info, directory):
      print(f'WARNING: {directory / name} was changed since it was written. A label that you '
            'corrected is used as it is now; if you changed none, the file is damaged: restore it '
            'or prepare the set again', file=sys.stderr)
  return data


def read_info(directory: pathlib.Path) -> dict[str, Any]:
  """dataset.json of a shard set.

  Raises:
    UserError: none there (the text says which command makes one), or it is damaged.
  """
  path = directory / 'dataset.json'
  try:
    info = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise UserError(
        f'{directory} holds no shards (dataset.json): make them with `python -m anatcl_jax.prepare '
        f'bids --volumes GLOB --participants TSV --morphometry TABLE ... --out {directory}`, or '
        'try the synthetic cohort with --config=configs/pretrain.py:demo') from None
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path} can\'t be read ({first_line(error)})') from None
  version = info.get('schema_version') if isinstance(info, dict) else None
  if type(version) is not int or version not in range(1, SCHEMA_VERSION + 1):
    raise UserError(f'{directory} has shard schema {version}, this program reads 1 to '
                    f'{SCHEMA_VERSION}; prepare the set again')
  if why := description.problem(info):
    raise UserError(f'{path} {why}; prepare the set again')
  if (version > 1 or 'digest' in info) and not digests.is_genuine(info):
    raise UserError(f'{path} was changed since it was written; restore it or prepare the set again')
  return info


def _check_lengths(data: ShardSet) -> None:
  """Raises UserError for a shard that is missing or has not the length it was written with."""
  for i, shard in enumerate(data.info['shards']):
    path, records = data.directory / shard['file'], data.records_of(i)
    length = path.stat().st_size if path.is_file() else None
    if length != shard['bytes']:
      raise UserError(
          f'{path} ' + ('is missing' if length is None else
                        f'has {length} bytes where {shard["bytes"]} were written')
          + f': records {records[0]} to {records[-1]} ({data.label(records[0])} to '
          f'{data.label(records[-1])}); {_REMEDY}')
