"""Headers that contradict themselves, units, sizes that no head has, NaN around the head."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from anatcl_jax import features, prepare
from anatcl_jax.cohorts import headers
from anatcl_jax.cohorts.volumes import NiftiFile, read_grid, read_volume
from anatcl_jax.errors import UserError

AFFINE = np.array([[-4., 0, 0, 40], [0, 4, 0, -50], [0, 0, 4, -36], [0, 0, 0, 1]])
FLIPPED = AFFINE * [[-1], [1], [1], [1]]


def _values():
  values = np.zeros((21, 25, 19), np.float32)
  values[5:-5, 6:-6, 4:-4] = np.random.default_rng(0).uniform(.1, 1.2, (11, 13, 11))
  return values


def _saved(path, change=lambda header: None, values=None, kind=nibabel.Nifti1Image):
  """A volume of 4 mm whose header is changed after nibabel has made it consistent."""
  values = _values() if values is None else values
  image = kind(values, AFFINE)
  image.set_sform(AFFINE, 1)
  image.set_qform(AFFINE, 1)
  image.update_header()
  change(image.header)
  with path.open('wb') as file:
    file.write(image.header.binaryblock + bytes(4))
    file.write(bytes(int(image.header['vox_offset']) - file.tell()) if kind is nibabel.Nifti1Image
               and int(image.header['vox_offset']) > file.tell() else b'')
    file.write(values.tobytes('F'))
  return path


def _set(**fields):
  def change(header):
    header['vox_offset'] = 352
    for name, value in fields.items():
      header[name] = value
  return change


def _pixdim(*sizes):
  return np.array([1, *sizes, 0, 0, 0, 0])


def _both(sform=None, qform=None, codes=(1, 1)):
  def change(header):
    header['vox_offset'] = 352
    if qform is not None:
      header.set_qform(qform, 1)
    if sform is not None:
      header.set_sform(sform, 1)
    header['sform_code'], header['qform_code'] = codes
  return change


CONTRADICTIONS = {
    'pixdim of 1 mm': (_set(pixdim=_pixdim(1, 1, 1), qform_code=0),
                       ['sform has voxels of 4 x 4 x 4', 'pixdim of 1 x 1 x 1']),
    'pixdim of 0': (_set(pixdim=_pixdim(0, 0, 0), qform_code=0), ['sform has voxels of 4 x 4 x 4']),
    'sform of half the size': (_both(sform=AFFINE @ np.diag([.5, .5, .5, 1])), ['of 2 x 2 x 2']),
    'left for right': (_both(qform=FLIPPED), ['LAS by the sform and RAS by the qform']),
    'left for right, in two spaces': (_both(qform=FLIPPED, codes=(4, 1)), ['LAS by the sform']),
    'a shift within one space': (_both(qform=AFFINE + 20 * np.eye(4, k=3)), ['20 apart']),
    'no rotation': (_set(quatern_b=3), ['no rotation']),
    'metres of 4': (_set(xyzt_units=1), ['units are metres']),
    'micrometres of 4': (_set(xyzt_units=3), ['units are micrometres']),
    'unit 5': (_set(xyzt_units=5), ['unit 5'])}


@pytest.mark.parametrize('name', CONTRADICTIONS)
def test_a_contradiction_is_refused_until_one_half_is_believed(tmp_path, name):
  change, expected = CONTRADICTIONS[name]
  path = _saved(tmp_path / 'sub-01.nii', change)
  with pytest.raises(UserError) as error:
    read_grid(NiftiFile(path))
  for text in [str(path), 'contradicts itself', '--geometry sform', *expected]:
    assert text in str(error.value)
  half = AFFINE @ np.diag([.5, .5, .5, 1]) if 'half' in name else AFFINE
  believed = read_grid(NiftiFile(path, headers.SFORM))
  # RAS of the L A S that was written: the first axis begins at its other end.
  np.testing.assert_allclose(np.diag(believed.affine)[:3], np.abs(np.diag(half)[:3]))
  np.testing.assert_allclose(believed.affine[0][3], half[0, 3] + 20 * half[0, 0], atol=1e-4)


def test_the_qform_can_be_believed(tmp_path):
  path = _saved(tmp_path / 'sub-01.nii', _both(qform=FLIPPED))
  left, right = (read_volume(source := NiftiFile(path, which), read_grid(source))
                 for which in (headers.SFORM, headers.QFORM))
  np.testing.assert_array_equal(left[::-1], right)
  assert (left != right).any()


HARMLESS = {
    'sform alone': _both(codes=(2, 0)), 'qform alone': _both(codes=(0, 1)),
    'two spaces, shifted': _both(qform=AFFINE + 20 * np.eye(4, k=3), codes=(4, 1)),
    'qfac 0': _both(sform=FLIPPED, qform=FLIPPED), 'units unknown': _set(xyzt_units=0)}


@pytest.mark.parametrize('name', HARMLESS)
def test_what_contradicts_nothing_is_read(tmp_path, name, capfd):
  path = _saved(tmp_path / 'sub-01.nii', HARMLESS[name])
  grid = read_grid(NiftiFile(path))
  values = read_volume(NiftiFile(path), grid)
  np.testing.assert_array_equal(values, _values()[:: 1 if name == 'qfac 0' else -1])
  np.testing.assert_allclose(grid.spacing, 4)
  assert capfd.readouterr().err == ''


@pytest.mark.parametrize('unit, factor', [(1, .001), (3, 1000)])
def test_true_metres_and_micrometres_become_millimetres(tmp_path, unit, factor):
  scaled = AFFINE * [[factor], [factor], [factor], [1]]
  path = _saved(tmp_path / 'sub-01.nii', lambda header: (
      _both(sform=scaled, qform=scaled)(header), header.__setitem__('xyzt_units', unit)))
  whole = read_grid(NiftiFile(_saved(tmp_path / 'sub-02.nii', _set())))
  assert read_grid(NiftiFile(path)).matches(whole)


@pytest.mark.parametrize('factor', [1e-3, 0.05, 20, 1e4])
def test_sizes_that_no_head_has(tmp_path, factor):
  scaled = AFFINE * [[factor], [factor], [factor], [1]]
  path = _saved(tmp_path / 'sub-01.nii', _both(sform=scaled, qform=scaled))
  with pytest.raises(UserError, match='sub-01.nii: no head'):
    read_grid(NiftiFile(path, headers.SFORM))


def test_voxel_sizes_of_0_under_a_qform_alone(tmp_path, capfd):
  """nibabel would take 1 mm for them."""
  path = _saved(tmp_path / 'sub-01.nii', _set(pixdim=_pixdim(0, 0, 0), sform_code=0))
  with pytest.raises(UserError, match='voxel sizes of its qform are 0 x 0 x 0'):
    read_grid(NiftiFile(path))
  assert capfd.readouterr().err == ''


def _nan(values, how):
  outside = values == 0
  values = values.copy()
  if how in ('background', 'and a hole', 'in two'):
    values[outside] = np.nan
  if how in ('hole', 'and a hole'):
    values[10, 12, 9] = np.nan
  if how in ('slab', 'in two'):
    values[:, :, 9] = np.nan
  if how == 'field of view':           # SPM's, of a scan without zeros that was moved
    values[outside] = 0.01
    values[:4], values[:, -3:] = np.nan, np.nan
  return values


@pytest.mark.parametrize('how, read', [
    ('background', True), ('field of view', True), ('hole', False), ('and a hole', False),
    ('slab', False), ('in two', False)])
def test_nan_is_0_where_it_is_the_background_or_said_to_be(tmp_path, how, read):
  values = _nan(_values(), how)
  path = _saved(tmp_path / 'sub-01.nii', _set(), values)
  expected = np.nan_to_num(values)[::-1]
  grid = read_grid(NiftiFile(path))
  np.testing.assert_array_equal(read_volume(NiftiFile(path, nan_is_zero=True), grid), expected)
  if read:
    np.testing.assert_array_equal(read_volume(NiftiFile(path), grid), expected)
  else:
    with pytest.raises(UserError, match=f'{np.isnan(values).sum()} voxels are NaN .* --nan zero'):
      read_volume(NiftiFile(path), grid)


def test_infinite_values_are_never_read(tmp_path):
  values = _values()
  values[0, 0, 0] = np.inf
  path = _saved(tmp_path / 'sub-01.nii', _set(), values)
  with pytest.raises(UserError, match='1 voxels are infinite'):
    read_volume(NiftiFile(path, nan_is_zero=True), read_grid(NiftiFile(path)))


def test_the_options_of_both_commands_are_those_that_are_read():
  for parser, start in ((prepare.command_line_parser(), ['bids', '--participants', 'a']),
                        (features.command_line_parser(), ['--weights', 'a'])):
    for geometry in headers.GEOMETRIES:
      chosen = parser.parse_args([*start, '--volumes', 'b', '--out', 'c', '--geometry', geometry])
      assert (chosen.geometry, chosen.nan) == (geometry, 'background')
