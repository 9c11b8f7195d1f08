"""Where a volume's voxels lie by its header, and what is done where the header contradicts itself.

NIfTI states places twice: a matrix (sform) and a rotation with voxel sizes (qform, pixdim). The
sform is used where its code is not 0, else the qform. The two may place a head differently, as in
the scanner and in MNI space; that they name other directions or voxel sizes is a contradiction.
"""

from __future__ import annotations

import pathlib

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialHeader

from anatcl_jax.errors import UserError

AGREED, SFORM, QFORM = 'agreed', 'sform', 'qform'
GEOMETRIES = (AGREED, SFORM, QFORM)

_FIELD_OF_VIEW = (20.0, 1000.0)     # mm along an axis, in which there may be a head
MOST_VOXELS = 2**29                 # 0.3 mm over 240 mm; 2 GiB in float32
_SAME_SIZE = 0.02                   # relative
_UNITS = {0: ('unknown units', 1.0), 1: ('metres', 1000.0), 2: ('millimetres', 1.0),
          3: ('micrometres', 0.001)}


def affine_of(header: SpatialHeader, affine: np.ndarray | None, shape: tuple[int, int, int],
              path: pathlib.Path, geometry: str = AGREED) -> np.ndarray:
  """Voxels to millimetres, 4x4, of an image of nibabel as it is stored.

  Args:
    geometry: which half of a NIfTI header counts where they contradict each other.

  Raises:
    UserError: no orientation, a contradiction, or a field of view that no head has.
  """
  if isinstance(header, nibabel.Nifti1Header):
    affine = _of_nifti(header, shape, path, geometry)
  elif isinstance(header, nibabel.analyze.AnalyzeHeader):
    raise UserError(f'{path}: an Analyze file holds no orientation, so left and right are unknown; '
                    'convert it to NIfTI with a tool that knows them')
  sizes = np.linalg.norm(affine[:3, :3], axis=0) if affine is not None else np.zeros(3)
  if (not np.isfinite(sizes).all() or not np.isfinite(affine).all()
      or abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * sizes.prod()):
    raise UserError(f'{path}: its affine is not invertible; the header is damaged')
  if not _may_be_a_head(sides := sizes * shape):
    raise UserError(
        f'{path}: no head: {_by(shape)} voxels of {_by(sizes)} mm are {_by(sides)} mm, and '
        f'each side must have {_FIELD_OF_VIEW[0]:g} to {_FIELD_OF_VIEW[1]:g}; are the voxel sizes '
        'in its header right?')
  if np.prod([float(n) for n in shape]) > MOST_VOXELS:
    raise UserError(f'{path}: its header claims {_by(shape)} voxels, more than the '
                    f'{MOST_VOXELS:,} that are read; resample it, or is the header damaged?')
  return affine


def _of_nifti(header: nibabel.Nifti1Header, shape: tuple[int, ...], path: pathlib.Path,
              geometry: str) -> np.ndarray:
  if not (int(header['sform_code']) or int(header['qform_code'])):
    raise UserError(f'{path}: its header holds no orientation (sform and qform codes are 0), so '
                    'left and right are unknown; set them with the tool that wrote the file')
  sform = header.get_sform() if int(header['sform_code']) else None
  qform, damage = _qform(header)
  affine = sform if qform is None or sform is not None and geometry != QFORM else qform
  if affine is None:
    raise UserError(f'{path}: its only orientation is a qform, and {damage}; mend it with the tool '
                    'that wrote the file')
  factor, wrong_units = _millimetres(header, affine, shape)
  if geometry == AGREED:
    why = damage or _contradiction(header, sform, qform, shape) or wrong_units
    if why:
      raise UserError(f'{path}: its header contradicts itself: {why}; --geometry sform or '
                      '--geometry qform says which counts, or mend it with the tool that wrote it')
  return affine * [[factor], [factor], [factor], [1]]


def _qform(header: nibabel.Nifti1Header) -> tuple[np.ndarray | None, str]:
  """The qform where there is one, and what is wrong with it."""
  if not int(header['qform_code']):
    return None, ''
  if not (np.isfinite(header['pixdim'][1:4]) & (header['pixdim'][1:4] != 0)).all():
    return None, f'the voxel sizes of its qform are {_by(header["pixdim"][1:4])}'
  try:
    fixed = header.copy()
    fixed['pixdim'][1:4] = np.abs(header['pixdim'][1:4])
    # The standard reads 0 as 1, and knows no other number than -1 beside it.
    fixed['pixdim'][0] = -1 if header['pixdim'][0] == -1 else 1
    return fixed.get_qform(), ''
  except Exception as error:   # whatever nibabel's quaternions make of one
    return None, f'its qform is no rotation ({error})'


def _contradiction(header: nibabel.Nifti1Header, sform: np.ndarray | None,
                   qform: np.ndarray | None, shape: tuple[int, ...]) -> str:
  if sform is None:
    return ''
  sizes, stated = np.linalg.norm(sform[:3, :3], axis=0), np.abs(header['pixdim'][1:4])
  if not (np.abs(sizes - stated) <= _SAME_SIZE * sizes).all():
    return f'its sform has voxels of {_by(sizes)}, its pixdim of {_by(stated)}'
  if qform is None:
    return ''
  axes = [''.join(nibabel.aff2axcodes(one)) for one in (sform, qform)]
  if axes[0] != axes[1]:
    return f'its axes are {axes[0]} by the sform and {axes[1]} by the qform'
  corners = np.array(np.meshgrid(*([0, n - 1] for n in shape))).reshape(3, -1).T
  apart = np.linalg.norm(nibabel.affines.apply_affine(sform, corners)
                         - nibabel.affines.apply_affine(qform, corners), axis=1).max()
  if int(header['sform_code']) == int(header['qform_code']) and apart > sizes.max():
    return (f'its sform and qform mean the same space (code {int(header["sform_code"])}), and are '
            f'{apart:.3g} apart')
  return ''


def _millimetres(header: nibabel.Nifti1Header, affine: np.ndarray, shape: tuple[int, ...]
                 ) -> tuple[float, str]:
  """What makes the header's unit millimetres, and what is wrong with that unit.

  A head tells metres, millimetres and micrometres apart: no two of them can be right.
  """
  code = int(header['xyzt_units']) & 7
  unit, factor = _UNITS.get(code, (f'unit {code}, which NIfTI does not know', 1.0))
  sides = np.linalg.norm(affine[:3, :3], axis=0) * shape
  if code in _UNITS and (factor == 1 or _may_be_a_head(sides * factor)):
    return factor, ''
  if _may_be_a_head(sides):
    return 1.0, f'its units are {unit}, and its voxel sizes those of a head in millimetres'
  return factor, ''


def _may_be_a_head(sides: np.ndarray) -> bool:
  low, high = _FIELD_OF_VIEW
  return bool(((sides >= low * (1 - 1e-6)) & (sides <= high)).all())


def _by(numbers) -> str:
  return ' x '.join(f'{float(number):g}' for number in numbers)
