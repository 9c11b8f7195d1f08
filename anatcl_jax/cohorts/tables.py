"""Text tables (TSV, CSV) and the identifiers in them, read so that errors name file and row."""

from __future__ import annotations

import collections
import csv
import io
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas

from anatcl_jax.errors import UserError, listed

# Cells that say nothing, as BIDS, R, pandas, spreadsheets and databases write them. `none` is not
# among them: it can be an answer, as to medication.
MISSING = ('', 'n/a', 'N/A', 'NA', '#N/A', '#NA', '<NA>', 'nan', 'NaN', '-nan', '-NaN', 'NaT',
           'None', 'null', 'NULL', 'Null', '.')


def read_text(path: pathlib.Path) -> str:
  """A text file, with or without a byte order mark.

  Raises:
    UserError: no such file, a directory, no permission, or not UTF-8.
  """
  try:
    return path.read_text(encoding='utf-8-sig')
  except FileNotFoundError:
    raise UserError(f'{path}: no such file') from None
  except IsADirectoryError:
    raise UserError(f'{path}: is a directory; give the table itself') from None
  except PermissionError:
    raise UserError(f'{path}: may not be read (permission denied)') from None
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8') from None


def read_table(path: pathlib.Path,
               may_repeat: Callable[[str], bool] = lambda name: False) -> pandas.DataFrame:
  """A table of tabs, commas or semicolons with a header; every cell text, missing cells NaN.

  Columns of one name and the same cells are one. A column that `may_repeat` is one that the caller
  passes over: tables joined side by side repeat their summaries.

  Raises:
    UserError: no such file, no text in it, ragged rows, or a column twice with other cells.
  """
  text = read_text(path)
  header = text.partition('\n')[0]
  separator = max('\t,;', key=header.count)   # spreadsheets with decimal commas write semicolons
  try:
    rows = _rows(text, separator)
  except csv.Error as error:
    raise UserError(f'{path}: not a table ({error})') from None
  if len(rows) < 2:
    raise UserError(f'{path}: holds no rows')
  columns = [as_meant(name) for name in rows[0]]
  ragged = [f'{row[0]} ({len(row)})' for row in rows[1:] if len(row) != len(columns)]
  if ragged:
    raise UserError(f'{path}: {len(columns)} columns, but other numbers of cells in the rows of '
                    f'{listed(ragged)}')
  twice = sorted({name for name, cells in _repeated(columns, rows[1:])
                  if not may_repeat(name) and cells > 1})
  if twice:
    raise UserError(f'{path}: column {listed(twice)} stands there twice, with other values')
  missing = frozenset(MISSING)
  cells = [[np.nan if (meant := as_meant(cell)) in missing else meant for cell in row]
           for row in rows[1:]]
  table = pandas.DataFrame(cells, columns=columns, dtype=str)
  return table.loc[:, ~table.columns.duplicated()]


def read_header(path: pathlib.Path) -> list[str]:
  """The names of a table's columns, as `read_table` has them; raises as `read_text`."""
  header = read_text(path).partition('\n')[0].rstrip('\r')
  separator = max('\t,;', key=header.count)
  return [as_meant(name) for name in next(csv.reader([header], delimiter=separator), [])]


def as_meant(cell: str) -> str:
  """A cell without spaces around it, and without the apostrophe that `write_tables` puts first."""
  cell = cell.strip()
  return re.sub(r"^'(?='*[=+\-@].)", '', cell, flags=re.DOTALL) if cell[:1] == "'" else cell


def _rows(text: str, separator: str) -> list[list[str]]:
  """The rows with a cell that says anything, by quotes; without them where a lone one swallows.

  In a table of BIDS a quote is a letter: 5" in a cell may swallow the cells and rows after it.
  """
  swallowed = None
  try:
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    if '"' not in text or (len(set(map(len, rows))) < 2
                           and not any('\n' in cell for row in rows for cell in row)):
      return rows
  except csv.Error as error:       # a cell longer than any, or a zero byte
    rows, swallowed = [], error
  plain_rows = [[re.sub('^"([^"]*)"$', r'\1', cell.strip()) for cell in line.split(separator)]
                for line in text.splitlines() if line.strip()]
  if '"' in text and len(set(map(len, plain_rows))) == 1:
    return plain_rows
  if swallowed:
    raise swallowed
  return rows


def _repeated(columns: list[str], rows: list[list[str]]) -> Iterator[tuple[str, int]]:
  """Names that several columns have, and how many different contents those have."""
  for name, count in collections.Counter(filter(None, columns)).items():
    if count > 1:
      places = [place for place, own in enumerate(columns) if own == name]
      yield name, len({tuple(row[place].strip() for row in rows) for place in places})


def categories(column: pandas.Series) -> pandas.Series:
  """A column's values as text without spaces around it, NaN where they are missing.

  1.0 is the code 1: tools write a column of whole numbers with gaps as floats.
  """
  text = column.astype(str).str.strip()
  return text.mask(column.isna() | text.isin(MISSING)).str.replace(
      r'^([+-]?\d+)\.0+$', r'\1', regex=True)


def category(value: str) -> str:
  """One such value, as `categories` would have it."""
  return categories(pandas.Series([value]))[0]


def numbers(path: pathlib.Path, column: pandas.Series, ids: Sequence[str],
            asked: np.ndarray | bool = True) -> pandas.Series:
  """A column of text as float64, missing cells NaN; `ids` name its rows in errors.

  Text is an error, but NaN in rows that are not `asked` for.
  """
  values = pandas.to_numeric(column, errors='coerce')
  unread = values.isna().to_numpy()
  if unread.any():
    unread = unread & column.notna().to_numpy() & asked
  if unread.any():
    wrong = [f'{ids[row]} ({column.iloc[row]})' for row in np.flatnonzero(unread)]
    hint = '; write decimals with a point' if any(',' in text for text in wrong) else ''
    raise UserError(f'{path}: column {column.name} is not a number for {listed(wrong)}{hint}')
  return values.astype(float)


def split_identifier(text: str) -> tuple[str, str]:
  """`01_ses-2` as ('sub-01', 'ses-2'): participant and session in BIDS's form, '' for no session.

  FreeSurfer's longitudinal names (`sub-01_ses-2.long.sub-01`) lose their ending.
  """
  text = text.strip().split('.long.')[0]
  match = re.fullmatch(r'(?:sub-)?(.+?)(?:[_/](ses-[^_/]+))?', text)
  return (f'sub-{match[1]}', match[2] or '') if match else (text, '')


def scan_keys(table: pandas.DataFrame, column: str) -> list[tuple[str, str]]:
  """Participant and session of each row; the session of its own column if there is one."""
  keys = [split_identifier(text) for text in table[column]]
  session = session_column(table)
  if not session:
    return keys
  own = table[session].fillna('').str.removeprefix('ses-')
  return [(participant, text and f'ses-{text}') for (participant, _), text in zip(keys, own)]


def session_column(table: pandas.DataFrame) -> str | None:
  """The name of the column that holds sessions, if there is one, in any case of letters."""
  return next((name for known in ('session', 'sessionid', 'ses') for name in table
               if plain(name) == known), None)


def plain(name: str) -> str:
  """A column's name without case and punctuation."""
  return re.sub('[^a-z0-9]', '', name.lower())


def joined_identifier(participant_id: str, session: str) -> str:
  """How a scan is named to the user: `sub-01`, or `sub-01_ses-2` where there are sessions."""
  return f'{participant_id}_{session}' if session else participant_id
