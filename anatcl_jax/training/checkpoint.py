"""Checkpoints of a run with Orbax: saving in the background, keeping some, and going on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import pathlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
  AnyPreservationPolicy,
  EveryNSteps,
  LatestN,
  PreservationPolicy,
)

from anatcl_jax.data.attributes import Statistics
from anatcl_jax.devices import processes
from anatcl_jax.errors import RunFailure, Stopped
from anatcl_jax.training.step import TrainState
from anatcl_jax.weights import choice, stored

# What stands in a checkpoint beside the state.
_Content = dict[str, Any]

_NO_ROOM = re.compile('No space left on device|Disk quota exceeded|File too large')


class _Best(PreservationPolicy):
  """Keeps the step with the best value of a metric; the values come from the records."""

  def __init__(self, values: dict[int, float], mode: str):
    self.values = values
    self._choose = min if mode == 'min' else max

  def is_beaten_by(self, value: float) -> bool:
    """Whether a value is better than all that are known."""
    known = self.values.values()
    return value not in known and value == self._choose([value, *known])

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    del context
    known = [one.step for one in checkpoints if one.step in self.values]
    best = self._choose(known, key=self.values.get) if known else None
    return [one.step == best for one in checkpoints]


def own_copy(state: TrainState) -> TrainState | None:
  """The state in memory of its own, on one device: the next step overwrites the state's.

  It is only begun here. None on all processes but the first, which writes alone.
  """
  if not processes.is_first():
    return None
  return _copied(jax.tree.map(lambda leaf: leaf.addressable_data(0), state))


_copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


class Checkpoints:
  """Writes the checkpoints of a workdir, in the background; use as a context manager.

  The state is the same on all devices, so that process 0 writes alone and nothing waits for it. A
  thread fetches the state, hashes and writes it, while the devices go on.
  """

  def __init__(self, workdir: pathlib.Path, *, keep: int, every_steps: int = 0,
               every_seconds: float = 0, best_metric: str = '', best_mode: str = 'min'):
    """Keeps the last `keep`, those at multiples of `every_steps`, and the best by a metric.

    Args:
      every_seconds: from one checkpoint to the next, at least; see `save`.
    """
    self._directory = stored.directory_of(workdir)
    self._metric = best_metric
    self._error: str | None = None
    self._manager, self._latest = None, None
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoints')
    self._saving = self._thread.submit(lambda: None)
    self._every_seconds, self._begun = every_seconds, time.monotonic()
    self._best_waits: tuple[int, TrainState, _Content] | None = None
    if not processes.is_first():
      return
    known = stored.steps(workdir)
    self._latest = known[0] if known else None
    self._best = _Best(choice.metric_of_records(workdir, known, best_metric), best_mode)
    policies = [LatestN(keep), self._best]
    if every_steps:
      policies.append(EveryNSteps(every_steps))
    self._saved = False
    self._links = contextlib.ExitStack()
    with self._noting_errors():
      self._directory.mkdir(exist_ok=True)
      folder = self._links.enter_context(stored.for_orbax(self._directory))
      _try_out(self._directory)
      self._manager = ocp.CheckpointManager(
          folder, options=ocp.CheckpointManagerOptions(
              create=False, lightweight_initialize=True,
              preservation_policy=AnyPreservationPolicy(policies), cleanup_tmp_directories=True,
              multiprocessing_options=ocp.options.MultiprocessingOptions(
                  primary_host=0, active_processes={0}, barrier_sync_key_prefix='checkpoints')))
    if self._error:
      self._links.close()
      raise RunFailure(self._error)

  def save(self, state: TrainState | None, statistics: Statistics, metrics: dict[str, float],
           at_once: bool = True) -> None:
    """Saves state and the statistics of the attributes under the state's step.

    It returns when the checkpoint before is written, and begins with this one. Where that need not
    be at once, and the one before was begun less than `every_seconds` ago or is still written,
    nothing is saved; the best state so far stays in memory until the next is saved or all ends.

    Args:
      state: in memory that nothing overwrites (`own_copy`).
      metrics: those measured after this step, among them perhaps the one that says what is best.
    """
    if self._manager is None or self._error or (step := int(state.step)) == self._latest:
      return
    metrics = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    content = {'statistics': jax.tree.map(np.ndarray.tolist, statistics), 'metrics': metrics}
    is_best = self._metric in metrics and self._best.is_beaten_by(metrics[self._metric])
    if not at_once and self._is_too_soon():
      if is_best:
        self._best.values[step] = metrics[self._metric]
        self._best_waits = step, state, content
      return
    if self._metric in metrics:
      self._best.values[step] = metrics[self._metric]
    self._saving.result()
    if self._error:
      return
    self._begun = time.monotonic()
    if not is_best:
      self._save_best_that_waits()
    self._best_waits = None
    self._submit(step, state, content)

  def _is_too_soon(self) -> bool:
    return self._every_seconds > 0 and (
        time.monotonic() - self._begun < self._every_seconds or not self._saving.done())

  def _save_best_that_waits(self) -> None:
    if self._best_waits:
      self._submit(*self._best_waits)
      self._best_waits = None

  def _submit(self, step: int, state: TrainState, content: _Content) -> None:
    self._latest = step
    self._saving = self._thread.submit(self._write, step, state, content)

  def _write(self, step: int, state: TrainState, content: _Content) -> None:
    with self._noting_errors():
      arrays = jax.tree.map(np.asarray, state)
      self._manager.save(step, args=ocp.args.Composite(**{
          stored.STATE: ocp.args.StandardSave(arrays),
          stored.RECORD: ocp.args.JsonSave(stored.sealed(content, arrays))}))
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
      self._saved = True

  def failed(self) -> bool:
    """Whether a checkpoint could not be written, as far as is known by now."""
    return bool(self._error)

  def failure(self) -> RunFailure:
    """What a run ends with on all its processes when `failed` is true on any."""
    return RunFailure(self._error or 'process 0 can\'t write checkpoints; its last line says why')

  @contextlib.contextmanager
  def _noting_errors(self) -> Iterator[None]:
    """Whatever Orbax, TensorStore and the file system make of a full disk becomes one line."""
    try:
      yield
    except Exception as error:
      text = str(error).strip() or type(error).__name__
      full = _NO_ROOM.search(text)
      what = full[0] if full else text.splitlines()[0][:160]
      self._error = (f'a checkpoint can\'t be written to {self._directory} ({what}); those before '
                     f'it are whole: {"make room" if full else "mend that"}, and the same command '
                     'goes on from the last')

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, kind: type | None, *_) -> None:
    if not self._error:
      self._save_best_that_waits()
    self._thread.shutdown()
    if self._manager is not None:
      for finish in (self._manager.wait_until_finished, self._manager.close):
        with self._noting_errors():
          finish()
      if self._error:
        time.sleep(1)   # writes that are still under way would make the directory anew
        for unfinished in self._directory.glob('*.orbax-checkpoint-tmp*'):
          shutil.rmtree(unfinished, ignore_errors=True)
      elif self._saved and (kind is None or issubclass(kind, Stopped)):
        with self._noting_errors():   # nobody is told of what can't be read again
          stored.read(self._directory.parent, self._latest)
      self._links.close()
    if kind is None or issubclass(kind, Stopped):   # on all processes, then
      if any(processes.on_any(bool(self._error))):
        raise self.failure() from None


def restore(workdir: pathlib.Path, like: TrainState) -> tuple[TrainState, Statistics] | None:
  """The newest whole checkpoint as NumPy, and the statistics in it; None where there is none.

  Damaged newer ones are moved to `damaged/` of the workdir, with a warning, so that they do not
  stand in the way of those to come. All processes call it, and agree.

  Raises:
    RunFailure: there are checkpoints, and none is whole.
    TooNew: newer libraries wrote one that these can't read; it stays where it is.
  """
  damaged = {}
  for step in processes.of_first(stored.steps(workdir)):
    try:
      tree, content = stored.read(workdir, step)
      state, why = _fill(like, tree), ''
    except stored.Damaged as error:
      why = str(error)
    if not any(processes.on_any(bool(why))):
      if processes.is_first():
        for bad, reason in damaged.items():
          aside = _set_aside(workdir, bad)
          print(f'warning: checkpoint {bad} is damaged ({reason}); it is now {aside}, and the run '
                f'goes on from step {step}', file=sys.stderr)
      processes.wait_for_all('restored')
      return state, {term: {name: _as_fitted(values) for name, values in own.items()}
                     for term, own in content['statistics'].items()}
    damaged[step] = why or 'another process can\'t read it'
  if damaged:
    raise RunFailure(f'no checkpoint in {stored.directory_of(workdir)} is whole (step '
                     + '; step '.join(f'{step}: {why}' for step, why in damaged.items())
                     + '); restore one from a copy, or choose another --workdir to begin again')
  return None


def _as_fitted(values: list | float) -> np.ndarray:
  """Statistics as JSON has them: float32, or texts."""
  array = np.asarray(values)
  return array if array.dtype.kind == 'U' else array.astype(np.float32)


def _fill(like: TrainState, tree: dict[str, Any]) -> TrainState:
  """The arrays of a nested dict in the structure of `like`."""
  arrays = stored.by_name(tree)
  wanted = stored.by_name(like)
  differing = [name for name in sorted(arrays | wanted)
               if getattr(arrays.get(name), 'shape', None) != getattr(wanted.get(name), 'shape', 0)
               or arrays[name].dtype != wanted[name].dtype]
  if differing:
    raise stored.Damaged(f'{differing[0]} is not of this run\'s model or optimizer')
  return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])


def _try_out(directory: pathlib.Path) -> None:
  """Raises RunFailure where what is saved can't be read: before the first step, not after hours."""
  with tempfile.TemporaryDirectory(prefix='trial', suffix='.orbax-checkpoint-tmp-0',
                                   dir=directory) as trial:
    stored.save_tree(pathlib.Path(trial) / 'tree', {'a': np.arange(6.0)})


def _set_aside(workdir: pathlib.Path, step: int) -> pathlib.Path:
  aside = workdir / 'damaged' / str(step)
  aside.parent.mkdir(exist_ok=True)
  shutil.rmtree(aside, ignore_errors=True)
  (stored.directory_of(workdir) / str(step)).rename(aside)
  return aside
