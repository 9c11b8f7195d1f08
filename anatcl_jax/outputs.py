"""Files that a command writes: nothing is replaced that this program did not make.

A file says so itself: pages, JSON and pictures carry MARK. Tables of plain numbers can't;
`made.json` of their folder names them.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Iterable
from typing import Any

from anatcl_jax import __version__
from anatcl_jax.errors import UserError, listed

MARK = 'made by anatcl_jax'
MADE_BY = f'{MARK} {__version__}'
RECORD = 'made.json'       # of a folder of results: how they were made, and the names of the files
_READ = 1 << 16            # bytes from a file's beginning in which its mark stands


def is_own(path: pathlib.Path) -> bool:
  """Whether a file carries the mark of this program."""
  try:
    with path.open('rb') as file:
      return MARK.encode() in file.read(_READ)
  except OSError:
    return False


def check_file(path: pathlib.Path, option: str) -> None:
  """Stops a command that could not write a file at its end, or would replace somebody else's.

  Args:
    option: that names another place, for the error.

  Raises:
    UserError: there is something that this program did not make, or the folder can't be written.
  """
  if path.is_dir():
    raise UserError(f'{path}: is a folder; give the name of a file to {option}')
  if path.exists() and not is_own(path):
    raise UserError(f'{path}: is there already and was not made by this program; choose another '
                    f'{option}, or remove it')
  _check_writable(path.parent, option)


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes figures with the mark of this program; folders on the way are made.

  Raises:
    UserError: the file system does not take it.
  """
  write_page(path, json.dumps({'made_by': MADE_BY} | content, indent=1) + '\n')


def write_page(path: pathlib.Path, text: str) -> None:
  """Writes a page whose text holds the mark; folders on the way are made.

  Raises:
    UserError: the file system does not take it.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
  except OSError as error:
    raise UserError(f'{path}: can\'t be written ({error.strerror})') from None


def check_folder(folder: pathlib.Path, names: Iterable[str], inside: str, option: str) -> None:
  """The same for a folder of results.

  Args:
    names: of all files that may be written into it.
    inside: a folder in it whose files all are of this program.
  """
  if any(path.exists() and not path.is_dir() for path in (folder, *folder.parents)):
    raise UserError(f'{folder}: is or lies in a file; choose another {option}')
  known = recorded(folder)
  strange = [name for name in names if (folder / name).exists()
             and (folder / name).name not in known and not is_own(folder / name)]
  strange += [f'{inside}/{path.name}' for path in sorted((folder / inside).glob('*'))
              if path.is_dir() or f'{inside}/{path.name}' not in known and not is_own(path)]
  if strange:
    raise UserError(f'{folder}: {listed(strange)} would be replaced, and this program did not make '
                    f'{"it" if len(strange) == 1 else "them"}; choose another {option}')
  _check_writable(folder, option)


def recorded(folder: pathlib.Path) -> set[str]:
  """Names of the files that a folder's record says were made for it."""
  try:
    record = json.loads((folder / RECORD).read_text(encoding='utf-8'))
    return set(map(str, record['files'])) if MARK in record['made_by'] else set()
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return set()


def _check_writable(folder: pathlib.Path, option: str) -> None:
  """Tries it, in the folder or where it would be made; leaves nothing behind."""
  nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
  try:
    with tempfile.TemporaryFile(dir=nearest):
      pass
  except OSError as error:
    raise UserError(f'{folder}: can\'t be written ({os.strerror(error.errno or 0)}); choose '
                    f'another {option}') from None
