"""Real scans through the real libraries of the extra t1: pytest -m slow tests/cohorts/t1.

Wrong input is made of a real scan, since only then do the networks and the registration see
something that could be one.
"""

from __future__ import annotations

import importlib.util
import pathlib

import nibabel
import numpy as np
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts.phantom import cohort as phantom
from tests.conftest import AOMIC
from tests.one_line_error import one_line_error

IXI = AOMIC.parent / 'ixi-t1'
SCAN = IXI / 'IXI014-HH-1236-T1_ds.nii.gz'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IXI.is_dir(), reason=f'{IXI} is not here'),
    pytest.mark.skipif(not all(map(importlib.util.find_spec, ('deepbet', 'SimpleITK', 'dipy'))),
                       reason="needs the extra t1: pip install '.[t1]'")]


def save(folder: pathlib.Path, values: np.ndarray, affine: np.ndarray) -> pathlib.Path:
  image = nibabel.Nifti1Image(np.asarray(values, np.float32), affine)
  image.set_sform(affine, 1)
  image.set_qform(affine, 1)
  nibabel.save(image, folder / 'sub-01_T1w.nii.gz')
  return folder / 'sub-01_T1w.nii.gz'


def scan() -> tuple[np.ndarray, np.ndarray]:
  image = nibabel.as_closest_canonical(nibabel.load(SCAN))
  return image.get_fdata(dtype=np.float32), np.asarray(image.affine)


def brain() -> np.ndarray:
  labels = nibabel.load(IXI / 'IXI014-HH-1236-T1_ds_DLMUSE.nii.gz')
  return np.asarray(nibabel.as_closest_canonical(labels).dataobj) > 0


def quasiraw(path: pathlib.Path, out: pathlib.Path, *more: str) -> nibabel.Nifti1Image:
  prepare.main(['t1', '--volumes', str(path), '--to', 'quasiraw', '--spacing', '4', '--out',
                str(out), '--workers', '1', *more])
  found, = out.glob('**/*_desc-quasiraw_T1w.nii.gz')
  return nibabel.load(found)


def of_gray_matter(folder):
  return next((AOMIC / 'vbm').glob('*.nii.gz'))


def of_the_phantom(folder):
  settings = phantom.PhantomSettings(subjects=1, spacing=3)
  phantom.write_cohort(folder / 'phantom', settings, progress=False)
  return next((folder / 'phantom').glob('**/*.nii.gz'))


def skull_stripped(folder):
  values, affine = scan()
  return save(folder, values * brain(), affine)


def four_dimensional(folder):
  values, affine = scan()
  return save(folder, np.stack([values, values], -1), affine)


def with_wrong_axes(folder):
  """Up and front exchanged by the header."""
  values, affine = scan()
  return save(folder, values.transpose(0, 2, 1), affine)


def of_half_size(folder):
  values, affine = scan()
  return save(folder, values, affine @ np.diag([0.5, 0.5, 0.5, 1]))


def cut_through_the_brain(folder):
  values, affine = scan()
  return save(folder, values[:values.shape[0] // 2], affine)


def without_its_left_half(folder):
  values, affine = scan()
  values[:values.shape[0] // 2] = 0
  return save(folder, values, affine)


def empty(folder):
  path = folder / 'sub-01_T1w.nii.gz'
  path.touch()
  return path


def of_noise(folder):
  _, affine = scan()
  return save(folder, np.random.default_rng(0).uniform(0, 100, (90, 120, 120)), affine)


@pytest.mark.parametrize('spoilt, said', [
    (of_gray_matter, 'skull-stripped, or a map of tissue'),
    (of_the_phantom, 'skull-stripped, or a map of tissue|no brain is found|is it T1-weighted'),
    (skull_stripped, 'skull-stripped, or a map of tissue'),
    (four_dimensional, 'give one 3-D volume a file'),
    (with_wrong_axes, 'orientation|no brain is found|whole head'),
    (of_half_size, 'are the voxel sizes in its header right'),
    (cut_through_the_brain, 'the image cuts the brain off: at its right end'),
    (without_its_left_half, 'whole head|no head around'),
    (empty, 'the file is empty'),
    (of_noise, 'no brain|no head|brain'),
], ids=lambda value: getattr(value, '__name__', ''))
def test_wrong_input_is_named_and_leaves_nothing(spoilt, said, tmp_path, capsys):
  (tmp_path / 'raw').mkdir()
  path = spoilt(tmp_path / 'raw')
  line = one_line_error(capsys, tmp_path, 't1', '--volumes', path, '--to', 'quasiraw', '--out',
                        tmp_path / 'out', '--workers', '1')
  print(line)
  assert str(path) in line and any(part in line for part in said.split('|')), line


def test_a_gray_matter_map_is_named_even_as_skull_stripped(tmp_path, capsys):
  line = one_line_error(capsys, tmp_path, 't1', '--volumes', of_gray_matter(tmp_path), '--to',
                        'quasiraw', '--out', tmp_path / 'out', '--skull-stripped', '--workers', '1')
  assert 'looks like a map of gray matter' in line


def test_skull_stripped_scans_are_handled_when_said(tmp_path):
  whole = quasiraw(SCAN, tmp_path / 'whole').get_fdata()
  (tmp_path / 'raw').mkdir()
  stripped = quasiraw(skull_stripped(tmp_path / 'raw'), tmp_path / 'out', '--skull-stripped')
  assert np.corrcoef(whole.ravel(), stripped.get_fdata().ravel())[0, 1] > 0.97


def test_left_stays_left_whatever_the_axes_of_the_file(tmp_path):
  """A marker in the left hemisphere comes out at negative x; the file runs to left, or to right."""
  values, affine = scan()
  plain = quasiraw(SCAN, tmp_path / 'plain').get_fdata()
  middle = np.argwhere(brain()).mean(0).round().astype(int)
  left = middle - [round(30 / affine[0, 0]), 0, 0]
  values[tuple(slice(at - 3, at + 4) for at in left)] = values.max()
  for name, image in (('RAS', (values, affine)),
                      ('LAS', (values[::-1], affine @ [[-1, 0, 0, len(values) - 1], [0, 1, 0, 0],
                                                       [0, 0, 1, 0], [0, 0, 0, 1]]))):
    (tmp_path / name).mkdir()
    found = quasiraw(save(tmp_path / name, *image), tmp_path / name / 'out')
    changed = np.clip(found.get_fdata() - plain, 0, None)
    changed[changed < changed.max() / 2] = 0
    at = np.average(np.argwhere(changed), axis=0, weights=changed[changed > 0])
    x, y, z = nibabel.affines.apply_affine(found.affine, at)
    assert -50 < x < -20, (name, x, y, z)
