"""What the machine does during a run: traces of some steps, and memory."""

from __future__ import annotations

import pathlib
import re
import sys

import jax
import psutil

from anatcl_jax.errors import UserError


def parse_steps(text: str) -> range:
  """`10:12` as steps 10, 11 and 12 (counted from 1), and '' as none.

  Raises:
    UserError: neither, or the last before the first.
  """
  if not text:
    return range(0)
  match = re.fullmatch(r'(\d+):(\d+)', text)
  if not match or not 0 < int(match[1]) <= int(match[2]):
    raise UserError(f'profile_steps {text!r} must be the first and the last step, such as 10:12')
  return range(int(match[1]), int(match[2]) + 1)


class Trace:
  """Records the profile of some steps to `profile/` of the workdir; use as a context manager."""

  def __init__(self, workdir: pathlib.Path, steps: range, writes: bool = True):
    self._directory = workdir / 'profile'
    self._steps = steps if writes else range(0)
    self._running = False
    self._step: jax.profiler.StepTraceAnnotation | None = None

  def before(self, step: int) -> None:
    """Call it before a step is given to the devices."""
    if step in self._steps and not self._running:
      jax.profiler.start_trace(self._directory)
      self._running = True
    if step in self._steps:
      self._step = jax.profiler.StepTraceAnnotation('train', step_num=step)
      self._step.__enter__()

  def given(self) -> None:
    """Call it when a step has been given to the devices."""
    if self._step:
      self._step.__exit__(None, None, None)
      self._step = None

  def after(self, step: int) -> None:
    """Call it when a step's metrics are here."""
    if self._running and step >= self._steps[-1]:
      self._stop()

  def _stop(self) -> None:
    self._running = False
    jax.profiler.stop_trace()
    print(f'profile of steps {self._steps[0]} to {self._steps[-1]}: {self._directory} (to look at '
          'it: pip install xprof; xprof --logdir=...)', file=sys.stderr)

  def __enter__(self) -> Trace:
    return self

  def __exit__(self, *_) -> None:
    if self._running:
      self._stop()


def memory_figures() -> dict[str, float]:
  """Memory in MB (10^6 bytes): of this process, and the most on one of its devices so far.

  A device that reports none, such as a CPU, has no figure.
  """
  figures = {'host_memory_mb': psutil.Process().memory_info().rss / 1e6}
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [one['peak_bytes_in_use'] for one in stats if 'peak_bytes_in_use' in one]
  if peaks:
    figures['device_peak_memory_mb'] = max(peaks) / 1e6
  return figures
