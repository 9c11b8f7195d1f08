from __future__ import annotations

import dataclasses

import nibabel
import numpy as np
import pytest

from anatcl_jax.cohorts.phantom import anatomy as phantom_anatomy
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.cohorts.phantom import drawing as phantom_drawing
from anatcl_jax.cohorts.phantom import people, sites
from anatcl_jax.cohorts.phantom.disease import Disease

NAMES = phantom_anatomy.NAMES
GRID = phantom_drawing.Grid.mni(5.0)
SMALL = phantom.PhantomSettings(subjects=3, seed=4, spacing=10.0)


@pytest.fixture(scope='module')
def cohort() -> list[phantom.Subject]:
  settings = phantom.PhantomSettings(subjects=40, seed=5)
  return [phantom.draw_subject(settings, index) for index in range(settings.subjects)]


def _measured(subjects: list[phantom.Subject], measure: str) -> np.ndarray:
  index = phantom_drawing.MEASURES.index(measure)
  return np.stack([subject.scans[0].morphometry[..., index] for subject in subjects])


def _anatomy(index: int = 0) -> phantom_anatomy.Anatomy:
  return people.sample_anatomy(np.random.default_rng([11, index]), 6, 90, Disease())


# Independence of what a subject should not depend on.

def _same_truth(a: phantom.Subject, b: phantom.Subject) -> bool:
  fields = (field.name for field in dataclasses.fields(a.anatomy))
  return (all(np.array_equal(getattr(a.anatomy, name), getattr(b.anatomy, name))
              for name in fields) and np.array_equal(a.area, b.area))


def test_subject_is_the_same_whatever_the_number_of_subjects_and_sessions():
  one = phantom.draw_subject(SMALL, 2)
  other = phantom.draw_subject(dataclasses.replace(SMALL, subjects=50, sessions=2), 2)
  assert _same_truth(one, other)
  assert np.array_equal(one.scans[0].volume, other.scans[0].volume)
  assert np.array_equal(one.scans[0].morphometry, other.scans[0].morphometry)


def test_subjects_and_seeds_differ():
  one = phantom.draw_subject(SMALL, 0)
  for other in (phantom.draw_subject(SMALL, 1),
                phantom.draw_subject(dataclasses.replace(SMALL, seed=5), 0)):
    assert one.anatomy.age != other.anatomy.age
    assert not np.allclose(one.anatomy.folds, other.anatomy.folds)
    assert not np.array_equal(one.scans[0].volume, other.scans[0].volume)


def test_site_changes_voxels_but_neither_anatomy_nor_morphometry():
  one, other = (phantom.draw_subject(dataclasses.replace(SMALL, sites=sites), 0)
                for sites in (1, 9))
  assert one.scans[0].site == 0 < other.scans[0].site
  assert _same_truth(one, other)
  assert np.array_equal(one.scans[0].morphometry, other.scans[0].morphometry)
  assert np.abs(one.scans[0].volume - other.scans[0].volume).max() > 0.02
  assert sites.scanner(4, 1) == sites.scanner(4, 1) != sites.scanner(4, 2)


def test_sites_are_all_used(cohort):
  assert {subject.scans[0].site for subject in cohort} == {0, 1, 2}


def test_second_session_repeats_the_anatomy_with_new_noise():
  settings = dataclasses.replace(SMALL, sessions=2, sites=1, spacing=5.0)
  first, second = phantom.draw_subject(settings, 0).scans
  difference = second.volume - first.volume
  noise = sites.scanner(settings.seed, 0).noise
  assert 0 < np.abs(difference).max() < 10 * noise
  assert not np.array_equal(first.morphometry, second.morphometry)
  ratio = np.log(second.morphometry / first.morphometry)
  assert ratio.std() == pytest.approx(people.MEASUREMENT_ERROR * np.sqrt(2), rel=0.2)


def test_more_patients_changes_severity_and_what_follows_from_it_only():
  well, ill = (people.sample_anatomy(np.random.default_rng(3), 6, 90, Disease(share))
               for share in (0.0, 1.0))
  assert well.severity == 0 < ill.severity <= 1
  assert (well.age, well.sex, well.head_size) == (ill.age, ill.sex, ill.head_size)
  lost = well.thickness - ill.thickness
  np.testing.assert_allclose(lost, np.tile(phantom_anatomy.LOSSES * ill.severity, (2, 1)),
                             atol=1e-9)
  assert lost[0, NAMES.index('entorhinal')] > 0 == lost[0, NAMES.index('pericalcarine')]
  assert (ill.deep < well.deep).all()


# Geometry.

def test_grid_covers_mni_and_matches_the_usual_one():
  grid = phantom_drawing.Grid.mni(1.5)
  assert grid.shape == (121, 145, 121)
  np.testing.assert_array_equal(grid.affine, [[1.5, 0, 0, -90], [0, 1.5, 0, -126],
                                              [0, 0, 1.5, -72], [0, 0, 0, 1]])
  assert nibabel.aff2axcodes(GRID.affine) == ('R', 'A', 'S')


