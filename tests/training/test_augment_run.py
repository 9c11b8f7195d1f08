"""Augmented runs: the same views on any devices; whole runs that resume, and in micro-batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anatcl_jax import models
from anatcl_jax.data import augment
from anatcl_jax.devices import parallel
from anatcl_jax.training import tracking, train
from tests.small_run import small_config
from tests.training.test_checkpoint import parameters
from tests.training.test_step import _mesh

VOLUMES = np.random.default_rng(0).uniform(size=(8, 10, 12, 9)).astype(np.float32)


def _maker(devices):
  """Views over some devices: subjects' places in the global batch -> their views."""
  make_views = augment.view_maker('noise+crop+flip', 2, 3)
  mesh = _mesh(devices)

  def per_device(step, batch):
    return jax.lax.all_gather(make_views(step, batch['index'], batch['volume']), parallel.AXIS,
                              tiled=True)

  mapped = parallel.map_over_devices(per_device, mesh)
  return lambda order: np.asarray(mapped(jnp.int32(5), parallel.shard_rows(
      {'index': order, 'volume': VOLUMES[order]}, mesh)))


def test_views_are_the_same_on_any_devices_and_in_any_order():
  on_one, on_four = _maker(1)(np.arange(8)), _maker(4)
  assert on_one.shape == (8, 2, *VOLUMES.shape[1:])
  np.testing.assert_array_equal(on_one, on_four(np.arange(8)))
  order = np.array([3, 1, 7, 0, 2, 6, 5, 4])      # as micro-batches take the subjects
  np.testing.assert_array_equal(on_one[order], on_four(order))


@pytest.mark.slow
def test_an_augmented_run_in_micro_batches_goes_on_bitwise(small_model, training_set, tmp_path):
  def run(name, epochs, **changes):
    train.train(small_config(training_set.directory, batch_size=16, epochs=epochs, **changes),
                tmp_path / name)

  def losses(name):
    return np.array([row['loss'] for row in tracking.read_metrics(tmp_path / name)])

  augmented = {'augment': 'yaware', 'micro_batch_size': 8}
  run('whole', 2, **augmented)
  run('resumed', 1, **augmented)
  run('resumed', 2, **augmented)
  run('plain', 1)
  assert np.isfinite(losses('whole')).all()
  np.testing.assert_array_equal(losses('whole'), losses('resumed'))
  for a, b in zip(*(parameters(tmp_path / name)[1] for name in ('whole', 'resumed')), strict=True):
    np.testing.assert_array_equal(a, b)
  assert (losses('whole')[:2] != losses('plain')).all()


def test_batchnorm_counts_each_augmented_view(monkeypatch):
  """Identical views are encoded once and counted `views` times; different ones are all encoded."""
  counted = []
  monkeypatch.setattr(models, 'get_encoder',
                      lambda name, **settings: counted.append(settings['repeats']))
  for name in ('none', 'crop'):
    train.compile_program(small_config('data', augment=name, views=3), _mesh(1), 4)
  assert counted == [3, 1]
