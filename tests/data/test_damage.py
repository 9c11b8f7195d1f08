"""Damaged shard sets: found at the start or at the record, and what a run without them is."""

from __future__ import annotations

import json
import pathlib
import shutil

import jax
import numpy as np
import pandas
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from anatcl_jax import paths
from anatcl_jax.data import damage, digests, pipeline, shards
from anatcl_jax.devices import processes
from anatcl_jax.errors import UserError
from anatcl_jax.training import tracking, train
from tests.small_run import small_config


def write_shard(path: pathlib.Path, data: shards.ShardSet, records: range, dtype: str = 'float32'
                ) -> dict:
  """A shard of some records of a set, and its entry in dataset.json."""
  writer = ArrayRecordWriter(str(path), 'group_size:1,zstd:1')
  for record in records:
    identifiers = data.table.loc[record, ['participant_id', 'session']]
    writer.write(shards.encode_record(*identifiers, data.read_volume(record)[0], dtype))
  writer.close()
  return data.info['shards'][0] | {'file': path.name, 'records': len(records),
                                   'sha256': paths.sha256(path), 'bytes': path.stat().st_size}


@pytest.fixture(scope='module')
def three_shards(training_set, tmp_path_factory) -> shards.ShardSet:
  """The forty SYNTHETIC subjects of `training_set` in shards of 16, 16 and 8."""
  directory = tmp_path_factory.mktemp('three') / 'set'
  directory.mkdir()
  for name in digests.LABEL_FILES:
    shutil.copy(training_set.directory / name, directory)
  made = [write_shard(directory / f'volumes-{i:05d}-of-00003.array_record', training_set,
                      range(16 * i, min(40, 16 * i + 16))) for i in range(3)]
  sign(directory, training_set.info | {'shards': made}, training_set.table)
  return shards.open_shards(directory)


def sign(directory: pathlib.Path, info: dict, table: pandas.DataFrame) -> None:
  (directory / 'dataset.json').write_text(json.dumps(digests.signed(info, directory, table)))


@pytest.fixture
def copy(three_shards, tmp_path) -> pathlib.Path:
  return shutil.copytree(three_shards.directory, tmp_path / 'set')


def _shard(directory: pathlib.Path, index: int) -> pathlib.Path:
  return sorted(directory.glob('*.array_record'))[index]


def _damage_record(directory: pathlib.Path, data: shards.ShardSet, record: int) -> None:
  """Changes a byte that this record alone needs: which one that is, reading tells."""
  path = directory / data.shard_of(record).name
  content = bytearray(path.read_bytes())
  shard = int(path.name[8:13])
  # Evenly over the file, which has some such places for each of its 8 or 16 records.
  for position in range(200, len(content), max(1, len(content) // 61)):
    content[position] ^= 1
    path.write_bytes(content)
    if damage._damaged_in(shards.open_shards(directory), shard) == [record]:
      return
    content[position] ^= 1
  raise AssertionError(f'record {record} has no byte of its own in {path}')


def test_a_record_that_is_damaged_is_named_with_its_file(copy, three_shards):
  _damage_record(copy, three_shards, 18)
  data = shards.open_shards(copy)
  with pytest.raises(shards.DamagedRecord, match=(
      r"set/volumes-00001-of-00003.array_record: record 18 \(sub-0019\) can't be read .*hash "
      r'mismatch.*--config.data.on_error=skip')):
    data.read_volume(18)
  np.testing.assert_array_equal(data.read_volume(17)[0], three_shards.read_volume(17)[0])


@pytest.mark.parametrize('spoil, message', [
    (lambda path: path.unlink(), 'is missing'),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]),
     r'has \d+ bytes where \d+ were written'),
    (lambda path: path.write_bytes(b''), r'has 0 bytes where \d+ were written')])
def test_lost_and_cut_files_stop_at_the_start(copy, spoil, message):
  spoil(_shard(copy, 1))
  with pytest.raises(UserError, match=(
      r'volumes-00001-of-00003.array_record ' + message + r': records 16 to 31 \(sub-0017 to '
      r'sub-0032\); restore')):
    shards.open_shards(copy)


