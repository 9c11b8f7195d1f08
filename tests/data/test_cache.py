"""Volumes kept in memory, of host or devices: the same batches, refused where they don't fit."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from anatcl_jax.cohorts import bids
from anatcl_jax.cohorts.volumes import center_crop
from anatcl_jax.data import cache, pipeline, shards
from anatcl_jax.data.make_shards import make_shards
from anatcl_jax.devices import parallel
from anatcl_jax.errors import UserError
from anatcl_jax.training import step, tracking, train
from tests.data.test_damage import sign, write_shard
from tests.models.test_models import SUMS_IN_PARTS
from tests.small_run import OF_THE_MACHINE, small_config

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
  assert kept.volumes.nbytes == cache.needed_bytes(stored, CROP) == len(stored) * x * y * z * {
      'float32': 4, 'float16': 2, 'uint8': 1}[stored.info['dtype']]


@pytest.mark.parametrize('setting, room, where', [('memory', 'free_memory', ''),
                                                  ('device', 'free_on_device', ' on every device')])
def test_what_does_not_fit_is_refused_with_both_sizes(shard_set, monkeypatch, setting, room, where):
  need = cache.needed_bytes(shard_set, None)
  monkeypatch.setattr(cache, room, lambda: need / 0.9 + 10)
  assert cache.choose(setting, shard_set, None) == setting
  monkeypatch.setattr(cache, room, lambda: need / 0.9 - 10)
  with pytest.raises(UserError, match=f'needs .* GB{where} for 20 volumes .* GB are free: choose'):
    cache.choose(setting, shard_set, None)


@pytest.mark.parametrize('backend, device, host, kept', [
    ('gpu', 2.1, 0, 'device'), ('gpu', 1.9, 2.1, 'memory'), ('gpu', 1.9, 1.9, 'none'),
    ('cpu', 9, 2.1, 'memory'), ('cpu', 9, 1.9, 'none')])
def test_auto_takes_the_first_that_leaves_half_free(shard_set, monkeypatch, backend, device, host,
                                                    kept):
  need = cache.needed_bytes(shard_set, None)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(cache, 'free_on_device', lambda: device * need)
  monkeypatch.setattr(cache, 'free_memory', lambda: host * need)
  assert cache.choose('auto', shard_set, None) == kept


def test_room_on_devices_is_that_of_the_fullest(monkeypatch):
  class Device:
    def __init__(self, limit, used):
      self.memory_stats = lambda: {'bytes_limit': limit, 'bytes_in_use': used}

  monkeypatch.setattr(jax, 'local_devices', lambda: [Device(10, 1), Device(10, 4)])
  assert cache.free_on_device() == 6


def test_the_cohort_on_the_devices_is_that_on_disk(stored, monkeypatch):
  """In chunks that do not divide it; record 3 is known to be damaged."""
  monkeypatch.setattr(cache, '_CHUNK', 8)
  data = dataclasses.replace(stored, damaged=frozenset({3}))
  cohort = cache.on_devices(data, CROP, parallel.make_mesh(8), threads=3)
  assert cohort['volume'].dtype == stored.info['dtype']
  for record in range(len(stored)):
    volume, scale = stored.read_volume(record)
    there = record != 3
    for shard in cohort['volume'].addressable_shards:     # whole on each of eight devices
      np.testing.assert_array_equal(shard.data[record], there * center_crop(volume, CROP))
    assert cohort['scale'][record] == there * np.float32(scale)


@pytest.mark.skipif(not pathlib.Path('/proc/meminfo').is_file(), reason='no /proc/meminfo')
def test_free_memory_is_what_the_kernel_says():
  with open('/proc/meminfo', encoding='ascii') as lines:
    total = next(1024 * int(line.split()[1]) for line in lines if line.startswith('MemTotal'))
  assert 0 < cache.free_memory() < total


@pytest.fixture(scope='module')
def bytes_set(training_set, tmp_path_factory):
  """The forty SYNTHETIC subjects of `training_set` as uint8, whose scales differ."""
  directory = shutil.copytree(training_set.directory, tmp_path_factory.mktemp('shards') / 'bytes')
  path, = directory.glob('*.array_record')
  entry = write_shard(path, training_set, range(40), 'uint8')
  sign(directory, training_set.info | {'dtype': 'uint8', 'shards': [entry]}, training_set.table)
  return shards.open_shards(directory)


@pytest.mark.parametrize('mapper', ['jit', pytest.param('pmap', marks=pytest.mark.slow)])
def test_a_run_is_the_same_from_wherever_volumes_are(small_model, bytes_set, tmp_path, capsys,
                                                     mapper):
  """From disk, memory and eight devices: every row bitwise, held-out loss and probes among them."""

  def rows(kept):
    train.train(small_config(bytes_set.directory, epochs=2, probe_every_epochs=1, mapper=mapper,
                             cache=kept), tmp_path / kept)
    assert (f'cache: {"no;" if kept == "none" else "volumes stay in "}' in capsys.readouterr().err)
    return [{name: value for name, value in row.items() if name not in OF_THE_MACHINE}
            for row in tracking.read_metrics(tmp_path / kept)]

  from_disk = rows('none')
  assert 'heldout/loss' in from_disk[-1] and 'probe/age_mae' in from_disk[-1]
  for kept in ('memory', 'device') if mapper == 'jit' else ('device',):
    if kept == 'memory' or SUMS_IN_PARTS:
      assert rows(kept) == from_disk
    else:
      for row, expected in zip(rows(kept), from_disk, strict=True):
        assert row['loss'] == pytest.approx(expected['loss'], rel=1e-5)


def test_the_step_makes_values_of_what_is_stored(stored):
  """Cast and scale inside the step are those of the host."""
  read = pipeline.Reader(stored, {}, CROP)
  batch = {name: np.stack([read(record)[name] for record in range(4)])
           for name in ('volume', 'scale')}
  expected = [stored.read_volume(record) for record in range(4)]
  np.testing.assert_array_equal(jax.jit(step._volumes)(batch), np.stack([
      center_crop(volume, CROP).astype(np.float32) * np.float32(scale)
      for volume, scale in expected]))
