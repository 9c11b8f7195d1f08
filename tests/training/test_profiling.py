"""Traces of chosen steps, memory in the metrics, and compiled programs kept between runs."""

from __future__ import annotations

import gzip
import json

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from anatcl_jax.devices import compilation
from anatcl_jax.errors import UserError
from anatcl_jax.training import profiling, tracking, train
from tests.small_run import small_config


def test_steps():
  assert list(profiling.parse_steps('10:12')) == [10, 11, 12]
  assert list(profiling.parse_steps('')) == []
  for text in ('12:10', '0:3', '5', 'a:b', '3:'):
    with pytest.raises(UserError, match=f"profile_steps '{text}' must be the first and the last"):
      profiling.parse_steps(text)


def test_a_run_traces_the_steps_that_are_asked_for(training_set, small_model, tmp_path, capsys):
  train.train(small_config(training_set.directory, epochs=2, profile_steps='3:5'), tmp_path)
  assert f'profile of steps 3 to 5: {tmp_path}/profile' in capsys.readouterr().err
  path, = tmp_path.glob('profile/**/*.trace.json.gz')
  events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
  steps = [event['args']['step_num'] for event in events if event.get('name') == 'train']
  assert steps == ['3', '4', '5']
  assert any(event.get('name') == 'PjitFunction(train_step)' for event in events)
  # Memory that the process really has, in MB.
  rows = tracking.read_metrics(tmp_path)
  now = profiling.memory_figures()['host_memory_mb']
  assert all(0.5 * now < row['host_memory_mb'] < 1.5 * now for row in rows)


def test_device_memory_is_the_largest_peak(monkeypatch):
  class Device:
    def __init__(self, stats):
      self.memory_stats = lambda: stats

  devices = [Device({'peak_bytes_in_use': 3e9}), Device({'peak_bytes_in_use': 5e9})]
  monkeypatch.setattr(jax, 'local_devices', lambda: devices)
  assert profiling.memory_figures()['device_peak_memory_mb'] == 5000
  monkeypatch.setattr(jax, 'local_devices', lambda: [Device(None)])
  assert set(profiling.memory_figures()) == {'host_memory_mb'}


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
  """JAX without a cache, every program worth keeping, and a cache folder of the user's."""
  names = {'jax_compilation_cache_dir': None, 'jax_persistent_cache_min_compile_time_secs': 0.0,
           'jax_persistent_cache_min_entry_size_bytes': -1}
  before = {name: getattr(jax.config, name) for name in names}
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  for name, value in names.items():
    jax.config.update(name, value)
  jax_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  jax_cache.reset_cache()


def compiled_anew(factor: float) -> float:
  """What a program gives that is not in memory any more."""
  jax.clear_caches()
  return float(jax.jit(lambda x: (x * factor).sum())(np.arange(10.0)))


def test_programs_are_kept_where_the_setting_says(fresh_cache, tmp_path):
  assert compilation.use_cache('auto') == tmp_path / 'cache' / 'anatcl_jax'
  assert compiled_anew(3.0) == 135
  entries = list((tmp_path / 'cache' / 'anatcl_jax').glob('*-cache'))
  assert entries
  assert compiled_anew(3.0) == 135
  assert list((tmp_path / 'cache' / 'anatcl_jax').glob('*-cache')) == entries   # found again
  # A setting of JAX's own stays, a folder takes its place, and none keeps nothing.
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'own'))
  assert compilation.use_cache('auto') == tmp_path / 'own'
  assert compilation.use_cache(str(tmp_path / 'named')) == tmp_path / 'named'
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'named')
  assert compilation.use_cache('none') is None and jax.config.jax_compilation_cache_dir is None


def test_half_written_entries_are_compiled_anew(fresh_cache, tmp_path):
  compilation.use_cache(str(tmp_path / 'programs'))
  assert compiled_anew(5.0) == 225
  for entry in (tmp_path / 'programs').glob('*-cache'):
    entry.write_bytes(entry.read_bytes()[:entry.stat().st_size // 2])
  with pytest.warns(UserWarning, match='Error reading persistent compilation cache'):
    assert compiled_anew(5.0) == 225


def test_a_folder_that_cannot_be_written_is_one_line(fresh_cache, tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match="compilation_cache '.*file/cache' can't be written"):
    compilation.use_cache(str(tmp_path / 'file' / 'cache'))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert compilation.use_cache('auto') is None   # a home that is read-only stops no run
