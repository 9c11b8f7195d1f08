"""Configs: the published numbers, arguments behind the colon, and the command line's errors."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from anatcl_jax import config as configs
from anatcl_jax import config_files, main
from anatcl_jax.cohorts.morphometry import measure_names
from anatcl_jax.errors import UserError
from anatcl_jax.training.checks import check_values
from configs.pretrain import get_config

ROOT = pathlib.Path(__file__).parents[1]


def test_the_default_is_the_published_recipe():
  config = get_config()
  published = {
      'encoder': 'resnet18', 'head': 'mlp', 'feature_dim': 128, 'learning_rate': 1e-4,
      'weight_decay': 5e-5, 'decay': 0.9, 'decay_epochs': 10, 'epochs': 300, 'batch_size': 32,
      'views': 2, 'augment': 'none', 'atlas': 'desikan', 'measures': 'thickness+volume+area',
      'num_folds': 5, 'precision': 'bfloat16', 'crop': '121,128,121'}
  assert {key: config[key] for key in published} == published
  assert config.loss.method == 'yaware' and config.loss.temperature == 0.1
  assert config.loss.base_temperature == 0.07
  assert config.loss.terms.age.to_dict() == {
      'attribute': 'age', 'weight': 1.0, 'kernel': 'rbf', 'sigma': 2.0,
      'effective_positives': 0.0}
  assert config.loss.terms.anatomy.weight == 1.0
  assert config.loss.terms.anatomy.kernel == 'global'
  assert 'phantom' not in config    # nothing synthetic without being asked for


def test_arguments_reach_their_keys():
  config = get_config('variant=local,encoder=resnet50,measures=all')
  assert config.loss.terms.anatomy.kernel == 'local'
  assert (config.encoder, config.measures) == ('resnet50', 'all')
  anatomy = get_config('effective_positives=0.1,without=site+sex,keeping=age').loss.terms.anatomy
  assert (anatomy.effective_positives, anatomy.without, anatomy.keeping) == (0.1, 'site+sex', 'age')
  assert get_config('demo').encoder == 'tiny' and get_config('demo').phantom.subjects > 0
  assert get_config('demo,encoder=resnet34').encoder == 'resnet34'


def test_presets_of_the_probe_change_the_keys_that_they_say():
  usual = config_files.load('probe').to_dict()
  for text, changed in (
      ('probe:brain_age', {'tasks': 'brain_age', 'save': True, 'learning_curve': 'none'}),
      ('probe:brainfmbench', {'tasks': 'age,sex', 'benchmark': 'brainfmbench', 'saliency': 'none',
                              'learning_curve': 'none', 'leave_one_site_out': False})):
    preset = config_files.load(text).to_dict()
    assert list(preset) == list(usual) and preset == usual | changed
  assert 'healthy' in usual and usual['tasks'] == 'demographics' and usual['save'] is False


@pytest.mark.parametrize('arguments, message', [
    ('varaint=local', "did you mean 'variant'"), ('demo=1', "'demo' takes no value"),
    ('variant', "'variant' needs a value"),
    ('effective_positives=few', 'effective_positives=few: must be a number'),
    ('also=age', 'a term of this name is there already'),
    ('also=a.b', 'no dots')])
def test_wrong_arguments(arguments, message):
  with pytest.raises(UserError, match=message):
    get_config(arguments)


def test_crop_and_measures():
  assert configs.crop_sizes('121,128,121') == (121, 128, 121)
  assert configs.crop_sizes('(96, 96, 80)') == (96, 96, 80)
  assert configs.crop_sizes('none') is None
  for wrong in ('96', '1,2,3,4', '0,4,4', '-3,4,4', 'big', '1.5,2,3'):
    with pytest.raises(UserError, match='neither three sizes'):
      configs.crop_sizes(wrong)
  assert measure_names('all', ('area', 'volume')) == ('area', 'volume')
  with pytest.raises(UserError, match='twice'):
    measure_names('area+area', ('area',))


@pytest.mark.parametrize('key, value, message', [
    ('epochs', 0, 'config.epochs is 0'), ('decay', -1.0, 'config.decay is -1.0'),
    ('weight_decay', float('nan'), 'config.weight_decay is nan'),
    ('learning_rate', -1.0, 'must be a number above 0'),
    ('augment', 'yawar', "did you mean 'yaware'"), ('augment', 'noise+none', 'none stands alone'),
    ('augment', '', "augment ''"),
    ('remat', 'block', "did you mean 'blocks'"), ('micro_batch_size', -1, 'must be at least 0'),
    ('precision', 'float16', "did you mean 'bfloat16'"), ('mapper', 'pmaps', "did you mean 'pmap'"),
    ('encoder', 'resnet-18', "did you mean 'resnet18'"), ('head', 'lp', 'projection head')])
def test_values_that_no_run_can_have(key, value, message):
  config = get_config()
  config[key] = value
  with pytest.raises(UserError, match=message):
    check_values(config)


@pytest.mark.parametrize('arguments, changes, message', [
    ('effective_positives=1.5', {}, 'anatomy.effective_positives is 1.5, must be a share'),
    ('effective_positives=0.01', {}, '0.01 of the 31 others .* choose 0.033 or more'),
    ('effective_positives=0.1', {'method': 'supcon'}, 'supcon takes weights of 1 only'),
    ('also=sex', {'terms': {'sex': {'effective_positives': 0.1}}}, 'equal values have no degrees'),
    ('keeping=age', {}, "keeping is 'age', but nothing is taken out"),
    ('without=site+age,keeping=age', {}, 'age stands twice'),
    ('', {'terms': {'age': {'without': 'site'}}}, 'taken out of morphometry only, not of age')])
def test_sharpness_and_columns_that_make_no_sense(arguments, changes, message):
  config = get_config(arguments)
  with config.unlocked():
    config.loss.update(changes)
  with pytest.raises(UserError, match=message):
    check_values(config)


def test_terms_need_a_weight():
  config = get_config()
  config.loss.terms.age.weight = config.loss.terms.anatomy.weight = 0.0
  with pytest.raises(UserError, match='nor all 0'):
    check_values(config)


@pytest.mark.parametrize('arguments, message', [
    (['--config=configs/pretrain.py', '--config.epoch=3'], "did you mean 'epochs'"),
    (['--config=configs/pretrain.py', '--config.loss.terms.age.sigmas=3'],
     "did you mean 'loss.terms.age.sigma'"),
    (['--config=configs/pretrain.py:demos'], "did you mean 'demo'"),
    (['--config=configs/pretrain.py', '--config.epochs=ten'], '--config.epochs=ten'),
    (['--config=configs/pretrian.py'], 'configs/pretrian.py: no such config file'),
    (['--config.epochs=3'], 'give --config=configs/pretrain.py'),
    (['--config=configs/pretrain.py', '--workdir=a', '--workdir', 'b'], 'given twice'),
    (['--confg=configs/pretrain.py'], 'did you mean --config?'),
    (['--config=configs/pretrain.py:demo', 'extra'], "unexpected argument 'extra'"),
    (['--config', 'configs/pretrain.py', '--config.epoch', '3'], "did you mean 'epochs'"),
    (['--config', 'configs/nowhere.py', '--config.epochs=3'], 'configs/nowhere.py: no such'),
    ([], 'give --config=configs/pretrain.py')])
def test_the_command_lines_errors_are_one_line(arguments, message, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  with pytest.raises(SystemExit) as stop:
    main.main(arguments)
  line, = capsys.readouterr().err.splitlines()
  assert stop.value.code == 2 and line.startswith('error: ') and message in line


def test_an_error_about_data_is_all_that_is_said(tmp_path):
  """The config of sixty lines is printed when the run can start."""
  done = subprocess.run(
      [sys.executable, '-m', 'anatcl_jax.main', '--config=configs/pretrain.py',
       f'--workdir={tmp_path}/run'], cwd=ROOT, capture_output=True, text=True)
  line, = done.stderr.splitlines()
  assert done.returncode == 2 and line.startswith('error: data/openbhb holds no shards')
  assert not list(tmp_path.iterdir())


def test_help_teaches():
  for module in ('main', 'prepare'):
    done = subprocess.run([sys.executable, '-m', f'anatcl_jax.{module}', '--help'], cwd=ROOT,
                          capture_output=True, text=True)
    assert 'anatcl_jax' in done.stdout and 'shard' in done.stdout, module
  done = subprocess.run([sys.executable, '-m', 'anatcl_jax.prepare', 'bids', '--help'], cwd=ROOT,
                        capture_output=True, text=True)
  assert 'worked example' in done.stdout and done.returncode == 0
