"""Which column of a table holds the identifiers: known by its name, or asked for."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

import pandas

from anatcl_jax.errors import UserError, listed

# Without case and punctuation. Those of `_LOOSE` may also number the rows of a database or the
# images, so they count only where there is no other.
_STRICT = ('participantid', 'participant', 'participants', 'subjectid', 'subject', 'subjects',
           'subid', 'sub', 'subj', 'subjid', 'subjectkey', 'srcsubjectid', 'subjectlabel',
           'bidsid', 'mrid', 'iid', 'eid', 'feid', 'ptid', 'rid', 'oasisid', 'ixiid', 'patientid',
           'patient', 'anonymizedid', 'fsid', 'freesurferid', 'subjectcode', 'participantcode',
           'studyid', 'individualid', 'personid', 'pseudonym')
_LOOSE = ('id', 'scan', 'scanid', 'imageid', 'name', 'filename', 'folder')
_SESSIONS = ('session', 'sessionid', 'ses', 'visit', 'visitid', 'viscode', 'timepoint', 'eventname')


def find_id_column(path: pathlib.Path, table: pandas.DataFrame, others: list[str],
                   is_known: Callable[[str], bool] | None = None) -> str:
  """The column of identifiers; `others` are the columns that are no regions, in their order.

  A column that numbers the rows, and nameless columns of numbers, are never taken by themselves.
  `is_known` says of a name whether it has a scan, where scans are known.

  Raises:
    UserError: there is none, or several that disagree; the text says how to choose.
  """
  found = next((own for kind in (_STRICT, _LOOSE)
                if (own := [name for name in others if _plain(name) in kind])), [])
  if len(found) > 1:
    found = [name for name in found if not _numbers_rows(table[name])] or found
  if len(found) > 1 and is_known:
    found = [name for name in found if table[name].dropna().map(is_known).any()] or found
  if len(found) > 1 and any(not _same(table[found[0]], table[name]) for name in found[1:]):
    raise _ask(path, f'columns {listed(found)} could each hold the participants', others)
  if found:
    rivals = [name for name in others if name not in found and is_known
              and _is_text(table[name]) and table[name].dropna().map(is_known).mean() > 0.5]
    if rivals and _numbers_rows(table[found[0]]):
      raise _ask(path, f'{found[0]} numbers the rows, {rivals[0]} holds participants too', others)
    return found[0]
  first = str(table.columns[0])
  if first not in others:
    raise _ask(path, 'the first column is a region', others)
  if not _is_text(table[first]):
    what = (f'{first!r} holds numbers' if first else 'the first column has no name and holds '
            'numbers, as R and pandas write for the rows')
    raise _ask(path, f'{what}, and no column has a name known for participants', others)
  return first


def find_session_column(others: list[str], identifier: str) -> str | None:
  """The column that holds sessions, of those that are neither regions nor identifiers."""
  return next((name for known in _SESSIONS for name in others
               if _plain(name) == known and name != identifier), None)


def asked_column(table: pandas.DataFrame, asked: str) -> str | None:
  """The column of an --id-column: by its name, else in any case, else by its number from 1."""
  if asked in table.columns:
    return asked
  alike = [name for name in table.columns if name.lower() == asked.strip().lower()]
  if len(alike) == 1:
    return alike[0]
  place = int(asked) if re.fullmatch(r'\d{1,6}', asked) else 0
  return str(table.columns[place - 1]) if 1 <= place <= table.shape[1] else None


def _ask(path: pathlib.Path, why: str, others: list[str]) -> UserError:
  named = [name for name in others if name]
  return UserError(f'{path}: {why}; say which column holds the participants (participant_id, '
                   'subject, ...) with --id-column NAME or its number from 1; besides regions it '
                   f'has {listed(named, 8) or "none with a name"}')


def _plain(name: str) -> str:
  return re.sub('[^a-z0-9]', '', name.lower())


def _is_text(column: pandas.Series) -> bool:
  """Whether every cell holds a letter, or a zero in front that no tool gives a number."""
  cells = column.dropna()
  return len(cells) > 0 and bool(cells.str.contains(r'[A-Za-z]|^0\d', regex=True).all())


def _numbers_rows(column: pandas.Series) -> bool:
  """Whether the cells are 0 to n - 1 or 1 to n, in any order."""
  cells = pandas.to_numeric(column, errors='coerce')
  if cells.isna().any():
    return False
  return sorted(cells) in (list(range(len(cells))), list(range(1, len(cells) + 1)))


def _same(a: pandas.Series, b: pandas.Series) -> bool:
  """Whether two columns hold the same identifiers but for punctuation and sub-."""
  both = [column.fillna('').str.removeprefix('sub-').map(_plain) for column in (a, b)]
  return bool((both[0] == both[1]).all())