def test_a_shard_of_another_kind_is_found_at_the_record(copy, three_shards):
  """Volumes of other people, and of another dtype, in files that are whole."""
  entries = [write_shard(_shard(copy, 0), three_shards, range(1, 17)),
             write_shard(_shard(copy, 1), three_shards, range(16, 32), 'float16'),
             three_shards.info['shards'][2]]
  sign(copy, three_shards.info | {'shards': entries}, three_shards.table)
  data = shards.open_shards(copy)
  with pytest.raises(shards.DamagedRecord, match="record 0 .sub-0001. holds 'sub-0002'"):
    data.read_volume(0)
  with pytest.raises(shards.DamagedRecord, match=r'record 16 .* is float16 .*, not float32'):
    data.read_volume(16)
  assert damage._damaged_in(data, 0) == []     # its digest is right: the labels are in doubt


def test_changed_labels_are_told_and_changed_scans_refused(copy, capsys):
  path = copy / 'participants.tsv'
  text = path.read_text()
  shards.open_shards(copy)
  assert capsys.readouterr().err == ''
  path.write_text(text.replace('sub-0003\t\t', 'sub-0003\t\t1', 1))
  with pytest.raises(UserError, match='sub-0003 has age 1'):
    shards.open_shards(copy)
  lines = text.splitlines()
  cells = lines[3].split('\t')
  cells[2] = '33.5'
  path.write_text('\n'.join([*lines[:3], '\t'.join(cells), *lines[4:]]) + '\n')
  assert shards.open_shards(copy).table['age'][2] == 33.5     # corrected by hand: used, and told
  warning, = capsys.readouterr().err.splitlines()
  assert warning.startswith(f'WARNING: {path} was changed since it was written')
  path.write_text('\n'.join([lines[0], lines[2], lines[1], *lines[3:]]) + '\n')
  with pytest.raises(UserError, match='other scans, or in another order'):
    shards.open_shards(copy)


def test_sets_of_the_first_schema_are_still_read(copy, three_shards, capsys):
  info = {name: value for name, value in three_shards.info.items()
          if name not in ('digest', 'scans', 'labels')} | {'schema_version': 1}
  (copy / 'dataset.json').write_text(json.dumps(info))
  np.testing.assert_array_equal(shards.open_shards(copy).read_volume(39)[0],
                                three_shards.read_volume(39)[0])
  assert capsys.readouterr().err == ''


def test_damaged_records_are_found_and_whole_shards_not_read_twice(copy, three_shards, tmp_path,
                                                                   capsys, monkeypatch):
  _damage_record(copy, three_shards, 3)
  _shard(copy, 2).unlink()
  data = shards.open_shards(copy, all_files=False)
  expected = {3, *range(32, 40)}
  assert damage.find_damaged(data, tmp_path, 2) == expected
  warning = capsys.readouterr().err
  assert 'WARNING: 9 of 40 records are damaged and left out: sub-0004 (record 3, ' in warning
  read = []
  monkeypatch.setattr(paths, 'sha256', lambda path: read.append(path.name) or 'another')
  assert damage.find_damaged(data, tmp_path, 2) == expected
  assert sorted(read) == [_shard(copy, 0).name, 'volumes-00002-of-00003.array_record']
  with pytest.raises(shards.DamagedRecord), damage.forgotten_on_damage(tmp_path):
    data.read_volume(3)
  read.clear()
  damage.find_damaged(data, tmp_path, 2)
  assert len(read) == 3


def test_processes_share_the_shards_and_their_findings(copy, three_shards, tmp_path, monkeypatch):
  _damage_record(copy, three_shards, 3)
  _shard(copy, 1).unlink()
  data = shards.open_shards(copy, all_files=False)
  found = []
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(processes, 'on_any', lambda *flags: found.append(flags) or tuple(
      np.any(found, axis=0)))   # process 1 comes first, so that process 0 sees both
  for process in (1, 0):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    damaged = damage.find_damaged(data, tmp_path / 'run', 1)
    assert (tmp_path / 'run').exists() == (process == 0)   # only the first one writes
  assert [np.flatnonzero(flags).tolist() for flags in found] == [[*range(16, 32)], [3]]
  assert damaged == {3, *range(16, 32)}


