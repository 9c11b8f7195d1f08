"""What a run tells: metrics.jsonl, TensorBoard events, and a progress line."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import numpy as np
import tqdm
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from anatcl_jax.errors import RunFailure, listed, remedy
from anatcl_jax.progress import progress_bar


class MetricsLog:
  """Writes one row a step to metrics.jsonl and TensorBoard; use as a context manager.

  Rows after `resume_step` come from steps that will be taken again, and are removed on opening.
  Of several processes one writes, and the log of the others does nothing.
  """

  def __init__(self, workdir: pathlib.Path, resume_step: int = 0, writes: bool = True):
    self._writes = writes
    if not writes:
      return
    self.path = workdir / 'metrics.jsonl'
    rows, damaged = _read(workdir)
    kept = [row for row in rows if row['step'] <= resume_step]
    if damaged:
      print(f'warning: {self.path}: line {listed(list(map(str, damaged)))} is damaged and left out',
            file=sys.stderr)
    temporary = self.path.with_suffix('.writing')
    with self._reported():
      try:
        temporary.write_text(''.join(json.dumps(row) + '\n' for row in kept))
        os.replace(temporary, self.path)
      finally:
        temporary.unlink(missing_ok=True)
      self._file = self.path.open('a')
      (workdir / 'tensorboard').mkdir(exist_ok=True)
      # Not SummaryWriter: its thread dies of a full disk, and then it waits for ever.
      self._events = EventsWriter(str(workdir / 'tensorboard' / 'events'))
      for start in ({'file_version': 'brain.Event:2'},
                    {'session_log': SessionLog(status=SessionLog.START)}):
        self._events.write_event(Event(step=resume_step + 1, wall_time=time.time(), **start))

  def write(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
    if not self._writes:
      return
    row = {'step': step, 'epoch': epoch, **{name: float(v) for name, v in metrics.items()}}
    with self._reported():
      self._file.write(json.dumps(row) + '\n')
      self._file.flush()
      for name, value in metrics.items():
        self._events.write_event(Event(step=step, wall_time=time.time(),
                                       summary=summary.scalar(name, float(value))))
      self._events.flush()

  @contextlib.contextmanager
  def _reported(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise RunFailure(f'{self.path.parent}: metrics can\'t be written ({error.strerror}); '
                       f'{remedy(error) or "mend that"}, and the same command goes on from the '
                       'last checkpoint') from None

  def __enter__(self) -> MetricsLog:
    return self

  def __exit__(self, *_) -> None:
    if self._writes:
      with contextlib.suppress(OSError):   # each row is flushed, and told where it can't be
        self._file.close()
      with contextlib.suppress(OSError):
        self._events.close()


def read_metrics(workdir: pathlib.Path) -> list[dict]:
  """Rows of metrics.jsonl, in order; lines that are damaged are passed over."""
  return _read(workdir)[0]


def _read(workdir: pathlib.Path) -> tuple[list[dict], list[int]]:
  """The rows, and the numbers of damaged lines; not of a last one that was cut off."""
  try:
    lines = (workdir / 'metrics.jsonl').read_bytes().split(b'\n')
  except FileNotFoundError:
    return [], []
  rows, damaged = [], []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      if type(row['step']) is not int or not all(
          isinstance(value, int | float) for value in row.values()):
        raise ValueError
      rows.append(row)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
      if line and number < len(lines):   # the process may have died while it wrote the last
        damaged.append(number)
  return rows, damaged


class Progress:
  """A bar with subjects/s and ETA on a terminal; collects the metrics of steps into rows."""

  def __init__(self, first_step: int, last_step: int, batch_size: int, show: bool = True):
    self._show = show
    self._first, self._done, self._last = first_step, first_step, last_step
    self._batch_size = batch_size
    self._since_row: list[dict[str, float]] = []
    self._row_time = time.monotonic()
    # In a file, a bar is a mess of carriage returns: the lines of `say` stand there alone.
    self._bar = progress_bar(last_step * batch_size, 'train', 'subjects',
                             initial=first_step * batch_size, show=show and sys.stderr.isatty())

  def advance(self, metrics: dict[str, float]) -> None:
    """One more step is done."""
    self._done += 1
    self._since_row.append(metrics)
    self._bar.set_postfix_str(f'loss {metrics["loss"]:.4f}', refresh=False)
    self._bar.update(self._batch_size)

  def take_row(self) -> dict[str, float]:
    """The mean of each metric since the last call, and the subjects a second."""
    rows, now = self._since_row, time.monotonic()
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    rate = len(rows) * self._batch_size / (now - self._row_time)
    self._since_row, self._row_time = [], now
    return means | {'subjects_per_second': rate}

  def say(self, epoch: str, row: dict[str, float]) -> None:
    """A line that stays, above the bar."""
    if not self._show:
      return
    heldout = f', held out {row["heldout/loss"]:.4f}' if 'heldout/loss' in row else ''
    remaining = (self._last - self._done) * self._batch_size / row['subjects_per_second']
    # A first step compiles, and says nothing about the time of others.
    left = ('compilation included' if self._done == self._first + 1 else
            f'{tqdm.tqdm.format_interval(remaining)} left')
    tqdm.tqdm.write(f'epoch {epoch}, step {self._done}/{self._last}: loss {row["loss"]:.4f}'
                    f'{heldout}, {row["subjects_per_second"]:.1f} subjects/s, {left}',
                    file=sys.stderr)

  def __enter__(self) -> Progress:
    return self

  def __exit__(self, *_) -> None:
    self._bar.close()
