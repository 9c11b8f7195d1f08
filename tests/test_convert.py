"""Weights from form to form: names, bits, features, and every fault by its name."""

from __future__ import annotations

import builtins
import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from anatcl_jax import convert, models
from anatcl_jax.errors import UserError
from anatcl_jax.weights import write
from anatcl_jax.weights.load import Weights, fresh, load_weights
from anatcl_jax.weights.released_names import from_released, to_released
from tests.models.test_models import random_variables
from tests.weights import torch_file


def named(name, seed=0):
  """A state dict of the released module's keys for `name`, its head 512-512-128 or narrower."""
  encoder = models.get_encoder(name)
  variables = random_variables(encoder, np.zeros((1, 16, 16, 16, 1)), seed)
  width = 64 if name == 'tiny' else 512
  head = random_variables(models.get_head('mlp', 6), np.ones((1, width)), seed)
  return to_released(name, variables, head, 11)


def numbered(encoder):
  """Variables whose values are their places, none like another: drawing as many takes seconds."""
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), np.zeros((1, 16, 16, 16, 1)))
  return jax.tree.map(lambda leaf: np.arange(leaf.size, dtype=np.float32).reshape(leaf.shape),
                      shapes)


@pytest.fixture
def pth(tmp_path):
  return torch_file.save(tmp_path / 'resnet_global_fold2.pth', named('tiny'),
                         torch_file.pair('est', b'cmodels.estimators\nAgeEstimator\n)\x81}b'))


def equal(one: Weights, other: Weights):
  assert one.encoder == other.encoder and one.card == other.card
  for a, b in ((one.variables, other.variables), (one.head, other.head)):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_released_file_to_a_folder(pth, tmp_path, capsys):
  """safetensors, Flax and the .pth itself hold the same; the card says what it is."""
  folder = tmp_path / 'out' / 'converted'
  convert.main([str(pth), str(folder)])
  output = capsys.readouterr()
  assert 'note: Not read, because code would have to run: models.estimators.AgeEstimator' in (
      output.err)
  assert output.out.startswith('tiny, head mlp, ') and str(folder) in output.out
  weights = load_weights(pth)
  equal(load_weights(folder), weights)
  equal(load_weights(folder / 'model.safetensors'), weights)
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore((folder / 'flax').resolve())
  jax.tree.map(np.testing.assert_array_equal, tree, weights.variables | {'head': weights.head})
  card = json.loads((folder / 'card.json').read_text())
  expected = {'encoder': 'tiny', 'head': 'mlp', 'descriptor': 'global', 'fold': 2,
              'crop': [121, 128, 121], 'left_out': ['models.estimators.AgeEstimator'],
              'batches_tracked': 11}
  assert {name: card[name] for name in expected} == expected
  assert card['grid']['shape'] == [121, 145, 121] and len(card['sha256']) == 64
  assert sorted(path.name for path in folder.parent.iterdir()) == ['converted']
  with pytest.raises(SystemExit):
    convert.main([str(pth), str(folder)])
  assert 'is there already' in capsys.readouterr().err


@pytest.mark.parametrize('name', [
    'tiny', 'resnet18', pytest.param('resnet34', marks=pytest.mark.slow), 'resnet50'])
def test_there_and_back_is_bit_exact(name):
  """Every encoder is recognised by its blocks; special values stay what they are."""
  state = named(name) if name in ('tiny', 'resnet18') else to_released(
      name, numbered(models.get_encoder(name)), None)
  state['encoder.bn1.bias'][:3] = np.float32([-0.0, 1e-45, 3.4e38])
  counter = 'encoder.layer1.0.bn1.num_batches_tracked'
  state[counter] = np.array(12)
  encoder, variables, head, counts = from_released(state)
  back = to_released(encoder, variables, head, counts)
  assert encoder == name and set(back) == set(state) and back[counter] == 12
  assert all(back[key].tobytes() == state[key].tobytes() for key in state)


@pytest.mark.parametrize('count', [np.array([12]), np.float32(12), np.array([[12.]])])
def test_a_counter_of_one_number_of_any_shape(count):
  """As files of other libraries have it; one that is no number is told of."""
  state = named('tiny')
  counter = 'encoder.layer1.0.bn1.num_batches_tracked'
  *_, counts = from_released(state | {counter: np.asarray(count)})
  assert counts[counter] == 12
  with pytest.raises(UserError, match=f'{counter} is not of tiny'):
    from_released(state | {counter: np.array(np.nan)})


