"""Checkpoints by name: the best, a step, and all forms of files that hold an encoder."""

from __future__ import annotations

import json
import pickle
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from anatcl_jax import convert
from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.evaluation import cohort
from anatcl_jax.evaluation.sources import named_paths
from anatcl_jax.frozen.image_encoder import Encoder, load
from anatcl_jax.training import train
from anatcl_jax.weights import stored
from anatcl_jax.weights.choice import metric_of_records, workdir_of
from anatcl_jax.weights.load import load_weights
from tests.small_run import small_config
from tests.test_convert import named
from tests.weights import torch_file


@pytest.fixture
def run(small_model, training_set, tmp_path_factory):
  """Four epochs of four steps, all checkpoints kept."""
  directory = tmp_path_factory.getbasetemp() / 'choice' / 'run'
  if not directory.is_dir():
    train.train(small_config(training_set.directory, keep_checkpoints=4), directory)
  return directory


def test_best_and_steps(run):
  losses = metric_of_records(run, stored.steps(run), 'heldout/loss')
  assert sorted(losses) == [4, 8, 12, 16]
  assert load_weights(f'{run}@best').card['step'] == min(losses, key=losses.get)
  assert load_weights(run).card['step'] == 16
  for path in (f'{run}@8', run / 'checkpoints' / '8'):
    weights = load_weights(path)
    assert weights.card['step'] == 8 and weights.card['source'] == str(path)
    saved, _ = stored.read(run, 8)
    jax.tree.map(np.testing.assert_array_equal, weights.variables['params'],
                 saved['params']['encoder'])


def test_what_is_not_there_is_said_with_what_is(run, tmp_path):
  for which, message in (('9', 'no checkpoint of step 9: .* has checkpoints of step 4, 8, 12, 16'),
                         ('worst', 'give a step, as in @16, or @best'), ('', 'no such weights')):
    with pytest.raises(UserError, match=message):
      load_weights(f'{run}@{which}')
  spoilt = shutil.copytree(run, tmp_path / 'a@best')   # its own name, not a choice
  assert load_weights(spoilt).card['step'] == 16
  shutil.rmtree(spoilt / 'checkpoints' / '8' / 'state')
  with pytest.raises(RunFailure, match='checkpoint 8 of .* is damaged'):
    load_weights(f'{spoilt}@8')
  config = json.loads((spoilt / 'config.json').read_text())
  (spoilt / 'config.json').write_text(json.dumps(config | {'keep_best_metric': ''}))
  with pytest.raises(UserError, match='did not say what is best'):
    load_weights(f'{spoilt}@best')


def test_the_probe_knows_whose_checkpoint_it_is(run):
  """So that people who were trained on are not predicted."""
  assert cohort.read_run(workdir_of(run)[0]) == cohort.read_run(
      type(run)(f'{run}@best')) == json.loads((run / 'config.json').read_text())


@pytest.mark.parametrize('content', ['[' * 10**5, '[]', '"x"', '{"encoder": 5}', '{"fold": "0"}',
                                     '{"loss": []}', '{"encoder": "resnet18", "crop": "none"}'])
def test_a_spoilt_config_is_one_line(run, tmp_path, content):
  workdir = shutil.copytree(run, tmp_path / 'run')
  (workdir / 'config.json').write_text(content)
  with pytest.raises(UserError, match='config.json is damaged'):
    load_weights(workdir)


def test_names_with_commas_spaces_and_equals_signs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('my run', 'lr=1e-4,b=8', 'plain', 'a,b'):
    (tmp_path / name).mkdir()
  paths = {name: str(path) for name, path in named_paths(
      'my run,lr=1e-4,b=8,x=a,b,y=plain@best,plain@4', 'checkpoint').items()}
  assert paths == {'my-run': 'my run', 'lr-1e-4-b-8': 'lr=1e-4,b=8', 'x': 'a,b',
                   'y': 'plain@best', 'plain-4': 'plain@4'}
  assert list(named_paths('trained=lr=1e-4,b=8', 'checkpoint').values()) == [
      type(tmp_path)('lr=1e-4,b=8')]


# ---- Files of PyTorch ----------------------------------------------------------------------------

STATE = named('tiny')


def prefixed(prefix):
  return {f'{prefix}{key}': value for key, value in STATE.items()}


@pytest.mark.parametrize('content', [
    prefixed('_orig_mod.'), prefixed('module._orig_mod.'), prefixed('model.'), prefixed('net.'),
    {'state_dict': prefixed('model.')}, {'model_state_dict': STATE}, {'net': STATE},
    {'epoch': 3, 'state': {'network': prefixed('module.')}}, {'model': prefixed('student.net.')},
    {'model': STATE, 'model_ema': prefixed('module.')},
    {part: {key.removeprefix(f'{part}.'): value for key, value in STATE.items()
            if key.startswith(part)} for part in ('encoder', 'head')},
    {'state_dict': prefixed('model.') | {'loss.weight': np.zeros(3, np.float32)}}])
