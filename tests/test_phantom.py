from __future__ import annotations

import dataclasses
import glob
import json

import nibabel
import numpy as np
import pandas
import pytest

from anatcl_jax.data import atlas, phantom, phantom_anatomy, phantom_drawing
from anatcl_jax.errors import UserError

NAMES = phantom_anatomy.NAMES
GRID = phantom_drawing.Grid.mni(5.0)
SMALL = phantom.PhantomSettings(subjects=3, seed=4, spacing=10.0)


@pytest.fixture(scope='module')
def cohort() -> list[phantom.Subject]:
  settings = phantom.PhantomSettings(subjects=60, seed=5)
  return [phantom.draw_subject(settings, index) for index in range(settings.subjects)]


@pytest.fixture(scope='module')
def on_disk(tmp_path_factory) -> phantom.CohortPaths:
  settings = dataclasses.replace(SMALL, sessions=2, patients=0.5)
  return phantom.write_cohort(tmp_path_factory.mktemp('here') / 'cohort[1]', settings, workers=2,
                              progress=False)


def _measured(subjects: list[phantom.Subject], measure: str) -> np.ndarray:
  index = phantom_drawing.MEASURES.index(measure)
  return np.stack([subject.scans[0].morphometry[..., index] for subject in subjects])


def _anatomy(index: int = 0) -> phantom_anatomy.Anatomy:
  return phantom_anatomy.sample_anatomy(np.random.default_rng([11, index]), 6, 90, 0)


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
  assert phantom.site_effect(4, 1) == phantom.site_effect(4, 1) != phantom.site_effect(4, 2)


def test_sites_are_all_used(cohort):
  assert {subject.scans[0].site for subject in cohort} == {0, 1, 2}


def test_second_session_repeats_the_anatomy_with_new_noise():
  settings = dataclasses.replace(SMALL, sessions=2, sites=1, spacing=5.0)
  first, second = phantom.draw_subject(settings, 0).scans
  difference = second.volume - first.volume
  noise = phantom.site_effect(settings.seed, 0).noise
  assert 0 < np.abs(difference).max() < 10 * noise
  assert not np.array_equal(first.morphometry, second.morphometry)
  ratio = np.log(second.morphometry / first.morphometry)
  assert ratio.std() == pytest.approx(phantom.MEASUREMENT_ERROR * np.sqrt(2), rel=0.2)


