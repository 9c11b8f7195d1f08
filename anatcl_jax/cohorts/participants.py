"""The participants table of BIDS: who, how old, which sex, which site."""

from __future__ import annotations

import json
import pathlib

import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, listed

OLDEST = 120.0

_SEXES = {'m': 'M', 'male': 'M', 'f': 'F', 'female': 'F'}


def read_participants(path: pathlib.Path, unnamed: str = '') -> pandas.DataFrame:
  """One row a participant, or a scan where the table has sessions, in the table's order.

  Columns `participant_id` (sub-...) and `session` (ses-..., '' for none), `age` (years, NaN where
  missing), then every other column as text. Ages are not judged here: see `age_problem`. Where
  participant_id is missing, rows are called by `unnamed`, if given, and their number.

  Raises:
    UserError: no column participant_id or age, a participant twice, an age that is not a number, or
      a sidecar that says that ages are not years.
  """
  table = tables.read_table(path)
  if unnamed and 'participant_id' not in table:
    table.insert(0, 'participant_id', [f'{unnamed}{row:05d}' for row in range(len(table))])
  return complete_participants(path, table)


def complete_participants(path: pathlib.Path, table: pandas.DataFrame) -> pandas.DataFrame:
  """`read_participants` of a table that is read already; `path` is for messages and the sidecar."""
  for column in ('participant_id', 'age'):
    if column not in table:
      raise UserError(f'{path}: has no column {column}, only {listed(list(table.columns), 12)}')
  table = table[table['participant_id'].notna()].reset_index(drop=True)
  names = tables.scan_keys(table, 'participant_id')
  if session := tables.session_column(table):
    table = table.drop(columns=session)
  labels = [tables.joined_identifier(*name) for name in names]
  twice = sorted({label for label in labels if labels.count(label) > 1}) if len(
      set(labels)) < len(labels) else []
  if twice:
    raise UserError(f'{path}: {listed(twice)} stand{"s" if len(twice) == 1 else ""} there more '
                    'than once; keep one row a participant (and session)')
  unit = _age_unit(path.with_suffix('.json'))
  if unit and not unit.lower().startswith('year'):
    raise UserError(f'{path}: its sidecar {path.with_suffix(".json").name} gives age in {unit}; '
                    'convert it to years')
  table['age'] = tables.numbers(path, table['age'], labels)
  if 'sex' in table:
    table['sex'] = [_SEXES.get(str(sex).lower(), sex) for sex in table['sex']]
  table['participant_id'] = [name[0] for name in names]
  table.insert(1, 'session', [name[1] for name in names])
  return table


def concatenated(parts: list[pandas.DataFrame], names: list[pathlib.Path]) -> pandas.DataFrame:
  """One table of several; a UserError where a participant (and session) stands in two of them."""
  table = pandas.concat(parts, ignore_index=True)
  twice = list(table['participant_id'][table.duplicated(['participant_id', 'session'])])
  if twice:
    raise UserError(f'{listed(twice)} stand{"s" if len(twice) == 1 else ""} in more than one of '
                    f'{", ".join(map(str, names))}; keep one row a participant (and session)')
  return table


def age_problem(age: float) -> str | None:
  """What is wrong with an age in years, or None."""
  if pandas.isna(age):
    return 'has no age'
  if 0 <= age <= OLDEST:
    return None
  hint = ', if that is months divide by 12' if OLDEST < age <= OLDEST * 12 else ''
  return f'has age {age:g}, outside 0 to {OLDEST:g} years{hint}'


def _age_unit(sidecar: pathlib.Path) -> str | None:
  try:
    described = json.loads(sidecar.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return None
  age = described.get('age') if isinstance(described, dict) else None
  return str(age['Units']) if isinstance(age, dict) and age.get('Units') else None
