"""Writing shards as parts of a cluster job, again after damage, and on a disk that is full."""

from __future__ import annotations

import json
import pathlib
import shlex
import sys

import numpy as np
import pytest

from anatcl_jax.cohorts import bids
from anatcl_jax.cohorts.phantom.cohort import PhantomSettings
from anatcl_jax.data import digests, shards, write_shards
from anatcl_jax.data.make_shards import make_phantom_shards, make_shards
from anatcl_jax.data.write_shards import Part
from anatcl_jax.errors import RunFailure, UserError


@pytest.fixture
def small_shards(monkeypatch):
  monkeypatch.setattr(write_shards, '_SCANS_A_SHARD', 3)


@pytest.fixture
def read(cohort):
  return bids.read_cohort(cohort.volumes, cohort.participants, list(cohort.morphometry))


def _volumes(data):
  return np.stack([data.read_volume(i)[0] for i in range(len(data))])


def test_parts_in_any_order_make_the_same_set(read, small_shards, tmp_path, capsys, monkeypatch):
  whole = make_shards(read, tmp_path / 'whole')
  for index in (3, 1, 2):
    assert make_shards(read, tmp_path / 'parts', part=Part(index, 3)) is None
    assert not (tmp_path / 'parts').exists()
  assert 'part 2 of 3: 2 of 7 shards are in' in capsys.readouterr().out
  monkeypatch.setattr(write_shards, '_encode', lambda *_: pytest.fail('a volume was read again'))
  merged = make_shards(read, tmp_path / 'parts')
  np.testing.assert_array_equal(_volumes(merged), _volumes(whole))
  assert [s['sha256'] for s in merged.info['shards']] == [s['sha256'] for s in whole.info['shards']]
  assert not list(tmp_path.glob('*.partial'))


def test_the_last_run_writes_what_a_part_did_not(read, small_shards, tmp_path):
  make_shards(read, tmp_path / 'parts', part=Part(2, 3))
  damaged = tmp_path / 'parts.partial' / 'volumes-00001-of-00007.array_record'
  damaged.write_bytes(damaged.read_bytes()[:-1] + b'!')
  merged = make_shards(read, tmp_path / 'parts')
  np.testing.assert_array_equal(_volumes(merged), _volumes(make_shards(read, tmp_path / 'whole')))


def test_a_bad_volume_stops_its_part_only(read, small_shards, tmp_path):
  bad = read.scans[4]
  bad_path = tmp_path / 'bad.nii.gz'
  bad_path.write_bytes(bad.volume.path.read_bytes()[:-1500])
  scans = list(read.scans)
  scans[4] = type(bad)(bad.participant_id, bad.session, type(bad.volume)(bad_path))
  spoilt = type(read)(tuple(scans), read.table, read.morphometry, read.atlas, read.measures, {})
  make_shards(spoilt, tmp_path / 'out', part=Part(1, 2))
  with pytest.raises(UserError, match='sub-0005'):
    make_shards(spoilt, tmp_path / 'out', part=Part(2, 2))
  made = make_shards(spoilt, tmp_path / 'out', leave_out_bad=True)
  assert len(made) == 19 and 'sub-0005' not in set(made.table['participant_id'])
  np.testing.assert_array_equal(made.read_volume(4)[0], make_shards(
      read, tmp_path / 'whole').read_volume(5)[0])


def test_more_parts_than_shards(read, small_shards, tmp_path, capsys):
  for index in range(1, 10):
    make_shards(read, tmp_path / 'out', part=Part(index, 9))
  assert 'part 9 of 9: 0 of 7 shards' in capsys.readouterr().out
  assert len(make_shards(read, tmp_path / 'out')) == 20


def test_a_merge_that_fails_keeps_the_work_of_the_parts(read, small_shards, tmp_path):
  bad_path = tmp_path / 'bad.nii.gz'
  bad_path.write_bytes(read.scans[4].volume.path.read_bytes()[:-1500])
  scans = list(read.scans)
  scans[4] = type(scans[4])(scans[4].participant_id, '', type(scans[4].volume)(bad_path))
  spoilt = type(read)(tuple(scans), read.table, read.morphometry, read.atlas, read.measures, {})
  make_shards(spoilt, tmp_path / 'out', part=Part(1, 1), leave_out_bad=True)
  with pytest.raises(UserError, match='sub-0005'):
    make_shards(spoilt, tmp_path / 'out')
  assert len(list((tmp_path / 'out.partial').glob('*.array_record'))) == 7
  assert len(make_shards(spoilt, tmp_path / 'out', leave_out_bad=True)) == 19


def test_the_command_of_a_set_can_be_typed_again(read, tmp_path, monkeypatch):
  typed = ['python', '-m', 'anatcl_jax.prepare', 'bids', '--volumes', 'my scans/*$.nii']
  monkeypatch.setattr(sys, 'orig_argv', typed)
  made_by = make_shards(read, tmp_path / 'out').info['made_by']
  assert shlex.split(made_by['command']) == typed
  assert made_by['folder'] == str(pathlib.Path.cwd())


