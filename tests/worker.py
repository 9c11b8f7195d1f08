"""Whole runs in processes of their own, which fork from one that has imported everything."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pathlib
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess


@dataclasses.dataclass(frozen=True)
class Runner:
  """Starts the command `python -m anatcl_jax.main` with the small encoder of `small_run`."""

  data_dir: pathlib.Path
  cache: pathlib.Path           # of what is compiled

  def start(self, workdir: pathlib.Path, *, devices: int = 1, processes: int = 1,
            flags: tuple[str, ...] = (), **changes) -> list[Worker]:
    """One worker a process, of the same run."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    values = {'data_dir': self.data_dir, 'epochs': 4, 'batch_size': 8, 'precision': 'float32',
              'feature_dim': 8, 'learning_rate': 1e-3, 'log_every_steps': 1,
              'checkpoint_every_seconds': 0.0, **changes}
    argv = ['--config=configs/pretrain.py:encoder=tiny', f'--workdir={workdir}', *flags,
            *(f'--config.{key}={value}' for key, value in values.items())]
    if processes > 1:
      argv += [f'--coordinator_address=localhost:{free_port()}', f'--num_processes={processes}']
    workers = []
    for index in range(processes):
      own = [*argv, f'--process_id={index}'] if processes > 1 else argv
      output = workdir.parent / f'{workdir.name}.{time.monotonic_ns()}.{index}.txt'
      process = context().Process(target=run, args=(own, output, devices, self.cache))
      process.start()
      workers.append(Worker(process, output))
    return workers

  def finish(self, workdir: pathlib.Path, **settings) -> None:
    """Runs to the end, which must be reached."""
    for worker in self.start(workdir, **settings):
      assert worker.wait() == 0, worker.said()


@dataclasses.dataclass(frozen=True)
class Worker:
  process: BaseProcess
  output: pathlib.Path

  def wait(self, seconds: float = 120) -> int:
    """The exit code; below 0 where a signal ended the process."""
    self.process.join(seconds)
    if self.process.exitcode is None:
      self.process.kill()
      raise AssertionError(f'still running after {seconds} s: {self.said()}')
    return self.process.exitcode

  def wait_until(self, condition: Callable[[], bool]) -> bool:
    """False where the process ended first."""
    while not condition():
      if not self.process.is_alive():
        return False
      time.sleep(0.001)
    return True

  def send(self, number: int) -> None:
    if self.process.is_alive():
      os.kill(self.process.pid, number)

  def said(self) -> str:
    """stdout and stderr together."""
    return self.output.read_text() if self.output.exists() else ''


def context() -> multiprocessing.context.ForkServerContext:
  """Processes fork from one that has imported the program."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['anatcl_jax.main', 'anatcl_jax.training.train',
                                  'tests.small_run'])
  return context


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def run(argv: list[str], output: pathlib.Path, devices: int, cache: pathlib.Path) -> None:
  """The command in this process; `output` takes stdout and stderr."""
  descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(descriptor, 1)
  os.dup2(descriptor, 2)
  # What is compared bit by bit is compiled as it is for users.
  os.environ.pop('XLA_FLAGS', None)
  import jax

  from anatcl_jax import main, models
  from tests import small_run
  jax.config.update('jax_num_cpu_devices', devices)
  models.get_encoder = small_run.get_encoder
  with small_run.compilation_cache(cache):
    main.main(argv)
