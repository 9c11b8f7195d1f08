"""Diffeomorphic registration by dipy, and what is done with its deformation: priors, modulation."""

from __future__ import annotations

import dataclasses
import logging

import nibabel
import numpy as np
import scipy.ndimage

from anatcl_jax.cohorts.t1.volume import Volume
from anatcl_jax.cohorts.volumes import Grid


@dataclasses.dataclass(frozen=True)
class Warp:
  """From places in the template to places in a scan, and back.

  A place x of the template, in voxels of `grid`, is at `x + forward(x)` once the scan lies on the
  template by an affine transform, which takes millimetres of the template to those of the scan.
  """

  forward: np.ndarray          # [X, Y, Z, 3], voxels of the template's grid
  backward: np.ndarray         # its inverse
  grid: np.ndarray             # 4x4 of the template's grid, voxels to millimetres
  affine: np.ndarray           # 4x4

  def in_scan(self, grid: Grid) -> np.ndarray:
    """Where voxels of a grid in the template's space are in the scan: millimetres [X, Y, Z, 3]."""
    at = _indices(grid.shape, np.linalg.inv(self.grid) @ np.asarray(grid.affine))
    return _apply(self.affine @ self.grid, at + _displacement(self.forward, at))

  def in_template(self, scan: Volume) -> np.ndarray:
    """Where voxels of a scan are in the template: millimetres [X, Y, Z, 3]."""
    at = _indices(scan.values.shape,
                  np.linalg.inv(self.affine @ self.grid) @ scan.affine)
    return _apply(self.grid, at + _displacement(self.backward, at))

  def modulated(self, tissue: Volume, grid: Grid) -> Volume:
    """A scan's tissue in the template's space, times the volume that a voxel of it had in the scan.

    A voxel's value times its volume is the tissue that came to lie there, so that the sum stays:
    what SPM calls modulated.
    """
    places = self.in_scan(grid)
    # Where voxels are larger than the scan's, against aliasing.
    ratio = np.array(grid.spacing) / tissue.spacing
    smooth = scipy.ndimage.gaussian_filter(tissue.values, np.maximum(0, (ratio - 1) / 2))
    values = sampled(tissue.having(smooth), places)
    affine = np.asarray(grid.affine)
    volume = np.abs(jacobian(places, grid)).astype(np.float32)
    return Volume((values * volume).astype(np.float32), affine)


def registered(template: Volume, placed: Volume, affine: np.ndarray, *,
               iterations: tuple[int, ...]) -> Warp:
  """Symmetric normalisation (Avants et al., Medical Image Analysis 12, 2008) by local correlation.

  Args:
    placed: the scan on the template's grid, by `affine`.
    iterations: most of them at each level, from coarse to fine.
  """
  from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
  from dipy.align.metrics import CCMetric
  logging.getLogger('dipy').setLevel(logging.WARNING)
  static, moving = ((image.values / np.percentile(image.values[image.values > 0], 99)
                     ).astype(np.float32) for image in (template, placed))
  method = SymmetricDiffeomorphicRegistration(CCMetric(3, sigma_diff=2.0, radius=3),
                                              level_iters=list(iterations))
  found = method.optimize(static, moving)
  return Warp(np.asarray(found.get_forward_field()), np.asarray(found.get_backward_field()),
              template.affine, affine)


def sampled(image: Volume, places: np.ndarray) -> np.ndarray:
  """An image at places in millimetres [..., 3], interpolated linearly, 0 outside; float32."""
  at = _apply(np.linalg.inv(image.affine), places)
  return scipy.ndimage.map_coordinates(image.values.astype(np.float32), np.moveaxis(at, -1, 0),
                                       order=1)


def jacobian(places: np.ndarray, grid: Grid) -> np.ndarray:
  """The determinant of the derivative of places (mm, [X, Y, Z, 3]) by a grid's millimetres."""
  by_voxel = np.stack([np.gradient(places, axis=axis) for axis in range(3)], -1)
  inverse = np.linalg.inv(np.asarray(grid.affine)[:3, :3])
  return np.linalg.det(by_voxel) * np.linalg.det(inverse)


def _indices(shape: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
  voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), -1).astype(np.float32)
  return _apply(matrix, voxels)


def _apply(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
  return nibabel.affines.apply_affine(matrix, places).astype(np.float32)


def _displacement(field: np.ndarray, at: np.ndarray) -> np.ndarray:
  where = np.moveaxis(at, -1, 0)
  return np.stack([scipy.ndimage.map_coordinates(field[..., axis], where, order=1, mode='nearest')
                   for axis in range(3)], -1)
