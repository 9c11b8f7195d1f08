"""Several processes of one run on loopback: the same numbers, and none hangs when one dies."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from anatcl_jax.devices import processes
from anatcl_jax.errors import RunFailure, UserError
from tests.test_kill import ROUNDING, check_same
from tests.worker import free_port

SHAPES = ((1, 4), (2, 2), (4, 1))   # processes, devices each


@pytest.mark.slow
@pytest.mark.parametrize('mapper', ['jit', 'pmap'])
@pytest.mark.parametrize('count, devices', SHAPES)
def test_processes_and_devices_do_not_matter(runner, whole, tmp_path, count, devices, mapper):
  runner.finish(tmp_path / 'run', processes=count, devices=devices, mapper=mapper)
  check_same(tmp_path / 'run', whole[0], **ROUNDING)


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_them(runner, whole, tmp_path):
  for epochs, (count, devices) in enumerate([(2, 2), (1, 1), (4, 1), (1, 4)], start=1):
    runner.finish(tmp_path / 'run', processes=count, devices=devices, epochs=epochs)
  check_same(tmp_path / 'run', whole[0], **ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_when_one_dies_the_other_stops_and_says_so(runner, whole, tmp_path, victim):
  workers = runner.start(tmp_path / 'run', processes=2, epochs=400)
  assert workers[0].wait_until(lambda: 'epoch 2/' in workers[0].said()), workers[0].said()
  workers[victim].send(signal.SIGKILL)
  start = time.monotonic()
  survivor = workers[1 - victim]
  assert survivor.wait(60) == 75, survivor.said()
  last = survivor.said().strip().splitlines()[-1]
  assert last.startswith('stopped: lost another process of the run') and 'same command' in last
  assert time.monotonic() - start < 60
  # The same command, on as many processes, and then to the end that the others had.
  runner.finish(tmp_path / 'run', processes=2)
  check_same(tmp_path / 'run', whole[0], **ROUNDING)


@pytest.mark.slow
def test_a_process_that_is_silent_counts_as_dead(runner, tmp_path):
  workers = runner.start(tmp_path / 'run', processes=2, epochs=400,
                         flags=('--heartbeat_timeout=10',))
  try:
    assert workers[0].wait_until(lambda: 'epoch 2/' in workers[0].said()), workers[0].said()
    workers[1].send(signal.SIGSTOP)
    assert workers[0].wait(60) == 75, workers[0].said()
    assert workers[0].said().strip().splitlines()[-1].startswith('stopped: lost another process')
  finally:
    workers[1].send(signal.SIGKILL)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(runner, tmp_path):
  workers = runner.start(tmp_path / 'run', processes=2, epochs=400)
  assert workers[0].wait_until(lambda: 'epoch 2/' in workers[0].said()), workers[0].said()
  workers[1].send(signal.SIGTERM)
  assert [worker.wait() for worker in workers] == [75, 75]
  assert all('is saved in' in worker.said().strip().splitlines()[-1] for worker in workers)


@pytest.mark.slow
def test_processes_leave_out_the_same_damaged_record(runner, training_set, tmp_path):
  shutil.copytree(training_set.directory, tmp_path / 'set')
  shard = min((tmp_path / 'set').glob('*.array_record'))
  content = bytearray(shard.read_bytes())
  content[len(content) // 2] ^= 255
  shard.write_bytes(content)
  damaged = dataclasses.replace(runner, data_dir=tmp_path / 'set')
  for name, count in (('one', 1), ('two', 2)):
    damaged.finish(tmp_path / name, processes=count, **{'data.on_error': 'skip'})
  check_same(tmp_path / 'two', tmp_path / 'one', **ROUNDING)
  left_out = [json.loads((tmp_path / name / 'config.json').read_text())['left_out']
              for name in ('one', 'two')]
  assert left_out[0] == left_out[1] and len(left_out[0]) == 1


@pytest.mark.parametrize('variables, message', [
    ({'JAX_COORDINATOR_ADDRESS': 'localhost:9'}, 'belong together: give all three'),
    ({'JAX_COORDINATOR_ADDRESS': 'localhost:9', 'JAX_NUM_PROCESSES': 'two', 'JAX_PROCESS_ID': '0'},
     "JAX_NUM_PROCESSES 'two' .* must be whole numbers")])
def test_incomplete_environments_are_refused(monkeypatch, variables, message):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match=message):
    processes.start()


def test_what_is_out_of_range_is_one_line(monkeypatch):
  with pytest.raises(RunFailure, match="can't join the other processes .*process 5 of 2: "):
    processes.start('localhost:9', 2, 5)


@pytest.mark.parametrize('step', [
    {}, {'SLURM_STEP_NODELIST': 'a', 'SLURM_STEP_NUM_TASKS': '1'}])
def test_slurm_without_srun_is_said_at_once(monkeypatch, step):
  """The script of a job of four tasks, and a step of one task in it."""
  for name in ('SLURM_STEP_NODELIST', 'SLURM_STEP_NUM_TASKS'):
    monkeypatch.delenv(name, raising=False)
  for name, value in {'SLURM_PROCID': '0', 'SLURM_NTASKS': '4', **step}.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(processes.jax.distributed, 'initialize', None)   # calling it would fail
  with pytest.raises(UserError, match='has 4 tasks, and srun did not start this process'):
    processes.start()


def test_waiting_for_others_is_said_and_sigterm_ends_it(tmp_path):
  code = ('from anatcl_jax.devices import processes as p; p._SAY_AFTER_SECONDS = 0.1; '
          f'p.start("localhost:{free_port()}", 2, 1)')
  waiting = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True)
  said = ''
  while 'waiting for the other processes' not in said:
    said = waiting.stderr.readline()
    assert said, waiting.wait()
  assert 'of 2 at localhost:' in said and 'srun starts them all' in said
  waiting.send_signal(signal.SIGTERM)
  assert waiting.wait(30) == 75
  assert 'stopped: SIGTERM before a step' in waiting.stderr.read()


def test_alone_nothing_is_started(monkeypatch):
  for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'TPU_WORKER_HOSTNAMES', 'OMPI_COMM_WORLD_SIZE'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('SLURM_PROCID', '0')
  monkeypatch.setenv('SLURM_NTASKS', '1')
  monkeypatch.setattr(processes.jax.distributed, 'initialize', None)   # calling it would fail
  processes.start()


def test_importing_the_program_does_not_start_jax():
  """jax.distributed can only be joined before; in a process of its own, as here JAX has started."""
  code = ('import anatcl_jax.main, jax._src.xla_bridge as bridge; '
          'raise SystemExit(bridge.backends_are_initialized())')
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
