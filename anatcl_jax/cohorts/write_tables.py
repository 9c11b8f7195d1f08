"""Tables as they are written: a text in them is never a formula of a spreadsheet.

Spreadsheets run cells that begin with = + - or @, also those of a TSV. A text that does gets an
apostrophe before it, which spreadsheets do not show and `tables.read_table` takes away again;
numbers, and a lone + or -, stay as they are.
"""

from __future__ import annotations

import re
from typing import Any

import pandas

_FORMULA = re.compile(r"\s*'*[=+\-@].", re.DOTALL)
_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)', re.IGNORECASE)


def as_tsv(table: pandas.DataFrame, **how: Any) -> str:
  """A table as tab-separated text; `how` is of pandas' to_csv."""
  texts = [name for name, kind in table.dtypes.items() if kind.kind not in 'iufb']
  harmless = table.assign(**{name: table[name].map(_cell) for name in texts})
  return harmless.rename(columns=_cell).to_csv(sep='\t', index=False, **how)


def _cell(value: Any) -> Any:
  if not isinstance(value, str) or not _FORMULA.match(value) or _NUMBER.fullmatch(value.strip()):
    return value
  return f"'{value.lstrip()}"
