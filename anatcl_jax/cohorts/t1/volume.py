"""An image in memory, and how one is seen in the space of another."""

from __future__ import annotations

import dataclasses

import nibabel
import numpy as np
import scipy.ndimage


@dataclasses.dataclass(frozen=True)
class Volume:
  """Voxels in RAS order [X, Y, Z], and the 4x4 affine from voxel to millimetres."""

  values: np.ndarray
  affine: np.ndarray

  @property
  def spacing(self) -> np.ndarray:
    return nibabel.affines.voxel_sizes(self.affine)

  @property
  def voxel_ml(self) -> float:
    return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

  def having(self, values: np.ndarray) -> Volume:
    """Other values on the same grid."""
    return dataclasses.replace(self, values=values)

  def cut(self, box: tuple[slice, ...]) -> Volume:
    """The part inside a box of voxels."""
    affine = self.affine.copy()
    affine[:3, 3] = nibabel.affines.apply_affine(self.affine, [side.start for side in box])
    return Volume(self.values[box], affine)


def box_around(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
  """The box of a mask and so many voxels around it, within the image."""
  found = scipy.ndimage.find_objects(mask.astype(np.uint8))[0]
  return tuple(slice(max(0, side.start - margin), min(n, side.stop + margin))
               for side, n in zip(found, mask.shape))


def resampled(image: Volume, shape: tuple[int, ...], affine: np.ndarray,
              transform: np.ndarray | None = None) -> np.ndarray:
  """An image on another grid, interpolated linearly, 0 outside of it; float32 [X, Y, Z].

  A Gaussian of (ratio - 1) / 2 voxels goes before along axes that get coarser, against aliasing, as
  in `volumes.read_volume`.

  Args:
    transform: 4x4, from millimetres of the grid to millimetres of the image; None for none.
  """
  to_image = np.eye(4) if transform is None else transform
  matrix = np.linalg.inv(image.affine) @ to_image @ affine
  ratio = np.linalg.norm(matrix[:3, :3], axis=1)
  smooth = scipy.ndimage.gaussian_filter(image.values.astype(np.float32),
                                         np.maximum(0, (ratio - 1) / 2))
  return scipy.ndimage.affine_transform(smooth, matrix[:3, :3], matrix[:3, 3], tuple(shape),
                                        order=1)


def dice(a: np.ndarray, b: np.ndarray) -> float:
  """Twice the overlap of two masks over the sum of their sizes; 0 where both are empty."""
  size = int(a.sum()) + int(b.sum())
  return 2 * int((a & b).sum()) / size if size else 0.0
