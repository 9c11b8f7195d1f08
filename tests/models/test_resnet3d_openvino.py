"""Frozen ResNets by OpenVINO, beside the same in Flax on XLA's own convolutions."""

from __future__ import annotations

import concurrent.futures
import sys

import jax
import numpy as np
import pytest

from anatcl_jax import models
from anatcl_jax.frozen import extract
from anatcl_jax.models import resnet3d_openvino
from anatcl_jax.models.resnet3d import BasicBlock, Bottleneck, ResNet3D
from anatcl_jax.weights.load import Weights
from tests.frozen.test_extract import mesh
from tests.models.test_models import random_variables

pytestmark = pytest.mark.skipif(not resnet3d_openvino.is_installed(), reason='no OpenVINO')
RNG = np.random.default_rng(0)
SHAPE = 2, 13, 18, 11     # odd and even sizes, so that strides end inside and at the border
ENCODERS = {
    'tiny': models.get_encoder('tiny'),
    'bottleneck, 7^3 stem': ResNet3D((2, 2), Bottleneck, width=4),
    'small input': ResNet3D((1, 2), BasicBlock, width=4, small_input=True)}


def relative(values: np.ndarray, expected: jax.Array) -> float:
  return np.abs(values - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize('name', ENCODERS)
def test_features_and_stages_are_those_of_flax(name):
  """Too small for any path of this project's own: lax.conv_general_dilated."""
  encoder, volumes = ENCODERS[name], RNG.normal(size=SHAPE).astype(np.float32)
  variables = random_variables(encoder, volumes[..., None])
  own, state = jax.jit(lambda variables, volumes: encoder.apply(
      variables, volumes, False, mutable=['intermediates']))(variables, volumes[..., None])
  stages = [state['intermediates'][f'stage{i + 1}'][0] for i in range(len(encoder.stage_sizes))]
  found = resnet3d_openvino.frozen(encoder, variables, with_stages=True)(volumes)
  assert len(found) == 1 + len(stages)
  for values, expected in zip(found, [own, *stages]):
    assert values.shape == expected.shape and values.dtype == np.float32
    assert relative(values, expected) < 2e-6


@pytest.fixture(scope='module')
def weights() -> Weights:
  return Weights('tiny', random_variables(models.get_encoder('tiny'), np.zeros((1, *SHAPE[1:], 1))),
                 None, {})


@pytest.mark.parametrize('pool', ['mean', 'levels+covariance+mean'])
def test_frozen_is_the_same_by_either(weights, pool):
  """Chosen on a CPU that is one device: eight simulated ones run JAX."""
  assert extract.engine(weights, mesh=mesh(1)).startswith('OpenVINO')
  for other in ({'mesh': mesh(8)}, {'mesh': mesh(1), 'precision': 'bfloat16'}):
    assert extract.engine(weights, **other) == f'JAX {jax.__version__}'
  volumes = RNG.uniform(size=(8, *SHAPE[1:]))
  expected = extract.frozen(weights, pool=pool, mesh=mesh(8))(volumes)
  encode = extract.frozen(weights, pool=pool, mesh=mesh(1))
  assert relative(encode(volumes), expected) < 2e-6
  assert relative(encode(volumes[:3]), expected[:3]) < 2e-6


def test_what_overflows_is_not_hidden(weights):
  """OpenVINO's ReLU makes 0 of NaN."""
  volumes = RNG.normal(size=SHAPE).astype(np.float32)
  encode = extract.frozen(weights, mesh=mesh(1))
  assert np.isfinite(encode(volumes)).all()
  assert not np.isfinite(encode(3e37 * volumes)).all()
  for value in (np.nan, -np.inf):
    volumes[0, 6, 8, 5] = value
    assert np.isfinite(encode(volumes)).all(1).tolist() == [False, True]


def test_threads_do_not_disturb_each_other(weights):
  encode = extract.frozen(weights, mesh=mesh(1))
  volumes = [RNG.normal(size=(1 + i % 2, *SHAPE[1:])).astype(np.float32) for i in range(12)]
  expected = [encode(volume) for volume in volumes]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for values, alone in zip(pool.map(encode, volumes), expected, strict=True):
      np.testing.assert_array_equal(values, alone)


def test_nothing_is_sent_home():
  """Importing OpenVINO sends an event unless the package that does so is not there."""
  assert resnet3d_openvino.version()
  assert not any(name.split('.')[0] == 'openvino_telemetry' for name in sys.modules)
