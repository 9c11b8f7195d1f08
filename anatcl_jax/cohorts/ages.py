"""Ages as tables write them, in years: which column, which unit, and what a cell says."""

from __future__ import annotations

import json
import math
import pathlib
import re

import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, listed

OLDEST = 120.0

# Without case and punctuation; with the unit that the name states.
_YEARS = ('age', 'ageyears', 'ageyear', 'ageyrs', 'ageyr', 'agey', 'ageinyears', 'ageatscan',
          'ageatscanyears', 'ageatscaninyears', 'agescan', 'scanage', 'ageatmri', 'mriage',
          'agemri', 'ageatimaging', 'ageatvisit', 'visitage', 'ageatsession', 'sessionage',
          'ageatfirstscanyears', 'ageatfirstscan')
_MONTHS = ('agemonths', 'ageinmonths', 'agemonth', 'agemos', 'ageatscanmonths', 'interviewage')
_BASELINE = ('ageatbaseline', 'agebaseline', 'agebl', 'baselineage', 'ageatentry',
             'ageatenrollment')

# What a year has of a unit, by how the unit is written.
_A_YEAR = {'y': 1.0, 'm': 12.0, 'w': 365.25 / 7, 'd': 365.25}
_UNITS = {'y': 'y', 'yr': 'y', 'yrs': 'y', 'year': 'y', 'years': 'y', 'yo': 'y',
          'm': 'm', 'mo': 'm', 'mos': 'm', 'mon': 'm', 'month': 'm', 'months': 'm',
          'w': 'w', 'wk': 'w', 'wks': 'w', 'week': 'w', 'weeks': 'w',
          'd': 'd', 'day': 'd', 'days': 'd'}
_NUMBER = r'(\d+(?:\.\d*)?|\.\d+)'
_WITH_UNIT = re.compile(_NUMBER + r'\s*([A-Za-z]+)\.?(?:\s+old)?')
_DURATION = re.compile(r'P(?=\d)(?:(\d+(?:\.\d+)?)Y)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)W)?'
                       r'(?:(\d+(?:\.\d+)?)D)?(?:T.*)?')
_AT_LEAST = re.compile(
    rf'(?:>=?|≥|over|above|older than|at least)\s*{_NUMBER}(?:\s*(?:y|yrs?|years?))?(?:\s+old)?|'
    rf'{_NUMBER}\s*(?:y|yrs?|years?)?\s*(?:\+|(?:or|and) (?:older|over|above|more)|'
    r'plus)(?:\s*(?:y|yrs?|years?))?', re.IGNORECASE)
_RANGE = re.compile(r'\d+(?:\.\d+)?\s*(?:-|–|to)\s*\d+(?:\.\d+)?')


def parsed(text: str, unit: float = 1.0, top_coded: float | None = None) -> tuple[float, str]:
  """An age in years and why it can't be told ('' where it can; then NaN means missing).

  Numbers count in `unit`s a year; `25 years`, DICOM's `045Y` and ISO 8601's `P25Y6M` state their
  own. A cell `89+` is read as `top_coded`: another number, NaN for missing, None for an error.
  """
  text = text.strip()
  if re.fullmatch(r'[+-]?' + _NUMBER + r'(?:[eE][+-]?\d+)?', text):
    return float(text) / unit, ''
  if (match := _WITH_UNIT.fullmatch(text)) and match[2].lower() in _UNITS:
    return float(match[1]) / _A_YEAR[_UNITS[match[2].lower()]], ''
  if (match := _DURATION.fullmatch(text)) and any(match.groups()):
    return sum(float(part) / a_year for part, a_year in zip(match.groups(), _A_YEAR.values())
               if part), ''
  if match := _AT_LEAST.fullmatch(text):
    bound = float(match[1] or match[2]) / unit
    if top_coded is None:
      return math.nan, (f'has age {text}, a bound and no age; --top-coded-age {bound:g} or another '
                        'number, or --top-coded-age missing, says how it is read')
    if top_coded < bound:
      return math.nan, f'has age {text}, more than --top-coded-age {top_coded:g}'
    return top_coded, ''
  if _RANGE.fullmatch(text):
    return math.nan, f'has age {text}, a range; give one number, or leave the cell empty'
  hint = '; write decimals with a point' if re.fullmatch(r'\d+,\d+', text) else ''
  return math.nan, f'has age {text}, which is not a number{hint}'


