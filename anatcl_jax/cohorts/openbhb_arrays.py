"""What OpenBHB's arrays hold: kinds of volumes and where their voxels lie, measures of regions."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np
from nibabel.spatialimages import SpatialImage

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts import morphometry as tables_of_measures
from anatcl_jax.cohorts.morphometry import MEASURES, Morphometry
from anatcl_jax.cohorts.volumes import NAMED_GRIDS, Grid, NiftiFile, first_line
from anatcl_jax.errors import UserError

Affine = tuple[tuple[float, ...], ...]

# The rows of a ROI array. FreeSurfer's own tables have another order.
ROI_MEASURES = ('area', 'volume', 'thickness', 'thicknessstd', 'meancurv', 'gauscurv', 'curvind')


@dataclasses.dataclass(frozen=True)
class Modality:
  """One kind of volume: its file names, its grid in RAS order, the template that masks it."""

  suffix: str
  grid: Grid
  template: str
  threshold: float               # template voxels above it are in the challenge's matrix

  def affine(self, axes: str) -> Affine:
    """Voxels as stored to millimetres, with the first axis to the left (LAS) or right (RAS)."""
    affine = np.array(self.grid.affine)
    if axes == 'LAS':
      affine[0, 3] += affine[0, 0] * (self.grid.shape[0] - 1)
      affine[0, 0] *= -1
    return Grid.of(self.grid.shape, affine).affine


MODALITIES = {
    'vbm': Modality('cat12vbm_desc-gm_T1w', NAMED_GRIDS['mni1.5'],
                    'cat12vbm_space-MNI152_desc-gm_TPM.nii.gz', 0.05),
    'quasiraw': Modality('quasiraw_T1w',
                         Grid.of((182, 218, 182), [[1, 0, 0, -91], [0, 1, 0, -126],
                                                   [0, 0, 1, -72], [0, 0, 0, 1]]),
                         'quasiraw_space-MNI152_desc-brain_T1w.nii.gz', 0.0)}


@dataclasses.dataclass(frozen=True)
class ArrayFile:
  """One volume in a .npy file, perhaps below leading axes of 1; the file holds no affine."""

  path: pathlib.Path
  shape: tuple[int, int, int]
  affine: Affine
  nan_is_zero: ClassVar[bool] = False

  def image(self) -> SpatialImage:
    return SpatialImage(without_leading_axes(self.path, self.shape), np.asarray(self.affine))


@dataclasses.dataclass(frozen=True)
class MatrixRow:
  """One volume in a row of a matrix: the voxels of a mask in C order, zero elsewhere."""

  path: pathlib.Path
  row: int
  columns: tuple[int, int]
  mask: pathlib.Path
  threshold: float
  affine: Affine
  nan_is_zero: ClassVar[bool] = False

  def image(self) -> SpatialImage:
    shape = NiftiFile(self.mask).image().shape
    return SpatialImage(_Unmasked(self, shape), np.asarray(self.affine))


class _Unmasked:
  """The voxels of a MatrixRow, read when they are asked for: what nibabel takes for an array."""

  dtype = np.dtype(np.float32)
  ndim = 3

  def __init__(self, source: MatrixRow, shape: tuple[int, ...]):
    self._source, self.shape = source, shape

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    source = self._source
    values = np.zeros(self.shape, dtype or self.dtype)
    values[read_mask(source.mask, source.threshold)] = open_array(source.path)[
        source.row, slice(*source.columns)]
    return values


def read_mask(path: pathlib.Path, threshold: float) -> np.ndarray:
  """Which voxels of a template lie above a threshold: bool, along the axes as stored."""
  try:
    return np.asarray(NiftiFile(path).image().dataobj) > threshold
  except UserError:
    raise
  except Exception as error:   # whatever a decompressor or nibabel makes of damaged bytes
    raise UserError(f'{path}: truncated or damaged ({first_line(error)}); copy it again') from None


def open_array(path: pathlib.Path) -> np.ndarray:
  """A .npy file of numbers, memory-mapped.

  Raises:
    UserError: it is missing, truncated, no .npy file, or holds something else than numbers.
  """
  try:
    array = np.load(path, mmap_mode='r', allow_pickle=False)
  except FileNotFoundError:
    raise UserError(f'{path}: no such file') from None
  except Exception as error:   # whatever NumPy, which parses a header as Python, makes of one
    raise UserError(f'{path}: not a readable .npy file ({first_line(error)}); '
                    'copy it again') from None
  if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiu':
    raise UserError(f'{path}: holds no array of numbers')
  return array


def without_leading_axes(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
  """The array of a .npy file, memory-mapped, without leading axes of 1.

  Raises:
    UserError: as `open_array`, or it has another shape.
  """
  array = open_array(path)
  leading = array.ndim - len(shape)
  if leading < 0 or array.shape != (1,) * leading + tuple(shape):
    raise UserError(f'{path}: has shape {array.shape}, where {tuple(shape)} is expected')
  return array.reshape(shape)


def from_roi_arrays(arrays: dict[tuple[str, str], np.ndarray], atlas: str, source: str,
                    absent: dict[tuple[str, str], str],
                    outliers: dict[tuple[str, str], str] | None = None) -> Morphometry:
  """Morphometry of ROI arrays [measure, region] by scan, in OpenBHB's order of measures.

  `source` names the arrays in messages; `absent` and `outliers` say why a scan has none, or none
  that can be right.

  Raises:
    UserError: values that their measures can't have: rows in another order.
  """
  regions = atlases.regions(atlas)
  measures = tuple(measure for measure in MEASURES if measure in ROI_MEASURES)
  scans = tuple(arrays)
  values = np.array(list(arrays.values()), np.float32).reshape(-1, len(ROI_MEASURES), len(regions))
  values = values[:, [ROI_MEASURES.index(measure) for measure in measures]].transpose(0, 2, 1)
  cells = tables_of_measures.outlying_cells(
      scans, values.reshape(len(scans), -1),
      [f'{region}_{measure}' for region in regions for measure in measures],
      [measure for _ in regions for measure in measures], source)
  return tables_of_measures.plausible(Morphometry(
      atlas, measures, scans, np.ascontiguousarray(values), source, cells | (outliers or {}),
      absent))
