"""Workdirs: one run at a time, names that tell runs apart, damaged lines, caches of one's own."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time

import jax
import pytest

from anatcl_jax import config_files, errors, main
from anatcl_jax.devices import compilation
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import estimators
from anatcl_jax.training import opening, tracking
from anatcl_jax.weights import stored


@pytest.mark.parametrize('given, changes, name', [
    ('configs/pretrain.py:demo', {}, 'pretrain-demo-global-tiny-fold0'),
    ('configs/pretrain.py:variant=local', {'fold': '3'}, 'pretrain-local-resnet18-fold3'),
    ('configs/pretrain.py', {'epochs': '5', 'reader_threads': '1'},
     'pretrain-global-resnet18-fold0'),
    ('configs/pretrain.py', {'seed': '2', 'learning_rate': '1e-3', 'data_dir': '/scratch/hcp d'},
     'pretrain-global-resnet18-fold0-data_dirhcp_d-learning_rate0.001-seed2'),
    ('configs/pretrain.py:measures=all', {}, 'pretrain-global-resnet18-fold0-measuresall')])
def test_the_default_workdir_tells_runs_apart(given, changes, name):
  config = config_files.override(config_files.load(given, 'pretrain'), changes)
  path = main._default_workdir(given, config)
  assert path.parent.name == 'runs' and sorted(path.name.split('-')) == sorted(name.split('-'))


def test_a_workdir_of_another_run_is_refused(tmp_path):
  with opening.alone(tmp_path / 'run'):
    with pytest.raises(UserError, match='in use by another process .* choose another --workdir'):
      with opening.alone(tmp_path / 'run'):
        pass
  assert not (tmp_path / 'run').exists()
  with pytest.raises(UserError, match='not UTF-8'), opening.alone(tmp_path / 'a\udcff'):
    pass


@pytest.mark.parametrize('damaged', [
    b'{"step": 2, "epo', b'\xff\xfe', b'[2]', b'{"step": "2"}', b'{"loss": 1}', b'[' * 10**5,
    b'{"step": 2, "loss": "x"}'])
def test_rows_behind_a_damaged_line_are_kept_and_it_is_named(tmp_path, damaged, capsys):
  rows = [json.dumps({'step': step, 'epoch': 1, 'loss': 0.5}).encode() for step in (1, 3, 4, 9)]
  (tmp_path / 'metrics.jsonl').write_bytes(b'\n'.join([rows[0], damaged, *rows[1:], rows[0][:9]]))
  assert [row['step'] for row in tracking.read_metrics(tmp_path)] == [1, 3, 4, 9]
  with tracking.MetricsLog(tmp_path, resume_step=4):
    pass
  assert 'metrics.jsonl: line 2 is damaged and left out' in capsys.readouterr().err
  assert (tmp_path / 'metrics.jsonl').read_bytes().splitlines() == rows[:3]


@pytest.fixture
def cache_setting(tmp_path, monkeypatch):
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  yield
  jax.config.update('jax_compilation_cache_dir', before)


def test_compiled_programs_are_their_users_alone(cache_setting, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(compilation.sys, 'platform', 'linux')
  old = os.umask(0)
  try:
    for setting in ('auto', str(tmp_path / 'named')):
      assert compilation.use_cache(setting).stat().st_mode & 0o777 == 0o700
      jax.config.update('jax_compilation_cache_dir', None)
  finally:
    os.umask(old)
  for mode in (0o777, 0o775, 0o1777, 0o722):
    (tmp_path / 'named').chmod(mode)
    with pytest.raises(UserError, match='can be written by others: compiled programs are code'):
      compilation.use_cache(str(tmp_path / 'named'))
    (tmp_path / 'cache' / 'anatcl_jax').chmod(mode)
    assert compilation.use_cache('auto') is None
    assert 'warning: ' in capsys.readouterr().err and not jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'named'))   # JAX's own setting
    assert compilation.use_cache('auto') is None and not jax.config.jax_compilation_cache_dir
  (tmp_path / 'named').chmod(0o700)
  monkeypatch.setattr(os, 'geteuid', lambda: os.getuid() + 1)
  with pytest.raises(UserError, match='belongs to another user'):
    compilation.use_cache(str(tmp_path / 'named'))


@pytest.mark.parametrize('number, word', [
    (errno.ENOSPC, 'make room'), (errno.EACCES, 'see that you may write there'),
    (errno.EMFILE, 'ulimit'), (errno.EIO, 'mend that')])
def test_a_failed_write_says_what_failed(number, word, capsys):
  with pytest.raises(SystemExit) as stop, errors.reported():
    raise OSError(number, os.strerror(number), '/data/x')
  said = capsys.readouterr().err
  assert stop.value.code == 1 and said.startswith(f'error: /data/x: {os.strerror(number)}; ')
  assert word in said and ('make room' in said) == (number == errno.ENOSPC)


def test_a_report_that_can_not_be_made_is_told_before_the_training(tmp_path, capsys):
  (tmp_path / 'own.py').write_text(
      'from configs.probe import get_config as probe\n'
      'def get_config(arguments=None):\n  config = probe()\n  config.tasks = "height"\n'
      '  return config\n')
  with pytest.raises(SystemExit) as stop:
    main.main(['--config=configs/pretrain.py:demo', f'--workdir={tmp_path / "run"}',
               f'--config.report_at_end={tmp_path / "own.py"}'])
  assert stop.value.code == 2 and 'height' in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


def test_a_platform_that_is_not_there_is_one_line(capsys, monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  with pytest.raises(SystemExit) as stop, errors.reported():
    raise RuntimeError("Unable to initialize backend 'cuda': no such backend (set ...)")
  assert stop.value.code == 2 and 'unset it' in capsys.readouterr().err


def test_no_room_for_the_probes_processes(monkeypatch):
  def full(*_, **__):
    def run(_):
      raise OSError(errno.ENOSPC, 'No space left on device')
      yield
    return run
  monkeypatch.setattr(estimators.joblib, 'Parallel', full)
  with pytest.raises(errors.RunFailure, match='No space left.*JOBLIB_TEMP_FOLDER.*config.jobs=1'):
    estimators.predictions([None] * 9, 2)


@pytest.mark.slow
def test_two_processes_on_one_workdir(training_set, tmp_path):
  """Ten times at random times: one runs, the other says so, and nothing is lost."""
  generator = random.Random(0)
  for trial in range(10):
    workdir = tmp_path / f'run{trial}'
    command = [sys.executable, '-m', 'anatcl_jax.main', '--config=configs/pretrain.py:encoder=tiny',
               f'--config.data_dir={training_set.directory}', '--config.batch_size=8',
               '--config.precision=float32', '--config.epochs=3', f'--workdir={workdir}']
    runs = []
    for seed in range(2):
      runs.append(subprocess.Popen([*command, f'--config.seed={seed}'], stderr=subprocess.PIPE,
                                   text=True))
      time.sleep(generator.uniform(0, 6))
    said = [one.communicate()[1] for one in runs]
    codes = [one.returncode for one in runs]
    # The second may come when the first has ended, and then finds another config.
    assert sorted(codes) == [0, 2], said
    refused, winner = said[codes.index(2)], codes.index(0)
    assert 'in use by another process' in refused or 'seed 0 -> 1' in refused
    assert json.loads((workdir / 'config.json').read_text())['seed'] == winner
    rows = [row['step'] for row in tracking.read_metrics(workdir)]
    assert rows == sorted(set(rows)) and rows[-1] == stored.steps(workdir)[0]
    assert stored.read_parameters(workdir)[0] == rows[-1] and not (workdir / '.lock').exists()
