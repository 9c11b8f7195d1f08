"""The digital cohort's coefficients: recovered from drawn people, and fitted again on real ones."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from anatcl_jax.cohorts.phantom import population as phantom_population
from anatcl_jax.studies import __main__ as studies
from anatcl_jax.studies import population
from anatcl_jax.studies.real_people import read_people, twice

_DATA = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
_TWICE = _DATA / 'ds000174-morphometry'
_HERE = pytest.mark.skipif(not (_DATA / 'ixi-t1').is_dir(), reason=f'{_DATA}/ixi-t1 is not here')


def _people(rng: np.random.Generator, people: int = 2500) -> population.People:
  """Two regions of thickness 2.5 - 0.05 d + 0.01 d^2 (d decades from 50), men 0.04 thicker.

  They share a factor of 0.1 mm; 0.05 mm are their own. Area is 1000 mm^2 at the mean head.
  """
  age, male = rng.uniform(20, 80, people), (rng.random(people) < 0.5).astype(float)
  site = rng.integers(0, 4, people)
  head = 0.03 * rng.standard_normal(people) + 0.05 * male
  decades = (age - 50) / 10
  thickness = (2.5 - 0.05 * decades + 0.01 * decades**2 + 0.04 * (male - 0.5))[:, None] + (
      0.1 * rng.standard_normal((people, 1)) + 0.05 * rng.standard_normal((people, 2)))
  area = 1000 * np.exp(0.8 * head[:, None] + 0.05 * rng.standard_normal((people, 1))
                       - 0.02 * decades[:, None] + 0.03 * site[:, None])
  return population.People(age, male, site.astype(str), 1.5e6 * np.exp(3 * head),
                           np.stack([thickness, area * np.ones(2)], -1),
                           np.arange(people).astype(str))


def test_known_coefficients_are_recovered_and_failures_left_out():
  people = _people(np.random.default_rng(0))
  people.values[:5, :, 0] *= 0.5
  kept, (mean, slope, bend, sex), left = population.fit_thickness(people)
  assert 2490 < len(kept.age) <= 2495 and kept.values[..., 0].min() > 1.6
  np.testing.assert_allclose(mean, 2.5, atol=0.01)
  np.testing.assert_allclose(slope, -0.05, atol=0.005)
  np.testing.assert_allclose(bend, 0.01, atol=0.003)
  np.testing.assert_allclose(sex, 0.04, atol=0.02)
  assert population.curved(kept) == 2
  loadings, unique = population.factors(left, 1)
  covariance = loadings @ loadings.T + np.diag(unique**2)
  np.testing.assert_allclose(covariance, [[0.0125, 0.01], [0.01, 0.0125]], rtol=0.1)


def test_known_areas_and_sites_are_recovered():
  """Four sites at 0, 0.03, 0.06 and 0.09 of log area: sd 0.0387, shared by all regions."""
  people = _people(np.random.default_rng(1))
  found = population.fit_area(people)
  assert found == pytest.approx({'area_head': 0.8, 'area_sd': 0.05, 'area_sex': 0.04,
                                 'area_age': -0.02}, abs=0.06, rel=0.05)
  assert found['area_sex'] == pytest.approx(0.04, abs=0.006)
  sites = population.fit_sites(people)
  assert sites['site_area_location'] == pytest.approx(0.0387, abs=0.006)
  assert sites['site_area_location_region'] < 0.002
  assert sites['site_thickness_location'] < 0.005 > sites['site_thickness_location_region']


def test_errors_of_measuring_are_recovered():
  rng = np.random.default_rng(2)
  true = np.exp(0.1 * rng.standard_normal((3000, 6, 2)) + np.log([2.5, 1000]))
  first, second = (true * np.exp(np.array([0.03, 0.02]) * rng.standard_normal(true.shape))
                   for _ in range(2))
  shift = np.exp(0.05 * rng.standard_normal((3000, 1, 1)) - 0.1)    # a person's own, and of all
  error, area_sd, both = population.fit_sessions(first, second * shift)
  np.testing.assert_allclose(error, np.sqrt(5 / 6) * np.array([[0.03, 0.02]] * 6), rtol=0.1)
  np.testing.assert_allclose(area_sd, np.sqrt(5 / 6) * np.hypot(0.1, 0.02), rtol=0.1)
  assert abs(both) < 0.35


@pytest.mark.slow
@_HERE
def test_the_packages_thickness_is_that_of_the_real_people():
  """Fitted again on IXI and ds000174; the long test does so for the sites too."""
  people = read_people([_DATA / 'ixi-t1' / 'IXI_aparc_thickness.csv'],
                       [_DATA / 'ixi-t1' / 'IXI_age_gender.csv'], 'desikan', '1=M,2=F',
                       ('thickness',))
  first, second = twice([_TWICE / f'openneuro_{name}_dktatlas.csv'
                         for name in ('baseline', 'followup')],
                        [_TWICE / 'openneuro_participants.csv'], '1=M,2=F', ('thickness', 'area'))
  found, _ = population.fit(people, _people(np.random.default_rng(0), 200), first.values, second)
  kept = phantom_population.fitted()
  assert (found.youngest, found.oldest) == (kept.youngest, kept.oldest) == (20, 86)
  for name in ('mean', 'slope', 'bend', 'sex', 'unique', 'area_sd', 'error'):
    np.testing.assert_allclose(getattr(found, name), getattr(kept, name), rtol=2e-3, atol=1e-5)
  np.testing.assert_allclose(found.covariance(), kept.covariance(), rtol=1e-2, atol=1e-4)
  for name in ('head_sex', 'head_sd', 'area_homologous'):
    assert found.scalars[name] == pytest.approx(kept.scalars[name], rel=1e-3)


@pytest.mark.slow
@_HERE
def test_the_command_writes_the_packages_file_again(tmp_path):
  sites, ixi = _DATA / 'openneuro-destrieux', _DATA / 'ixi-t1'
  studies.main(['population', '--thickness', f'{ixi}/IXI_aparc_thickness.csv',
                '--participants', f'{ixi}/IXI_age_gender.csv',
                '--sites-thickness', f'{sites}/ct_ad.csv', f'{sites}/ct_te.csv',
                '--sites-area', f'{sites}/sa_ad.csv', f'{sites}/sa_te.csv', '--sessions',
                *(f'{_TWICE}/openneuro_{name}_dktatlas.csv' for name in ('baseline', 'followup')),
                '--sessions-participants', f'{_TWICE}/openneuro_participants.csv',
                '--out', f'{tmp_path}/again.json'])
  again = json.loads((tmp_path / 'again.json').read_text())
  kept = phantom_population.fitted()
  assert again['scalars'] == pytest.approx(kept.scalars, rel=1e-3)
  np.testing.assert_allclose(phantom_population.of_json(again).covariance(), kept.covariance(),
                             rtol=1e-2, atol=1e-4)
