"""A probe says where its encoders, features and scans are of other kinds of maps or morphometry."""

from __future__ import annotations

import dataclasses
import json
import types

from anatcl_jax.cohorts import origins
from anatcl_jax.cohorts.origins import MODULATED, Origin
from anatcl_jax.evaluation import sources
from anatcl_jax.weights.load import Weights

CAT12 = origins.OPENBHB['vbm']
SMOOTH = Origin('CAT12', MODULATED, '6 mm', CAT12.template)


def _weights(maps, measured_by):
  return Weights('tiny', {}, None, {'maps': dataclasses.asdict(maps) if maps else None,
                                    'measured_by': measured_by})


def _shards(maps, measured_by):
  return types.SimpleNamespace(maps=maps, measured_by=measured_by, directory='data/own')


def test_of_the_same_kind_nothing_is_said():
  same = {'a': _weights(CAT12, 'FreeSurfer')}
  assert sources._kinds(same, _shards(CAT12, 'FreeSurfer'), {}) == []


def test_what_is_not_known_is_not_said():
  assert sources._kinds({'a': _weights(None, '')}, _shards(CAT12, 'CAT12'), {}) == []
  assert sources._kinds({'a': _weights(CAT12, 'CAT12')}, _shards(None, ''), {}) == []


def test_encoders_and_shards_of_several_kinds():
  maps, measures = sources._kinds({'a': _weights(CAT12, 'FreeSurfer')}, _shards(SMOOTH, 'CAT12'),
                                  {})
  assert maps.startswith('a: the encoder was trained on maps of another kind (CAT12: modulated')
  assert 'smoothed by 6 mm' in maps
  assert 'trained with morphometry by FreeSurfer; that of data/own is by CAT12' in measures


def test_tables_of_several_kinds(tmp_path):
  paths = {name: tmp_path / f'{name}.tsv' for name in ('one', 'two', 'three')}
  for path, maps in zip(paths.values(), (CAT12, SMOOTH, None)):
    path.with_suffix('.json').write_text(json.dumps(
        {'maps': dataclasses.asdict(maps) if maps else None}))
  note, = sources._kinds({}, None, paths)
  assert 'maps of several kinds' in note and 'one (CAT12' in note and 'two (CAT12' in note
  assert sources._kinds({}, None, {'one': paths['one'], 'three': paths['three']}) == []
