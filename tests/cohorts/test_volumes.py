"""Orientation, grids and resampling, against nibabel's world coordinates and hand-made volumes."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from anatcl_jax.cohorts.volumes import (
  NAMED_GRIDS,
  Grid,
  NiftiFile,
  center_crop,
  read_grid,
  read_volume,
  resized,
)
from anatcl_jax.errors import UserError


def _blob(path, axes, at=(-32.0, 20.0, 8.0), shape=(40, 44, 36), spacing=4.0):
  """A volume whose only bright voxel lies at world position `at`, stored along `axes`."""
  affine = np.diag([spacing] * 3 + [1])
  affine[:3, 3] = -spacing * (np.array(shape) // 2)
  values = np.zeros(shape, np.float32)
  values[tuple(np.round(np.linalg.solve(affine, [*at, 1])[:3]).astype(int))] = 1
  image = nibabel.Nifti1Image(values, affine)
  transform = nibabel.orientations.ornt_transform(
      nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes))
  nibabel.save(image.as_reoriented(transform), path)
  return path


def _world_of_maximum(values, grid):
  index = np.unravel_index(values.argmax(), values.shape)
  return nibabel.affines.apply_affine(np.asarray(grid.affine), index)


@pytest.mark.parametrize('axes', ['RAS', 'LAS', 'PIR', 'SLP', 'LPI'])
def test_any_orientation_becomes_the_same_ras_volume(tmp_path, axes):
  path = _blob(tmp_path / 'a.nii.gz', axes)
  grid = read_grid(NiftiFile(path))
  assert nibabel.aff2axcodes(np.asarray(grid.affine)) == ('R', 'A', 'S')
  values = read_volume(NiftiFile(path), grid)
  np.testing.assert_allclose(_world_of_maximum(values, grid), (-32, 20, 8), atol=1e-3)
  reference = _blob(tmp_path / 'b.nii', 'RAS')
  reference = NiftiFile(reference)
  np.testing.assert_array_equal(values, read_volume(reference, read_grid(reference)))


def test_resampling_keeps_world_positions_and_total(tmp_path):
  """Eight times fewer voxels of eight times the volume: the sum falls by eight, nothing moves."""
  affine = np.diag([2.0, 2, 2, 1])
  affine[:3, 3] = (-60, -70, -50)
  centres = nibabel.affines.apply_affine(affine, np.moveaxis(np.indices((60, 70, 56)), 0, -1))
  values = np.exp(-np.sum((centres - (-20, 15, 8))**2, -1) / (2 * 10**2)).astype(np.float32)
  nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / 'smooth.nii.gz')
  native = read_grid(NiftiFile(tmp_path / 'smooth.nii.gz'))
  coarse = resized(native, spacing=4)
  assert coarse.shape == (30, 35, 28) and coarse.spacing == (4, 4, 4)
  result = read_volume(NiftiFile(tmp_path / 'smooth.nii.gz'), coarse)
  np.testing.assert_allclose(result.sum() * 8, values.sum(), rtol=1e-3)
  axes = nibabel.affines.apply_affine(np.asarray(coarse.affine),
                                      np.moveaxis(np.indices(coarse.shape), 0, -1))
  centre = (axes * result[..., None]).sum((0, 1, 2)) / result.sum()
  np.testing.assert_allclose(centre, (-20, 15, 8), atol=0.05)


def test_mni_grid_is_cat12s():
  grid = NAMED_GRIDS['mni1.5']
  corner = nibabel.affines.apply_affine(np.asarray(grid.affine), np.array(grid.shape) - 1)
  assert grid.shape == (121, 145, 121)
  np.testing.assert_array_equal(corner, (90, 90, 108))


def test_center_crop_cuts_longer_axes_only():
  volume = np.arange(7 * 4 * 6).reshape(7, 4, 6)
  np.testing.assert_array_equal(center_crop(volume, (3, 9, 4)), volume[2:5, :, 1:5])
  assert center_crop(volume, None) is volume


def test_aomic_left_is_left(aomic):
  """Every voxel of a real L A S map is found at its own world coordinate after reorientation."""
  path = aomic / 'vbm' / 'sub-0001_space-GM226_label-GM_mod.nii.gz'
  raw = nibabel.load(path)
  assert nibabel.aff2axcodes(raw.affine) == ('L', 'A', 'S')
  grid = read_grid(NiftiFile(path))
  ours, theirs = read_volume(NiftiFile(path), grid), raw.get_fdata(dtype=np.float32)
  for index in [(20, 50, 40), (70, 30, 45), (45, 80, 30), (10, 60, 33)]:
    world = nibabel.affines.apply_affine(raw.affine, index)
    mine = np.round(np.linalg.solve(np.asarray(grid.affine), [*world, 1])[:3]).astype(int)
    assert ours[tuple(mine)] == theirs[index]
  # The left half, by world x < 0, holds the voxels that nibabel places there.
  x = nibabel.affines.apply_affine(raw.affine, np.moveaxis(np.indices(raw.shape), 0, -1))[..., 0]
  middle = int(round(-grid.affine[0][3] / grid.spacing[0]))
  np.testing.assert_allclose(ours[:middle].sum(), theirs[x < 0].sum(), rtol=1e-5)
  assert abs(ours[:middle].sum() - ours[middle + 1:].sum()) > 1   # the halves differ: a flip shows


def _saved(path, values, affine=None, code=1):
  image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
  image.set_sform(image.affine, code)
  image.set_qform(image.affine, code)
  nibabel.save(image, path)
  return path


@pytest.mark.parametrize('fault, message', [
    ('nan', '1 voxels are NaN and are not just'), ('zero', 'every voxel is zero'),
    ('4d', 'one 3-D volume a file'),
    ('truncated', 'truncated or damaged'), ('text', 'not a readable NIfTI'),
    ('unoriented', 'no orientation'), ('missing', 'no such file')])
def test_bad_volumes_are_named(tmp_path, fault, message):
  path = tmp_path / 'sub-01.nii.gz'
  values = np.random.default_rng(0).uniform(size=(20, 21, 22)).astype(np.float32)
  if fault == 'nan':
    values[3, 3, 3] = np.nan
  if fault == '4d':
    values = np.stack([values, values], -1)
  if fault != 'missing':
    _saved(path, values * (fault != 'zero'), code=0 if fault == 'unoriented' else 1)
  if fault == 'truncated':
    path.write_bytes(path.read_bytes()[:-2000])
  if fault == 'text':
    path.write_text('not an image')
  with pytest.raises(UserError, match=message) as error:
    read_volume(NiftiFile(path), read_grid(NiftiFile(path)))
  assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_truncated_volumes_in_other_orientations_are_named_too(tmp_path):
  path = _saved(tmp_path / 'sub-01.nii', np.ones((20, 21, 22), np.float32), np.diag([-1, 1, 1, 1]))
  path.write_bytes(path.read_bytes()[:-2000])
  grid = read_grid(NiftiFile(path))      # the header is whole
  with pytest.raises(UserError, match='truncated or damaged'):
    read_volume(NiftiFile(path), grid)


def test_volume_outside_the_grid_is_an_error(tmp_path):
  path = _saved(tmp_path / 'far.nii', np.ones((5, 5, 5), np.float32), np.diag([9, 9, 9, 1]))
  with pytest.raises(UserError, match='outside the grid'):
    read_volume(NiftiFile(path), Grid.of((5, 5, 5), [[1, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0],
                                                     [0, 0, 0, 1]]))
