"""Real people of public cohorts: what tables of people and of morphometry say of the same ones."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from anatcl_jax import errors
from anatcl_jax.errors import UserError

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  from anatcl_jax.cohorts.morphometry import Morphometry

FEWEST = 20                   # people of a group that a fit rests on


@dataclasses.dataclass(frozen=True)
class People:
  """N people, each array [N]: age in years, male 0 or 1, site, intracranial mm^3, name.

  values [N, R, M] are their measures of regions.
  """

  age: np.ndarray
  male: np.ndarray
  site: np.ndarray
  intracranial: np.ndarray
  values: np.ndarray
  name: np.ndarray

  def select(self, rows: np.ndarray) -> People:
    """Those of the rows, a mask [N]."""
    return People(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def read_people(paths: list[pathlib.Path], participants: list[pathlib.Path], atlas: str,
                codes: str, measures: tuple[str, ...], *, loose: bool = False,
                head: bool = True) -> People:
  """People complete in tables of morphometry, with what tables of people say of them.

  `loose` as RowNames has it; without `head` nobody's intracranial volume is known.

  Raises:
    UserError: nobody, or a column that is not there.
  """
  import pandas

  from anatcl_jax.cohorts import participants as of_people
  from anatcl_jax.cohorts.read_morphometry import read_tables
  from anatcl_jax.cohorts.row_names import RowNames
  tables = [of_people.read_people(path, of_people.Reading(sex_codes=of_people.sex_codes(codes)))
            for path in participants]
  table = pandas.concat([people.table for people in tables]).drop_duplicates('participant_id')
  problems = {scan for people in tables for scan in people.problems}
  table = table[[(name, '') not in problems for name in table['participant_id']]]
  names = RowNames(scans=tuple((name, '') for name in table['participant_id']), loose=loose)
  read = read_tables(paths, atlas, names)
  values = read.values[..., _columns(read, measures)].astype(float)
  values = {scan[0]: x for scan, x in zip(read.scans, values)
            if np.isfinite(x).all() and scan not in read.outliers}
  if not head:
    table = table.assign(eTIV=np.nan)
  elif 'eTIV' not in table:
    volume = of_people.read_people(paths[0]).table.set_index('participant_id')
    if 'eTIV' not in volume:
      raise UserError(f'{paths[0]} has no column eTIV')
    table = table.assign(eTIV=table['participant_id'].map(volume['eTIV']))
  table = table[table['participant_id'].isin(values) & table['age'].notna()
                & table['sex'].isin(['M', 'F'])]
  if len(table) < 2 * FEWEST:
    raise UserError(f'{len(table)} people of {read.source} have age, sex and complete morphometry; '
                    f'the fit needs {2 * FEWEST}')
  site = table['site'].to_numpy(str) if 'site' in table else np.full(len(table), '')
  return People(table['age'].to_numpy(float), (table['sex'] == 'M').to_numpy(float), site,
                table['eTIV'].to_numpy(float),
                np.stack([values[name] for name in table['participant_id']]),
                table['participant_id'].to_numpy(str))


def twice(sessions: list[pathlib.Path], participants: list[pathlib.Path], codes: str,
          measures: tuple[str, ...]) -> tuple[People, np.ndarray]:
  """People complete in two tables, and their values in the second: [N, R, M].

  Raises:
    UserError: too few of them, or a column that is not there.
  """
  first, second = (read_people([path], participants, 'desikan', codes, measures, head=False)
                   for path in sessions)
  first = first.select(np.isin(first.name, second.name))
  if len(first.name) < FEWEST:
    raise UserError(f'{len(first.name)} people are complete in {sessions[0]} and {sessions[1]}; '
                    f'{FEWEST} are needed')
  place = {name: row for row, name in enumerate(second.name)}
  return first, second.values[[place[name] for name in first.name]]


def _columns(read: Morphometry, measures: tuple[str, ...]) -> list[int]:
  for name in measures:
    errors.check_name(name, read.measures, f'measure of {read.source}')
  return [read.measures.index(name) for name in measures]
