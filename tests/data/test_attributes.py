"""Attributes of the loss's terms: columns as numbers or codes, what is missing, statistics."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from anatcl_jax import kernels
from anatcl_jax.data import attributes
from anatcl_jax.errors import UserError
from configs.pretrain import get_config


@pytest.fixture
def spoilt(shard_set):
  """The SYNTHETIC shards with a hole in every column, and a score in a column of text."""
  table = shard_set.table.copy()
  table['score'] = [f'{i / 2}' for i in range(len(table))]
  table['hand'] = ['left', 'right'] * (len(table) // 2)
  for column, record, missing in (('age', 2, np.nan), ('score', 3, 'n/a'), ('hand', 4, ''),
                                  ('site', 5, 'n/a')):
    table.loc[record, column] = missing
  morphometry = shard_set.morphometry.copy()
  morphometry[6, 10, 1] = np.nan
  return dataclasses.replace(shard_set, table=table, morphometry=morphometry)


def _config(also='', **terms):
  config = get_config(f'also={also}' if also else None)
  for name, changes in terms.items():
    config.loss.terms[name].update(changes)
  return config


def test_columns_become_numbers_or_codes(spoilt):
  config = _config('score+hand+site', score={'kernel': 'rbf', 'sigma': 3.0})
  read = attributes.read_attributes(spoilt, config)
  np.testing.assert_array_equal(read['score'], [i / 2 if i != 3 else np.nan for i in range(20)])
  np.testing.assert_array_equal(read['hand'], [-1 if i == 4 else i % 2 for i in range(20)])
  sites = spoilt.table['site']
  same = [[sites[i] == sites[j] for j in range(20) if j != 5] for i in range(20) if i != 5]
  codes = np.delete(read['site'], 5)
  np.testing.assert_array_equal(codes[:, None] == codes[None], same)
  assert read['site'][5] == -1
  for name, record in (('age', 2), ('score', 3), ('hand', 4), ('site', 5), ('anatomy', 6)):
    assert attributes.missing(read[name]) == 1, name
    assert not kernels.present(read[name])[record]


def test_statistics_see_training_records_only(spoilt):
  config = _config(anatomy={'normalization': 'zscore', 'kernel': 'whitened'})
  read = attributes.read_attributes(spoilt, config)
  training = np.arange(12)
  statistics = attributes.fit_attributes(read, training, config.loss.terms)
  others = {name: values.copy() for name, values in read.items()}
  others['anatomy'][12:] *= 100
  for name, values in attributes.fit_attributes(others, training, config.loss.terms)[
      'anatomy'].items():
    np.testing.assert_array_equal(values, statistics['anatomy'][name])
  normalized = attributes.normalize_attributes(read, statistics, config.loss.terms)
  assert np.isnan(normalized['anatomy'][6]).all()
  assert np.isfinite(np.delete(normalized['anatomy'], 6, 0)).all()
  np.testing.assert_array_equal(normalized['age'], read['age'])


def test_columns_that_morphometry_is_without(spoilt):
  """Numbers where all are, but never sites; who lacks one, or morphometry, has none."""
  sites = ['1', '1', '2', '2'] * 4 + ['1', '2', '7', 'n/a']   # hands are others' halves
  spoilt.table['site'] = sites
  config = _config(anatomy={'without': 'site+score', 'keeping': 'hand', 'normalization': 'none'})
  columns = attributes.read_columns(spoilt, config)
  assert columns['site'].tolist() == [*sites[:-1], ''] and columns['hand'][4] == ''
  np.testing.assert_array_equal(columns['score'], [i / 2 if i != 3 else np.nan for i in range(20)])
  read = attributes.read_attributes(spoilt, config)
  training = np.arange(18)
  statistics = attributes.fit_attributes(read, training, config.loss.terms, columns)
  result = attributes.normalize_attributes(read, statistics, config.loss.terms, columns)['anatomy']
  assert np.flatnonzero(~np.isfinite(result).all((1, 2))).tolist() == [3, 4, 6, 19]
  whole = np.setdiff1d(training, [3, 4, 6])
  for site in ('1', '2'):
    own = whole[columns['site'][whole] == site]
    assert np.abs(read['anatomy'][own].mean(0) - read['anatomy'][whole].mean(0)).max() > 1
  slope, _ = np.polyfit(columns['score'][whole], result[whole, 0, 0], 1)
  assert slope == pytest.approx(0, abs=0.05)
  line, = attributes.left_in(columns, statistics)
  assert line.startswith('anatomy: site 7 (1 scans) had too few scans')


@pytest.mark.parametrize('also, terms, message', [
    ('', {'anatomy': {'without': 'sites'}}, "did you mean 'site'"),
    ('sexes', {}, "did you mean 'sex'"),
    ('site', {'site': {'kernel': 'rbf'}}, 'site is not a number for sub-0001'),
    ('hand', {'hand': {'kernel': 'equal'}}, "did you mean 'equality'")])
def test_impossible_terms(spoilt, also, terms, message):
  from anatcl_jax.training.checks import check_values
  config = _config(also, **terms)
  with pytest.raises(UserError, match=message):
    check_values(config)
    attributes.read_attributes(spoilt, config)
    attributes.read_columns(spoilt, config)


def test_terms_of_weight_zero_are_not_read(spoilt):
  config = _config('nonsense', nonsense={'weight': 0.0}, anatomy={'weight': 0.0})
  assert set(attributes.read_attributes(spoilt, config)) == {'age'}


def test_a_term_that_hardly_anyone_has(spoilt):
  table = spoilt.table.assign(age=np.nan)
  config = _config()
  read = attributes.read_attributes(dataclasses.replace(spoilt, table=table), config)
  with pytest.raises(UserError, match='term age: fewer than two of the 12 scans'):
    attributes.fit_attributes(read, np.arange(12), config.loss.terms)
