"""Tables of features: a row a scan, identifiers first, then the columns f0, f1, ..."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import re
from typing import Any

import numpy as np
import pandas

from anatcl_jax import __version__, outputs
from anatcl_jax.cohorts import tables, write_tables
from anatcl_jax.cohorts.volumes import first_line
from anatcl_jax.errors import UserError

ENDINGS = ('.tsv', '.parquet')
# Nine digits tell any two float32 apart.
_FLOAT32 = '%.9g'


def read_table(path: pathlib.Path) -> tuple[pandas.DataFrame, np.ndarray]:
  """Identifiers (participant_id, session, whatever else stands there) and float32 features [n, F].

  Raises:
    UserError: no such file, no participant_id, no columns f0, f1, ... or text among their numbers.
  """
  table = _read_parquet(path) if path.suffix == '.parquet' else tables.read_table(path)
  columns = [name for name in table.columns if re.fullmatch(r'f\d+', name)]
  if 'participant_id' not in table or not columns:
    raise UserError(f'{path}: is no table of features, which has participant_id, session and the '
                    'columns f0, f1, ...')
  keys = tables.scan_keys(table, 'participant_id')
  labels = [tables.joined_identifier(*key) for key in keys]
  values = [tables.numbers(path, table[name], labels)
            for name in sorted(columns, key=lambda name: int(name[1:]))]
  identifiers = table.drop(columns=columns).assign(
      participant_id=[participant for participant, _ in keys],
      session=[session for _, session in keys])
  return identifiers, np.stack(values, 1).astype(np.float32)


def write_table(path: pathlib.Path, identifiers: pandas.DataFrame, features: np.ndarray) -> None:
  """Writes identifiers and float32 features [n, F], as .tsv or .parquet by the path's ending.

  What is read again is the same to the last bit.
  """
  columns = pandas.DataFrame(features, columns=[f'f{i}' for i in range(features.shape[1])])
  table = pandas.concat([identifiers.reset_index(drop=True), columns], axis=1)
  temporary = path.with_name('.' + path.name + '.new')
  if path.suffix == '.parquet':
    table.to_parquet(temporary, index=False, engine='pyarrow')
  else:
    temporary.write_text(write_tables.as_tsv(table, float_format=_FLOAT32), encoding='utf-8')
  os.replace(temporary, path)


def write_description(table: pathlib.Path, content: dict[str, Any]) -> pathlib.Path:
  """Writes how a table was made, and by which versions, to the JSON beside it."""
  versions = {name: importlib.metadata.version(name)
              for name in ('jax', 'flax', 'numpy', 'nibabel', 'scipy')}
  versions |= {'anatcl_jax': __version__, 'python': platform.python_version()}
  path = table.with_suffix('.json')
  temporary = path.with_name('.' + path.name + '.new')
  temporary.write_text(json.dumps(
      {'made_by': outputs.MADE_BY} | content | {'versions': versions}, indent=2) + '\n')
  os.replace(temporary, path)
  return path


def _read_parquet(path: pathlib.Path) -> pandas.DataFrame:
  if not path.is_file():
    raise UserError(f'{path}: no such file')
  try:
    table = pandas.read_parquet(path, engine='pyarrow')
  except ImportError:
    raise UserError(f'{path}: a .parquet needs pyarrow: pip install pyarrow') from None
  except (OSError, ValueError) as error:     # pyarrow's errors are ValueErrors
    raise UserError(f'{path}: not a readable parquet file ({first_line(error)})') from None
  texts = [name for name in table if not re.fullmatch(r'f\d+', str(name))]
  table[texts] = table[texts].astype(str).where(table[texts].notna())
  return table.mask(table == '')
