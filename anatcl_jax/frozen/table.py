"""Tables of features: a row a scan, identifiers first, then the columns f0, f1, ...

Of several encoders each has its own columns, NAME:f0, NAME:f1, ... They stand beside each other and
are never averaged: what the third feature of one training means is not what it means of another.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas

from anatcl_jax import outputs
from anatcl_jax.cohorts import tables, write_tables
from anatcl_jax.cohorts.volumes import first_line
from anatcl_jax.devices import machine
from anatcl_jax.errors import UserError
from anatcl_jax.weights.choice import NAME

ENDINGS = ('.tsv', '.parquet')
# Nine digits tell any two float32 apart.
_FLOAT32 = '%.9g'
_COLUMN = re.compile(rf'(?:({NAME}):)?f(\d+)')


def read_table(path: str | pathlib.Path) -> tuple[pandas.DataFrame, np.ndarray]:
  """Identifiers (participant_id, session, whatever else stands there) and float32 features [n, F].

  Those of several encoders are side by side; `read_encoders` keeps them apart.

  Raises as it does.
  """
  identifiers, features = read_encoders(path)
  return identifiers, np.concatenate(list(features.values()), 1)


def read_encoders(path: str | pathlib.Path) -> tuple[pandas.DataFrame, dict[str, np.ndarray]]:
  """Identifiers, and the float32 features [n, F] of each encoder by its name ('' has f0, f1, ...).

  Raises:
    UserError: no such file, no participant_id, no columns f0, f1, ... or text among their numbers.
  """
  path = pathlib.Path(path)
  table = _read_parquet(path) if path.suffix == '.parquet' else tables.read_table(path)
  columns = _by_encoder(table.columns)
  if 'participant_id' not in table or not columns:
    raise UserError(f'{path}: is no table of features, which has participant_id, session and the '
                    'columns f0, f1, ...')
  keys = tables.scan_keys(table, 'participant_id')
  labels = [tables.joined_identifier(*key) for key in keys]
  features = {}
  for name, own in columns.items():
    values = [tables.numbers(path, table[column], labels) for column in own]
    features[name] = np.stack(values, 1).astype(np.float32)
  identifiers = table.drop(columns=list(itertools.chain(*columns.values()))).assign(
      participant_id=[participant for participant, _ in keys],
      session=[session for _, session in keys])
  return identifiers, features


def read_columns(path: str | pathlib.Path) -> dict[str, list[int]]:
  """The numbers of each encoder's columns, in the order of `read_encoders`, by the header alone."""
  path = pathlib.Path(path)
  if path.suffix == '.parquet':
    import pyarrow.parquet  # an extra; who read the table has it
    names = pyarrow.parquet.read_schema(path).names
  else:
    names = tables.read_header(path)
  return {name: [int(_COLUMN.fullmatch(column)[2]) for column in own]
          for name, own in _by_encoder(names).items()}


def _by_encoder(names: Iterable[str]) -> dict[str, list[str]]:
  """Columns of features by encoder, in the order of their numbers."""
  columns: dict[str, list[str]] = {}
  for column in names:
    if found := _COLUMN.fullmatch(column):
      columns.setdefault(found[1] or '', []).append(column)
  return {name: sorted(own, key=lambda column: int(_COLUMN.fullmatch(column)[2]))
          for name, own in columns.items()}


def write_table(path: str | pathlib.Path, identifiers: pandas.DataFrame,
                features: np.ndarray | dict[str, np.ndarray]) -> None:
  """Writes identifiers and float32 features [n, F], as .tsv or .parquet by the path's ending.

  What is read again is the same to the last bit.

  Args:
    features: of one encoder, or of several by name.
  """
  several = features if isinstance(features, dict) else {'': features}
  columns = [pandas.DataFrame(values, columns=[f'{name}:f{i}' if name else f'f{i}'
                                               for i in range(values.shape[1])])
             for name, values in several.items()]
  table = pandas.concat([identifiers.reset_index(drop=True), *columns], axis=1)
  path = pathlib.Path(path)
  temporary = path.with_name('.' + path.name + '.new')
  if path.suffix == '.parquet':
    table.to_parquet(temporary, index=False, engine='pyarrow')
  else:
    temporary.write_text(write_tables.as_tsv(table, float_format=_FLOAT32), encoding='utf-8')
  os.replace(temporary, path)


def write_description(table: pathlib.Path, content: dict[str, Any]) -> pathlib.Path:
  """Writes how a table was made, and by which versions, to the JSON beside it."""
  versions = machine.versions('jax', 'flax', 'numpy', 'nibabel', 'scipy')
  path = table.with_suffix('.json')
  temporary = path.with_name('.' + path.name + '.new')
  temporary.write_text(json.dumps(
      {'made_by': outputs.MADE_BY} | content | {'versions': versions}, indent=2) + '\n')
  os.replace(temporary, path)
  return path


def read_pool(table: pathlib.Path) -> str | None:
  """What the JSON beside a table says of how features were pooled; None where it says nothing."""
  pool = read_description(table).get('pool')
  return pool if isinstance(pool, str) else None


def read_synthetic(table: pathlib.Path) -> tuple[bool, frozenset[str]]:
  """What the JSON beside a table says is SYNTHETIC: its scans, and the training of which encoders.

  They are named as `read_encoders` names them. A JSON of old had one word for both.
  """
  said = read_description(table)
  several = said.get('encoders') if isinstance(said.get('encoders'), dict) else {'': said}
  cards = {name: one.get('card') for name, one in several.items() if isinstance(one, dict)}
  trained = frozenset(name for name, card in cards.items() if isinstance(card, dict)
                      and card.get('synthetic') and not card.get('untrained'))
  return bool(said.get('synthetic')), trained


def read_description(table: pathlib.Path) -> dict[str, Any]:
  """What was written of how a table was made; empty where nothing can be read beside it."""
  try:
    content = json.loads(table.with_suffix('.json').read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError):
    return {}
  return content if isinstance(content, dict) else {}


def _read_parquet(path: pathlib.Path) -> pandas.DataFrame:
  if not path.is_file():
    raise UserError(f'{path}: no such file')
  try:
    table = pandas.read_parquet(path, engine='pyarrow')
  except ImportError:
    raise UserError(f'{path}: a .parquet needs pyarrow: pip install pyarrow') from None
  except (OSError, ValueError) as error:     # pyarrow's errors are ValueErrors
    raise UserError(f'{path}: not a readable parquet file ({first_line(error)})') from None
  texts = [name for name in table if not _COLUMN.fullmatch(str(name))]
  table[texts] = table[texts].astype(str).where(table[texts].notna())
  return table.mask(table == '')
