"""Weights by path: what a run saved, its card, and what is refused."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

from anatcl_jax.data import pipeline
from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.frozen import extract
from anatcl_jax.training import train
from anatcl_jax.training.checkpoint import restore
from anatcl_jax.weights import write
from anatcl_jax.weights.load import load_weights, untrained
from tests.small_run import small_config


@pytest.fixture
def workdir(small_model, training_set, tmp_path_factory):
  """One epoch, of four steps; the same for all tests of a session."""
  directory = tmp_path_factory.getbasetemp() / 'weights-of-one-epoch'
  if not directory.is_dir():
    train.train(small_config(training_set.directory, epochs=1), directory)
  return directory


def initial_state(training_set, seed):
  config = small_config(training_set.directory)
  program = train.compile_program(config, jax.make_mesh((1,), ('batch',)), 2)
  return program.init(jax.random.key(seed), training_set.grid.shape)


def test_a_workdir_gives_what_its_newest_checkpoint_holds(workdir, training_set):
  state, _ = restore(workdir, initial_state(training_set, 5))
  weights = load_weights(workdir)
  jax.tree.map(np.testing.assert_array_equal, weights.variables,
               {'params': state.params['encoder'], 'batch_stats': state.batch_stats})
  jax.tree.map(np.testing.assert_array_equal, weights.head, {'params': state.params['head']})
  assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(weights.variables))


def test_the_card_says_what_was_trained_on_what(workdir, training_set):
  card = load_weights(workdir).card
  assert card == json.loads(json.dumps(card))
  assert card['grid'] == training_set.info['grid'] and card['crop'] == [121, 128, 121]
  expected = {'encoder': 'tiny', 'head': 'mlp', 'descriptor': 'global', 'fold': 0, 'seed': 0,
              'step': 4, 'precision': 'float32', 'synthetic': True, 'axes': 'RAS'}
  assert {name: card[name] for name in expected} == expected
  assert 'SYNTHETIC' in ' '.join(card['notes'])


def test_a_finished_run_notes_the_range_of_its_features(workdir, training_set, tmp_path):
  """Of the scans trained on, as extraction gives them; not of another step's checkpoint."""
  weights = load_weights(workdir)
  trained_on, _ = pipeline.split_by_participant(
      training_set.table['participant_id'].to_numpy(), 0, 5, 0)
  features = extract.features_of_shards(weights, training_set, show=False)[trained_on]
  for side, expected in (('low', features.min(0)), ('high', features.max(0))):
    np.testing.assert_allclose(weights.card['features_range'][side], expected, rtol=1e-4, atol=1e-5)
  run = tmp_path / 'run'
  shutil.copytree(workdir, run)
  noted = run / 'features_range.json'
  noted.write_text(noted.read_text().replace('"step": 4', '"step": 3'))
  assert 'features_range' not in load_weights(run).card


def test_untrained_is_the_run_before_its_first_step(workdir, training_set):
  weights = load_weights(workdir)
  fresh, state = untrained(weights, seed=7), initial_state(training_set, 7)
  jax.tree.map(np.testing.assert_array_equal, fresh.variables,
               {'params': state.params['encoder'], 'batch_stats': state.batch_stats})
  assert fresh.card['untrained'] and fresh.card['seed'] == 7 and fresh.head is None
  assert 'untrained' not in weights.card
  assert weights.card['synthetic'] and not fresh.card['synthetic']     # trained on nobody
  assert fresh.card['notes'] == ['Untrained: parameters drawn with seed 7.']


def test_a_run_that_began_with_weights_of_synthetic_subjects_says_so(workdir, tmp_path):
  """By the run before it, by the one before that, and by a folder that was converted from it."""
  before = str(workdir)
  write.write_folder(load_weights(workdir), tmp_path / 'converted')
  for name, begun in (('one', before), ('two', str(tmp_path / 'one')),
                      ('three', str(tmp_path / 'converted')), ('four', str(tmp_path / 'gone'))):
    shutil.copytree(workdir, tmp_path / name)
    config = json.loads((workdir / 'config.json').read_text())
    config['data']['synthetic'] = False
    (tmp_path / name / 'config.json').write_text(json.dumps(config | {'init': begun}))
    card = load_weights(tmp_path / name).card
    assert card['synthetic'] == (name != 'four') and len(card['notes']) == 1
    assert card['notes'][0].startswith(f'Training began from the weights of {begun}')
    assert ('SYNTHETIC' in card['notes'][0]) == (name != 'four')


def test_a_resumed_run_of_before_the_grid_was_noted(workdir, training_set, tmp_path):
  """Its config.json lacks `data`; it goes on, and until then its card knows no grid."""
  run = tmp_path / 'run'
  shutil.copytree(workdir, run)
  config = json.loads((run / 'config.json').read_text())
  del config['data']
  (run / 'config.json').write_text(json.dumps(config))
  assert load_weights(run).card['grid'] is None
  train.train(small_config(training_set.directory, epochs=1), run)
  assert load_weights(run).card['grid'] == training_set.info['grid']


def test_what_holds_no_weights_is_refused(workdir, tmp_path):
  with pytest.raises(UserError, match='nowhere: no such weights'):
    load_weights(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='is no workdir'):
    load_weights(tmp_path)
  run = tmp_path / 'run'
  shutil.copytree(workdir, run)
  config = json.loads((run / 'config.json').read_text())
  shutil.rmtree(run / 'checkpoints' / '4' / 'state')
  with pytest.raises(RunFailure, match='no checkpoint in .*/checkpoints is whole'):
    load_weights(run)
  shutil.rmtree(run / 'checkpoints' / '4')
  with pytest.raises(UserError, match='has no checkpoint yet'):
    load_weights(run)
  del config['crop']
  (run / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError, match=r"config.json is damaged or of another program \('crop'\)"):
    load_weights(run)


def test_parameters_of_another_encoder_are_listed(workdir, tmp_path, monkeypatch):
  monkeypatch.undo()   # the registry as it is, in which `tiny` is a ResNet
  with pytest.raises(UserError, match='not weights of tiny: .*params/layer1_0/conv1/kernel is '
                                      'missing.*params/Dense_0/bias is not of tiny'):
    load_weights(workdir)