def test_finer_grid_covers_the_same_field_of_view():
  fine = GRID.finer(2)
  for coarse_axis, fine_axis in zip(GRID.axes(), fine.axes()):
    np.testing.assert_allclose(fine_axis.reshape(-1, 2).mean(1), coarse_axis)


def test_hemispheres_stay_on_their_side_of_the_midline():
  template = phantom_anatomy.template()
  for index in range(20):
    for surface in phantom_anatomy.surfaces(_anatomy(index)):
      pial = surface.radius + surface.thickness / surface.cosine / 2
      x = surface.centre[0] - surface.side * pial * template.directions[..., 0]
      assert (x * surface.side > 0).all()
  for surface, sign in zip(phantom_anatomy.surfaces(_anatomy()), (-1, 1)):
    ribbon, _ = phantom_drawing.draw_ribbon(surface, GRID)
    voxels = np.argwhere(ribbon > 0)
    x = nibabel.affines.apply_affine(GRID.affine, voxels)[:, 0]
    assert (x * sign > 0).all() and len(x) > 1000


@pytest.mark.parametrize('region, axis, side, bound', [
    ('frontalpole', 1, 1, 35), ('pericalcarine', 1, -1, 60), ('temporalpole', 2, -1, 20),
    ('superiorparietal', 2, 1, 35), ('insula', 0, -1, 40)])
def test_regions_lie_where_they_should(region, axis, side, bound):
  """Thickening a region of lh changes voxels there: mean coordinate beyond the bound, mm."""
  anatomy = _anatomy()
  thicker = anatomy.thickness.copy()
  thicker[0, NAMES.index(region)] *= 1.2
  thicker = dataclasses.replace(anatomy, thickness=thicker)
  drawn, redrawn = (phantom_drawing.draw(one, GRID)[0] for one in (anatomy, thicker))
  difference = np.abs(redrawn - drawn)
  coordinate = GRID.axes()[axis]
  weight = difference.sum(tuple({0, 1, 2} - {axis}))
  assert side * np.average(coordinate, weights=weight) > bound


def test_parcels_have_their_target_areas():
  template = phantom_anatomy.template()
  anatomy = dataclasses.replace(_anatomy(), expansion=np.zeros((2, len(NAMES))),
                                folds=np.stack([template.folds] * 2))
  lh, rh = (phantom_drawing.measure_area(surface) for surface in phantom_anatomy.surfaces(anatomy))
  np.testing.assert_allclose(lh, rh)
  share = {name: area / lh.sum() for name, area in zip(NAMES, lh)}
  assert share['superiorfrontal'] > 1.5 * share['precuneus'] > 5 * share['frontalpole'] > 0


def test_blending_keeps_the_mean_thickness_of_every_region():
  template = phantom_anatomy.template()
  anatomy = dataclasses.replace(_anatomy(), expansion=np.zeros((2, len(NAMES))),
                                folds=np.stack([template.folds] * 2))
  for surface, expected in zip(phantom_anatomy.surfaces(anatomy), anatomy.thickness):
    mean = [np.average(surface.thickness[template.labels == region],
                       weights=surface.area[template.labels == region])
            for region in range(len(NAMES))]
    np.testing.assert_allclose(mean, expected, rtol=1e-4)


def test_map_is_gray_matter_with_partial_volume():
  anatomy = _anatomy()
  volume, morphometry = phantom_drawing.draw(anatomy, GRID)
  assert volume.dtype == np.float32 and volume.shape == GRID.shape
  assert volume.min() == 0 and 0.9 < volume.max() <= 1
  cortex = morphometry[..., phantom_drawing.MEASURES.index('volume')].sum()
  deep = phantom_drawing.draw_deep(anatomy, GRID).sum() * GRID.spacing**3
  assert volume.sum() * GRID.spacing**3 == pytest.approx(cortex + deep, rel=0.02)


def test_deep_structures_have_the_volume_of_ellipsoids():
  anatomy = _anatomy()
  half_axes = np.array([row[1] for row in phantom_anatomy.DEEP.values()])
  expected = (4 / 3 * np.pi * half_axes.prod(1) * anatomy.deep**3 * anatomy.head_size**3).sum()
  assert phantom_drawing.draw_deep(anatomy, GRID).sum() * 125 == pytest.approx(expected, rel=0.08)


# Measured morphometry against the truth.

def test_measured_thickness_tracks_the_truth(cohort):
  truth = np.stack([subject.anatomy.thickness for subject in cohort])
  measured = _measured(cohort, 'thickness')
  assert np.corrcoef(truth.ravel(), measured.ravel())[0, 1] > 0.95
  assert (measured / truth).mean() == pytest.approx(1, abs=0.02)
  np.testing.assert_allclose((measured / truth).mean(0), 1, atol=0.1)
  across = [np.corrcoef(truth[:, side, region], measured[:, side, region])[0, 1]
            for side in range(2) for region in range(len(NAMES))]
  assert np.median(across) > 0.93 and min(across) > 0.6