def test_more_patients_changes_severity_and_what_follows_from_it_only():
  well, ill = (phantom_anatomy.sample_anatomy(np.random.default_rng(3), 6, 90, share)
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
  anatomies = [phantom_anatomy.sample_anatomy(np.random.default_rng([1, index]), 39.9, 40.1, 0)
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


# On disk.

def test_cohort_on_disk_reads_as_a_real_one(on_disk):
  participants = pandas.read_csv(on_disk.participants, sep='\t')
  assert list(participants) == ['participant_id', 'session_id', 'age', 'sex', 'site', 'diagnosis']
  assert list(participants.participant_id) == [f'sub-000{i}' for i in (1, 1, 2, 2, 3, 3)]
  assert list(participants.session_id) == ['ses-1', 'ses-2'] * 3
  assert set(participants.sex) <= {'M', 'F'} and participants.age.between(6, 90).all()
  assert set(participants.diagnosis) <= {'control', 'patient'}

  paths = sorted(glob.glob(on_disk.volumes))
  assert len(paths) == 6
  assert paths[0].endswith('/sub-0001/ses-1/anat/sub-0001_ses-1_space-phantom_label-GM_mod.nii.gz')
  for index, path in enumerate(paths):
    image = nibabel.load(path)
    assert nibabel.aff2axcodes(image.affine) == ('R', 'A', 'S')
    assert image.get_data_dtype() == np.float32 and b'synthetic' in image.header['descrip'].item()
    drawn = phantom.draw_subject(dataclasses.replace(SMALL, sessions=2, patients=0.5), index // 2)
    np.testing.assert_array_equal(np.asarray(image.dataobj), drawn.scans[index % 2].volume)


def test_aparc_tables_have_freesurfers_form(on_disk):
  drawn = [phantom.draw_subject(dataclasses.replace(SMALL, sessions=2, patients=0.5), index)
           for index in range(3)]
  assert len(on_disk.morphometry) == 6
  for path in on_disk.morphometry:
    measure, hemisphere = path.stem.split('measure-')[1].split('_hemi-')
    table = pandas.read_csv(path, sep='\t', index_col=0)
    assert table.index.name == f'{hemisphere}.aparc.{measure}'
    assert list(table.index[:3]) == ['sub-0001_ses-1', 'sub-0001_ses-2', 'sub-0002_ses-1']
    assert list(table)[:34] == [f'{hemisphere}_{name}_{measure}' for name in NAMES]
    extra = [f'{hemisphere}_MeanThickness_thickness'] if measure == 'thickness' else []
    assert list(table)[34:] == [*extra, 'eTIV']
    assert table.eTIV.between(1.0e6, 2.1e6).all()
    expected = drawn[1].scans[1].morphometry[atlas.HEMISPHERES.index(hemisphere), :,
                                             phantom_drawing.MEASURES.index(measure)]
    np.testing.assert_allclose(table.loc['sub-0002_ses-2'].iloc[:34], expected, atol=0.051)


def test_truth_lies_apart_from_the_cohort(on_disk):
  thickness = pandas.read_csv(on_disk.truth / 'thickness.tsv', sep='\t', index_col=0)
  assert list(thickness) == list(atlas.regions('desikan'))
  drawn = phantom.draw_subject(dataclasses.replace(SMALL, patients=0.5), 2)
  np.testing.assert_allclose(thickness.loc['sub-0003'], drawn.anatomy.thickness.ravel(), atol=1e-4)
  area = pandas.read_csv(on_disk.truth / 'area.tsv', sep='\t', index_col=0)
  np.testing.assert_allclose(area.loc['sub-0003'], drawn.area.ravel(), atol=1e-4)
  subjects = pandas.read_csv(on_disk.truth / 'subjects.tsv', sep='\t')
  assert {'age', 'sex', 'head_size', 'severity', 'site'} <= set(subjects) and len(subjects) == 6


def test_cohort_says_that_it_is_synthetic(on_disk):
  root = on_disk.participants.parent
  description = json.loads((root / 'dataset_description.json').read_text())
  assert description['Synthetic'] is True and 'synthetic digital cohort' in description['Name']
  assert description['DatasetType'] == 'derivative'
  columns = json.loads((root / 'participants.json').read_text())
  assert columns['age']['Units'] == 'years' and 'ynthetic' in columns['age']['Description']
  table = pandas.read_csv(on_disk.participants, sep='\t')
  assert set(columns) == set(table) and all('Description' in column for column in columns.values())


def test_one_process_and_one_session_write_the_same_subjects(on_disk, tmp_path):
  settings = dataclasses.replace(SMALL, subjects=2, patients=0.5)
  alone = phantom.write_cohort(tmp_path / 'alone', settings, progress=False)
  paths = sorted(glob.glob(alone.volumes))
  assert [path.split('alone/')[1] for path in paths] == [
      f'sub-000{i}/anat/sub-000{i}_space-phantom_label-GM_mod.nii.gz' for i in (1, 2)]
  for path, other in zip(paths, sorted(glob.glob(on_disk.volumes))[::2]):
    np.testing.assert_array_equal(nibabel.load(path).get_fdata(), nibabel.load(other).get_fdata())
  assert 'session_id' not in alone.participants.read_text()


def test_write_cohort_refuses_a_directory_in_use_and_takes_an_empty_one(tmp_path):
  (tmp_path / 'used').mkdir()
  (tmp_path / 'used' / 'mine').write_text('keep')
  with pytest.raises(UserError, match='used'):
    phantom.write_cohort(tmp_path / 'used', SMALL, progress=False)
  assert [path.name for path in tmp_path.rglob('*')] == ['used', 'mine']
  (tmp_path / 'empty').mkdir()
  one = dataclasses.replace(SMALL, subjects=1)
  assert phantom.write_cohort(tmp_path / 'empty', one, progress=False).participants.exists()


def test_failure_part_way_leaves_nothing_behind(tmp_path, monkeypatch):
  real, calls = phantom.draw_subject, []

  def failing(settings, index):
    calls.append(index)
    if index == 2:
      raise OSError('disk full')
    return real(settings, index)

  monkeypatch.setattr(phantom, 'draw_subject', failing)
  with pytest.raises(OSError, match='disk full'):
    phantom.write_cohort(tmp_path / 'cohort', SMALL, progress=False)
  assert calls == [0, 1, 2] and not list(tmp_path.iterdir())


@pytest.mark.parametrize('wrong', [
    {'subjects': 0}, {'seed': -1}, {'spacing': 0.0}, {'spacing': float('nan')}, {'sites': 0},
    {'sessions': 0}, {'patients': 1.5}, {'patients': -0.1}, {'youngest': 50.0, 'oldest': 50.0},
    {'youngest': -1.0}, {'oldest': 250.0}])
def test_wrong_settings_are_user_errors_that_name_the_setting(wrong):
  with pytest.raises(UserError, match=next(iter(wrong))):
    phantom.PhantomSettings(**wrong)


def test_no_workers_is_a_user_error(tmp_path):
  with pytest.raises(UserError, match='workers'):
    phantom.write_cohort(tmp_path / 'cohort', SMALL, workers=0)
