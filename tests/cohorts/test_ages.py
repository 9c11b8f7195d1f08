"""Ages as people write them, in years."""

from __future__ import annotations

import math

import pandas
import pytest

from anatcl_jax.cohorts import ages
from anatcl_jax.errors import UserError


@pytest.mark.parametrize('text, years', [
    ('45', 45), ('45.5', 45.5), ('4.5e1', 45), ('25 years', 25), ('25y', 25), ('045Y', 45),
    ('018M', 1.5), ('6 months', 0.5), ('P25Y', 25), ('P25Y6M', 25.5), ('P18M', 1.5),
    ('P1461D', 4), ('30 yrs. old', 30)])
def test_what_states_an_age(text, years):
  assert ages.parsed(text) == (pytest.approx(years), '')


@pytest.mark.parametrize('text', ['89+', '>89', '>=89', '≥ 89', '89 or older', '89 and above',
                                  'over 89', '> 89 years', '89 years or older', '89plus'])
def test_top_coded(text):
  value, why = ages.parsed(text)
  assert math.isnan(value) and '--top-coded-age 89' in why
  assert ages.parsed(text, top_coded=90.0) == (90, '')
  value, why = ages.parsed(text, top_coded=math.nan)
  assert math.isnan(value) and not why
  assert 'more than --top-coded-age 80' in ages.parsed(text, top_coded=80.0)[1]


@pytest.mark.parametrize('text', ['20-25', '20 to 25', 'adult', '30,5', '<5', 'P', 'inf', '45 m2'])
def test_what_states_none(text):
  value, why = ages.parsed(text, top_coded=89.0)
  assert math.isnan(value) and text in why


def test_the_option():
  assert ages.top_coded_age('89') == 89 and math.isnan(ages.top_coded_age('missing'))
  for text in ('89+', '0', '900', 'nan', ''):
    with pytest.raises(UserError, match='--top-coded-age'):
      ages.top_coded_age(text)


@pytest.mark.parametrize('name, sidecar, unit', [
    ('age', '', 1), ('Age (years)', '', 1), ('age_months', '', 12), ('interview_age', '', 12),
    ('Age', '{"Age": {"Units": "yr"}}', 1), ('age', '{"age": {"Units": "months"}}', 12),
    ('age', '{"age": {"Units": "n/a"}}', 1), ('age', '\ufeff{"age": {"Units": "months"}}', 12)])
def test_units(tmp_path, name, sidecar, unit):
  path = tmp_path / 'participants.tsv'
  if sidecar:
    path.with_suffix('.json').write_text(sidecar, encoding='utf-8')
  table = pandas.DataFrame({'participant_id': ['1', '2'], name: ['24', None]})
  assert ages.find_column(path, table) == name
  values, why = ages.read_column(path, table, name)
  assert values[0] == 24 / unit and math.isnan(values[1]) and why == ['', '']


def test_no_column_is_guessed(tmp_path):
  path = tmp_path / 'participants.tsv'
  table = pandas.DataFrame({'age_at_scan': ['1'], 'Age (years)': ['2'], 'mother_age': ['40']})
  with pytest.raises(UserError, match='--age-column'):
    ages.find_column(path, table)
  assert ages.find_column(path, table, 'mother_age') == 'mother_age'
  assert ages.find_column(path, table[['mother_age']]) is None
  assert 'mother_age? --age-column' in str(ages.no_column(path, table[['mother_age']]))
