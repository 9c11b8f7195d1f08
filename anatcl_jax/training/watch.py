"""What looks at a run while it trains: numbers, signs of life, evaluation, checkpoints, signals."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from anatcl_jax.data.attributes import Statistics
from anatcl_jax.devices import processes
from anatcl_jax.devices.signals import StopSignal
from anatcl_jax.errors import RunFailure, Stopped, check_name, listed
from anatcl_jax.training import profiling
from anatcl_jax.training.checkpoint import Checkpoints
from anatcl_jax.training.heartbeat import Heartbeat
from anatcl_jax.training.profiling import Trace
from anatcl_jax.training.step import Metrics, TrainState
from anatcl_jax.training.tracking import MetricsLog, Progress

_REMEDY = ('lower the learning rate or raise loss.temperature; nothing was saved since the last '
           'checkpoint')

Measure = Callable[[TrainState], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """What is due after which step; steps are counted from 1, `first` of them are done."""

  config: ml_collections.ConfigDict
  steps_per_epoch: int
  first: int
  last: int

  def epoch(self, step: int) -> int:
    return -(-step // self.steps_per_epoch)

  def row(self, step: int) -> bool:
    return step == 1 or self._ends(step, 1) or step % self.config.log_every_steps == 0

  def heldout(self, step: int) -> bool:
    return step in (1, self.last) or self._ends(step, self.config.heldout_every_epochs)

  def probe(self, step: int) -> bool:
    return step == self.last or self._ends(step, self.config.probe_every_epochs)

  def checkpoint(self, step: int) -> bool:
    return step == self.last or self._ends(step, self.config.checkpoint_every_epochs)

  def _ends(self, step: int, epochs: int) -> bool:
    return step % self.steps_per_epoch == 0 and self.epoch(step) % epochs == 0


class Watch:
  """Told of each step by the loop, does what is due after it; use as a context manager."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, schedule: Schedule,
               stop: StopSignal, *, learning_rate: Callable[[int], jax.Array],
               statistics: Statistics, subjects: Callable[[int], list[str]],
               left_out: int, evaluate: Measure | None, probe: Measure | None):
    """A watch over the steps of `schedule`.

    Args:
      statistics: of the attributes, saved with every checkpoint.
      subjects: those in the batch of a step, to be named where its numbers are not finite.
      left_out: damaged records, to be told where config.data.on_error is skip.
      evaluate: the metrics of the held-out subjects; None where they are too few.
    """
    self._config, self._workdir, self._schedule, self._stop = config, workdir, schedule, stop
    self._learning_rate, self._statistics, self._subjects = learning_rate, statistics, subjects
    self._left_out, self._evaluate, self._probe = left_out, evaluate, probe

  def __enter__(self) -> Watch:
    config, first, last = self._config, self._schedule.first, self._schedule.last
    with contextlib.ExitStack() as stack:   # closes what is open where the next can't be
      opened = stack.enter_context
      self._heartbeat = opened(Heartbeat(config.heartbeat_seconds, first))
      self._trace = opened(Trace(self._workdir, profiling.parse_steps(config.profile_steps),
                                 processes.is_first()))
      self._checkpoints = opened(Checkpoints(
          self._workdir, keep=config.keep_checkpoints,
          every_steps=config.keep_every_epochs * self._schedule.steps_per_epoch,
          best_metric=config.keep_best_metric, best_mode=config.keep_best_mode))
      self._log = opened(MetricsLog(self._workdir, first, processes.is_first()))
      self._progress = opened(Progress(first, last, config.batch_size, processes.is_first()))
      self._open = stack.pop_all()
    return self

  def __exit__(self, *error) -> bool | None:
    return self._open.__exit__(*error)

  def waits_for_data(self, step: int) -> None:
    """Call it before the batch of a step is asked for."""
    self._heartbeat.waits_for('data', step)

  def starts(self, step: int) -> None:
    """Call it before a step is given to the devices."""
    self._heartbeat.waits_for(
        'compilation' if step == self._schedule.first + 1 else 'devices', step)
    self._trace.before(step)

  def sees(self, step: int, state: TrainState, metrics: Metrics) -> None:
    """Call it when a step has been given to the devices, with what it will return.

    Raises:
      RunFailure: its numbers are not finite, or nothing is learned, or a checkpoint can't be
        written; nothing of this step is saved.
      Stopped: a signal came to any process, and this step is saved.
    """
    schedule, heartbeat = self._schedule, self._heartbeat
    heartbeat.waits_for('devices', step)
    metrics = jax.device_get(metrics)
    self._trace.after(step)
    heartbeat.waits_for('evaluation', step)
    _check_step(metrics, step, self._subjects)
    self._progress.advance(metrics)
    row = self._row(step, state) if schedule.row(step) else {}
    heartbeat.waits_for('processes', step)
    stopping, failed = processes.on_any(self._stop.received, self._checkpoints.failed())
    if failed:
      raise self._checkpoints.failure()
    if stopping or schedule.checkpoint(step):
      heartbeat.waits_for('checkpoint', step)
      self._checkpoints.save(state, self._statistics, row)
    if stopping and step < schedule.last:
      raise Stopped(f'step {step} of {schedule.last} is saved in {self._workdir}; the same command '
                    'goes on from there')

  def _row(self, step: int, state: TrainState) -> dict[str, float]:
    """The row of metrics.jsonl after a step, written and said."""
    config, schedule = self._config, self._schedule
    row = self._progress.take_row() | {'learning_rate': self._learning_rate(step - 1)}
    row |= self._heartbeat.take_seconds(step) | profiling.memory_figures()
    if config.data.on_error == 'skip':
      row['data/skipped'] = self._left_out
    if self._evaluate and schedule.heldout(step):
      row |= self._evaluate(state)
      if not math.isfinite(loss := row['heldout/loss']):
        raise RunFailure(f'the held-out loss is {loss} after step {step}; {_REMEDY}')
    if self._probe and schedule.probe(step):
      row |= self._probe(state)
    if step == 1:
      _check_best_metric(config.keep_best_metric, row, bool(self._evaluate))
    self._log.write(step, schedule.epoch(step), row)
    self._progress.say(f'{schedule.epoch(step)}/{config.epochs}', row)
    return row


def heldout_means(rows: list[Metrics]) -> dict[str, float]:
  """The unweighted mean of each metric over the held-out batches, its name after heldout/."""
  return {f'heldout/{name}': float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _check_step(metrics: Metrics, step: int, subjects: Callable[[int], list[str]]) -> None:
  """Stops a run whose numbers are not finite, or that learns nothing, before it is saved."""
  for name in ('loss', 'gradient_norm', 'parameter_norm'):
    if not math.isfinite(metrics[name]):
      labels = subjects(step)
      raise RunFailure(f'the {name.replace("_", " ")} is {metrics[name]} at step {step}; the '
                       f'subjects of its batch are {listed(labels, len(labels))}. Look at their '
                       f'volumes, {_REMEDY}')
  if not metrics['gradient_norm']:
    raise RunFailure(f'the gradient is 0 at step {step}: no subject of the batch has a positive in '
                     'any term of the loss; look at the terms, their attributes and views')


def _check_best_metric(name: str, row: dict[str, float], has_heldout: bool) -> None:
  """Stops a run, before anything is saved, whose best checkpoint would never be known."""
  if name and not name.startswith('probe/') and (has_heldout or not name.startswith('heldout/')):
    check_name(name, row, 'keep_best_metric')
