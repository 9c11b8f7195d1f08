"""Bytes of a shard set that flip or are cut off: found, told, or without any effect."""

from __future__ import annotations

import pathlib
import random
import shutil

import numpy as np
import pytest

from anatcl_jax.cohorts import openbhb_arrays
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.data import digests, make_shards, shards
from anatcl_jax.errors import UserError

_FILES = ('volumes-*.array_record', 'dataset.json', 'participants.tsv', 'morphometry.npy')


def _spoilt(content: bytes, rng: random.Random) -> bytes:
  """One flipped bit, another byte, a block of noise, or the end cut off."""
  spoilt, position = bytearray(content), rng.randrange(len(content))
  kind = rng.randrange(4)
  if kind == 0:
    spoilt[position] ^= 1 << rng.randrange(8)
  elif kind == 1:
    spoilt[position] = rng.choice([value for value in range(256) if value != spoilt[position]])
  elif kind == 2:
    spoilt[position:position + 40] = rng.randbytes(len(spoilt[position:position + 40]))
  else:
    del spoilt[position:]
  return bytes(spoilt)


def _outcome(directory: pathlib.Path, whole: shards.ShardSet, capsys) -> str:
  """`refused` at the start, `told`, `found` at a record or `harmless`; a wrong result fails."""
  capsys.readouterr()
  try:
    data = shards.open_shards(directory)
  except UserError as error:
    assert str(directory) in str(error) or 'sub-' in str(error)
    return 'refused'
  if capsys.readouterr().err.startswith('WARNING'):
    return 'told'
  assert data.table.equals(whole.table) and data.info == whole.info
  np.testing.assert_array_equal(data.morphometry, whole.morphometry)
  found = 0
  for record in range(len(whole)):
    expected, expected_scale = whole.read_volume(record)
    try:
      volume, scale = data.read_volume(record)
    except shards.DamagedRecord as error:
      assert f'record {record} ({whole.label(record)})' in str(error)
      found += 1
    else:
      np.testing.assert_array_equal(volume, expected)
      assert scale == expected_scale
  return 'found' if found else 'harmless'


def _fuzz(whole: shards.ShardSet, directory: pathlib.Path, pattern: str, tries: int, seed: int,
          capsys) -> dict[str, int]:
  shutil.copytree(whole.directory, directory)
  path, = directory.glob(pattern)
  content, rng, outcomes = path.read_bytes(), random.Random(f'{pattern} {seed}'), {}
  for _ in range(tries):
    path.write_bytes(_spoilt(content, rng))
    outcome = _outcome(directory, whole, capsys)
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
  return outcomes


# What must come out of most tries: bytes between two chunks, and spaces in JSON, matter to nobody.
_EXPECTED = {_FILES[0]: 'found', _FILES[1]: 'refused', _FILES[2]: 'told', _FILES[3]: 'told'}


@pytest.mark.parametrize('pattern', _FILES)
def test_no_changed_byte_goes_unnoticed(shard_set, tmp_path, capsys, pattern):
  outcomes = _fuzz(shard_set, tmp_path / 'set', pattern, 60, 0, capsys)
  assert outcomes[_EXPECTED[pattern]] >= 10, outcomes
  if pattern in digests.LABEL_FILES:
    assert 'harmless' not in outcomes


@pytest.mark.parametrize('header', [b')}}}', b'),((', b')  \\', b'\x00\xff\xff}'])
def test_headers_that_are_no_python(shard_set, tmp_path, header):
  shutil.copytree(shard_set.directory, tmp_path / 'set')
  path = tmp_path / 'set/morphometry.npy'
  content = path.read_bytes()
  assert b'), }' in content
  path.write_bytes(content.replace(b'), }', header, 1))
  with pytest.raises(UserError, match='morphometry.npy is damaged'):
    shards.open_shards(path.parent)
  with pytest.raises(UserError, match='morphometry.npy: not a readable .npy file'):
    openbhb_arrays.open_array(path)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', shards.DTYPES)
@pytest.mark.parametrize('pattern', _FILES)
def test_no_changed_byte_goes_unnoticed_in_many_tries(tmp_path, capsys, pattern, dtype):
  """At 6 mm, where a volume spans several of ArrayRecord's blocks of 64 kB."""
  whole = make_shards.make_phantom_shards(
      phantom.PhantomSettings(subjects=8, seed=2, spacing=6), tmp_path / 'whole', dtype=dtype,
      workers=1)
  outcomes = _fuzz(whole, tmp_path / 'set', pattern, 500, 1, capsys)
  assert outcomes[_EXPECTED[pattern]] >= 50, outcomes