def test_a_users_own_files_stay(read, tmp_path):
  make_shards(read, tmp_path / 'out')
  (tmp_path / 'out' / 'notes.txt').write_text('mine')
  make_shards(read, tmp_path / 'out')
  assert (tmp_path / 'out' / 'notes.txt').read_text() == 'mine'


def test_leftovers_of_a_swap_are_not_overwritten(read, tmp_path):
  make_shards(read, tmp_path / 'out')
  (tmp_path / 'out.old').mkdir()
  with pytest.raises(RunFailure, match='out.old'):
    make_shards(read, tmp_path / 'out')


def test_the_same_phantom_is_not_drawn_again(tmp_path, capsys):
  settings = PhantomSettings(subjects=3, spacing=15)
  first = make_phantom_shards(settings, tmp_path / 'out', workers=1)
  inode = (tmp_path / 'out' / first.info['shards'][0]['file']).stat().st_ino
  again = make_phantom_shards(settings, tmp_path / 'out', workers=1)
  assert (tmp_path / 'out' / again.info['shards'][0]['file']).stat().st_ino == inode
  assert 'already' in capsys.readouterr().err


def test_a_shard_of_bad_volumes_only_is_left_out(read, small_shards, tmp_path):
  scans = list(read.scans)
  for i in range(3):
    path = tmp_path / f'{i}.nii.gz'
    path.write_bytes(scans[i].volume.path.read_bytes()[:-1500])
    scans[i] = type(scans[i])(scans[i].participant_id, '', type(scans[i].volume)(path))
  spoilt = type(read)(tuple(scans), read.table, read.morphometry, read.atlas, read.measures, {})
  made = make_shards(spoilt, tmp_path / 'out', leave_out_bad=True)
  assert len(made.info['shards']) == 6 and len(made) == 17
  assert made.table['participant_id'][0] == 'sub-0004'
  made.read_volume(0)


def test_a_damaged_shard_is_written_again(read, tmp_path):
  made = make_shards(read, tmp_path / 'out')
  shard = tmp_path / 'out' / made.info['shards'][0]['file']
  content = shard.read_bytes()
  shard.write_bytes(content[:5000] + b'x' + content[5001:])
  make_shards(read, tmp_path / 'out')
  assert shard.read_bytes() == content


def test_a_full_disk_says_where_and_the_same_command_goes_on(read, small_shards, tmp_path,
                                                             monkeypatch):
  writer = write_shards.ArrayRecordWriter

  class FullDisk:
    opened = 0

    def __init__(self, path, options):
      FullDisk.opened += 1
      self.writer = writer(path, options)

    def write(self, record):
      if FullDisk.opened == 3:
        raise RuntimeError('RESOURCE_EXHAUSTED: No space left on device')
      self.writer.write(record)

    def close(self):
      self.writer.close()

  monkeypatch.setattr(write_shards, 'ArrayRecordWriter', FullDisk)
  with pytest.raises(RunFailure, match='volumes-00002.*No space left.*run the same command again'):
    make_shards(read, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  monkeypatch.setattr(write_shards, 'ArrayRecordWriter', writer)
  made = make_shards(read, tmp_path / 'out')
  np.testing.assert_array_equal(_volumes(made), _volumes(make_shards(read, tmp_path / 'whole')))


@pytest.mark.parametrize('text', ['0/3', '4/3', '2', '1/0', 'a/b', '1/2/3', '-1/2'])
def test_impossible_parts(text):
  with pytest.raises(UserError, match='is not one such as 3/8'):
    Part.parse(text)
  assert Part.parse('3/8') == Part(3, 8)


@pytest.mark.parametrize('name, content', [
    ('participants.tsv', b''), ('participants.tsv', b'participant_id\tage\n\xe9\t3\n'),
    ('participants.tsv', b'participant_id\tsession\tage\nsub-0001\t\t250\n'),
    ('participants.tsv', b'participant_id\tsession\tage\nsub-0001\t\t4x\n'),
    ('participants.tsv', None), ('morphometry.npy', b''), ('morphometry.npy', b'\x93NUMPY'),
    ('morphometry.npy', None), ('dataset.json', b'[]'), ('dataset.json', b'{"schema_version": 1}'),
    ('dataset.json', b'{')])
def test_a_damaged_set_is_one_line(read, tmp_path, name, content):
  make_shards(read, tmp_path / 'out')
  (tmp_path / 'out' / name).unlink()
  if content is not None:
    (tmp_path / 'out' / name).write_bytes(content)
  with pytest.raises(UserError, match=str(tmp_path / 'out')):
    shards.open_shards(tmp_path / 'out')


@pytest.mark.parametrize('change, message', [
    ({'schema_version': 99}, 'schema 99'), ({'shards': []}, '0 records, 20 rows'),
    ({'shards': [{}]}, 'does not describe its shards'),
    ({'measures': []}, r'not float32 .20, 68, 0')])
def test_a_set_whose_parts_do_not_fit(read, tmp_path, change, message):
  data = make_shards(read, tmp_path / 'out')
  info = digests.signed(data.info | change, data.directory, data.table)
  (tmp_path / 'out' / 'dataset.json').write_text(json.dumps(info))
  with pytest.raises(UserError, match=message):
    shards.open_shards(tmp_path / 'out')
