"""Reads the phenotype table of a cohort by its preset, and finds the rows of its scans."""

from __future__ import annotations

import collections
import pathlib
import sys
from collections.abc import Iterable

import numpy as np
import pandas

from anatcl_jax.cohorts import ages, participants, tables
from anatcl_jax.cohorts.participants import AS_WRITTEN, UNTOLD, People, Reading
from anatcl_jax.cohorts.phenotypes import (
  DAYS_A_YEAR,
  PRESETS,
  Column,
  Preset,
  ScanKey,
  day_of,
  no_column,
)
from anatcl_jax.errors import UserError, listed


def read_phenotypes(path: pathlib.Path, name: str = 'bids',
                    reading: Reading = AS_WRITTEN) -> People:
  """A cohort's table as `read_people` gives it: participant_id, session, age (years), ...

  Columns that the preset knows get the names and codes that all cohorts share, all others stay.

  Raises:
    UserError: no column for participant or age, an identifier of another form, or an unknown code.
  """
  preset = PRESETS[name]
  table = tables.read_table(path)
  if not preset.columns:
    return participants.complete(path, table, reading)
  if reading.age_column or reading.sex_codes:
    raise UserError(f'--age-column and --sex-codes are of --phenotypes bids; {name} knows its own')
  table = table.mask(table.isin(preset.missing))
  for column in preset.columns:
    if column.required and not _source(table, column):
      raise no_column(path, table, column.name, column.sources, name)
  for column in preset.columns:
    table = _translate(path, table, column)
  table = table[table['participant_id'].notna()].reset_index(drop=True)
  table = _told(path, _in_our_form(path, table, preset), reading)
  return participants.complete(path, preset.derive(path, table))


def _told(path: pathlib.Path, table: pandas.DataFrame, reading: Reading) -> pandas.DataFrame:
  """The table with its ages as numbers, and why some are none."""
  why = [''] * len(table)
  for name in ('age', 'age_at_entry'):
    if name in table:
      values, untold = ages.read_column(path, table, name, reading.top_coded_age)
      table = table.assign(**{name: values})
      why = [one or other for one, other in zip(why, untold)]
  return table.assign(**{UNTOLD: why})


def at_scans(people: People, scans: Iterable[ScanKey]) -> People:
  """One row a scan: that of the nearest visit to the clinic, the age moved to the day of the scan.

  `days_from_visit` says how many days after the visit the scan was. Of a participant with a scan
  whose day is not known, all visits stay.
  """
  table = people.table
  visits = collections.defaultdict(list)
  for row, (participant, session) in enumerate(zip(table['participant_id'], table['session'])):
    visits[participant].append((day_of(session) or 0, row))
  rows, sessions, distances = [], [], []
  for participant, session in scans:
    day = day_of(session)
    for visit, row in sorted(visits[participant]) if day is None else sorted(
        visits[participant], key=lambda visit: abs(visit[0] - day))[:1]:
      rows.append(row)
      sessions.append(table['session'][row] if day is None else session)
      distances.append(0 if day is None else day - visit)
  if far := sum(abs(days) > DAYS_A_YEAR for days in distances):
    print(f'note: {far} scans are more than a year from their nearest visit to the clinic; '
          'the column days_from_visit says how far', file=sys.stderr)
  result = table.iloc[rows].reset_index(drop=True)
  visited = list(zip(result['participant_id'], result['session']))
  result = result.assign(session=sessions, days_from_visit=distances,
                         age=result['age'] + np.array(distances, float) / DAYS_A_YEAR)
  return People(result, {(visit[0], session): people.problems[visit]
                         for visit, session in zip(visited, sessions) if visit in people.problems})


def _source(table: pandas.DataFrame, column: Column) -> str | None:
  """The column of the table that becomes ours."""
  by_name = {name.lower(): name for name in reversed(table.columns)}
  return next((by_name[name.lower()] for name in column.sources if name.lower() in by_name), None)


def _translate(path: pathlib.Path, table: pandas.DataFrame, column: Column) -> pandas.DataFrame:
  """The table with one column under our name and in our codes."""
  source = _source(table, column)
  if source is None:
    return table
  if column.name in table and column.name != source:
    raise UserError(f'{path}: {source} becomes {column.name}, which stands there too; rename one')
  values = table[source]
  if column.codes:
    known = {code.lower(): meaning for code, meaning in column.codes.items()}
    codes = values.str.strip().str.lower().str.replace(r'\.0+$', '', regex=True)
    unknown = sorted(set(values[codes.notna() & ~codes.isin(known)]))
    if unknown:
      raise UserError(f'{path}: {source} holds {listed(unknown)}; the known codes are '
                      f'{", ".join(column.codes)}. Mend them, or leave the cells empty')
    values = codes.map(known)
  return table.assign(**{source: values}).rename(columns={source: column.name})


def _in_our_form(path: pathlib.Path, table: pandas.DataFrame, preset: Preset) -> pandas.DataFrame:
  """The table with participants and sessions in the form in which scans are looked up."""
  if preset.participant:
    keys = [preset.scan_key(text) for text in table['participant_id']]
    if wrong := [text for text, key in zip(table['participant_id'], keys) if key is None]:
      raise UserError(f'{path}: participant {listed(wrong)} is not of this cohort\'s form')
    table = table.assign(participant_id=[key[0] for key in keys])
  if 'session' in table:
    codes = [text and preset.session_code(text) for text in table['session'].fillna('')]
    if wrong := [text for text, code in zip(table['session'], codes) if code is None]:
      raise UserError(f'{path}: visit {listed(sorted(set(wrong)))} is not of this cohort\'s form')
    table = table.assign(session=codes)
  return table
