"""Errors for the user, and how a command turns them into one line and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import resource
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO


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
      try:
        yield
      finally:
        sys.stdout.flush()
  except BrokenPipeError:
    if not _nobody_reads(sys.stdout):
      raise
    # Such as `head`, which has enough. Python would tell of it again when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
  except KeyboardInterrupt:
    print('error: interrupted; finished shards, checkpoints and tasks stay, the same command goes '
          'on from them', file=sys.stderr)
    sys.exit(130)
  except UserError as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(error.exit_code)
  except Stopped as stop:
    print(f'stopped: {stop}', file=sys.stderr)
    sys.exit(stop.exit_code)
  except Exception as error:
    line = _told(error)
    if not line:
      raise
    print(f'error: {line}', file=sys.stderr)
    sys.exit(UserError.exit_code if _NO_BACKEND in line else RunFailure.exit_code)


def _nobody_reads(stream: TextIO) -> bool:
  """Whether a stream is a pipe whose other end is closed."""
  watched = select.poll()
  watched.register(stream, select.POLLOUT)
  return any(event & select.POLLERR for _, event in watched.poll(0))


_NO_BACKEND = 'Unable to initialize backend'


def _told(error: Exception) -> str | None:
  """The line about an error of a library that a user can mend."""
  if is_out_of_memory(error):
    return _memory_line(error)
  if isinstance(error, OSError) and (remedy(error) or error.filename):
    return (f'{error.filename or "a file"}: {error.strerror}; {remedy(error) or "mend that"} and '
            'run the same command again')
  if isinstance(error, RuntimeError) and str(error).startswith(_NO_BACKEND):
    return (f'{str(error).splitlines()[0][:200]}; JAX_PLATFORMS='
            f'{os.environ.get("JAX_PLATFORMS", "")} asks for it: unset it, or install JAX for that '
            'device')
  return None


_OUT_OF_MEMORY = re.compile('RESOURCE_EXHAUSTED|out of memory|bad_alloc|failed to allocate'
                            '|unable to allocate|cannot allocate memory', re.I)
_ASKED = re.compile(r'allocat\w*(?: a buffer of| request for)? '
                    r'([\d.]+) ?([KMGTPE]?)(?:i?B|bytes)\b', re.I)


def is_out_of_memory(error: BaseException) -> bool:
  """Whether the host or a device had no memory left, as Python, NumPy, JAX and systems say it."""
  if isinstance(error, MemoryError) or getattr(error, 'errno', None) == errno.ENOMEM:
    return True
  return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def _memory_line(error: BaseException) -> str:
  asked = _ASKED.search(str(error))
  if asked:
    size = float(asked[1]) * 1024 ** ' KMGTPE'.index(asked[2].upper() or ' ')
    what = f'{size / 1e9:.3g} GB were asked for'
  else:
    what = (str(error).strip().splitlines() or ['no size is told'])[0][:160]
  return (f'out of memory: {what}; {_memory_there()}. What helps: a smaller batch_size '
          '(--batch-size of features) or crop, micro_batch_size, remat=blocks, precision=bfloat16, '
          'cache=none (docs/memory.md)')


def _memory_there() -> str:
  """What the host has free, and what the devices have where they say it."""
  import psutil  # here and below, since no other error needs them
  free = psutil.virtual_memory().available
  limit = resource.getrlimit(resource.RLIMIT_AS)[0]
  if limit != resource.RLIM_INFINITY:
    free = min(free, max(0, limit - psutil.Process().memory_info().vms))
  there = f'the host has {free / 1e9:.3g} GB free'
  jax = sys.modules.get('jax')
  with contextlib.suppress(Exception):    # the line must be told, whatever state JAX is in
    limits = [device.memory_stats()['bytes_limit'] for device in jax.local_devices()]
    there += f', a device has {min(limits) / 1e9:.3g} GB'
  return there


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
