"""OpenBHB: every layout gives what the same cohort gives as BIDS."""

from __future__ import annotations

import pickle
import shutil
import tracemalloc

import nibabel
import numpy as np
import pandas
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import openbhb
from anatcl_jax.cohorts.openbhb_arrays import MODALITIES
from anatcl_jax.cohorts.volumes import read_grid, read_volume
from anatcl_jax.data import shards
from tests.cohorts import layouts


@pytest.fixture(scope='module')
def expected(digital, tmp_path_factory):
  """The shards that the `bids` route makes of the cohort, by atlas."""
  root = tmp_path_factory.mktemp('bids')
  made = {}
  for name in digital.rois:
    arguments = layouts.write_bids(root / name, digital, name)
    coarse = ['--spacing', '12'] if name == 'destrieux' else []
    prepare.main([*arguments, *coarse, '--workers', '1', '--out', str(root / f'{name}-shards')])
    made[name] = shards.open_shards(root / f'{name}-shards')
  return made


def _run(root, out, *more):
  prepare.main(['openbhb', '--root', str(root), '--out', str(out), '--workers', '1',
                *map(str, more)])
  return shards.open_shards(out)


def _assert_same(made, expected, columns):
  """Volumes, morphometry and labels, bit for bit; records are in the order of identifiers."""
  assert made.grid == expected.grid and made.measures == expected.measures
  assert made.synthetic
  for record in range(len(expected)):
    np.testing.assert_array_equal(made.read_volume(record)[0], expected.read_volume(record)[0])
  np.testing.assert_array_equal(made.morphometry, expected.morphometry)
  pandas.testing.assert_frame_equal(made.table[columns], expected.table[columns])


@pytest.mark.parametrize('layout', openbhb.LAYOUTS)
def test_every_layout_gives_what_bids_gives(layout, digital, disk, expected, tmp_path):
  mask = ['--mask', disk / 'template.nii.gz'] if layout == 'matrix' else []
  made = _run(disk / layout, tmp_path / 'out', *mask)
  columns = ['participant_id', 'age', 'site', 'split']
  if layout != 'matrix':      # the challenge's labels have no more
    columns = ['participant_id', *digital.table.columns[1:]]
  _assert_same(made, expected['desikan'], columns)
  assert made.grid.shape == (121, 145, 121)
  assert set(made.table['session'].fillna('')) == {'ses-1' if layout == 'hub' else ''}
  assert made.info['sources']['layout'] == layout


def test_values_are_where_the_release_says(digital, disk):
  """The fixed facts, not by way of the other reader: rows of the ROI array, axes of the volume."""
  read = openbhb.read_cohort(disk / 'subjects')
  assert not read.problems and len(read.scans) == 3
  area = read.morphometry[1, 67, read.measures.index('area')]
  assert area == np.load(next((disk / 'subjects').glob(
      f'data/sub-{digital.ids[1]}_*desikan_ROI.npy')))[0, 67]
  curvature = read.morphometry[2, 5, read.measures.index('curvind')]
  assert curvature == digital.rois['desikan'][2, 6, 5]
  grid = read_grid(read.scans[0].volume)
  assert grid == MODALITIES['vbm'].grid
  # Stored from right to left: the first plane in RAS order is the last one on disk.
  np.testing.assert_array_equal(read_volume(read.scans[0].volume, grid)[40],
                                digital.volumes[0][120 - 40])
  assert list(read.table['sex']) == [sex[0].upper() for sex in digital.table['sex']]
  assert read.table['participant_id'][0] == 'sub-100053248969'


@pytest.mark.parametrize('layout', openbhb.LAYOUTS)
def test_destrieux(layout, disk, expected, tmp_path):
  mask = ['--mask', disk / 'template.nii.gz'] if layout == 'matrix' else []
  made = _run(disk / layout, tmp_path / 'out', '--atlas', 'destrieux', '--spacing', 12, *mask)
  _assert_same(made, expected['destrieux'], ['participant_id', 'age', 'split'])
  assert made.morphometry.shape == (3, 148, 7) and made.info['atlas'] == 'destrieux'


def test_extra_leading_axes(digital, disk, tmp_path):
  read = openbhb.read_cohort(layouts.write_subjects(tmp_path / 'deeper', digital, leading=2))
  plain = openbhb.read_cohort(disk / 'subjects')
  np.testing.assert_array_equal(read.morphometry, plain.morphometry)
  grid = MODALITIES['vbm'].grid
  np.testing.assert_array_equal(read_volume(read.scans[2].volume, grid),
                                read_volume(plain.scans[2].volume, grid))


@pytest.mark.parametrize('axes, plane', [('LAS', 80), ('RAS', 40)])
def test_axes_without_a_template(axes, plane, digital, disk):
  read = openbhb.read_cohort(disk / 'subjects', axes=axes)
  np.testing.assert_array_equal(
      read_volume(read.scans[0].volume, MODALITIES['vbm'].grid)[40], digital.volumes[0][plane])


