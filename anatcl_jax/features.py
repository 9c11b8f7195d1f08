"""Tables of features: a row a scan, identifiers first, then the columns f0, f1, ..."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pandas

from anatcl_jax.data import tables
from anatcl_jax.errors import UserError


def read_table(path: pathlib.Path) -> tuple[pandas.DataFrame, np.ndarray]:
  """Identifiers (participant_id, session, whatever else stands there) and float32 features [n, F].

  Raises:
    UserError: no such file, no participant_id, no columns f0, f1, ... or text among their numbers.
  """
  table = tables.read_table(path)
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
