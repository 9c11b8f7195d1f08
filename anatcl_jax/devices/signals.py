"""Signals: a run stops between two steps, all its processes after the same one (processes.py).

Python's own handlers wait for the main thread, which may be compiling for minutes: what is said,
and what ends the process at once, is up to a thread that the interpreter's C code tells of signals.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from anatcl_jax.errors import Stopped

_AGAIN = 0.05     # seconds

# A scheduler's end; Ctrl-C; a terminal or connection that closes; a scheduler's notice.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class _Outside(Stopped):
  """A signal came before there was anything to save."""

  def __init__(self, number: int):
    super().__init__(f'{signal.Signals(number).name} outside of training; the same command goes on '
                     'from the last checkpoint')
    self.number = number


class StopSignal:
  """Notes signals where they would end the process; use as a context manager.

  While `beginning`, when nothing is done that could be saved, a second one ends the process.
  """

  def __init__(self):
    self.received = False
    self.beginning = True
    self._told = 0

  def _tell(self, number: int) -> None:
    self.received = True
    self._told += 1
    if self.beginning and self._told > 1:
      _end(number)
    what = ('it waits until the first step is compiled and done, and saves it; once more ends the '
            'run at once' if self.beginning else
            'still saving, a moment' if self._told > 1 else
            'stopping when this step is finished and saved')
    _say(number, what)

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self.received = True

  def __enter__(self) -> StopSignal:
    self._stack = contextlib.ExitStack()
    self._stack.enter_context(_told(self._tell, self._note))
    return self

  def __exit__(self, *_) -> None:
    self._stack.close()


def stop_at_once() -> None:
  """Before there is anything to save, signals end the process with Stopped.

  Also where Python passes over what a handler raises, as in callbacks of the garbage collector, of
  which JAX has one: the signal comes again until it is heard.
  """
  passed_over = sys.unraisablehook

  def hook(unraisable) -> None:
    if isinstance(unraisable.exc_value, _Outside):
      number = unraisable.exc_value.number
      threading.Timer(_AGAIN, os.kill, (os.getpid(), number)).start()
    else:
      passed_over(unraisable)

  def stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise _Outside(number)

  sys.unraisablehook = hook
  for number in _ours():
    signal.signal(number, stop)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
  """Signals end the process in the body too, where it waits inside a library."""
  with _told(_end, lambda *_: None):
    yield


def _ours() -> list[int]:
  """The signals that are not to be ignored: nohup ignores SIGHUP, and means it."""
  return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def _told(tell: Callable[[int], None], note: Callable[[int, FrameType | None], None]
          ) -> Iterator[None]:
  """A thread calls `tell` at once, the main thread `note` when it can."""
  if threading.current_thread() is not threading.main_thread():
    yield   # Python takes signals nowhere else
    return
  ends = os.pipe()
  os.set_blocking(ends[1], False)

  def listen() -> None:
    while number := os.read(ends[0], 1)[0]:
      if number in SIGNALS:
        tell(number)

  thread = threading.Thread(target=listen, name='signals', daemon=True)
  previous = {number: signal.signal(number, note) for number in _ours()}
  before = signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    for number, handler in previous.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    os.write(ends[1], b'\0')
    thread.join()
    for end in ends:
      os.close(end)


def _say(number: int, what: str) -> None:
  os.write(2, f'\n{signal.Signals(number).name}: {what}\n'.encode())


def _end(number: int) -> None:
  name = signal.Signals(number).name
  os.write(2, f'\nstopped: {name} before a step was done; the same command goes on from the last '
              'checkpoint\n'.encode())
  os._exit(Stopped.exit_code)
