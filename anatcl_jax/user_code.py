"""Python files of the user's, configs and tasks: run, and mistakes in them told in one line."""

from __future__ import annotations

import contextlib
import pathlib
import runpy
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from anatcl_jax.errors import UserError


def run(path: pathlib.Path, kind: str) -> dict[str, Any]:
  """What a Python file defines; modules beside it can be imported.

  Args:
    kind: what it is, for errors, such as `config file`.

  Raises:
    UserError: it can't be read, or raises anything; the text has file and line.
  """
  try:
    path.read_bytes()
  except OSError as error:
    raise UserError(f'{path}: no such {kind}' if isinstance(error, FileNotFoundError) else
                    f'{path}: can\'t be read as a {kind} ({error.strerror})') from None
  with told(path, kind):
    try:
      return runpy.run_path(str(path))
    except UserError as error:   # of a Task, say, which does not know where it stands
      raise UserError(f'{_where(error, path)}: {error}') from None


@contextlib.contextmanager
def told(path: pathlib.Path, kind: str) -> Iterator[None]:
  """Around code of the file: whatever it raises becomes a UserError with file and line."""
  folder = str(path.absolute().parent)
  sys.path.append(folder)    # behind what is installed, which it can't hide
  try:
    yield
  except UserError:
    raise
  except (Exception, SystemExit) as error:   # whatever a Python file of the user raises
    text = error.msg if isinstance(error, SyntaxError) else ' '.join(str(error).split())
    raise UserError(f'{_where(error, path)}: {type(error).__name__}: {text[:300]} '
                    f'(the {kind} is Python that is run)') from None
  finally:
    sys.path.remove(folder)


def _where(error: BaseException, path: pathlib.Path) -> str:
  """`FILE, line N`, of the innermost line in the file or in a module beside it."""
  if isinstance(error, SyntaxError) and error.filename and pathlib.Path(error.filename).is_file():
    return f'{error.filename}, line {error.lineno or 1}'
  frames = [frame for frame in traceback.extract_tb(error.__traceback__)
            for file in [pathlib.Path(frame.filename).absolute()]
            if file.parent == path.absolute().parent and file.is_file()]   # not `<string>`
  return f'{frames[-1].filename}, line {frames[-1].lineno}' if frames else str(path)
