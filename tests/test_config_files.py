"""Config and task files of the user's own: what is wrong in them is one line that says where."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest

from anatcl_jax import config_files
from anatcl_jax.config import flat
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import tasks
from anatcl_jax.training.checks import check_values

OWN = (config_files.FOLDER / 'pretrain.py').read_text(encoding='utf-8')


def written(tmp_path: pathlib.Path, text: str) -> str:
  path = tmp_path / 'mine.py'
  path.write_bytes(text.encode('latin-1') if isinstance(text, str) else text)
  return str(path)


@pytest.mark.parametrize('text, message', [
    ('def get_config():\n  return nothing\n', r'mine.py, line 2: NameError: .*nothing'),
    ('x = (1,\n', r'mine.py, line 1: SyntaxError'),
    ('if True:\nx = 1\n', r'mine.py, line 2: IndentationError'),
    ('\nimport beside_it\n', r"mine.py, line 2: ModuleNotFoundError: No module named 'beside_it'"),
    ('import broken\n', r'broken.py, line 1: ZeroDivisionError'),
    ('import sys\nsys.exit(1)\n', r'mine.py, line 2: SystemExit'),
    ('def get_config():\n  return get_config()\n', r'mine.py, line 2: RecursionError'),
    ('x = 1\0\n', r'mine.py: \w+Error: source code .*null bytes'),
    ('\xff = 1\n', r'mine.py, line 1: SyntaxError'),
    ('get_config = 3\n', 'defines no function get_config'),
    ('def get_config():\n  return 5\n', 'returns int, must be a ConfigDict'),
    ('def get_config():\n  return {"epochs": 3}\n', r'lacks config.atlas.* and \d+ more')])
def test_mistakes_in_a_file(text, message, tmp_path):
  (tmp_path / 'broken.py').write_text('1 / 0\n')
  with pytest.raises(UserError, match=message) as told:
    config_files.load(written(tmp_path, text), 'pretrain')
  assert '\n' not in str(told.value)


@pytest.mark.parametrize('old, new, message', [
    ('config.seed = 0 ', '# ', r'mine.py lacks config.seed, which configs/pretrain.py'),
    ('config.seed = 0', 'config.sed = 0', r'lacks config.seed.*unknown is config.sed'),
    ('config.seed = 0', 'config.note = 0; config.seed = 0', r"line \d+: unknown config key 'note'"),
    ('config.learning_rate = 1e-4', "config.learning_rate = '1e-4'", "is '1e-4', must be a number"),
    ('config.epochs = 300', 'config.epochs = 1.0', 'is 1.0, must be a whole number'),
    ('config.epochs = 300', 'config.epochs = True', 'is True, must be a whole number'),
    ('config.small_input = False', 'config.small_input = 0', 'is 0, must be True or False'),
    ("config.crop = '121,128,121'", 'config.crop = (96, 96, 96)', r'is \(96.*must be text'),
    ('config.measures = chosen.measures', "config.measures = ['area']", r"is \['area'\], must be"),
    ("config.data_dir = 'data/openbhb'", 'config.data_dir = None', 'is None, must be text'),
    ('age.sigma = 2.0', 'age.sigma = "2"', "loss.terms.age.sigma is '2', must be a number"),
    ('age.kernel =', 'age.kernels =', "unknown config key 'kernels': did you mean 'kernel'")])
def test_keys_and_values(old, new, message, tmp_path):
  assert old in OWN
  where = OWN[:OWN.index(old)].count('\n') + 1
  with pytest.raises(UserError, match=message) as told:
    config_files.load(written(tmp_path, OWN.replace(old, new, 1)), 'pretrain')
  if line := re.search(r'line (\d+)', str(told.value)):
    assert int(line[1]) == where


def test_numbers_of_another_type(tmp_path):
  """Whole numbers serve as numbers, NumPy's as Python's, a path as text."""
  text = OWN.replace('config.learning_rate = 1e-4', 'config.learning_rate = 1').replace(
      'config.epochs = 300', 'import numpy; config.epochs = numpy.int64(3)').replace(
      "config.data_dir = 'data/openbhb'", "config.data_dir = pathlib.Path('x')")
  config = config_files.load(written(tmp_path, text), 'pretrain')
  assert type(config.learning_rate) is float and type(config.epochs) is int
  changed = config_files.override(config, {'learning_rate': '1e-3'})
  assert (changed.learning_rate, changed.epochs, changed.data_dir) == (1e-3, 3, 'x')
  assert np.isclose(config.learning_rate, 1)    # the config that was given stays


def test_a_config_that_changes_the_programs_own(tmp_path):
  """As the docs have it; modules beside it are found."""
  (tmp_path / 'rates.py').write_text('RATE = 3e-4\n')
  path = written(tmp_path, 'import rates\nfrom anatcl_jax import config_files\n\n\n'
                           'def get_config(arguments=None):\n'
                           "  config = config_files.load('pretrain:' + (arguments or ''))\n"
                           '  config.learning_rate = rates.RATE\n  return config\n')
  config = config_files.load(f'{path}:demo', 'pretrain')
  assert config.learning_rate == 3e-4 and config.phantom.subjects == 320
  assert set(flat(config_files.load(path, 'pretrain'))) == set(flat(config_files.load('pretrain')))


def test_the_config_of_another_command(tmp_path):
  with pytest.raises(UserError, match='is a config of `probe`, not of `pretrain`'):
    config_files.load('probe', 'pretrain')
  with pytest.raises(UserError, match='is a config of `pretrain`, not of `probe`'):
    config_files.load('pretrain', 'probe')
  (tmp_path / 'config.json').write_text('{"epochs": 1, "a": true}')
  with pytest.raises(UserError, match='config.json is no config file, which is Python'):
    config_files.load(str(tmp_path / 'config.json'), 'pretrain')
  with pytest.raises(UserError, match='is no config file'):
    config_files.load(str(tmp_path), 'pretrain')


@pytest.mark.parametrize('arguments, message', [
    (['--config.epoch=3'], "did you mean 'epochs'"), (['--config.epochs', '3x'], 'whole number'),
    (['--config.small_input=maybe'], 'True or False'), (['--config.crop'], 'needs a value'),
    (['--config.loss=3'], "did you mean 'loss.method'")])
def test_values_from_the_command_line(arguments, message):
  config = config_files.load('pretrain')
  with pytest.raises(UserError, match=message):
    config_files.override(config, config_files.split(arguments, config)[0])


def test_both_forms_of_a_value():
  config = config_files.load('pretrain')
  changes, rest = config_files.split(
      ['--config.small_input', '--config.epochs', '3', '--config.profile_steps=', 'x'], config)
  changed = config_files.override(config, changes)
  assert (changed.small_input, changed.epochs, changed.profile_steps, rest) == (True, 3, '', ['x'])


def test_a_key_of_an_earlier_version_is_told_and_left(tmp_path, capsys):
  config = config_files.load('probe')
  changes, rest = config_files.split(
      ['--config.bootstrap', '20', '--config.bootstrap=5', '--config.folds=3'], config)
  assert (changes, rest) == ({'folds': '3'}, [])
  assert capsys.readouterr().err.count('nothing reads bootstrap any more') == 2
  path = tmp_path / 'mine.py'
  path.write_text((config_files.FOLDER / 'probe.py').read_text(encoding='utf-8').replace(
      '  config.folds = 5', '  config.bootstrap = 1000\n  config.folds = 5'))
  assert 'bootstrap' not in config_files.load(str(path), 'probe')
  assert 'mine.py, line' in capsys.readouterr().err


@pytest.mark.parametrize('attribute, kernel, lacking', [
    ('morphometry', 'global', 'normalization'), ('age', 'rbf', 'sigma')])
def test_terms_that_lack_what_their_kernel_needs(attribute, kernel, lacking):
  config = config_files.load('pretrain')
  config.loss.terms = {'own': {'attribute': attribute, 'weight': 1.0, 'kernel': kernel}}
  with pytest.raises(UserError, match=f'config.loss.terms.own lacks {lacking}'):
    check_values(config)


@pytest.mark.parametrize('text, message', [
    ('TASKS = (Task(),)\n', r'mine.py, line 1: NameError'),
    ('from anatcl_jax.evaluation.tasks import Task\n\nTASKS = (Task("a", "b", "sum"),)\n',
     r"mine.py, line 3: task 'a': kind 'sum'"),
    ('TASKS = 5\n', 'mine.py: TypeError'), ('TASKS = ("age",)\n', "holds 'age', which is no Task"),
    ('TASK = ()\n', 'defines no TASKS'),
    ('TASKS = ()\nCOHORTS = {"mine": ("age",)}\n', "COHORTS has 'mine'"),
    ('import nowhere_beside\n', 'mine.py, line 1: ModuleNotFoundError')])
def test_mistakes_in_a_file_of_tasks(text, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)    # where generated code, <string>, might seem to lie
  with pytest.raises(UserError, match=message) as told:
    tasks.read_tasks(written(tmp_path, text))
  assert '\n' not in str(told.value)
