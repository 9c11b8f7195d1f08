"""Reads one volume: oriented to RAS, checked, and on the grid that was asked for."""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from typing import Protocol

import nibabel
import nibabel.processing
import numpy as np
import scipy.ndimage
from nibabel.spatialimages import SpatialImage

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

  def image(self) -> SpatialImage:
    """The volume with its affine, voxels read on demand; a UserError where that is not possible."""


@dataclasses.dataclass(frozen=True)
class NiftiFile:
  """One volume in a file of its own, its orientation in its header."""

  path: pathlib.Path

  def image(self) -> SpatialImage:
    try:
      image = nibabel.load(self.path)
    except FileNotFoundError:
      raise UserError(f'{self.path}: no such file') from None
    except Exception as error:  # nibabel raises what its decompressor or header parser raised
      raise UserError(f'{self.path}: not a readable NIfTI volume ({first_line(error)})') from None
    return ImageInMemory(image, self.path).image()


@dataclasses.dataclass(frozen=True)
class ImageInMemory:
  """One volume that nibabel has loaded or that was made of an array."""

  loaded: SpatialImage
  path: pathlib.Path

  def image(self) -> SpatialImage:
    image, header = self.loaded, self.loaded.header
    if 'sform_code' in header and not (int(header['sform_code']) or int(header['qform_code'])):
      raise UserError(f'{self.path}: its header holds no orientation (sform and qform codes are '
                      '0), so left and right are unknown; set them with the tool that '
                      'wrote the file')
    if len(image.shape) == 4 and image.shape[3] == 1:
      image = image.slicer[..., 0]
    return image


def _checked(source: VolumeSource) -> SpatialImage:
  """The image as it is stored, its voxels not read yet."""
  image = source.image()
  if len(image.shape) != 3:
    raise UserError(f'{source.path}: has shape {image.shape}; give one 3-D volume a file')
  if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine)) < 1e-9:
    raise UserError(f'{source.path}: its affine is not invertible; the header is damaged')
  return image


def read_grid(source: VolumeSource) -> Grid:
  """The RAS grid of a volume, from its header alone.

  Raises:
    UserError: the file is missing, unreadable, not 3-D, or has no orientation.
  """
  image = _checked(source)
  # Reorienting an image reads it: a stand-in of its shape without memory is turned instead.
  oriented = nibabel.as_closest_canonical(
      SpatialImage(np.broadcast_to(np.uint8(0), image.shape), image.affine))
  return Grid.of(oriented.shape, oriented.affine)


def read_volume(source: VolumeSource, grid: Grid) -> np.ndarray:
  """A volume in RAS order on the given grid, float32 [X, Y, Z].

  A volume that is on that grid already is not interpolated. Others are interpolated linearly after
  a Gaussian of (ratio - 1) / 2 voxels along each axis that gets coarser, against aliasing.

  Raises:
    UserError: the file is truncated, or its values are not finite or all zero.
  """
  image, path = _checked(source), source.path
  try:
    image = nibabel.as_closest_canonical(image)
    values = np.asarray(image.dataobj, dtype=np.float32)
  except (OSError, EOFError, ValueError, zlib.error) as error:
    raise UserError(f'{path}: truncated or damaged ({first_line(error)}); '
                    'copy or make it again') from None
  bad = int(np.size(values) - np.isfinite(values).sum())
  if bad:
    raise UserError(f'{path}: {bad} voxels are NaN or infinite')
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


def center_crop(volume: np.ndarray, most: tuple[int, ...] | None) -> np.ndarray:
  """Cuts axes longer than `most` to that length about their centre; shorter ones stay."""
  if most is None:
    return volume
  starts = [max(0, (n - m) // 2) for n, m in zip(volume.shape, most)]
  return volume[tuple(slice(s, s + min(n, m)) for s, n, m in zip(starts, volume.shape, most))]


def first_line(error: Exception) -> str:
  """What an exception of a library says, short enough for an error line of ours."""
  return (str(error).splitlines() or [type(error).__name__])[0][:120]