def test_whole_records_take_the_places_of_damaged_ones():
  records, damaged = np.arange(100, 141), frozenset({104, 117, 118})
  for step in range(12):
    whole = pipeline.records_of_step(records, 8, 5, step)
    batch = pipeline.records_of_step(records, 8, 5, step, damaged)
    assert len(set(batch)) == 8 and damaged.isdisjoint(batch.tolist())
    kept = ~np.isin(whole, list(damaged))
    np.testing.assert_array_equal(batch[kept], whole[kept])    # no other place changes
  schedule = pipeline.TrainSchedule(records, 8, 5, range(12), damaged)
  shares = [pipeline._Share(schedule, process, 2) for process in (0, 1)]
  joined = [[share[4 * step + k] for share in shares for k in range(4)] for step in range(12)]
  expected = [pipeline.records_of_step(records, 8, 5, step, damaged).tolist() for step in range(12)]
  assert joined == expected


def test_a_run_stops_or_goes_without(copy, three_shards, small_model, tmp_path, capsys):
  train_records, heldout = pipeline.split_by_participant(
      three_shards.table['participant_id'].to_numpy(), 0, 5, 0)
  # Of the second step's batch, so that the first one is the same with and without.
  first, bad = pipeline.records_of_step(train_records, 8, 0, 0), pipeline.records_of_step(
      train_records, 8, 0, 1)[2]
  assert bad not in first
  train.train(small_config(three_shards.directory, epochs=1), tmp_path / 'whole')
  _damage_record(copy, three_shards, bad)
  with pytest.raises(shards.DamagedRecord, match=f'record {bad} '):
    train.train(small_config(copy, epochs=1), tmp_path / 'stopped')
  config = small_config(copy, epochs=2)
  config.data.on_error = 'skip'
  train.train(config, tmp_path / 'skipped')
  assert f'1 of 40 records are damaged and left out: {three_shards.label(bad)}' in (
      capsys.readouterr().err)
  assert (tmp_path / 'skipped' / 'features_range.json').is_file()   # of the whole records
  config.epochs = 1
  train.train(config, tmp_path / 'resumed')
  for healed in (three_shards.directory, copy):   # other batches from here on: another run
    other = small_config(healed, epochs=2, data={'on_error': 'skip' if healed != copy else 'stop'})
    with pytest.raises(UserError, match=(
        rf"another config \(left_out \['{three_shards.label(bad)}'\] -> None\)")):
      train.train(other, tmp_path / 'resumed')
  with pytest.raises(UserError, match=rf"left_out None -> \['{three_shards.label(bad)}'\]"):
    train.train(config, tmp_path / 'whole')
  config.epochs = 2
  train.train(config, tmp_path / 'resumed')
  rows, again, whole = (tracking.read_metrics(tmp_path / name)
                        for name in ('skipped', 'resumed', 'whole'))
  assert [row['data/skipped'] for row in rows] == [1] * 8 and 'data/skipped' not in whole[0]
  assert [row['loss'] for row in rows] == [row['loss'] for row in again]
  assert rows[0]['loss'] == whole[0]['loss'] and rows[1]['loss'] != whole[1]['loss']


def test_too_few_whole_records(copy, tmp_path):
  for path in [_shard(copy, 0), _shard(copy, 1)]:
    path.unlink()
  config = small_config(copy, batch_size=16)
  config.data.on_error = 'skip'
  with pytest.raises(UserError, match=r'8 of 32 scans to train on .* are whole, fewer than batch_'):
    train.train(config, tmp_path / 'run')
  config.data.on_error = 'ignore'
  with pytest.raises(UserError, match="unknown data.on_error 'ignore': did you mean"):
    train.train(config, tmp_path / 'run')
