"""Tables of people: who, which session, how old, which sex, which site."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Mapping

import pandas

from anatcl_jax.cohorts import ages, id_columns, tables
from anatcl_jax.cohorts.phenotypes import ScanKey
from anatcl_jax.errors import UserError, listed

_SEXES = {'m': 'M', 'male': 'M', 'man': 'M', 'f': 'F', 'female': 'F', 'woman': 'F'}
UNTOLD = 'age that could not be told'
# They hold sessions only of a table in which people repeat.
_VISITS = ('visit', 'viscode', 'visitid', 'visitname', 'visitcode', 'timepoint', 'wave',
           'eventname')


@dataclasses.dataclass(frozen=True)
class People:
  """One row a participant, or a scan where the table has sessions, in the table's order.

  Columns `participant_id` (sub-...) and `session` (ses-..., '' for none), `age` (years, NaN where
  missing or not to be told) if the table has one, then every other column as text. `problems` says
  of rows why they can't be used: an age that is none, or rows of one scan that disagree.
  """

  table: pandas.DataFrame
  problems: dict[ScanKey, str]


@dataclasses.dataclass(frozen=True)
class Reading:
  """How a table of people is read where it does not say: columns, and ages such as 89+."""

  id_column: str | None = None
  age_column: str | None = None
  top_coded_age: float | None = None      # years, NaN for missing, None for an error
  sex_codes: Mapping[str, str] = dataclasses.field(default_factory=dict)     # '1' -> 'M'


AS_WRITTEN = Reading()


def read_participants(path: pathlib.Path, unnamed: str = '') -> pandas.DataFrame:
  """The table of `read_people` where all of it is wanted; `unnamed` names rows without a name.

  Raises:
    UserError: no participants or ages, or a row that can't be used.
  """
  table = tables.read_table(path)
  if unnamed and 'participant_id' not in table:
    table.insert(0, 'participant_id', [f'{unnamed}{row:05d}' for row in range(len(table))])
  people = complete(path, table, strict=True)
  if 'age' not in people.table:
    raise ages.no_column(path, table)
  if people.problems:
    raise UserError(f'{path}: ' + listed([f'{tables.joined_identifier(*key)} {why}'
                                          for key, why in people.problems.items()], 3))
  return people.table


def read_people(path: pathlib.Path, reading: Reading = AS_WRITTEN) -> People:
  """People of a table in the form of BIDS, or of other names that say the same.

  Rows that agree are one. Ages are not judged here (see `age_problem`), only understood.

  Raises:
    UserError: no column of participants, several that could be, or a unit of age that is none.
  """
  return complete(path, tables.read_table(path), reading)


def complete(path: pathlib.Path, table: pandas.DataFrame, reading: Reading = AS_WRITTEN, *,
             strict: bool = False) -> People:
  """`read_people` of a table that is read already; `path` is for messages and the sidecar.

  `strict`: a row that repeats a scan is a problem also where it agrees. A column `UNTOLD` says why
  ages could not be told that are NaN already.
  """
  table = _named(path, table, 'participant_id', _id_column(path, table, reading.id_column))
  table = table[table['participant_id'].notna()].reset_index(drop=True)
  keys = [tables.split_identifier(text) for text in table['participant_id']]
  if session := _session_column(table, keys):
    own = tables.categories(table[session]).fillna('').str.removeprefix('ses-')
    keys = [(participant, text and f'ses-{text}') for (participant, _), text in zip(keys, own)]
    table = table.drop(columns=session)
  why = [''] * len(table)
  if UNTOLD in table:
    why = list(table.pop(UNTOLD))
  elif column := ages.find_column(path, table, reading.age_column):
    values, why = ages.read_column(path, table, column, reading.top_coded_age)
    table = _named(path, table.assign(**{column: values}), 'age', column)
  table = _with_sex(path, table, reading.sex_codes)
  table['participant_id'] = [key[0] for key in keys]
  table.insert(1, 'session', [key[1] for key in keys])
  return _once(path, table, why, strict)


def _id_column(path: pathlib.Path, table: pandas.DataFrame, asked: str | None) -> str:
  """The column of identifiers; `asked` may be that of other tables, and a number only asks here."""
  named = id_columns.asked_column(table, asked) if asked is not None else None
  if named and not asked.isdigit():
    return named
  if 'participant_id' in table:
    return 'participant_id'
  try:
    return id_columns.find_id_column(path, table, list(table.columns))
  except UserError:
    if named:
      return named
    if asked is None:
      raise
    raise UserError(f'{path}: has no column {asked} (--id-column), only '
                    f'{listed(list(table.columns), 12)}') from None


def _named(path: pathlib.Path, table: pandas.DataFrame, name: str, source: str) -> pandas.DataFrame:
  """The table with one column under our name."""
  if name != source and name in table:
    table = table.rename(columns={name: f'{name}_unused'})
  return table.rename(columns={source: name})


def _session_column(table: pandas.DataFrame, keys: list[ScanKey]) -> str | None:
  """The column of sessions: by its name; visits and the like only where people repeat."""
  if column := tables.session_column(table):
    return column
  repeats = len(set(keys)) < len(keys)
  return next((name for name in table if repeats and tables.plain(name) in _VISITS), None)


def _with_sex(path: pathlib.Path, table: pandas.DataFrame,
              asked: Mapping[str, str]) -> pandas.DataFrame:
  """The table with a column `sex` of M and F, as far as its words, its sidecar or `asked` say."""
  column = next((name for wanted in ('sex', 'gender') for name in table
                 if tables.plain(name) == wanted), None)
  if column is None:
    return table
  levels = ages.described(path.with_suffix('.json'), column).get('Levels')
  codes = ({str(code).lower(): _SEXES.get(_meaning(said).lower())
            for code, said in levels.items()} if isinstance(levels, dict) else {}) | dict(asked)
  texts = tables.categories(table[column])
  sexes = [codes.get(str(text).lower()) or _SEXES.get(str(text).lower(), raw)
           for text, raw in zip(texts, table[column])]
  if 'sex' in table and column != 'sex':
    return table
  return table.assign(**{column: sexes}).rename(columns={column: 'sex'})


def sex_codes(text: str) -> dict[str, str]:
  """The value of --sex-codes, `1=M,2=F`, as codes in small letters.

  Raises:
    UserError: it is of another form.
  """
  pairs = [pair.partition('=') for pair in text.split(',')]
  codes = {code.strip().lower(): _SEXES.get(meaning.strip().lower()) for code, _, meaning in pairs}
  if len(codes) < len(pairs) or '' in codes or None in codes.values():
    raise UserError(f'--sex-codes {text!r}: write each code with M or F, as in 1=M,2=F')
  return codes


def _meaning(said: object) -> str:
  """What a level of a sidecar is: a text, or BIDS's {Description: ...}."""
  return str(said.get('Description', '') if isinstance(said, dict) else said).strip()


