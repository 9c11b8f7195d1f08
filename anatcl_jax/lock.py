"""One process at a time in a folder or with a file: a lock that tells who has it.

The kernel's lock (flock) ends with its process, however that dies. Some file systems of clusters
know none, or keep it to one machine; so the holder also writes its name and touches the lock file
every few seconds, and whoever finds a name of another machine watches whether that still beats.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator

from anatcl_jax.errors import UserError

LOCK_FILE = '.lock'
_BEAT, _SILENT = 2.0, 20.0     # seconds: between touches, and after which none counts as dead
_LEASE = 120.0                 # a server of files may keep the lock of a machine that is gone
_BUSY = (errno.EAGAIN, errno.EACCES)
_UNKNOWN = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class InUse(UserError):
  """Another process holds the folder or file."""


@dataclasses.dataclass(frozen=True)
class _Holder:
  """Who wrote a lock file; `machine` is one running kernel, whose locks see each other."""

  process: int
  host: str
  machine: str
  since: str
  token: str      # tells two of one process apart

  def __str__(self) -> str:
    return f'process {self.process} on {self.host}, since {self.since}'


@contextlib.contextmanager
def alone_in(folder: pathlib.Path, remedy: str = 'choose another folder') -> Iterator[None]:
  """Holds a folder, which is made where it is not there; folders that stay empty go again.

  Of the processes of one run the first holds it.

  Args:
    remedy: what the user can do besides waiting, for the error.

  Raises:
    InUse: another process holds it (its number, host and beginning are named).
    UserError: it can't be written.
  """
  made = [path for path in (folder, *folder.parents) if not path.exists()]
  try:
    with _reported(folder, remedy):
      folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / LOCK_FILE, folder, remedy):
      yield
  finally:
    with contextlib.suppress(OSError):   # not empty
      for path in made:
        path.rmdir()


@contextlib.contextmanager
def alone_with(file: pathlib.Path, remedy: str = 'choose another file') -> Iterator[None]:
  """Holds a file that is to be written, by one beside it; as `alone_in`."""
  made = [path for path in file.parents if not path.exists()]
  try:
    with _reported(file, remedy):
      file.parent.mkdir(parents=True, exist_ok=True)
    with _held(file.with_name(f'.{file.name}{LOCK_FILE}'), file, remedy):
      yield
  finally:
    with contextlib.suppress(OSError):
      for path in made:
        path.rmdir()


@contextlib.contextmanager
def _held(path: pathlib.Path, what: pathlib.Path, remedy: str) -> Iterator[None]:
  with _reported(what, remedy):
    descriptor = _acquired(path, what, remedy)
  done = threading.Event()
  beats = threading.Thread(target=_beat, args=(descriptor, done), name='lock', daemon=True)
  beats.start()
  try:
    yield
  finally:
    done.set()
    beats.join()
    with contextlib.suppress(OSError):
      if _is_at(descriptor, path):
        path.unlink()
    os.close(descriptor)


def _acquired(path: pathlib.Path, what: pathlib.Path, remedy: str) -> int:
  """The open and locked file, with this process's name in it."""
  own = _Holder(os.getpid(), socket.gethostname(), _machine(),
                time.strftime('%Y-%m-%d %H:%M:%S'), secrets.token_hex(8))
  began, beat = time.monotonic(), None
  while True:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
      locked = _locked(descriptor)
      holder = _read(descriptor)
      if locked is not False and not _is_at(descriptor, path):
        continue   # the one before took its file away in between
      # A name of this machine, or none, adds nothing to what its kernel says.
      known = locked is not None and (holder is None or holder.machine == own.machine)
      last, waited = os.fstat(descriptor).st_mtime_ns, time.monotonic() - began
      beats = beat not in (None, last)
      if locked is not False and (known or holder is None or waited > _SILENT and not beats):
        _write(descriptor, own)
        if locked is None:   # two may have come to this line: the last to write has it
          time.sleep(1)
          if _read(descriptor) != own:
            began, beat = time.monotonic(), None
            continue
        return os.dup(descriptor)   # a lock is of all copies
      if beats or waited > _LEASE or locked is False and known and (holder or waited > 1):
        raise InUse(f'{what} is in use by another process ({holder or "without a name"}); wait '
                    f'for its end, or {remedy}')
      if beat is None and not known:
        print(f'note: {what} was in use by {holder}; whether that is still at work is seen in '
              f'{_SILENT:g} s', file=sys.stderr)
      beat = last
    finally:
      os.close(descriptor)
    time.sleep(0.5)


def _locked(descriptor: int) -> bool | None:
  """Whether the kernel's lock is had; None where the file system knows none."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except OSError as error:
    if error.errno in _BUSY:
      return False
    if error.errno in _UNKNOWN:
      return None
    raise


def _read(descriptor: int) -> _Holder | None:
  try:
    return _Holder(**json.loads(os.pread(descriptor, 4096, 0)))
  except (ValueError, TypeError, RecursionError):   # empty, or cut off by a crash
    return None


def _write(descriptor: int, holder: _Holder) -> None:
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, json.dumps(dataclasses.asdict(holder)).encode(), 0)
  os.fsync(descriptor)


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


def _beat(descriptor: int, done: threading.Event) -> None:
  while not done.wait(_BEAT):
    with contextlib.suppress(OSError):
      os.utime(descriptor)


def _machine() -> str:
  try:
    return pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  except OSError:
    return socket.gethostname()


@contextlib.contextmanager
def _reported(what: pathlib.Path, remedy: str) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(f'{what}: can\'t be written ({error.strerror}); {remedy}') from None
