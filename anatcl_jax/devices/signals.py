"""SIGTERM, SIGINT: a run stops between two steps, all processes after the same one (`on_any`)."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from anatcl_jax.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
  """Notes SIGTERM and SIGINT, where they would end the process; use as a context manager."""

  def __init__(self):
    self.received = False
    self._previous = {}

  def _note(self, number: int, frame: FrameType | None) -> None:
    del frame
    what = ('still saving, a moment' if self.received
            else 'stopping when this step is finished and saved')
    # print() may have been interrupted in its middle by this signal, and must not be reentered.
    os.write(2, f'\n{signal.Signals(number).name}: {what}\n'.encode())
    self.received = True

  def __enter__(self) -> StopSignal:
    if threading.current_thread() is threading.main_thread():   # Python takes signals nowhere else
      self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)


def stop_at_once() -> None:
  """Before there is anything to save, SIGTERM and SIGINT end the process with Stopped."""

  def stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise Stopped(f'{signal.Signals(number).name} outside of training; the same command goes on '
                  'from the last checkpoint')

  for number in SIGNALS:
    signal.signal(number, stop)
