"""What looks at a run while it trains: numbers, signs of life, evaluation, checkpoints, signals."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable

import jax
import ml_collections

from anatcl_jax.data.attributes import Statistics
from anatcl_jax.devices import processes
from anatcl_jax.devices.signals import StopSignal
from anatcl_jax.errors import RunFailure, Stopped, check_name, listed
from anatcl_jax.training import profiling
from anatcl_jax.training.checkpoint import Checkpoints, own_copy
from anatcl_jax.training.heartbeat import Heartbeat
from anatcl_jax.training.profiling import Trace
from anatcl_jax.training.step import Metrics, TrainState
from anatcl_jax.training.tracking import MetricsLog, Progress

_REMEDY = ('lower the learning rate or raise loss.temperature; nothing was saved since the last '
           'checkpoint')

# Begins to measure a state, and gives what waits for the figures, when the state may be gone.
Figures = Callable[[], dict[str, float]]
Measure = Callable[[TrainState], Figures]


@dataclasses.dataclass(frozen=True)
class Due:
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

  def kept(self, step: int) -> bool:
    """Whether its checkpoint is one that stays, however little time has gone by."""
    return step == self.last or self._ends(step, self.config.keep_every_epochs)

  def _ends(self, step: int, epochs: int) -> bool:
    return epochs > 0 and step % (epochs * self.steps_per_epoch) == 0


@dataclasses.dataclass(frozen=True)
class _Given:
  """A step that the devices were given, and what is to be told and saved when it is done."""

  step: int
  metrics: Metrics
  heldout: Figures | None
  probe: Figures | None
  saves: bool
  at_once: bool                 # rather than when the last checkpoint is old enough
  state: TrainState | None      # own memory, to be saved


class Watch:
  """Told of each step by the loop, does what is due after it; use as a context manager.

  The devices never wait for it: a step is looked at when they have the next one, and what needs the
  state after it (evaluation, a copy to be saved) was given to them in between.
  """

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, due: Due,
               stop: StopSignal, *, learning_rate: Callable[[int], jax.Array],
               statistics: Statistics, subjects: Callable[[int], list[str]],
               left_out: int, evaluate: Measure | None, probe: Measure | None):
    """A watch over the steps of `due`.

    Args:
      statistics: of the attributes, saved with every checkpoint.
      subjects: those in the batch of a step, to be named where its numbers are not finite.
      left_out: damaged records, to be told where config.data.on_error is skip.
      evaluate: the metrics of the held-out subjects; None where they are too few.
    """
    self._config, self._workdir, self._due, self._stop = config, workdir, due, stop
    self._learning_rate, self._statistics, self._subjects = learning_rate, statistics, subjects
    self._left_out, self._evaluate, self._probe = left_out, evaluate, probe
    self._given: _Given | None = None
    self._stopping = False

  def __enter__(self) -> Watch:
    config, first, last = self._config, self._due.first, self._due.last
    with contextlib.ExitStack() as stack:   # closes what is open where the next can't be
      opened = stack.enter_context
      self._heartbeat = opened(Heartbeat(config.heartbeat_seconds, first))
      self._trace = opened(Trace(self._workdir, profiling.parse_steps(config.profile_steps),
                                 processes.is_first()))
      self._checkpoints = opened(Checkpoints(
          self._workdir, keep=config.keep_checkpoints,
          every_steps=config.keep_every_epochs * self._due.steps_per_epoch,
          every_seconds=config.checkpoint_every_seconds,
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
        'compilation' if step == self._due.first + 1 else 'devices', step)
    self._trace.before(step)

  def sees(self, step: int, state: TrainState, metrics: Metrics) -> bool:
    """Call it when a step has been given to the devices, with what it will return.

    Looks at the step before. True where a signal came to any process: this step is then the last,
    on all of them.

    Raises:
      RunFailure: numbers of the step before are not finite, or nothing is learned, or a checkpoint
        can't be written; nothing of that step is saved.
    """
    self._trace.given()
    if self._given:
      self._look(self._given)
    due, row = self._due, self._due.row(step)
    at_once = self._stopping or due.kept(step)
    saves = at_once or due.checkpoint(step)
    self._heartbeat.waits_for('evaluation', step)
    self._given = _Given(
        step, metrics,
        self._evaluate(state) if self._evaluate and row and due.heldout(step) else None,
        self._probe(state) if self._probe and row and due.probe(step) else None,
        saves, at_once, own_copy(state) if saves else None)
    self._agreed = processes.on_any_soon(
        lambda: (self._stop.received, self._checkpoints.failed()))
    self._stop.beginning = False
    return self._stopping

  def ends(self) -> None:
    """Looks at the last step; call it after the loop.

    Raises:
      RunFailure: as `sees`.
      Stopped: it is not the last of the run, and is saved.
    """
    last, of = self._given, self._due.last
    if last:
      self._look(last)
      if last.step < of:
        raise Stopped(f'step {last.step} of {of} is saved in {self._workdir}; the same command '
                      'goes on from there')

  def _look(self, given: _Given) -> None:
    """Waits for a step, checks and tells its numbers, and saves it where that is due."""
    step, heartbeat = given.step, self._heartbeat
    heartbeat.waits_for('devices', step)
    metrics = jax.device_get(given.metrics)
    self._trace.after(step)
    _check_step(metrics, step, self._subjects)
    self._progress.advance(metrics)
    heartbeat.waits_for('evaluation', step)
    row = self._row(given) if self._due.row(step) else {}
    heartbeat.waits_for('processes', step)
    self._stopping, failed = self._agreed()
    if failed:
      raise self._checkpoints.failure()
    if given.saves:
      heartbeat.waits_for('checkpoint', step)
      self._checkpoints.save(given.state, self._statistics, row, given.at_once)

  def _row(self, given: _Given) -> dict[str, float]:
    """The row of metrics.jsonl after a step, written and said."""
    config, step, epoch = self._config, given.step, self._due.epoch(given.step)
    row = self._progress.take_row() | {'learning_rate': self._learning_rate(step - 1)}
    row |= self._heartbeat.take_seconds(step) | profiling.memory_figures()
    if config.data.on_error == 'skip':
      row['data/skipped'] = self._left_out
    if given.heldout:
      row |= given.heldout()
      if not math.isfinite(loss := row['heldout/loss']):
        raise RunFailure(f'the held-out loss is {loss} after step {step}; {_REMEDY}')
    if given.probe:
      row |= given.probe()
    if step == 1:
      _check_best_metric(config.keep_best_metric, row, bool(self._evaluate))
    self._log.write(step, epoch, row)
    self._progress.say(f'{epoch}/{config.epochs}', row)
    return row


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