def top_coded_age(text: str) -> float:
  """The value of --top-coded-age: a number of years, or NaN for `missing`.

  Raises:
    UserError: neither, or no age of a person.
  """
  if text == 'missing':
    return math.nan
  try:
    years = float(text)
  except ValueError:
    years = math.nan
  if not 0 < years <= OLDEST:
    raise UserError(f'--top-coded-age {text!r}: give the years as which 89+ and the like are read, '
                    'such as 89, or missing')
  return years


def read_column(path: pathlib.Path, table: pandas.DataFrame, name: str,
                top_coded: float | None = None) -> tuple[list[float], list[str]]:
  """Ages in years of a column, and of each row why its age can't be told ('' where it can).

  The unit is that of the sidecar beside the table, else of the column's name, else years.

  Raises:
    UserError: a sidecar with a unit that is no time.
  """
  sidecar = path.with_suffix('.json')
  stated = described(sidecar, name).get('Units')
  stated = None if str(stated) in tables.MISSING else stated
  unit = _unit(str(stated)) if stated else 'm' if tables.plain(name) in _MONTHS else 'y'
  if unit is None:
    raise UserError(f'{path}: its sidecar {sidecar.name} gives {name} in {stated}; convert it to '
                    'years, and say so there')
  values, why = [], []
  for cell in table[name]:
    value, problem = (math.nan, '') if pandas.isna(cell) else parsed(cell, _A_YEAR[unit], top_coded)
    values.append(value)
    why.append(problem)
  return values, why


def find_column(path: pathlib.Path, table: pandas.DataFrame,
                asked: str | None = None) -> str | None:
  """The column of ages: `age`, or one of a name that says the same; None where there is none.

  Raises:
    UserError: `asked` (--age-column) is not there, or several differ.
  """
  if asked is not None:
    if asked not in table:
      raise UserError(f'{path}: has no column {asked} (--age-column), only '
                      f'{listed(list(table.columns), 12)}')
    return asked
  if 'age' in table:
    return 'age'
  found = ([name for name in table if tables.plain(name) in _YEARS]
           or [name for name in table if tables.plain(name) in _MONTHS]
           or [name for name in table if tables.plain(name) in _BASELINE])
  if len(found) > 1 and any(not table[found[0]].equals(table[name]) for name in found[1:]):
    raise UserError(f'{path}: columns {listed(found)} could each hold the age; say which with '
                    '--age-column')
  return found[0] if found else None


def no_column(path: pathlib.Path, table: pandas.DataFrame) -> UserError:
  """The error of a table without a column of ages."""
  alike = [name for name in table if 'age' in re.split('[^a-z]+', name.lower())]
  return UserError(f'{path}: has no column age, only {listed(list(table.columns), 12)}'
                   + (f'; is it {listed(alike, 3)}? --age-column says so' if alike else
                      '; --age-column names another'))


def described(sidecar: pathlib.Path, column: str) -> dict:
  """What a sidecar says of a column, as BIDS has it; {} where it says nothing."""
  try:
    whole = json.loads(tables.read_text(sidecar))
  except (UserError, ValueError, RecursionError):
    return {}
  about = whole.get(column) if isinstance(whole, dict) else None
  return about if isinstance(about, dict) else {}


def age_problem(age: float) -> str | None:
  """What is wrong with an age in years, or None."""
  if pandas.isna(age):
    return 'has no age'
  if 0 <= age <= OLDEST:
    return None
  hint = ', if that is months divide by 12' if OLDEST < age <= OLDEST * 12 else ''
  return f'has age {age:g}, outside 0 to {OLDEST:g} years{hint}'


def _unit(text: str) -> str | None:
  return next((_UNITS[word] for word in re.findall('[a-z]+', text.lower()) if word in _UNITS), None)
