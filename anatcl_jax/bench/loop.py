"""The whole training loop beside its step alone: what the host adds to a step.

  python -m anatcl_jax.bench loop --config=configs/pretrain.py:demo
  python -m anatcl_jax.bench loop --config=configs/pretrain.py:demo --stand_in=0.3

The loop trains on config.data_dir into a folder that is removed; its seconds a step are those of
its epochs but the first, which compiles, and the last, with their rows and without held-out
evaluation: once without checkpoints, and once with one after each config.checkpoint_every_epochs.
The difference is what a checkpoint costs, and the loop's seconds a step are computed with one every
config.checkpoint_every_seconds at most. The step alone takes one random batch again and again, each
time given before the last is done. All run in turn. On a CPU they share the cores with all else
that the machine does; with --stand_in a clock stands for the devices, which are busy with each step
for so long and leave the host free, as an accelerator does: all else is real.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import itertools
import logging
import pathlib
import tempfile
import time
from typing import TYPE_CHECKING

import ml_collections
import numpy as np

from anatcl_jax import command_line, errors
from anatcl_jax.bench.command import Figures
from anatcl_jax.config import crop_sizes
from anatcl_jax.devices.machine import accelerator
from anatcl_jax.errors import UserError

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  from anatcl_jax.training import train


def run(config: ml_collections.ConfigDict, epochs: int, rounds: int, stand_in: float = 0,
        warm: int = 1) -> Figures:
  """Seconds a step of the loop and of the step alone, and the loop's share that is not the step.

  Medians of the rounds, and of the ratios of their pairs, less one. The loop is measured without
  checkpoints (`without_s`) and with; from what one costs (`checkpoint_s`) follows the loop with
  them as far apart as the config says (`loop_s`).

  Args:
    stand_in: seconds of a clock that stands for the devices; 0 for the true ones.
    warm: epochs at the beginning that do not count.
  """
  from anatcl_jax.bench import timing
  config = ml_collections.ConfigDict(config.to_dict())
  every = config.checkpoint_every_epochs
  config.update({'epochs': epochs, 'heldout_every_epochs': epochs, 'report_at_end': ''})
  found = collections.defaultdict(list)
  for _ in range(rounds):
    without, steps = _loop(config, stand_in, warm, checkpoint_every_epochs=epochs)
    with_all, _ = _loop(config, stand_in, warm, checkpoint_every_seconds=0.0)
    checkpoint = (with_all - without) * steps * every
    apart = max(config.checkpoint_every_seconds / without, steps * every)    # in steps
    found['without_s'].append(without)
    found['checkpoint_s'].append(checkpoint)
    found['loop_s'].append(without + checkpoint / apart)
    found['step_s'].append(stand_in or _step_alone(config, steps * (epochs - warm - 1)))
  ratio = timing.ratio(found['loop_s'], found['step_s'])
  return {**{name: timing.summary(values) for name, values in found.items()},
          **{f'share_{name}': value - 1 for name, value in ratio.items()}}


def _loop(config: ml_collections.ConfigDict, stand_in: float, warm: int, **changes
          ) -> tuple[float, int]:
  """Seconds a step of the epochs after the first `warm` but the last, and the steps of an epoch."""
  from anatcl_jax.training import tracking, train
  own = config.copy_and_resolve_references()
  own.update(changes)
  program = train.compile_program if not stand_in else (
      lambda *arguments: _on_a_clock(train.compile_program(*arguments), stand_in))
  with tempfile.TemporaryDirectory(prefix='anatcl-bench-') as name:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
      train.train(own, pathlib.Path(name), program)
    rows = tracking.read_metrics(pathlib.Path(name))
  # The last epoch's row waits for the held-out loss.
  spans = [(row['step'] - before['step'], row['subjects_per_second'])
           for before, row in itertools.pairwise(rows) if warm < row['epoch'] < own.epochs]
  seconds = sum(steps * own.batch_size / rate for steps, rate in spans)
  return seconds / sum(steps for steps, _ in spans), rows[-1]['step'] // own.epochs


def _step_alone(config: ml_collections.ConfigDict, count: int) -> float:
  import jax

  from anatcl_jax.bench.steps import random_batch
  from anatcl_jax.data import shards
  from anatcl_jax.devices import parallel
  from anatcl_jax.training import train
  mesh = parallel.make_mesh(config.batch_size)
  program = train.compile_program(config, mesh, steps_per_epoch=count)
  shape = shards.open_shards(config.data_dir).volume_shape(crop_sizes(config.crop))
  state = parallel.replicate(program.init(jax.random.key(0), shape), mesh)
  batch = parallel.shard_rows(random_batch(config, shape, config.batch_size), mesh)
  state, metrics = program.train_step(state, batch)
  jax.block_until_ready(metrics)
  start = time.perf_counter()
  for _ in range(count):
    state, metrics = program.train_step(state, batch)
  jax.block_until_ready(metrics)
  return (time.perf_counter() - start) / count


@dataclasses.dataclass(frozen=True)
class _Late:
  """A number that is there when the clock says so."""

  due: float

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    time.sleep(max(0, self.due - time.monotonic()))
    return np.ones((), np.float32)


def _on_a_clock(program: train.Program, seconds: float) -> train.Program:
  """The program on devices that take so long for each step, one after the other."""
  free_from = 0.0

  def train_step(state, *batch):
    nonlocal free_from
    free_from = max(free_from, time.monotonic()) + seconds
    names = 'loss', 'gradient_norm', 'parameter_norm'
    return state.replace(step=state.step + 1), {name: _Late(free_from) for name in names}

  return dataclasses.replace(program, train_step=train_step)


def main(arguments: list[str], prog: str) -> None:
  """Prints the figures in a line."""
  with errors.reported():
    parser = command_line.ConfigParser(prog=prog, description=__doc__, config='pretrain',
                                       example='configs/pretrain.py:demo')
    parser.add_argument('--epochs', type=command_line.at_least(3), default=6, metavar='N',
                        help='of each loop, from 3 (default: %(default)s)')
    parser.add_argument('--rounds', type=command_line.at_least(1), default=3, metavar='N',
                        help='how often the two are timed in turn (default: %(default)s)')
    parser.add_argument('--stand_in', type=float, default=0.0, metavar='SECONDS',
                        help='of a step, by a clock instead of the devices (default: none)')
    options, config = parser.parse(arguments)
    if not 0 <= options.stand_in < float('inf'):
      raise UserError(f'--stand_in {options.stand_in} must be 0 or above')
    logging.disable(logging.INFO)   # Orbax's lines a checkpoint
    r = run(config, options.epochs, options.rounds, options.stand_in)
    print(f'{accelerator()}{", a clock for the devices" if options.stand_in else ""}: step '
          f'{r["step_s"]:.4f} s, loop without checkpoints {r["without_s"]:.4f} s a step, a '
          f'checkpoint {r["checkpoint_s"]:.2f} s; with one every '
          f'{config.checkpoint_every_seconds:g} s at most the loop\'s share that is not the step: '
          f'{r["share_median"]:.1%} ({r["share_min"]:.1%} to {r["share_max"]:.1%})')
