"""What a stalled run waits for is said, and each wait is counted as what it is."""

from __future__ import annotations

import re
import time

import pytest

from anatcl_jax.data import pipeline
from anatcl_jax.training import tracking, train
from anatcl_jax.training.heartbeat import Heartbeat
from tests.small_run import small_config


def test_lines_come_at_growing_intervals_and_only_of_long_waits(capsys):
  with Heartbeat(0.2) as heartbeat:
    heartbeat.waits_for('data', 812)
    time.sleep(1.2)   # lines after 0.2, 0.4 and 0.8 s; the next would come after 1.6
    for _ in range(10):
      heartbeat.waits_for('devices', 812)
      time.sleep(0.02)
    heartbeat.waits_for('checkpoint', 800)
    time.sleep(0.3)
  lines = capsys.readouterr().err.splitlines()
  # On a busy machine sleeping may take longer, and there may be more lines.
  assert [line for line in lines if 'data' in line][:3] == [
      f'waiting {seconds} s for: data of step 812' for seconds in (0.2, 0.4, 0.8)]
  assert [line for line in lines if 'checkpoint' in line][:1] == [
      'waiting 0.2 s for: checkpoint of step 800']
  time.sleep(0.5)
  assert not capsys.readouterr().err   # closed: silent


def test_seconds_a_step_are_those_of_data_and_devices(monkeypatch):
  clock = iter([0, 1, 3, 13, 20, 20.5, 24])
  monkeypatch.setattr(time, 'monotonic', lambda: next(clock))
  heartbeat = Heartbeat(0, first_step=6)
  for kind, step in (('data', 7), ('devices', 7), ('checkpoint', 7), ('devices', 8), ('data', 9),
                     ('evaluation', 8)):
    heartbeat.waits_for(kind, step)
  # Data 1 to 3 and 20.5 to 24, devices 3 to 13 and 20 to 20.5; saving, 13 to 20, does not count.
  assert heartbeat.take_seconds(8) == {'step_seconds': 8, 'wait_for_data_seconds': 2.75}


def test_a_run_whose_reader_stalls_says_so(training_set, small_model, tmp_path, monkeypatch,
                                           capsys):
  batches = pipeline.read_batches

  def stalling(*arguments):
    for index, batch in enumerate(batches(*arguments)):
      if index == 5 and isinstance(arguments[1], pipeline.TrainSchedule):
        time.sleep(2)      # the loop asks for it later, on a busy machine much later
      yield batch

  monkeypatch.setattr(pipeline, 'read_batches', stalling)
  train.train(small_config(training_set.directory, epochs=2, heartbeat_seconds=0.25), tmp_path)
  assert re.findall(r'waiting ([\d.]+) s for: data of step 6', capsys.readouterr().err)[:3] == [
      '0.25', '0.5', '1']
  rows = tracking.read_metrics(tmp_path)
  # Reading ahead began to wait for the batch of step 6 before the loop asked for it.
  assert 1 <= max(row['wait_for_data_seconds'] for row in rows if row['step'] in (5, 6))
  for row in rows:
    assert row['wait_for_data_seconds'] <= row['step_seconds']
    assert row['step_seconds'] <= 1.05 * 8 / row['subjects_per_second']   # a part of all the time


@pytest.mark.parametrize('seconds', [0, 0.05])
def test_the_thread_ends_with_the_run(seconds):
  heartbeat = Heartbeat(seconds)
  with pytest.raises(KeyError), heartbeat:
    raise KeyError
  assert not heartbeat._thread.is_alive()
