"""Errors for the user, and how a command turns them into one line and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Iterable, Iterator


class UserError(Exception):
  """Wrong use or wrong input: the text names the culprit and the remedy; exit code 2."""

  exit_code = 2


class RunFailure(UserError):
  """A run that started well and failed, such as a loss that is not finite; exit code 1."""

  exit_code = 1


class Stopped(Exception):
  """A signal stopped the run and all is saved; exit code 75 (sysexits.h: try again later)."""

  exit_code = 75


def listed(names: list[str], most: int = 5) -> str:
  """The first names of a list and how many more there are: `a, b and 3 more`."""
  shown = ', '.join(names[:most])
  return f'{shown} and {len(names) - most} more' if len(names) > most else shown


def remedy(error: OSError) -> str:
  """What helps where a file can't be written or read; '' where that is not known."""
  if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
    return 'make room'
  if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
    return 'see that you may write there'
  if error.errno in (errno.EMFILE, errno.ENFILE):
    return 'allow more open files (ulimit -n)'
  return ''


@contextlib.contextmanager
def reported() -> Iterator[None]:
  """Ends the process with one line `error: ...` on stderr where the body raises a UserError.

  An interruption from the keyboard is one too.
  """
  try:
    with _without_late_callbacks():
      yield
  except KeyboardInterrupt:
    print('error: interrupted; finished shards and checkpoints stay, the same command goes on from '
          'them', file=sys.stderr)
    sys.exit(130)
  except UserError as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(error.exit_code)
  except OSError as error:
    if not remedy(error) and not error.filename:
      raise
    print(f'error: {error.filename or "a file"}: {error.strerror}; '
          f'{remedy(error) or "mend that"} and run the same command again', file=sys.stderr)
    sys.exit(RunFailure.exit_code)
  except RuntimeError as error:
    if not str(error).startswith('Unable to initialize backend'):
      raise
    print(f'error: {str(error).splitlines()[0][:200]}; JAX_PLATFORMS='
          f'{os.environ.get("JAX_PLATFORMS", "")} asks for it: unset it, or install JAX for that '
          'device', file=sys.stderr)
    sys.exit(UserError.exit_code)
  except Stopped as stop:
    print(f'stopped: {stop}', file=sys.stderr)
    sys.exit(stop.exit_code)


@contextlib.contextmanager
def _without_late_callbacks() -> Iterator[None]:
  """Hides the traceback of a TensorStore that tells Orbax's closed event loop of a failure."""
  usual = sys.unraisablehook

  def hook(unraisable):
    if str(unraisable.exc_value) != 'Event loop is closed':
      usual(unraisable)

  sys.unraisablehook = hook
  try:
    yield
  finally:
    sys.unraisablehook = usual


def check_name(name: str, valid: Iterable[str], kind: str) -> None:
  """Raises UserError, with the nearest valid name and all of them, where `name` is none of them."""
  names = list(valid)
  if name not in names:
    nearest, = difflib.get_close_matches(str(name), names, n=1, cutoff=0)
    raise UserError(f'unknown {kind} {name!r}: did you mean {nearest!r}? '
                    f'Valid: {", ".join(names)}')
