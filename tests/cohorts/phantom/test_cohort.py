"""The digital cohort as files: what prepare and people find on disk."""

from __future__ import annotations

import dataclasses
import glob
import json

import nibabel
import numpy as np
import pandas
import pytest

from anatcl_jax.cohorts import atlas
from anatcl_jax.cohorts.phantom import anatomy as phantom_anatomy
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.cohorts.phantom import drawing as phantom_drawing
from anatcl_jax.errors import UserError

NAMES = phantom_anatomy.NAMES
SMALL = phantom.PhantomSettings(subjects=3, seed=4, spacing=10.0)


@pytest.fixture(scope='module')
def on_disk(tmp_path_factory) -> phantom.CohortPaths:
  settings = dataclasses.replace(SMALL, sessions=2, patients=0.5)
  return phantom.write_cohort(tmp_path_factory.mktemp('here') / 'cohort[1]', settings, workers=2,
                              progress=False)


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