def test_every_fault_is_listed(tmp_path):
  state = named('tiny')
  del state['encoder.layer2.0.downsample.1.running_var'], state['head.0.bias']
  state['encoder.fc.weight'] = np.zeros((2, 2), np.float32)
  state['encoder.layer9.0.bn1.num_batches_tracked'] = np.array(1)
  state['encoder.conv1.weight'] = np.zeros((16, 2, 3, 3, 3), np.float32)
  state['head.2.weight'] = np.zeros((6, 5), np.float32)
  path = torch_file.save(tmp_path / 'a.pth', state)
  with pytest.raises(UserError) as error:
    load_weights(path)
  for part in ('a.pth: not weights of tiny', 'layer2.0.downsample.1.running_var is missing',
               'head.0.bias is missing', 'encoder.fc.weight is not of tiny',
               'encoder.layer9.0.bn1.num_batches_tracked is not of tiny',
               'encoder.conv1.weight has shape (16, 2, 3, 3, 3), not (16, 1, 3, 3, 3)',
               'head.2.weight has shape (6, 5), not (6, 64)'):
    assert part in str(error.value)
  with pytest.raises(UserError, match='no weights of a ResNet; its keys are fc.weight'):
    load_weights(torch_file.save(path, {'fc.weight': np.zeros(3, np.float32)}))
  state = named('tiny')
  state['encoder.bn1.bias'][0] = np.nan
  with pytest.raises(UserError, match='params/bn1/bias is not finite'):
    load_weights(torch_file.save(path, state))


@pytest.mark.parametrize('wrap', [lambda key: f'module.{key}', lambda key: f'backbone.{key}',
                                  lambda key: key.replace('encoder.', 'encoder.module.'),
                                  lambda key: key.removeprefix('encoder.')])
def test_keys_of_wrappers(wrap):
  state = named('tiny')
  _, variables, _, _ = from_released({wrap(key): value for key, value in state.items()})
  np.testing.assert_array_equal(variables['params']['bn1']['scale'], state['encoder.bn1.weight'])


def test_folders_that_are_spoilt(pth, tmp_path):
  folder = tmp_path / 'folder'
  write.write_folder(load_weights(pth), folder)
  tensors = (folder / 'model.safetensors').read_bytes()
  for content, message in ((tensors[:-9], 'can\'t be read'), (b'', 'can\'t be read'),
                           (safetensors.numpy.save({'x': np.zeros(3, np.float32)}),
                            'params/conv1/kernel is missing.*x is not of tiny'),
                           (safetensors.numpy.save({'x': np.zeros(3)}), 'not float32: x')):
    (folder / 'model.safetensors').write_bytes(content)
    with pytest.raises(UserError, match=message):
      load_weights(folder)
  for content, message in (('{', 'no card of weights'), ('[]', 'no card of weights'),
                           ('{"encoder": "resnet19", "crop": 0, "axes": 0, "notes": []}',
                            "did you mean 'resnet18'")):
    (folder / 'card.json').write_text(content)
    with pytest.raises(UserError, match=message):
      load_weights(folder)


def test_without_torch(pth, tmp_path, monkeypatch, capsys):
  """Reading works; writing a .pth says what it needs, and leaves nothing behind."""
  real = builtins.__import__

  def no_torch(name, *arguments, **more):
    if name.split('.')[0] == 'torch':
      raise ImportError(name)
    return real(name, *arguments, **more)

  monkeypatch.setattr(builtins, '__import__', no_torch)
  with pytest.raises(SystemExit) as stop:
    convert.main([str(pth), str(tmp_path / 'b.pth')])
  assert stop.value.code == 2 and 'needs PyTorch: pip install torch' in capsys.readouterr().err
  assert sorted(path.name for path in tmp_path.iterdir()) == [pth.name]


def test_fresh_encoders_know_their_seed(small_model):
  one, same, other = fresh('tiny', 3), fresh('tiny', 3), fresh('tiny', 4)
  equal(one, same)
  assert np.abs(one.variables['params']['Dense_0']['kernel']
                - other.variables['params']['Dense_0']['kernel']).max() > 0.1
  assert one.card['untrained'] and one.card['seed'] == 3
  with pytest.raises(UserError, match="'tiny2'.*did you mean 'tiny'"):
    fresh('tiny2', 0)