def _once(path: pathlib.Path, table: pandas.DataFrame, why: list[str], strict: bool) -> People:
  """Rows of one scan that agree as one; of those that disagree the first, with a problem."""
  keys = list(zip(table['participant_id'], table['session']))
  problems = {key: text for key, text in reversed(list(zip(keys, why))) if text}
  again = table.duplicated(['participant_id', 'session'], keep=False)
  if not again.any():
    return People(table, problems)
  for key, rows in table[again].groupby(['participant_id', 'session'], sort=False):
    values = {name: tables.categories(rows[name].dropna()).unique() for name in rows}
    differ = [name for name, own in values.items() if len(own) > 1]
    if differ or strict:
      shown = (f', with {differ[0]} {" and ".join(map(str, values[differ[0]][:3]))}'
               if differ else '')
      problems[key] = (f'stands there more than once{shown}; keep one row a participant (and '
                       'session)')
    table.loc[rows.index[0]] = rows.bfill().iloc[0]
  kept = table[~table.duplicated(['participant_id', 'session'])].reset_index(drop=True)
  print(f'note: {len(table) - len(kept)} rows of {path} repeat a participant (and session); where '
        'they agree they are one', file=sys.stderr)
  return People(kept, problems)


def concatenated(parts: list[pandas.DataFrame], names: list[pathlib.Path]) -> pandas.DataFrame:
  """One table of several; a UserError where a participant (and session) stands in two of them."""
  table = pandas.concat(parts, ignore_index=True)
  twice = list(table['participant_id'][table.duplicated(['participant_id', 'session'])])
  if twice:
    raise UserError(f'{listed(twice)} stand{"s" if len(twice) == 1 else ""} in more than one of '
                    f'{", ".join(map(str, names))}; keep one row a participant (and session)')
  return table
