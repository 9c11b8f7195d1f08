"""Runs that are killed at random moments, or lose a process, and go on as if nothing had been."""

from __future__ import annotations

import pathlib
import random
import signal
import time

import numpy as np
import pytest

from anatcl_jax.training import tracking
from anatcl_jax.weights import stored
from tests.small_run import OF_THE_MACHINE
from tests.worker import Runner

STEPS = 16
ROUNDING = {'rtol': 1e-4, 'atol': 1e-6}   # sums over the batch are taken in another order


# BatchNorm removes the bias before it, whose gradient is thus pure rounding, which Adam scales up
# to a whole step; the running mean moves with it, and the features do not.
WITHOUT_MEANING = ('Dense_0/bias', 'BatchNorm_0/mean')


def check_same(workdir: pathlib.Path, whole: pathlib.Path, **tolerance) -> None:
  """The same final state, and the same rows of metrics, each step once; bitwise by default."""
  compare = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
  ours, theirs = (stored.by_name(stored.read(run, STEPS)[0]) for run in (workdir, whole))
  assert ours.keys() == theirs.keys()
  for name in ours:
    if not tolerance or not name.endswith(WITHOUT_MEANING):
      compare(ours[name], theirs[name], err_msg=name, **tolerance)
  rows = [tracking.read_metrics(run) for run in (workdir, whole)]
  assert [row['step'] for row in rows[0]] == list(range(1, STEPS + 1))
  for ours, theirs in zip(*rows, strict=True):
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - OF_THE_MACHINE:
      compare(ours[name], theirs[name], err_msg=f'{name} of step {ours["step"]}', **tolerance)


def saving(workdir: pathlib.Path) -> bool:
  """Whether a checkpoint is being written just now."""
  return any((workdir / 'checkpoints').glob('*.orbax-checkpoint-tmp*'))


def interrupt(runner: Runner, workdir: pathlib.Path, number: int, seconds: float,
              rng: random.Random, while_saving: bool) -> int | None:
  """Starts a run with the cohort on its device, sends a signal some time; the exit code."""
  worker, = runner.start(workdir, cache='device')
  if while_saving:
    # The first, second or third time that a checkpoint is written, somewhere in the writing of it.
    for _ in range(rng.randrange(3)):
      worker.wait_until(lambda: saving(workdir))
      worker.wait_until(lambda: not saving(workdir))
    worker.wait_until(lambda: saving(workdir))
    time.sleep(rng.random() * 0.03)
  else:
    # Python must have its handlers before a signal may come that they take.
    worker.wait_until(lambda: 'config:' in worker.said())
    time.sleep(rng.random() * seconds)
  worker.send(number)
  return worker.wait()


def interrupt_many(runner, whole, directory, number, times, seed, codes) -> list[bool]:
  """Each time another run, interrupted, taken up again, and compared; says when it was saving."""
  rng = random.Random(seed)
  was_saving = []
  for index in range(times):
    workdir = directory / str(index)
    code = interrupt(runner, workdir, number, whole[1] / 2, rng, while_saving=index % 2 == 0)
    assert code in codes, index
    was_saving.append(saving(workdir))
    runner.finish(workdir)
    check_same(workdir, whole[0])
    assert not saving(workdir)   # what was half written is gone
  return was_saving


def test_a_killed_run_ends_in_the_same_parameters(runner, whole, tmp_path):
  interrupt_many(runner, whole, tmp_path, signal.SIGKILL, 2, seed=0, codes={-signal.SIGKILL, 0})


def test_two_processes_with_two_devices_each(runner, whole, tmp_path):
  """Their devices hold the cohort; the run that they are compared with reads it.

  Of the tests of processes this one is here, for the run that killed ones are compared with too.
  """
  runner.finish(tmp_path / 'run', processes=2, devices=2, cache='device')
  check_same(tmp_path / 'run', whole[0], **ROUNDING)
  said = [path.read_text() for path in sorted(tmp_path.glob('run.*.txt'))]
  assert sum('results: ' in text for text in said) == 1   # one process speaks
  assert sum('next, what it learned: ' in text for text in said) == 1
  assert sum('epoch 4/4' in text for text in said) == 1


@pytest.mark.slow
def test_twenty_killed_runs_end_in_the_same_parameters(runner, whole, tmp_path):
  was_saving = interrupt_many(runner, whole, tmp_path, signal.SIGKILL, 20, seed=1,
                              codes={-signal.SIGKILL, 0})
  assert sum(was_saving) >= 3, was_saving   # half a checkpoint was there


@pytest.mark.slow
def test_ten_runs_stopped_by_sigterm_end_in_the_same_parameters(runner, whole, tmp_path):
  interrupt_many(runner, whole, tmp_path, signal.SIGTERM, 10, seed=2, codes={75, 0})