def test_the_template_decides_about_axes(digital, disk, tmp_path):
  affine = np.array(MODALITIES['vbm'].grid.affine)
  nibabel.save(nibabel.Nifti1Image(digital.template, affine), tmp_path / 'ras.nii.gz')
  read = openbhb.read_cohort(disk / 'hub', mask=tmp_path / 'ras.nii.gz')
  np.testing.assert_array_equal(
      read_volume(read.scans[0].volume, MODALITIES['vbm'].grid)[40], digital.volumes[0][40])


@pytest.mark.slow
def test_quasiraw(tmp_path):
  digital = layouts.draw('quasiraw', subjects=1)
  mask = layouts.write_template(tmp_path / 'template.nii.gz', digital)
  bids = layouts.write_bids(tmp_path / 'bids', digital)
  prepare.main([*bids, '--spacing', '8', '--out', str(tmp_path / 'bids-shards')])
  expected = shards.open_shards(tmp_path / 'bids-shards')
  layouts.write_subjects(tmp_path / 'subjects', digital)
  layouts.write_matrix(tmp_path / 'matrix', digital, header=False)
  (tmp_path / 'matrix' / 'test.npy').unlink()      # one subject: the test set is empty
  for layout, more in (('subjects', []), ('matrix', ['--mask', mask])):
    made = _run(tmp_path / layout, tmp_path / f'{layout}-shards', '--modality', 'quasiraw',
                '--spacing', 8, *more)
    _assert_same(made, expected, ['participant_id', 'age'])
    scan = openbhb.read_cohort(tmp_path / layout, mask=mask, modality='quasiraw').scans[0]
    grid = read_grid(scan.volume)
    assert grid == MODALITIES['quasiraw'].grid
    np.testing.assert_array_equal(read_volume(scan.volume, grid), digital.volumes[0][::-1])


def test_matrices_of_other_releases(digital, disk, tmp_path):
  """No header row, no xhemi block, no identifiers in the labels."""
  blocks = {name: size for name, size in layouts.BLOCKS.items() if name != 'xhemi'}
  root = layouts.write_matrix(tmp_path / 'matrix', digital, header=False, blocks=blocks)
  for path in root.glob('*.tsv'):
    pandas.read_csv(path, sep='\t').drop(columns=['participant_id', 'split']).to_csv(
        path, sep='\t', index=False)
  mask = disk / 'template.nii.gz'
  read = openbhb.read_cohort(root, mask=mask)
  plain = openbhb.read_cohort(disk / 'matrix', mask=mask)
  np.testing.assert_array_equal(read.morphometry, plain.morphometry)
  assert [scan.label for scan in read.scans] == ['sub-train00000', 'sub-test00000', 'sub-test00001']
  assert list(read.table['split']) == ['train', 'test', 'test']
  grid = MODALITIES['vbm'].grid
  for own, other in zip(read.scans, plain.scans):
    np.testing.assert_array_equal(read_volume(own.volume, grid), read_volume(other.volume, grid))


def test_splits_of_the_hub_come_from_its_folders_where_no_table_has_them(digital, disk, tmp_path):
  root = tmp_path / 'hub'
  shutil.copytree(disk / 'hub', root)
  table = digital.table.drop(columns='split')
  (root / 'participants.tsv').unlink()
  for folder, rows in (('train', slice(0, 1)), ('val', slice(1, None))):      # a table a split
    table.iloc[rows].to_csv(root / folder / 'participants.tsv', sep='\t', index=False)
  read = openbhb.read_cohort(root)
  assert list(read.table['split']) == ['train', 'val', 'val'] and not read.problems


@pytest.mark.parametrize('layout', ['subjects', 'matrix'])
def test_sources_travel_to_other_processes_without_their_voxels(layout, disk):
  read = openbhb.read_cohort(disk / layout, mask=disk / 'template.nii.gz')
  sent = pickle.dumps(read.scans[0].volume)
  assert len(sent) < 1000 and repr(pickle.loads(sent)) == repr(read.scans[0].volume)


def test_a_matrix_is_never_read_as_a_whole(digital, disk, tmp_path):
  rows, width = 200, sum(layouts.BLOCKS.values())
  matrix = np.lib.format.open_memmap(tmp_path / 'train.npy', 'w+', np.float32, (rows, width))
  matrix[:, 3658060:3658536] = digital.rois['desikan'][0].ravel()
  del matrix
  pandas.DataFrame({'age': [30] * rows}).to_csv(tmp_path / 'train.tsv', sep='\t')
  tracemalloc.start()
  read = openbhb.read_cohort(tmp_path, mask=disk / 'template.nii.gz')
  read_grid(read.scans[-1].volume)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert len(read.scans) == rows and peak < 100e6 < rows * width * 4 / 20
