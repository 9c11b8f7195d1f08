"""Agreement with the released PyTorch module (package anatcl 0.0.3) under random weights."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from anatcl_jax import models

torch = pytest.importorskip('torch')
released = pytest.importorskip('anatcl').models


def random_released(name, use_head, seed=0):
  """Released module with its own random weights, and BatchNorm far from its initial state."""
  torch.manual_seed(seed)
  module = released.SupConResNet(name, feat_dim=128, use_head=use_head)
  for part in module.modules():
    if isinstance(part, torch.nn.BatchNorm3d):
      torch.nn.init.uniform_(part.weight, 0.5, 1.5)
      torch.nn.init.normal_(part.bias, 0, 0.2)
      torch.nn.init.normal_(part.running_mean, 0, 0.2)
      torch.nn.init.uniform_(part.running_var, 0.5, 2)
  return module


def converted(state):
  """Variables of our encoder and head from a released state_dict: renaming and axis order only."""
  variables = {'encoder': {'params': {}, 'batch_stats': {}}, 'head': {'params': {}}}
  for key, value in state.items():
    value = value.numpy()
    part, *path, leaf = key.split('.')
    if leaf == 'num_batches_tracked':
      continue
    collection = 'batch_stats' if leaf.startswith('running_') else 'params'
    if part == 'head':
      path = ['hidden' if path == ['0'] else 'output']
    elif path[0].startswith('layer'):
      names = {'downsample.0': 'downsample_conv', 'downsample.1': 'downsample_bn'}
      inner = '.'.join(path[2:])
      path = [f'{path[0]}_{path[1]}', names.get(inner, inner)]
    if leaf == 'weight':
      leaf = 'scale' if value.ndim == 1 else 'kernel'
      value = value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value
    tree = variables[part][collection]
    for name in path:
      tree = tree.setdefault(name, {})
    tree[leaf.removeprefix('running_')] = value
  return variables


def relative_error(actual, expected):
  """Largest difference of a row, as a fraction of that row's norm; `pytest -rP` shows it."""
  difference = np.linalg.norm(np.asarray(actual) - expected, axis=-1)
  error = (difference / np.linalg.norm(expected, axis=-1)).max()
  print(f'relative error {error:.1e}')
  return error


def volumes(subjects, grid):
  """Noise in random boxes of 8 voxels, so that features differ between subjects, [N, X, Y, Z]."""
  rng = np.random.default_rng(1)
  x = rng.uniform(size=(subjects, *(size // 8 + 1 for size in grid)))
  for axis in (1, 2, 3):
    x = x.repeat(8, axis)
  x = x[:, :grid[0], :grid[1], :grid[2]]
  return (x * rng.uniform(size=x.shape)).astype(np.float32)


CASES = [
    ('resnet18', (121, 145, 121), 1),
    ('resnet18', (121, 128, 121), 1),
    ('resnet50', (121, 145, 121), 1),
    ('resnet50', (121, 128, 121), 1),
    ('resnet18', (37, 45, 34), 3),
    ('resnet34', (37, 45, 34), 3),
    ('resnet50', (37, 45, 34), 3),
    ('resnet101', (37, 45, 34), 3),
]


@pytest.mark.parametrize('name, grid, subjects', CASES)
def test_eval_features_agree(name, grid, subjects):
  module = random_released(name, use_head=False).eval()
  x = volumes(subjects, grid)
  with torch.no_grad():
    expected = module(torch.from_numpy(x[:, None])).numpy()
  encoder = models.get_encoder(name)
  features = jax.jit(encoder.apply)(converted(module.state_dict())['encoder'], x[..., None])
  assert relative_error(features, expected) < 1e-4


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_embeddings_agree(name):
  module = random_released(name, use_head=True).eval()
  x = volumes(2, (33, 29, 35))
  with torch.no_grad():
    expected = module(torch.from_numpy(x[:, None])).numpy()
  variables = converted(module.state_dict())
  features = jax.jit(models.get_encoder(name).apply)(variables['encoder'], x[..., None])
  embeddings = models.get_head('mlp').apply(variables['head'], features)
  embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)  # as the released module does
  assert relative_error(embeddings, expected) < 1e-4


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_training_agrees(name):
  """Features by batch statistics, and the running statistics after the step."""
  module = random_released(name, use_head=False).train()
  variables = converted({k: v.clone() for k, v in module.state_dict().items()})['encoder']
  x = volumes(3, (39, 35, 37))
  with torch.no_grad():
    expected = module(torch.from_numpy(x[:, None])).numpy()
  encoder = models.get_encoder(name)
  features, updates = jax.jit(lambda v, x: encoder.apply(v, x, True, mutable='batch_stats'))(
      variables, x[..., None])
  new = converted(module.state_dict())['encoder']['batch_stats']
  assert relative_error(features, expected) < 1e-4
  errors = jax.tree.map(relative_error, updates['batch_stats'], new)
  assert max(jax.tree.leaves(errors)) < 1e-4