def test_state_dicts_of_wrappers(tmp_path, content):
  path = torch_file.save_content(tmp_path / 'a.ckpt', content)
  weights = load_weights(path)
  np.testing.assert_array_equal(weights.variables['params']['bn1']['scale'],
                                STATE['encoder.bn1.weight'])
  np.testing.assert_array_equal(weights.head['params']['hidden']['bias'], STATE['head.0.bias'])
  assert ('Passed over' in ' '.join(weights.card['notes'])) == (
      'loss.weight' in content.get('state_dict', {}) or 'model_ema' in content)


def test_two_encoders_are_not_guessed_between(tmp_path):
  path = torch_file.save_content(tmp_path / 'a.pth', {
      'student': STATE, 'teacher': STATE})
  with pytest.raises(UserError, match='several encoders .*student.*teacher'):
    load_weights(path)


@pytest.mark.parametrize('dtype', [np.float32, np.float16, ml_dtypes.bfloat16])
def test_safetensors_of_pytorch(tmp_path, dtype, capsys):
  state = {key: value.astype(dtype) if value.dtype == np.float32 else value
           for key, value in STATE.items()}
  path = tmp_path / 'model.safetensors'
  names = {'float32': 'F32', 'float16': 'F16', 'bfloat16': 'BF16', 'int64': 'I64'}
  header, data = {}, b''
  for key, value in state.items():
    header[key] = {'dtype': names[value.dtype.name], 'shape': list(value.shape),
                   'data_offsets': [len(data), len(data) + value.nbytes]}
    data += value.tobytes()
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, 'little') + text + data)
  weights = load_weights(path)
  np.testing.assert_array_equal(weights.variables['params']['bn1']['scale'],
                                state['encoder.bn1.weight'].astype(np.float32))
  if dtype is np.float32:   # and back
    convert.main([str(path), str(tmp_path / 'back.safetensors')])
    back = safetensors.numpy.load_file(tmp_path / 'back.safetensors')
    assert {key: value.tobytes() for key, value in back.items()} == {
        key: value.tobytes() for key, value in state.items()}


@pytest.mark.parametrize('change', [
    {'crop': 5}, {'crop': [1, 2]}, {'axes': 3}, {'notes': 'x'}, {'notes': [1]}, {'width': -1},
    {'grid': {'shape': [1, 2, 3], 'affine': 'x'}}, {'grid': []}, {'head': 3}, {'encoder': []}])
def test_a_card_of_wrong_types_is_one_line(tmp_path, change):
  card = load_weights(torch_file.save(tmp_path / 'a.pth', STATE)).card
  (tmp_path / 'card.json').write_text(json.dumps(card | change))
  safetensors.numpy.save_file({'params/x': np.zeros(3, np.float32)},
                              tmp_path / 'model.safetensors')
  with pytest.raises(UserError, match='card.json: |unknown encoder'):
    load_weights(tmp_path)


# ---- In a notebook -------------------------------------------------------------------------------


def test_a_used_encoder_is_shown_in_a_few_lines_and_can_be_pickled():
  encoder = load('untrained:tiny', crop='16,16,16')
  encoder.encode(np.ones((1, 16, 16, 16), np.float32))
  assert len(repr(encoder).splitlines()) < 10 and 'tiny' in repr(encoder)
  assert '(16, 16, 16)' in repr(encoder) and len(repr(encoder.weights)) < 200
  other = pickle.loads(pickle.dumps(encoder))
  assert isinstance(other, Encoder) and other.settings() == encoder.settings()


@pytest.mark.parametrize('options', [
    {'crop': 16}, {'crop': '16'}, {'crop': (16, 16)}, {'crop': (1.5, 2, 3)}, {'pad': [0, 1, 1]},
    {'spacing': 0}, {'spacing': '2'}, {'spacing': float('nan')}, {'axes': 5}, {'axes': ['R']},
    {'corp': (1, 1, 1)}, {'grid': 3}, {'precision': None}])
def test_options_of_another_type_are_refused_in_words(options):
  with pytest.raises(UserError):
    load('untrained:tiny', **options)


def test_seeds_and_paths_of_another_kind():
  for weights in ('untrained:tiny:4294967296', 'untrained:tiny:-1', 'untrained:tiny:²', 5, None):
    with pytest.raises(UserError):
      load(weights)
