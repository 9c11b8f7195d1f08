"""Signals: when a run stops, what it leaves, and with which exit code."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
import types

import pytest

from anatcl_jax import errors
from anatcl_jax.devices import signals
from anatcl_jax.errors import Stopped
from anatcl_jax.training import tracking, train
from tests.small_run import small_config


@pytest.fixture(autouse=True)
def heard():
  """A script's background job ignores SIGINT, one under nohup SIGHUP; children inherit it."""
  ignored = [number for number in signals.SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
  for number in ignored:
    signal.signal(number, signal.SIG_DFL)
  yield
  for number in ignored:
    signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize('number', signals.SIGNALS)
def test_a_signal_stops_after_the_step_and_the_run_goes_on(training_set, small_model, tmp_path,
                                                           monkeypatch, number):
  """The signal arrives, twice, while row 2 is written; the devices have step 3, which is saved."""
  write = tracking.MetricsLog.write

  def signalled(log, step, *rest):
    write(log, step, *rest)
    if step == 2:
      os.kill(os.getpid(), number)
      os.kill(os.getpid(), number)

  monkeypatch.setattr(tracking.MetricsLog, 'write', signalled)
  before = signal.getsignal(number)
  with pytest.raises(Stopped, match='step 3 of 8 is saved in .*run; the same command goes on'):
    train.train(small_config(training_set.directory, epochs=2), tmp_path / 'run')
  assert signal.getsignal(number) is before
  assert [step.name for step in (tmp_path / 'run' / 'checkpoints').iterdir()] == ['3']
  monkeypatch.setattr(tracking.MetricsLog, 'write', write)
  train.train(small_config(training_set.directory, epochs=2), tmp_path / 'run')
  assert [row['step'] for row in tracking.read_metrics(tmp_path / 'run')] == list(range(1, 9))


def test_before_the_first_step_a_signal_ends_the_process_at_once():
  with _ends_at_once():
    for number in signals.SIGNALS:
      with pytest.raises(Stopped, match=f'{number.name} outside of training'):
        os.kill(os.getpid(), number)


def test_a_signal_is_heard_that_came_where_python_passes_over_exceptions():
  """As JAX's callback of the garbage collector is one; what others raise there is theirs."""
  sent, told = [], []

  def collected(phase, _):
    if phase == 'stop' and not sent:
      sent.append(True)
      os.kill(os.getpid(), signal.SIGTERM)

  class Fails:
    def __del__(self):
      raise ValueError('of somebody else')

  hook, sys.unraisablehook = sys.unraisablehook, lambda one: told.append(str(one.exc_value))
  gc.callbacks.append(collected)
  try:
    with _ends_at_once(), pytest.raises(Stopped, match='SIGTERM outside of training'):
      Fails()
      gc.collect()
      time.sleep(10)
  finally:
    gc.callbacks.remove(collected)
    sys.unraisablehook = hook
  assert sent and told == ['of somebody else']


@contextlib.contextmanager
def _ends_at_once():
  before = {number: signal.getsignal(number) for number in signals.SIGNALS}
  hook = sys.unraisablehook
  try:
    signals.stop_at_once()
    yield
  finally:
    sys.unraisablehook = hook
    for number, handler in before.items():
      signal.signal(number, handler)


def test_exit_code_and_line(capsys):
  with pytest.raises(SystemExit) as stop, errors.reported():
    raise Stopped('step 7 of 9 is saved')
  assert stop.value.code == 75
  assert capsys.readouterr().err == 'stopped: step 7 of 9 is saved\n'


def test_what_tensorstore_tells_too_late_is_left_out(monkeypatch):
  told = []
  monkeypatch.setattr(sys, 'unraisablehook', told.append)
  with errors.reported():
    for text in ('Event loop is closed', 'something else'):
      sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
  assert [str(one.exc_value) for one in told] == ['something else']
  assert sys.unraisablehook == told.append


def test_a_second_signal_while_saving_is_only_noted(capfd):
  with signals.StopSignal() as stop:
    stop.beginning = False
    assert not stop.received
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.received
    os.kill(os.getpid(), signal.SIGINT)
  assert capfd.readouterr().err.split('\n')[1::2] == [
      'SIGTERM: stopping when this step is finished and saved', 'SIGINT: still saving, a moment']


def _in_a_process(code: str) -> subprocess.Popen:
  """A process that says `ready` when it has its handlers."""
  process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'ready\n'
  return process


def test_a_second_signal_while_it_compiles_ends_at_once():
  """The main thread is in C code, as when XLA compiles, and no handler of Python's runs."""
  process = _in_a_process(
      'import ctypes\nfrom anatcl_jax.devices import signals\nwith signals.StopSignal():\n'
      '  print("ready", flush=True)\n  while True: ctypes.CDLL(None).sleep(600)')
  start = time.monotonic()
  process.send_signal(signal.SIGINT)
  first = [process.stderr.readline() for _ in range(2)][1]
  assert first == ('SIGINT: it waits until the first step is compiled and done, and saves it; once '
                   'more ends the run at once\n')
  process.send_signal(signal.SIGINT)
  assert process.wait(30) == 75 and time.monotonic() - start < 30
  assert process.stderr.read().strip().startswith('stopped: SIGINT before a step was done')


def test_nohup_is_respected():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with signals.StopSignal() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      os.kill(os.getpid(), signal.SIGUSR1)
    assert stop._told == 1
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)
