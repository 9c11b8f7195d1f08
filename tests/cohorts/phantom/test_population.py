"""Subjects drawn as real people vary, who is ill, and which site measures them."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pandas
import pytest

from anatcl_jax.cohorts import atlas
from anatcl_jax.cohorts.phantom import anatomy as phantom_anatomy
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.cohorts.phantom import population, sites
from anatcl_jax.cohorts.phantom.disease import SUBTYPES, Disease
from anatcl_jax.cohorts.phantom.drawing import MEASURES
from anatcl_jax.errors import UserError

SMALL = phantom.PhantomSettings(subjects=2, seed=4, spacing=12.0, youngest=20, oldest=86,
                                population='ixi')


def test_expected_thickness_by_hand_and_its_tangent_beyond_the_ages():
  """2.5 at 50 for the mean of both sexes; -0.1 + 2 * 0.02 * 3 a decade at 80, the oldest."""
  one = population.Population(50, 20, 80, *np.array([[2.5], [-0.1], [0.02], [0.06]]),
                              np.zeros((1, 1)), *np.zeros((3, 1)), {})
  assert one.expected_thickness(50, True) == pytest.approx(2.53)
  assert one.expected_thickness(70, False) == pytest.approx(2.5 - 0.2 + 0.08 - 0.03)
  assert one.expected_thickness(80, False) == pytest.approx(2.5 - 0.3 + 0.18 - 0.03)
  assert one.expected_thickness(90, False) == pytest.approx(2.5 - 0.3 + 0.18 - 0.03 + 0.02)
  assert one.expected_thickness(10, True) == pytest.approx(2.5 + 0.3 + 0.18 + 0.03 + 0.22)


def test_coefficients_survive_the_file():
  fitted = population.fitted()
  again = population.of_json(fitted.as_json())
  for field in dataclasses.fields(fitted):
    np.testing.assert_equal(getattr(again, field.name), getattr(fitted, field.name))


@pytest.fixture(scope='module')
def drawn() -> list[phantom_anatomy.Anatomy]:
  return [population.sample_anatomy(np.random.default_rng([1, index]), 20, 86, Disease())
          for index in range(1500)]


def test_drawn_thickness_has_the_fitted_means_slopes_and_covariance(drawn):
  """Without the error of measuring, which is added where it is measured."""
  fitted = population.fitted()
  thickness = np.stack([anatomy.thickness.ravel() for anatomy in drawn])
  expected = np.stack([fitted.expected_thickness(anatomy.age, anatomy.sex == 'M')
                       for anatomy in drawn])
  left = thickness - expected
  error = fitted.mean * fitted.error[:, 0]
  true = fitted.covariance() - np.diag(error**2)
  spread = np.sqrt(np.diag(true))
  assert np.abs(left.mean(0) / spread * np.sqrt(len(left))).max() < 4.5
  np.testing.assert_allclose(left.std(0), spread, rtol=0.08)
  correlation = np.corrcoef(left.T) - true / np.outer(spread, spread)
  assert np.sqrt(np.mean(correlation**2)) < 0.035
  assert (error**2 <= 0.501 * fitted.unique**2).all()


def test_measuring_adds_the_fitted_errors():
  fitted, rng = population.fitted(), np.random.default_rng(0)
  errors = np.stack([population.measurement_error(rng) for _ in range(800)])
  assert MEASURES == ('thickness', 'area', 'volume')
  np.testing.assert_allclose(errors[..., :2].std(0).reshape(-1, 2), fitted.error, rtol=0.12)
  np.testing.assert_allclose(errors[..., 2], errors[..., 0] + errors[..., 1], atol=1e-12)


def test_drawn_heads_and_areas_vary_as_fitted(drawn):
  """Whole area, as the surfaces of 60 subjects have it, and head size of all."""
  scalars = population.fitted().scalars
  logarithm = np.log([anatomy.head_size for anatomy in drawn])
  male = np.array([anatomy.sex == 'M' for anatomy in drawn])
  assert logarithm[male].mean() - logarithm[~male].mean() == pytest.approx(scalars['head_sex'],
                                                                           abs=0.006)
  assert logarithm[male].std() == pytest.approx(scalars['head_sd'], rel=0.1)
  some = drawn[:60]
  whole = np.log([sum(surface.area[phantom_anatomy.template().labels < 34].sum()
                      for surface in phantom_anatomy.surfaces(anatomy)) for anatomy in some])
  design = np.column_stack([np.ones(60), [a.age for a in some], male[:60]])
  (_, _, sex), *_ = np.linalg.lstsq(design, whole, rcond=None)
  assert sex == pytest.approx(scalars['area_sex'], abs=0.05)
  left = whole - design @ np.linalg.lstsq(design, whole, rcond=None)[0]
  wanted = np.hypot(scalars['area_sd'], scalars['area_head'] * scalars['head_sd'])
  assert left.std() == pytest.approx(wanted, rel=0.25)


def test_hemispheres_stay_apart(drawn):
  directions = phantom_anatomy.template().directions
  for anatomy in drawn[:60]:
    for surface in phantom_anatomy.surfaces(anatomy):
      pial = surface.radius + surface.thickness / surface.cosine / 2
      x = surface.centre[0] - surface.side * pial * directions[..., 0]
      assert (x * surface.side > 0).all()


# Disease.

def test_odds_of_disease_rise_with_age_as_stated():
  disease = Disease(0.2, age_odds=20.0)
  odds = [share / (1 - share) for share in map(disease.share, (0.0, 0.5, 1.0))]
  assert odds[1] == pytest.approx(0.25) and odds[2] / odds[0] == pytest.approx(20)
  assert Disease(0.2).share(0.9) == 0.2 and Disease(0.0, 20.0).share(1.0) == 0


def test_subtypes_take_one_mean_from_other_regions():
  losses = {name: atrophy.thickness for name, atrophy in SUBTYPES.items()}
  np.testing.assert_allclose([loss.mean() for loss in losses.values()],
                             losses['temporal'].mean())
  patterns = np.corrcoef([loss.ravel() for loss in losses.values()])
  assert patterns[np.triu_indices(len(losses), 1)].max() < 0.8
  np.testing.assert_allclose(losses['left'][0], 4 * losses['left'][1])
  for name in ('temporal', 'parietal', 'frontal'):
    np.testing.assert_array_equal(*losses[name])


def test_illness_takes_the_subtypes_loss_and_nothing_else():
  well, ill = (population.sample_anatomy(np.random.default_rng(3), 20, 86, Disease(share),
                                         SUBTYPES['left']) for share in (0.0, 1.0))
  np.testing.assert_allclose(well.thickness - ill.thickness,
                             SUBTYPES['left'].thickness * ill.severity, atol=1e-12)
  np.testing.assert_array_equal(well.expansion, ill.expansion)
  assert (well.age, well.sex, well.head_size) == (ill.age, ill.sex, ill.head_size)


# Sites.

def _assigned(assignment: sites.Assignment, subjects: int, patient: bool = False,
              sessions: int = 1) -> list[list[int]]:
  return [assignment.sites_of(patient, sessions,
                              lambda session, i=i: np.random.default_rng([i, session]))
          for i in range(subjects)]


def test_a_second_scanner_is_another_one_on_the_same_side_of_the_split():
  assignment = sites.Assignment(5, held_out=2, another=True)
  assigned = _assigned(assignment, 200, sessions=3)
  assert {site for of in assigned for site in of} == set(range(5))
  for first, second, third in assigned:
    assert first != second != third
    assert len({assignment.is_held_out(site) for site in (first, second, third)}) == 1
  assert [assignment.is_held_out(site) for site in range(5)] == [False] * 3 + [True] * 2


def test_patients_go_to_every_other_site_four_times_as_often_where_site_confounds():
  counts = collections.Counter(
      site for site, in _assigned(sites.Assignment(4, confounded=True), 2000, patient=True))
  assert [counts[site] / 2000 for site in range(4)] == pytest.approx([0.4, 0.1, 0.4, 0.1],
                                                                     abs=0.03)
  assert (_assigned(sites.Assignment(4, confounded=True), 20)
          == _assigned(sites.Assignment(4), 20))


def test_bias_by_hand_and_its_size():
  """Thicker than expected by a factor of 1.21: at scale 0.5 by 1.1, and 2 % from the location."""
  bias = sites.Bias(np.full((2, 34, 3), np.log(1.02)), np.full((2, 34, 3), 0.5))
  expected = np.full((2, 34, 3), 2.5)
  np.testing.assert_allclose(bias.apply(1.21 * expected, expected), 2.5 * 1.1 * 1.02)
  none = sites.bias(1, 0, 0.0)
  assert not none.location.any() and (none.scale == 1).all()
  many = np.stack([sites.bias(1, site, 1.0).location for site in range(200)])
  scalars = population.fitted().scalars
  for column, name in enumerate(('thickness', 'area')):
    wanted = np.hypot(*(scalars[f'site_{name}_location{part}'] for part in ('', '_region')))
    assert many[..., column].std() == pytest.approx(wanted, rel=0.1)
  np.testing.assert_allclose(many[..., 2], many[..., 0] + many[..., 1])


def test_anatomy_is_the_same_whatever_the_sites_and_sessions():
  one = dataclasses.replace(SMALL, patients=0.5, subtypes=4, confounded='site')
  other = dataclasses.replace(one, subjects=9, sites=6, held_out_sites=2, sessions=2,
                              second_scanner=True, site_bias=1.0, confounded='')
  for index in range(2):
    a, b = phantom.draw_subject(one, index), phantom.draw_subject(other, index)
    assert a.subtype == b.subtype and a.anatomy.severity == b.anatomy.severity
    np.testing.assert_array_equal(a.anatomy.thickness, b.anatomy.thickness)
    np.testing.assert_array_equal(a.area, b.area)


def test_tables_have_the_bias_that_the_truth_tells(tmp_path):
  """A table with bias is the one without, moved and stretched as truth/site_bias.tsv says."""
  settings = dataclasses.replace(SMALL, sites=4, held_out_sites=2, subtypes=3, patients=1.0)
  plain, biased = (phantom.write_cohort(
      tmp_path / name, dataclasses.replace(settings, site_bias=strength), progress=False)
      for name, strength in (('plain', 0.0), ('biased', 1.0)))
  people = pandas.read_csv(biased.participants, sep='\t')
  assert people['split'].tolist() == ['test' if site in ('site-3', 'site-4') else 'train'
                                      for site in people['site']]
  assert set(people['subtype']) <= {'temporal', 'parietal', 'frontal'}
  assert set(pandas.read_csv(biased.truth / 'sites.tsv', sep='\t')['site']) == {
      f'site-{n}' for n in (1, 2, 3, 4)}
  assert not (plain.truth / 'site_bias.tsv').exists()
  bias = pandas.read_csv(biased.truth / 'site_bias.tsv', sep='\t').set_index(
      ['site', 'region', 'measure'])
  for before, after in zip(plain.morphometry, biased.morphometry):
    measure = before.stem.split('measure-')[1].split('_')[0]
    values, moved = (pandas.read_csv(path, sep='\t', index_col=0) for path in (before, after))
    columns = [name for name in values if name.startswith(('lh_', 'rh_')) and 'Mean' not in name]
    for row, person in enumerate(people.to_dict('records')):
      expected = phantom.expected_morphometry('ixi', person['age'], person['sex'] == 'M')
      expected = dict(zip(atlas.regions('desikan'),
                          expected[..., MEASURES.index(measure)].ravel()))
      for column in columns[::7]:
        region = column.removesuffix(f'_{measure}')
        told = bias.loc[(person['site'], region, measure)]
        wanted = expected[region] * np.exp(
            told.location + told.scale * np.log(values[column].iloc[row] / expected[region]))
        assert moved[column].iloc[row] == pytest.approx(wanted, rel=1e-3)


def test_records_of_earlier_versions_are_those_of_the_same_settings():
  assert phantom.PhantomSettings().as_record() == {
      'subjects': 100, 'seed': 0, 'spacing': 5.0, 'sites': 3, 'sessions': 1, 'patients': 0.0,
      'youngest': 6.0, 'oldest': 90.0}
  assert SMALL.as_record()['population'] == 'ixi'


@pytest.mark.parametrize('wrong', [
    {'population': 'uk'}, {'subtypes': 0}, {'subtypes': 5}, {'confounded': 'sex'},
    {'held_out_sites': 3}, {'held_out_sites': -1}, {'site_bias': -1.0},
    {'second_scanner': True}, {'second_scanner': True, 'sessions': 2, 'sites': 1},
    {'second_scanner': True, 'sessions': 2, 'sites': 3, 'held_out_sites': 1}])
def test_wrong_settings_are_user_errors_that_name_the_setting(wrong):
  with pytest.raises(UserError, match=next(iter(wrong)).replace('confounded', 'confounder')):
    phantom.PhantomSettings(**wrong)
