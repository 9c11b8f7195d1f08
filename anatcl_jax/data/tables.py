"""Text tables (TSV, CSV) and the identifiers in them, read so that errors name file and row."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

import pandas

from anatcl_jax.errors import UserError, listed

MISSING = ('', 'n/a', 'N/A', 'NA', 'nan', 'NaN')


def read_table(path: pathlib.Path,
               may_repeat: Callable[[str], bool] = lambda name: False) -> pandas.DataFrame:
  """A table of tabs, commas or semicolons with a header; every cell text, missing cells NaN.

  A column that `may_repeat` is one that the caller passes over: tables joined side by side repeat
  their summaries.

  Raises:
    UserError: no such file, no text in it, ragged rows, or a column named twice.
  """
  try:
    text = path.read_text(encoding='utf-8-sig')
  except FileNotFoundError:
    raise UserError(f'{path}: no such file') from None
  except IsADirectoryError:
    raise UserError(f'{path}: is a directory; give the table itself') from None
  except PermissionError:
    raise UserError(f'{path}: may not be read (permission denied)') from None
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8') from None
  lines = text.splitlines()
  if len(lines) < 2:
    raise UserError(f'{path}: holds no rows')
  separator = max('\t,;', key=lines[0].count)   # spreadsheets with decimal commas write semicolons
  columns = [name.strip().strip('"') for name in lines[0].split(separator)]
  twice = sorted({name for name in columns
                  if columns.count(name) > 1 and name and not may_repeat(name)})
  if twice:
    raise UserError(f'{path}: column {listed(twice)} stands there twice')
  try:
    table = pandas.read_csv(path, sep=separator, dtype=str, encoding='utf-8-sig', index_col=False,
                            keep_default_na=False)
  except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
    raise UserError(f'{path}: not a table ({str(error).splitlines()[0]})') from None
  table.columns = [str(name).strip() for name in table.columns]
  table = table.apply(lambda column: column.str.strip())
  return table.mask(table.isin(MISSING))


def numbers(path: pathlib.Path, column: pandas.Series, ids: list[str]) -> pandas.Series:
  """A column of text as float64, missing cells NaN; `ids` name its rows in errors."""
  values = pandas.to_numeric(column, errors='coerce')
  wrong = [f'{name} ({text})' for name, text, value in zip(ids, column, values)
           if pandas.isna(value) and not pandas.isna(text)]
  if wrong:
    hint = '; write decimals with a point' if any(',' in text for text in wrong) else ''
    raise UserError(f'{path}: column {column.name} is not a number for {listed(wrong)}{hint}')
  return values.astype(float)


def split_identifier(text: str) -> tuple[str, str]:
  """`01_ses-2` as ('sub-01', 'ses-2'): participant and session in BIDS's form, '' for no session.

  FreeSurfer's longitudinal names (`sub-01_ses-2.long.sub-01`) lose their ending.
  """
  text = text.strip().split('.long.')[0]
  match = re.fullmatch(r'(?:sub-)?(.+?)(?:[_/](ses-[A-Za-z0-9]+))?', text)
  return (f'sub-{match[1]}', match[2] or '') if match else (text, '')


def joined_identifier(participant_id: str, session: str) -> str:
  """How a scan is named to the user: `sub-01`, or `sub-01_ses-2` where there are sessions."""
  return f'{participant_id}_{session}' if session else participant_id
