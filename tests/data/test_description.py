"""dataset.json of the wrong types, and two processes that prepare one set."""

from __future__ import annotations

import json
import shutil

import pytest

from anatcl_jax import lock
from anatcl_jax.data import digests, shards
from anatcl_jax.data.make_shards import make_shards
from anatcl_jax.data.write_shards import Part
from anatcl_jax.errors import UserError
from tests.data.test_write_shards import read  # noqa: F401


def _refused(directory, info, table):
  """The line about a dataset.json, signed so that its digest is right."""
  (directory / 'dataset.json').write_text(json.dumps(digests.signed(info, directory, table)))
  with pytest.raises(UserError) as error:
    shards.open_shards(directory)
  text = str(error.value)
  assert str(directory) in text and '\n' not in text
  return text


@pytest.fixture
def copy(shard_set, tmp_path):
  return shutil.copytree(shard_set.directory, tmp_path / 'set')


@pytest.mark.parametrize('name', [
    '../set/{}', '/etc/passwd', '{}/', 'a/{}', '..', '.', '', 'a\\b', '{}[0:3]', 'gs:{}', 'a\nb'])
def test_shards_lie_in_their_folder(copy, shard_set, name):
  first, *others = shard_set.info['shards']
  shard = first | {'file': name.format(first['file'])}
  assert 'outside of its folder' in _refused(
      copy, shard_set.info | {'shards': [shard, *others]}, shard_set.table)


@pytest.mark.parametrize('field', ['grid', 'dtype', 'atlas', 'regions', 'measures', 'shards',
                                   'synthetic', 'sources'])
@pytest.mark.parametrize('value', [None, 3, 'text', [3], {'a': []}, [[[]]], {'shape': [0, 1, 2]}])
def test_fields_of_another_type(copy, shard_set, field, value):
  if field in ('atlas', 'sources') and isinstance(value, (str, dict)):
    return     # a name, sources
  _refused(copy, shard_set.info | {field: value}, shard_set.table)


@pytest.mark.parametrize('field, value', [
    ('records', -1), ('records', 1.5), ('records', True), ('records', 10**30), ('bytes', '9'),
    ('sha256', 3), ('lowest', 'a'), ('level_and_spread', [[1]]), ('file', ['a'])])
def test_entries_of_shards(copy, shard_set, field, value):
  shard = shard_set.info['shards'][0] | {field: value}
  assert 'does not describe its shards' in _refused(
      copy, shard_set.info | {'shards': [shard]}, shard_set.table)


@pytest.mark.parametrize('depth', [900, 100_000])
def test_json_in_json(copy, shard_set, depth):
  text = (copy / 'dataset.json').read_text().rstrip()
  (copy / 'dataset.json').write_text(f'{text[:-1]}, "sources": {"[" * depth}{"]" * depth}}}')
  with pytest.raises(UserError, match=str(copy)):
    shards.open_shards(copy)


def test_labels_without_a_digest_are_changed_ones(copy, shard_set, capsys):
  info = digests.signed(shard_set.info, copy, shard_set.table) | {'labels': {}}
  info = {name: value for name, value in info.items() if name != 'digest'}
  (copy / 'dataset.json').write_text(json.dumps(info | {'digest': digests.of_json(info)}))
  shards.open_shards(copy)
  assert capsys.readouterr().err.count('was changed since it was written') == 2


def test_one_process_prepares_a_set(read, tmp_path):  # noqa: F811
  """The other is told who does; a part is alone with its share, and others may work beside it."""
  out = tmp_path / 'out'
  with lock.alone_with(out), pytest.raises(UserError, match='in use by another process .process'):
    make_shards(read, out)
  make_shards(read, out, part=Part(1, 2))
  with lock.alone_with(tmp_path / 'out.part-1-of-2'):
    make_shards(read, out, part=Part(2, 2))
    for part in (Part(1, 2), None):
      with pytest.raises(UserError, match='out.part-1-of-2 is in use by another process'):
        make_shards(read, out, part=part)
  assert len(make_shards(read, out)) == 20
  assert [path.name for path in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('content', ['', '[]', '{', '{"fingerprint": 3}', '[' * 100_000])
def test_a_damaged_note_of_a_finished_shard_is_written_again(read, tmp_path, content):  # noqa: F811
  make_shards(read, tmp_path / 'out', part=Part(1, 1))
  note, = (tmp_path / 'out.partial').glob('*.json')
  note.write_text(content)
  assert len(make_shards(read, tmp_path / 'out')) == 20
