"""What is pooled from an encoder's stages, against NumPy on the outputs of its modules."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

from anatcl_jax import features, models
from anatcl_jax.errors import UserError
from anatcl_jax.models import feature_pooling
from anatcl_jax.models.densenet3d import DenseNet3D
from anatcl_jax.models.feature_pooling import layout, pooled
from tests.models.test_models import random_variables
from tests.small_run import Patches

# By encoder: the modules whose outputs its stages are.
MODULES = {'tiny': ['layer1_0', 'layer2_0', 'layer3_0'],
           'resnet18': ['layer1_1', 'layer2_1', 'layer3_1', 'layer4_1'],
           'densenet': ['transition1_conv', 'transition2_conv', 'transition3_conv', 'norm5']}
ENCODERS = {'tiny': models.get_encoder('tiny'), 'resnet18': models.get_encoder('resnet18', width=8),
            'densenet': DenseNet3D((1, 2, 1, 2), width=8)}
POOLS = ('mean', 'levels', 'covariance', 'mean+levels+covariance', 'covariance+mean')
CLOSE = {'rtol': 1e-5, 'atol': 1e-6}


@pytest.fixture(scope='module', ids=lambda one: one[0], params=[
    ('tiny', (13, 18, 15)), pytest.param(('resnet18', (33, 50, 36)), marks=pytest.mark.slow),
    pytest.param(('densenet', (61, 64, 65)), marks=pytest.mark.slow)])
def case(request):
  """An encoder, what it pools of two volumes, and its stages by another way than pooling's."""
  name, shape = request.param
  encoder = ENCODERS[name]
  x = np.random.default_rng(0).normal(size=(2, *shape, 1)).astype(np.float32)
  variables = random_variables(encoder, np.zeros((1, 32, 32, 32, 1)))

  def seen(variables, x):
    return encoder.apply(variables, x, False, mutable=['intermediates'], capture_intermediates=(
        lambda module, method: module.name in MODULES[name] and method == '__call__'))

  own, state = jax.jit(seen)(variables, x)
  stages = [np.asarray(state['intermediates'][module]['__call__'][0], np.float64)
            for module in MODULES[name]]
  found = jax.jit(lambda: {pool: pooled(encoder, variables, x, pool) for pool in POOLS})()
  return encoder, found, np.asarray(own), stages


def blocks(stage):
  """PyTorch's AdaptiveAvgPool3d(2), its definition written out."""
  found = []
  for block in itertools.product(range(2), repeat=3):
    spans = [slice(math.floor(i * n / 2), math.ceil((i + 1) * n / 2))
             for i, n in zip(block, stage.shape[1:4])]
    found.append(stage[(slice(None), *spans)].mean((1, 2, 3)))
  return np.concatenate(found, 1)


def triangles(stage):
  """np.cov of each scan, row by row from the diagonal on."""
  matrices = [np.cov(scan.reshape(-1, scan.shape[-1]).T, bias=True) for scan in stage]
  return np.array([[matrix[i, j] for i in range(len(matrix)) for j in range(i, len(matrix))]
                   for matrix in matrices])


def test_each_pool_is_numpys(case):
  encoder, found, own, stages = case
  expected = {'mean': own, 'levels': np.concatenate(list(map(blocks, stages)), 1)}
  narrow = [stage for stage in stages if stage.shape[-1] <= 128]
  expected['covariance'] = triangles(narrow[-1])
  expected['covariance+mean'] = np.concatenate([expected['covariance'], own], 1)
  for pool, values in expected.items():
    assert found[pool].dtype == np.float32 and values.std() > 0
    scale = np.abs(values).max()
    np.testing.assert_allclose(found[pool] / scale, values / scale, **CLOSE)


def test_the_layout_says_which_columns_are_what(case):
  encoder, found, own, stages = case
  parts = layout(encoder, 'mean+levels+covariance')
  values = np.asarray(found['mean+levels+covariance'])
  assert [part.first for part in parts] == list(np.cumsum([0] + [p.columns for p in parts])[:-1])
  assert sum(part.columns for part in parts) == values.shape[1]
  mean, *levels, covariance = parts
  assert dataclasses.astuple(mean) == ('mean', None, own.shape[1], 0, own.shape[1])
  for part, stage in zip(levels, stages, strict=True):
    scale = np.abs(stage).max()
    np.testing.assert_allclose(values[:, part.first:part.first + part.columns] / scale,
                               blocks(stage) / scale, **CLOSE)
  assert values[:, covariance.first:].shape == triangles(stages[covariance.stage - 1]).shape


def test_alexnet_has_five_stages_and_its_own_maximum():
  encoder = models.get_encoder('alexnet')
  assert [(part.stage, part.channels, part.columns) for part in layout(encoder, 'levels')] == [
      (1, 64, 512), (2, 128, 1024), (3, 192, 1536), (4, 192, 1536), (5, 128, 1024)]
  assert [(part.stage, part.columns) for part in layout(encoder, 'covariance')] == [(5, 8256)]


def test_a_single_voxel_and_sides():
  """Along an axis of one voxel both blocks are that voxel; left and right are columns apart."""
  x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 1, 4)
  means = np.asarray(feature_pooling.block_means(x)).reshape(2, 2, 2, 4)
  np.testing.assert_array_equal(means[0], means[1])
  np.testing.assert_array_equal(means[0, :, 0], [[2, 3, 4, 5], [6, 7, 8, 9]])
  side = np.zeros((1, 5, 2, 2, 1), np.float32)
  side[:, 4] = 1
  np.testing.assert_allclose(
      feature_pooling.block_means(side)[0], [0] * 4 + [1 / 3] * 4, rtol=1e-6)
  assert not np.asarray(feature_pooling.covariances(x[:, :, :1])).any()


@pytest.mark.parametrize('pool', ['max', 'mean+', 'levels+levels', '', None, 'Mean'])
def test_pools_that_are_none(pool):
  with pytest.raises(UserError, match='unknown pool|twice'):
    features.load('untrained:tiny', pool=pool)


def test_an_encoder_without_stages_is_said():
  x = np.ones((1, 10, 10, 10, 1), np.float32)
  variables = Patches().init(jax.random.key(0), x, False)
  assert pooled(Patches(), variables, x).shape == (1, 8)
  assert [part.columns for part in layout(Patches(), 'mean')] == [8]
  with pytest.raises(UserError, match='Patches shows no stages'):
    pooled(Patches(), variables, x, 'levels')


def test_the_sizes_that_help_tells(capsys):
  with pytest.raises(SystemExit):
    features.main(['--help'])
  text = ' '.join(capsys.readouterr().out.split())
  for name in ('resnet18', 'resnet50', 'densenet121'):
    mean, *levels, covariance = layout(models.get_encoder(name), 'mean+levels+covariance')
    assert (f'{name} {mean.columns:,}, {sum(part.columns for part in levels):,} and '
            f'{covariance.columns:,}') in text
