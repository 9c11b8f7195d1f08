"""Runs that begin with given weights: the very values, told, and only at their beginning."""

from __future__ import annotations

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import sources
from anatcl_jax.training import opening, train
from anatcl_jax.weights import stored, write
from anatcl_jax.weights.load import load_weights
from tests.small_run import small_config


@pytest.fixture
def first(small_model, training_set, tmp_path_factory):
  """One epoch, of four steps."""
  directory = tmp_path_factory.getbasetemp() / 'init' / 'first'
  if not directory.is_dir():
    train.train(small_config(training_set.directory, epochs=1), directory)
  return directory


def still(training_set, **changes):
  """A run whose parameters stay where they begin."""
  return small_config(training_set.directory, epochs=1, learning_rate=1e-30, seed=5, **changes)


def test_parameters_and_statistics_are_those_of_the_weights(first, training_set, tmp_path, capsys):
  """From a run, and from the same weights converted; Adam moves them by 1e-30 a step."""
  before = load_weights(first)
  folder = tmp_path / 'weights'
  write.write_folder(before, folder)
  for name, init in (('run', f'{first}@4'), ('folder', str(folder))):
    train.train(still(training_set, init=init), tmp_path / name)
    after = load_weights(tmp_path / name)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-25),
                 [after.variables['params'], after.head],
                 [before.variables['params'], before.head])
    assert after.card['init'] == init and init in ' '.join(after.card['notes'])
    assert f'init: encoder and head of {init}' in capsys.readouterr().err
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['init'] == f'{first}@4'


def test_statistics_of_batch_norm_come_along_and_a_head_of_another_size_is_drawn(
    first, training_set):
  weights = load_weights(first)
  config = still(training_set, feature_dim=4)
  program = train.compile_program(config, jax.make_mesh((1,), ('batch',)), 2)
  state = program.init(jax.random.key(5), training_set.grid.shape)
  begun = opening.begun(state, weights, str(first))
  jax.tree.map(np.testing.assert_array_equal, begun.batch_stats, weights.variables['batch_stats'])
  jax.tree.map(np.testing.assert_array_equal, begun.params['head'], state.params['head'])
  assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(begun.params['encoder']),
                                            jax.tree.leaves(state.params['encoder']), strict=True))


def test_a_run_that_goes_on_needs_the_weights_no_more(first, training_set, tmp_path):
  source = shutil.copytree(first, tmp_path / 'source')
  config = small_config(training_set.directory, epochs=1, init=str(source))
  train.train(config, tmp_path / 'run')
  shutil.rmtree(source)
  config.epochs = 2
  train.train(config, tmp_path / 'run')
  assert stored.steps(tmp_path / 'run')[0] == 8
  with pytest.raises(UserError, match='another config .*init'):
    train.train(small_config(training_set.directory, epochs=2), tmp_path / 'run')


def test_runs_of_before_the_option_go_on(first, training_set, tmp_path):
  run = shutil.copytree(first, tmp_path / 'run')
  config = json.loads((run / 'config.json').read_text())
  assert config.pop('init') == ''
  (run / 'config.json').write_text(json.dumps(config))
  train.train(small_config(training_set.directory, epochs=1), run)


@pytest.mark.parametrize('changes, message', [
    ({'encoder': 'resnet18'}, 'is a tiny, config.encoder resnet18'),
    ({'encoder_width': 8}, 'has encoder_width 0, small_input False, this run 8'),
    ({'small_input': True}, 'small_input'),
    ({'init': 'no/such'}, 'no/such: no such weights')])
def test_other_weights_are_one_line_and_leave_nothing(first, training_set, tmp_path, changes,
                                                      message):
  with pytest.raises(UserError, match=message):
    train.train(still(training_set, **{'init': str(first)} | changes), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_people_whom_the_first_run_saw_are_never_predicted(first, training_set, tmp_path):
  config = still(training_set, init=str(first), fold=1)
  config.seed = 0    # the same folds
  train.train(config, tmp_path / 'run')
  found = sources.gather(checkpoint=str(tmp_path / 'run'), tables='', data_dir='', participants='',
                         trained_on='', untrained_seeds=0, batch_size=8, show=False)
  assert found.cohort.seen.all()   # held out of fold 1, they were trained on with fold 0 held out
