"""Volumes kept in memory: the same batches bitwise, read once, refused where they do not fit."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from anatcl_jax.cohorts import bids
from anatcl_jax.data import cache, pipeline, shards
from anatcl_jax.data.make_shards import make_shards
from anatcl_jax.errors import UserError
from anatcl_jax.training import tracking, train
from tests.small_run import small_config

CROP = (9, 99, 8)


@pytest.fixture(scope='module', params=shards.DTYPES)
def stored(request, cohort, tmp_path_factory):
  read = bids.read_cohort(cohort.volumes, cohort.participants, list(cohort.morphometry))
  return make_shards(read, tmp_path_factory.mktemp('shards') / request.param, dtype=request.param)


def _batches(data, cached, threads):
  ages = data.table['age'].to_numpy(np.float32)
  reader = pipeline.Reader(data, {'age': ages}, CROP, cached)
  return list(pipeline.train_batches(reader, np.arange(len(data)), 4, 1, range(12), threads))


def test_batches_are_the_same_whatever_the_cache_and_the_threads(stored):
  """Over more than two epochs, so that volumes also come out of memory."""
  expected = _batches(stored, None, 1)
  for cached, threads in ((None, 4), (cache.make_cache(stored, CROP), 1),
                          (cache.make_cache(stored, CROP), 4)):
    for a, b in zip(expected, _batches(stored, cached, threads), strict=True):
      np.testing.assert_array_equal(a['volume'], b['volume'])
      np.testing.assert_array_equal(a['attributes']['age'], b['attributes']['age'])


def test_volumes_are_kept_as_stored_and_read_once(stored, monkeypatch):
  kept, read = cache.make_cache(stored, CROP), []
  true_read = shards.ShardSet.read_volume
  monkeypatch.setattr(shards.ShardSet, 'read_volume',
                      lambda self, record: read.append(record) or true_read(self, record))
  for record in (3, 5, 3, 5, 3):
    kept.read_volume(record)
  assert read == [3, 5]
  x, y, z = stored.volume_shape(CROP)
  assert (x, z) == (9, 8)
  assert kept.bytes == len(stored) * x * y * z * {'float32': 4, 'float16': 2, 'uint8': 1}[
      stored.info['dtype']]


def test_what_does_not_fit_is_refused_with_both_sizes(shard_set, monkeypatch):
  need = cache.make_cache(shard_set, None).bytes
  monkeypatch.setattr(cache, 'free_memory', lambda: need / 0.9 + 10)
  cache.make_cache(shard_set, None)
  monkeypatch.setattr(cache, 'free_memory', lambda: need / 0.9 - 10)
  with pytest.raises(UserError, match=r'needs .* GB for 20 volumes .* GB are free: choose'):
    cache.make_cache(shard_set, None)


@pytest.mark.skipif(not pathlib.Path('/proc/meminfo').is_file(), reason='no /proc/meminfo')
def test_free_memory_is_what_the_kernel_says():
  with open('/proc/meminfo', encoding='ascii') as lines:
    total = next(1024 * int(line.split()[1]) for line in lines if line.startswith('MemTotal'))
  assert 0 < cache.free_memory() < total


def test_a_run_is_the_same_from_memory_and_where_the_step_casts(small_model, cohort, tmp_path,
                                                                capsys, monkeypatch):
  """On float16 records: from disk, from memory, and cast by the host instead of the step."""
  read = bids.read_cohort(cohort.volumes, cohort.participants, list(cohort.morphometry))
  make_shards(read, tmp_path / 'shards', dtype='float16')

  def losses(name, **changes):
    train.train(small_config(tmp_path / 'shards', epochs=2, **changes), tmp_path / name)
    return [row['loss'] for row in tracking.read_metrics(tmp_path / name)]

  from_disk = losses('disk')
  capsys.readouterr()
  assert losses('memory', cache='memory') == from_disk
  assert 'cache: volumes stay in memory, up to 0.000' in capsys.readouterr().err
  as_stored = pipeline.Reader.__call__
  monkeypatch.setattr(pipeline.Reader, '__call__', lambda self, record: {
      name: value.astype(np.float32) if name == 'volume' else value
      for name, value in as_stored(self, record).items()})
  assert losses('cast') == pytest.approx(from_disk, rel=1e-6)
