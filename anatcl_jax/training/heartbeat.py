"""What a run waits for: a line on stderr when it waits long, and the seconds of each kind."""

from __future__ import annotations

import collections
import sys
import threading
import time

import jax
import tqdm

WAITS = {
    'compilation': 'step {} to be compiled',
    'devices': 'step {} on the devices',
    'data': 'data of step {}',
    'evaluation': 'evaluation after step {}',
    'processes': 'the other processes after step {}',
    'checkpoint': 'checkpoint of step {}',
}


class Heartbeat:
  """Says `waiting 60 s for: data of step 812` when a run stalls; use as a context manager.

  The next lines of the same wait come after twice, four times ... as long. Every process says its
  own, since a reader that stalls in one makes the others wait for their devices.
  """

  def __init__(self, seconds: float, first_step: int = 0):
    """First line after `seconds`, never for 0; `first_step` steps are done."""
    self._first = seconds
    self._waits: tuple[str, int] | None = None
    self._since = time.monotonic()
    self._due = seconds
    self._spent: dict[str, float] = collections.defaultdict(float)
    self._taken = first_step
    self._closed = False
    self._changed = threading.Condition()
    self._thread = threading.Thread(target=self._watch, name='heartbeat', daemon=True)

  def waits_for(self, kind: str, step: int) -> None:
    """From now on the run waits for this; `kind` is a key of WAITS."""
    with self._changed:
      now = time.monotonic()
      if self._waits:
        self._spent[self._waits[0]] += now - self._since
      self._waits, self._since, self._due = (kind, step), now, self._first

  def take_seconds(self, step: int) -> dict[str, float]:
    """Means a step since the last call; call it when `step` is done.

    step_seconds is on the devices or waiting for data; wait_for_data_seconds is the part of it in
    which the next batch was not there, most of which the devices work.
    """
    steps = step - self._taken
    data, devices = self._spent['data'], self._spent['devices']
    self._taken = step
    self._spent.clear()
    return {'step_seconds': (data + devices) / steps, 'wait_for_data_seconds': data / steps}

  def _watch(self) -> None:
    with self._changed:
      while not self._closed:
        if self._waits is None:
          self._changed.wait(self._first)
        elif (left := self._since + self._due - time.monotonic()) > 0:
          # A wait that begins meanwhile is due later: nothing needs to wake this thread for it.
          self._changed.wait(left)
        else:
          kind, step = self._waits
          who = f'process {jax.process_index()}: ' if jax.process_count() > 1 else ''
          tqdm.tqdm.write(f'{who}waiting {self._due:g} s for: {WAITS[kind].format(step)}',
                          file=sys.stderr)
          self._due *= 2

  def __enter__(self) -> Heartbeat:
    if self._first:
      self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    with self._changed:
      self._closed = True
      self._changed.notify()
    if self._first:
      self._thread.join()
