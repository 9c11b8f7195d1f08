"""Frozen features: whatever the batch mates, the devices and the order of reading."""

from __future__ import annotations

import threading
import time

import flax.linen as nn
import jax
import numpy as np
import pytest

from anatcl_jax import models
from anatcl_jax.data.arrange import Arrangement
from anatcl_jax.devices import parallel
from anatcl_jax.errors import UserError
from anatcl_jax.frozen import extract
from anatcl_jax.weights.load import Weights
from tests.models.test_models import random_variables

RNG = np.random.default_rng(0)


@pytest.fixture(scope='module')
def weights() -> Weights:
  """`tiny` with BatchNorm's statistics far from 0 and 1."""
  variables = random_variables(models.get_encoder('tiny'), np.zeros((1, 12, 12, 12, 1)))
  return Weights('tiny', variables, None, {'crop': [11, 14, 12]})


def mesh(devices: int) -> jax.sharding.Mesh:
  return jax.make_mesh((devices,), (parallel.AXIS,), devices=jax.devices()[:devices],
                       axis_types=(jax.sharding.AxisType.Auto,))


def test_rows_depend_on_neither_batch_mates_nor_devices(weights):
  """Eleven volumes of very different scale, in batches that do not divide over the devices."""
  volumes = RNG.normal(size=(11, 12, 13, 12)) * np.logspace(-3, 3, 11)[:, None, None, None]
  expected = models.get_encoder('tiny').apply(weights.variables, volumes[..., None], False)
  assert (np.linalg.norm(expected, axis=1) > 0).all()
  for devices, batches in ((1, [11]), (2, [5, 6]), (8, [11])):
    encode = extract.frozen(weights, mesh=mesh(devices))
    order = RNG.permutation(11)
    features = np.concatenate([encode(part) for part in
                               np.split(volumes[order], np.cumsum(batches)[:-1])])
    assert features.dtype == np.float32 and features.shape == (11, 64)
    scale = np.linalg.norm(expected, axis=1, keepdims=True)[order]
    np.testing.assert_allclose(features / scale, expected[order] / scale, atol=1e-6)


def test_precision(weights):
  volumes = RNG.uniform(size=(2, 12, 12, 12))
  exact = extract.frozen(weights)(volumes)
  coarse = extract.frozen(weights, precision='bfloat16')(volumes)
  error = np.linalg.norm(coarse - exact) / np.linalg.norm(exact)
  assert coarse.dtype == np.float32 and 1e-4 < error < 0.05
  with pytest.raises(UserError, match="'float16'.*'bfloat16'"):
    extract.frozen(weights, precision='float16')


def test_features_of_shards_are_those_of_each_record(weights, shard_set, capsys):
  """Batches of 16 over 20 records; the crop of the card, and none."""
  apply = jax.jit(models.get_encoder('tiny').apply)   # train is False by default
  for crop, most in ((extract.FROM_CARD, (11, 14, 12)), (None, None)):
    features = extract.features_of_shards(weights, shard_set, batch_size=9, crop=crop, show=False)
    assert features.shape == (20, 64)
    for record in (0, 7, 19):
      volume, scale = shard_set.read_volume(record)
      volume = Arrangement(crop=most)(volume) * np.float32(scale)
      np.testing.assert_allclose(features[record],
                                 apply(weights.variables, volume[None, ..., None])[0],
                                 rtol=1e-5, atol=1e-6)
  assert 'WARNING' not in capsys.readouterr().err


def test_another_grid_is_warned_of(weights, shard_set, capsys):
  grid = {'shape': shard_set.grid.shape, 'affine': np.diag([1.5, 1.5, 1.5, 1]).tolist()}
  other = Weights('tiny', weights.variables, None, {'grid': grid})
  extract.features_of_shards(other, shard_set, show=False)
  assert 'WARNING: the encoder was trained on' in capsys.readouterr().err


def test_reading_ahead_keeps_order_and_a_bound():
  started, lock = [], threading.Lock()

  def read(item):
    with lock:
      started.append(item)
    time.sleep(0.01 * (item % 3))
    return item**2

  results = extract.read_ahead(read, range(30), 4, 5)
  assert [next(results) for _ in range(10)] == [item**2 for item in range(10)]
  time.sleep(0.1)
  assert 10 <= len(started) <= 16
  assert list(results) == [item**2 for item in range(10, 30)]


def test_full_float32_is_asked_for(weights, monkeypatch):
  """JAX's default on GPU and TPU computes float32 products in fewer bits."""
  seen = []

  class Spy(nn.Module):
    def __call__(self, x, train):
      seen.append(jax.config.jax_default_matmul_precision)
      return x.mean((1, 2, 3))

  monkeypatch.setattr(models, 'get_encoder', lambda name, **settings: Spy())
  for precision in ('float32', 'bfloat16'):
    extract.frozen(weights, precision=precision)(np.ones((1, 3, 3, 3)))
  assert seen == ['highest', 'default']
