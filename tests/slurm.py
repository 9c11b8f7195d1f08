"""Stands for SLURM's srun: `python -m tests.slurm OPTIONS PYTHON -m anatcl_jax.main ...`.

Starts two tasks on this machine with the variables that SLURM gives them, passes SIGTERM on, and
ends with the highest exit code, as srun does. The tasks have the small encoder of `small_run`.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import signal
import sys

from tests import worker

TASKS = 2


def _task(index: int, argv: list[str], output: pathlib.Path, cache: pathlib.Path) -> None:
  os.environ.update(
      SLURM_PROCID=str(index), SLURM_LOCALID=str(index), SLURM_NTASKS=str(TASKS),
      SLURM_STEP_NUM_NODES='1', SLURM_STEP_NODELIST='localhost')
  worker.run(argv, output, 1, cache)


def srun(argv: list[str]) -> int:
  """The highest exit code of the tasks."""
  command = list(itertools.dropwhile(lambda word: word.startswith('-'), argv))
  assert command[1:3] == ['-m', 'anatcl_jax.main'], command
  tasks = [worker.context().Process(target=_task, args=(
      index, command[3:], pathlib.Path(os.environ['TASK_OUTPUT'] + f'.{index}'),
      pathlib.Path(os.environ['COMPILED']))) for index in range(TASKS)]
  for task in tasks:
    task.start()
  signal.signal(signal.SIGTERM, lambda *_: [os.kill(task.pid, signal.SIGTERM) for task in tasks
                                            if task.exitcode is None])
  for task in tasks:
    task.join()
  return max(task.exitcode if task.exitcode >= 0 else 128 - task.exitcode for task in tasks)


if __name__ == '__main__':
  sys.exit(srun(sys.argv[1:]))