def test_a_finer_grid_measures_thickness_better():
  anatomy = _anatomy()
  error = {}
  for spacing in (2.5, 5.0):
    _, morphometry = phantom_drawing.draw(anatomy, phantom_drawing.Grid.mni(spacing))
    error[spacing] = np.abs(morphometry[..., 0] / anatomy.thickness - 1).mean()
  assert error[2.5] < 0.015 and error[2.5] < error[5.0] < 0.05


def test_thinning_with_age_is_recovered(cohort):
  age = np.array([subject.anatomy.age for subject in cohort])
  measured = _measured(cohort, 'thickness').mean(1)
  slopes = -np.polyfit(age, measured, 1)[0]
  assert slopes.mean() == pytest.approx(phantom_anatomy.SLOPES.mean(), rel=0.1)
  assert np.corrcoef(slopes, phantom_anatomy.SLOPES)[0, 1] > 0.85


def test_a_thicker_region_measures_thicker_alone():
  anatomy, region = _anatomy(), NAMES.index('inferiorparietal')
  thicker = anatomy.thickness.copy()
  thicker[0, region] *= 1.1
  before, after = (phantom_drawing.draw(one, GRID)[1]
                   for one in (anatomy, dataclasses.replace(anatomy, thickness=thicker)))
  change = (after / before - 1)[..., 0]
  assert change[0, region] == pytest.approx(0.1, abs=0.02)
  others = np.delete(change.ravel(), region)
  assert np.abs(others).max() < 0.03 and np.abs(change[1]).max() == 0
  np.testing.assert_array_equal(before[..., 1], after[..., 1])


def test_an_expanded_region_measures_larger():
  region = NAMES.index('precentral')
  expansion = np.zeros((2, len(NAMES)))
  anatomy = dataclasses.replace(_anatomy(), expansion=expansion.copy())
  expansion[1, region] = 0.1
  before, after = (phantom_drawing.draw(one, GRID)[1]
                   for one in (anatomy, dataclasses.replace(anatomy, expansion=expansion)))
  change = np.log(after / before)[..., 1]
  assert 0.05 < change[1, region] < 0.15
  assert np.abs(np.delete(change[1], region)).max() < 0.05 and np.abs(change[0]).max() == 0


def test_volume_is_area_times_thickness(cohort):
  thickness, area, volume = (_measured(cohort, measure) for measure in phantom_drawing.MEASURES)
  ratio = volume / (area * thickness)
  assert ratio.mean() == pytest.approx(1, abs=0.03)
  assert (np.abs(ratio - 1) < 0.15).mean() > 0.97


def test_measures_are_in_plausible_ranges(cohort):
  for measure, low, high in (('thickness', 1.5, 4), ('area', 200, 6000), ('volume', 300, 20000)):
    values = _measured(cohort, measure)
    assert low < values.min() and values.max() < high


def test_individual_variation_is_shared_by_homologous_regions():
  anatomies = [people.sample_anatomy(np.random.default_rng([1, index]), 39.9, 40.1, Disease())
               for index in range(200)]
  thickness = np.stack([anatomy.thickness for anatomy in anatomies])
  assert 0.07 < thickness.std(0).mean() < 0.13
  between = np.corrcoef(thickness.reshape(len(thickness), -1).T)
  homologous = np.diagonal(between[:len(NAMES), len(NAMES):])
  assert homologous.mean() == pytest.approx(0.7, abs=0.1)
  near = between[NAMES.index('precentral'), NAMES.index('postcentral')]
  far = between[NAMES.index('frontalpole'), NAMES.index('pericalcarine')]
  assert near > far + 0.3


def test_head_size_scales_area_and_differs_by_sex(cohort):
  anatomy = _anatomy()
  small, large = (dataclasses.replace(anatomy, head_size=size) for size in (0.95, 1.05))
  ratio = phantom_drawing.draw(large, GRID)[1] / phantom_drawing.draw(small, GRID)[1]
  assert ratio[..., 1].mean() == pytest.approx((1.05 / 0.95)**2, rel=0.01)
  assert ratio[..., 0].mean() == pytest.approx(1, abs=0.02)
  size = {sex: np.mean([subject.anatomy.head_size for subject in cohort
                        if subject.anatomy.sex == sex]) for sex in 'MF'}
  assert size['M'] > size['F'] + 0.02


def test_scan_applies_gain_noise_and_keeps_to_the_head():
  anatomy = _anatomy()
  volume, _ = phantom_drawing.draw(anatomy, GRID)
  site = phantom_drawing.Site(gain=1.1, smoothing=4.0, noise=0.02)
  seen = phantom_drawing.scan(volume, anatomy, GRID, site, np.random.default_rng(0))
  still = phantom_drawing.scan(volume, anatomy, GRID, dataclasses.replace(site, noise=0.0),
                               np.random.default_rng(0))
  assert seen.dtype == np.float32 and seen.min() == 0
  assert still.sum() == pytest.approx(1.1 * volume.sum(), rel=1e-3)
  assert (seen - still)[still > 0.2].std() == pytest.approx(0.02, rel=0.1)
  assert seen[0].max() == seen[:, :, -1].max() == 0
