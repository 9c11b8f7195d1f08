"""Reads one volume: oriented to RAS, checked, and on the grid that was asked for."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Protocol

import nibabel
import nibabel.processing
import numpy as np
import scipy.ndimage
from nibabel.spatialimages import SpatialImage

from anatcl_jax.cohorts import background, headers
from anatcl_jax.cohorts.volume_files import check_length, first_line, opened
from anatcl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Grid:
  """Voxels of a volume in RAS order: shape, and the 4x4 affine from voxel to millimetres."""

  shape: tuple[int, int, int]
  affine: tuple[tuple[float, ...], ...]

  @classmethod
  def of(cls, shape, affine) -> Grid:
    return cls(tuple(int(n) for n in shape),
               tuple(tuple(round(float(v), 6) for v in row) for row in np.asarray(affine)))

  @property
  def spacing(self) -> tuple[float, ...]:
    return tuple(round(float(s), 4) for s in nibabel.affines.voxel_sizes(np.asarray(self.affine)))

  def matches(self, other: Grid) -> bool:
    return self.shape == other.shape and np.allclose(self.affine, other.affine, atol=1e-3)

  def __str__(self) -> str:
    size, spacing = ('x'.join(f'{v:g}' for v in values) for values in (self.shape, self.spacing))
    origin = ', '.join(f'{row[3]:g}' for row in self.affine[:3])
    return f'{size} voxels of {spacing} mm from ({origin})'


# CAT12's output grid: 1.5 mm, x -90..90, y -126..90, z -72..108 mm.
NAMED_GRIDS = {
    'mni1.5': Grid.of((121, 145, 121), [[1.5, 0, 0, -90], [0, 1.5, 0, -126],
                                        [0, 0, 1.5, -72], [0, 0, 0, 1]])}


def resized(grid: Grid, spacing: float | None = None, shape: tuple[int, ...] | None = None) -> Grid:
  """A grid about the same centre and axes with another voxel size (mm) and/or shape.

  Without `shape`, the field of view is kept as nearly as whole voxels allow.
  """
  affine, old_shape = np.asarray(grid.affine), np.asarray(grid.shape)
  old_spacing = nibabel.affines.voxel_sizes(affine)
  new_spacing = np.full(3, spacing) if spacing else old_spacing
  if shape is None:
    shape = np.maximum(1, np.round(old_shape * old_spacing / new_spacing)).astype(int)
  centre = nibabel.affines.apply_affine(affine, (old_shape - 1) / 2)
  new_affine = np.eye(4)
  new_affine[:3, :3] = affine[:3, :3] / old_spacing * new_spacing
  new_affine[:3, 3] = centre - new_affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
  return Grid.of(shape, new_affine)


class VolumeSource(Protocol):
  """Where a volume lies on disk, and how it becomes an image; other processes get it pickled."""

  path: pathlib.Path            # for messages, and to see whether it changed
  nan_is_zero: bool             # even where NaN is not plainly the background

  def image(self) -> SpatialImage:
    """The volume, 3-D, its voxels read on demand; a UserError where that is not possible."""


@dataclasses.dataclass(frozen=True)
class NiftiFile:
  """One volume in a file of its own, its orientation in its header: NIfTI or MGH."""

  path: pathlib.Path
  geometry: str = headers.AGREED
  nan_is_zero: bool = False

  def image(self) -> SpatialImage:
    return ImageInMemory(opened(self.path), self.path, self.geometry).image()


@dataclasses.dataclass(frozen=True)
class VolumeOf4D:
  """One of several volumes in a 4-D NIfTI file, by its number from 0."""

  path: pathlib.Path
  number: int
  geometry: str = headers.AGREED
  nan_is_zero: bool = False

  def image(self) -> SpatialImage:
    whole = opened(self.path)
    check_length(whole, self.path)
    shape, proxy = whole.shape[:3], whole.dataobj
    if len(whole.shape) != 4 or self.number >= whole.shape[3]:
      raise UserError(f'{self.path}: has shape {whole.shape}, no volume {self.number + 1}')
    # In Fortran's order a volume is one run of bytes: only that is read.
    start = proxy.offset + self.number * int(np.prod(shape)) * proxy.dtype.itemsize
    one = nibabel.arrayproxy.ArrayProxy(
        proxy.file_like, (shape, proxy.dtype, start, proxy.slope, proxy.inter), mmap=False)
    header = whole.header.copy()
    header.set_data_shape(shape)
    part = type(whole)(one, whole.affine, header, file_map=whole.file_map)
    return ImageInMemory(part, self.path, self.geometry).image()


@dataclasses.dataclass(frozen=True)
class ImageInMemory:
  """One volume that nibabel has loaded or that was made of an array."""

  loaded: SpatialImage
  path: pathlib.Path
  geometry: str = headers.AGREED
  nan_is_zero: bool = False

  def image(self) -> SpatialImage:
    image, shape = self.loaded, tuple(int(n) for n in self.loaded.shape)
    kind = np.dtype(image.dataobj.dtype)
    if kind.kind not in 'fiub':
      raise UserError(f'{self.path}: holds {_KINDS.get(kind.kind, "something else")}, not one '
                      'number a voxel; give a gray-matter map or another scalar volume')
    while len(shape) > 3 and shape[-1] == 1:
      shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
      raise UserError(f'{self.path}: has shape {image.shape}; give one 3-D volume a file')
    affine = headers.affine_of(image.header, image.affine, shape, self.path, self.geometry)
    voxels = image.dataobj if shape == image.shape else image.dataobj.reshape(shape)
    return SpatialImage(voxels, affine, file_map=image.file_map)


_KINDS = {'V': 'colours', 'c': 'complex numbers', 'O': 'Python objects'}


def read_grid(source: VolumeSource) -> Grid:
  """The RAS grid of a volume, from its header alone.

  Raises:
    UserError: the file is missing, unreadable, not 3-D, or has no orientation.
  """
  image = source.image()
  # Reorienting an image reads it: a stand-in of its shape without memory is turned instead.
  oriented = nibabel.as_closest_canonical(
      SpatialImage(np.broadcast_to(np.uint8(0), image.shape), image.affine))
  return Grid.of(oriented.shape, oriented.affine)


def read_volume(source: VolumeSource, grid: Grid) -> np.ndarray:
  """A volume in RAS order on the given grid, float32 [X, Y, Z].

  A volume that is on that grid already is not interpolated. Others are interpolated linearly after
  a Gaussian of (ratio - 1) / 2 voxels along each axis that gets coarser, against aliasing. NaN is 0
  where it is the background (`background.is_background`) or the source says so.

  Raises:
    UserError: the file is truncated, or its values are not finite or all zero.
  """
  image, path = source.image(), source.path
  check_length(image, path)
  try:
    image = nibabel.as_closest_canonical(image)
    with np.errstate(over='ignore', invalid='ignore'):     # infinite values are named below
      values = np.asarray(image.dataobj, dtype=np.float32)
  except UserError:
    raise
  except MemoryError:
    raise UserError(f'{path}: its {image.shape} voxels do not fit into memory; resample it'
                    ) from None
  except Exception as error:   # whatever a decompressor or nibabel makes of damaged bytes
    raise UserError(f'{path}: truncated or damaged ({first_line(error)}); '
                    'copy or make it again') from None
  values = _finite(values, source)
  if not values.any():
    raise UserError(f'{path}: every voxel is zero')
  own = Grid.of(image.shape, image.affine)
  if own.matches(grid):
    return np.ascontiguousarray(values)
  ratio = np.asarray(grid.spacing) / np.asarray(own.spacing)
  smooth = scipy.ndimage.gaussian_filter(values, np.maximum(0, (ratio - 1) / 2))
  resampled = nibabel.processing.resample_from_to(
      nibabel.Nifti1Image(smooth, image.affine), (grid.shape, np.asarray(grid.affine)), order=1)
  values = np.asarray(resampled.dataobj, dtype=np.float32)
  if not values.any():
    raise UserError(f'{path}: lies outside the grid of {grid}; is its affine right?')
  return values


def _finite(values: np.ndarray, source: VolumeSource) -> np.ndarray:
  """The values with 0 where NaN is the background; a UserError where they are not finite then."""
  bad = int(values.size - np.isfinite(values).sum())
  if not bad:
    return values
  missing = np.isnan(values)
  if infinite := bad - int(missing.sum()):
    raise UserError(f'{source.path}: {infinite} voxels are infinite')
  if missing.all():
    raise UserError(f'{source.path}: every voxel is NaN')
  if not (source.nan_is_zero or background.is_background(missing, values)):
    raise UserError(f'{source.path}: {bad} voxels are NaN and are not just the background; where '
                    'they stand for 0, --nan zero reads them so')
  return np.where(missing, np.float32(0), values)


def center_crop(volume: np.ndarray, most: tuple[int, ...] | None) -> np.ndarray:
  """Cuts axes longer than `most` to that length about their centre; shorter ones stay."""
  if most is None:
    return volume
  starts = [max(0, (n - m) // 2) for n, m in zip(volume.shape, most)]
  return volume[tuple(slice(s, s + min(n, m)) for s, n, m in zip(starts, volume.shape, most))]
