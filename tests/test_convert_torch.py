"""Files of the released PyTorch module, through `convert`, to the features that it gives."""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import pytest

from anatcl_jax import convert
from anatcl_jax.frozen import extract
from anatcl_jax.weights.load import load_weights
from tests.models.test_released import random_released, relative_error, torch, volumes


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_features_and_bits_of_the_released_module(name, tmp_path):
  """.pth to folder to .pth on disk, beside an optimizer and options as upstream saves them."""
  module = random_released(name, use_head=True)
  optimizer = torch.optim.Adam(module.parameters())
  x = volumes(2, (37, 45, 34))
  torch.save({'model': module.state_dict(), 'optimizer': optimizer.state_dict(), 'epoch': 300,
              'opts': argparse.Namespace(fold=1, lr=1e-4, data=pathlib.Path('/data'))},
             tmp_path / 'a.pth')
  convert.main([str(tmp_path / 'a.pth'), str(tmp_path / 'folder')])
  convert.main([str(tmp_path / 'folder'), str(tmp_path / 'b.pth')])
  content = torch.load(tmp_path / 'b.pth', weights_only=True)
  state = module.state_dict()
  assert set(content) == {'model'} and list(sorted(content['model'])) == sorted(state)
  for key, value in content['model'].items():
    assert value.dtype == state[key].dtype and torch.equal(value, state[key]), key
  weights = load_weights(tmp_path / 'folder')
  assert weights.card['options'] == {'fold': 1, 'lr': 1e-4, 'data': '/data'}
  assert weights.card['fold'] == 1 and weights.card['epoch'] == 300
  module.eval()
  with torch.no_grad():
    expected = module.encoder(torch.from_numpy(x[:, None])).flatten(1).numpy()
  assert relative_error(extract.frozen(weights)(x), expected) < 1e-4
  np.testing.assert_array_equal(weights.head['params']['hidden']['kernel'].T,
                                state['head.0.weight'].numpy())
