"""Draws the digital cohort's anatomy as gray-matter maps, measures and scans them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import ndimage

from anatcl_jax.cohorts.phantom import anatomy as anatomy_lib

FIELD_OF_VIEW = (182.0, 218.0, 182.0)     # mm, MNI's
_CENTRE = (0.0, -18.0, 18.0)              # mm, of the field of view, as CAT12's grid has it
_FINEST = 2.5                             # mm, the coarsest spacing that still samples folds
_HEAD_HALF_AXES = (86.0, 108.0, 86.0)     # mm, about the origin of the anatomy: holds the brain

MEASURES = ('thickness', 'area', 'volume')                               # mm, mm^2, mm^3


@dataclasses.dataclass(frozen=True)
class Grid:
  """A RAS grid of cubic voxels: shape, spacing (mm), centre of the first voxel (mm)."""

  shape: tuple[int, int, int]
  spacing: float
  first: tuple[float, float, float]

  @classmethod
  def mni(cls, spacing: float) -> Grid:
    """The grid of about MNI's field of view, symmetric about the midline."""
    shape = tuple(max(round(size / spacing), 1) for size in FIELD_OF_VIEW)
    return cls(shape, spacing, tuple(middle - (count - 1) / 2 * spacing
                                     for middle, count in zip(_CENTRE, shape)))

  @property
  def affine(self) -> np.ndarray:
    """Voxel indices to world millimetres, RAS+: [4, 4]."""
    affine = np.diag([self.spacing] * 3 + [1.0])
    affine[:3, 3] = self.first
    return affine

  def axes(self) -> list[np.ndarray]:
    """World coordinates of voxel centres along x, y and z, mm."""
    return [first + self.spacing * np.arange(count)
            for first, count in zip(self.first, self.shape)]

  def finer(self, factor: int) -> Grid:
    """The same field of view with each voxel cut into factor^3."""
    spacing = self.spacing / factor
    return Grid(tuple(count * factor for count in self.shape), spacing,
                tuple(first - (self.spacing - spacing) / 2 for first in self.first))


@dataclasses.dataclass(frozen=True)
class Site:
  """A scanner's effect on the map: gain, smoothing (mm, full width at half maximum), noise (sd)."""

  gain: float
  smoothing: float
  noise: float


def draw(anatomy: anatomy_lib.Anatomy, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
  """Draws a subject without site effect or noise and measures the cortex on what was drawn.

  Returns the gray-matter fraction [X, Y, Z] float32 in [0, 1] and the morphometry [2, R, M]: lh and
  rh, regions of Desikan-Killiany, MEASURES in mm, mm^2, mm^3, without measurement error. Each
  hemisphere is measured on its own ribbon, so that the other one does not leak in.
  """
  volume, morphometry = draw_deep(anatomy, grid), []
  for surface in anatomy_lib.surfaces(anatomy):
    ribbon, volumes = draw_ribbon(surface, grid)
    morphometry.append(np.stack(
        [measure_thickness(surface, ribbon, grid), measure_area(surface), volumes], -1))
    volume += ribbon
  return np.minimum(volume, 1), np.stack(morphometry)


def draw_ribbon(surface: anatomy_lib.Surface, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
  """Partial-volume map [X, Y, Z] of a hemisphere's cortex; its integral over parcels [R], mm^3.

  Voxels are cut so that folds are sampled. Inside one, gray matter is a slab across the direction
  of the surface's normal: the signed distance is the radial one times the cosine of ray and normal.
  """
  factor = math.ceil(grid.spacing / _FINEST)
  fine = grid.finer(factor)
  x, y, z = fine.axes()
  own = np.flatnonzero(x * surface.side > 0)
  offsets = np.stack(np.meshgrid(*(
      (axis - middle).astype(np.float32)
      for axis, middle in zip((x[own], y, z), surface.centre)), indexing='ij'), -1).reshape(-1, 3)
  distance = np.sqrt(np.einsum('vi,vi->v', offsets, offsets))
  reach = (surface.thickness / surface.cosine / 2 + fine.spacing / surface.cosine).max()
  # A coarse pass keeps the few voxels near the shell; only those pay for the interpolation.
  near = np.flatnonzero((distance > surface.radius.min() - reach) &
                        (distance < surface.radius.max() + reach))
  position = _position(surface, offsets[near])
  cell = np.round(position).astype(int)
  cell = np.clip(cell[0], 0, len(surface.radius) - 1), cell[1] % surface.radius.shape[1]
  close = np.abs(distance[near] - surface.radius[cell]) < reach
  near, position, cell = near[close], position[:, close], (cell[0][close], cell[1][close])

  radius, thickness, slant = (
      _interpolated(field, position)
      for field in (surface.radius, surface.thickness, 1 / surface.cosine))
  signed, half = (distance[near] - radius) / slant, thickness / 2
  fraction = np.clip((np.minimum(signed + fine.spacing / 2, half)
                      - np.maximum(signed - fine.spacing / 2, -half)) / fine.spacing, 0, 1)

  labels = anatomy_lib.template().labels[cell]
  volumes = fine.spacing**3 * np.bincount(labels, fraction, len(anatomy_lib.NAMES) + 1)[:-1]
  half_map = np.zeros(len(offsets), np.float32)
  half_map[near] = fraction
  fine_map = np.zeros(fine.shape, np.float32)
  fine_map[own] = half_map.reshape(-1, *fine.shape[1:])
  return _averaged(fine_map, factor), volumes


def measure_thickness(surface: anatomy_lib.Surface, ribbon: np.ndarray, grid: Grid) -> np.ndarray:
  """Area-weighted mean thickness of each parcel from its ribbon's map: [R], mm.

  The map is integrated along the ray from the centre through each vertex, which crosses a
  star-shaped surface once where a normal may meet the next fold, and projected on the normal. The
  ray stands for a cone, so that what blurring moves outwards counts the same.
  """
  # Beyond the ribbon: half a voxel of partial volume and one of interpolation, across the diagonal.
  reach = (np.percentile(surface.thickness / surface.cosine, 99) / 2
           + 1.5 * math.sqrt(3) * grid.spacing)
  steps = np.linspace(-1, 1, 2 * math.ceil(2 * reach / grid.spacing) + 1)
  directions = anatomy_lib.template().directions * (-surface.side, 1, 1)
  total = np.zeros_like(surface.radius)
  for step in steps:
    along = np.maximum(surface.radius + step * reach, 0)
    points = surface.centre + along[..., None] * directions
    voxels = np.moveaxis((points - grid.first) / grid.spacing, -1, 0)
    total += (ndimage.map_coordinates(ribbon, voxels, order=1, mode='constant')
              * (along / surface.radius)**2)
  thickness = total * (steps[1] - steps[0]) * reach * surface.cosine
  return _parcel_sums(thickness * surface.area) / _parcel_sums(surface.area)


def measure_area(surface: anatomy_lib.Surface) -> np.ndarray:
  """Area of each parcel of the mid-surface's mesh: [R], mm^2."""
  return _parcel_sums(surface.area)


def draw_deep(anatomy: anatomy_lib.Anatomy, grid: Grid) -> np.ndarray:
  """Partial-volume map of the deep gray structures of both hemispheres: [X, Y, Z] float32."""
  factor = math.ceil(grid.spacing / _FINEST)
  fine = grid.finer(factor)
  fine_map = np.zeros(fine.shape, np.float32)
  for side, sizes in zip(anatomy_lib.SIDES, anatomy.deep):
    for (centre, half_axes, *_), size in zip(anatomy_lib.DEEP.values(), sizes):
      centre = anatomy_lib.ORIGIN + anatomy.head_size * (centre - anatomy_lib.ORIGIN)
      half_axes = anatomy.head_size * size * np.array(half_axes)
      offsets = [axis - middle for axis, middle in zip(fine.axes(), centre * (-side, 1, 1))]
      box = np.ix_(*(np.flatnonzero(np.abs(offset) < half + fine.spacing)
                     for offset, half in zip(offsets, half_axes)))
      depth = _ellipsoid_depth([offset[index.ravel()] for offset, index in zip(offsets, box)],
                               half_axes)
      fine_map[box] = np.maximum(fine_map[box], np.clip(0.5 + depth / fine.spacing, 0, 1))
  return _averaged(fine_map, factor)


def scan(volume: np.ndarray, anatomy: anatomy_lib.Anatomy, grid: Grid, site: Site,
         rng: np.random.Generator) -> np.ndarray:
  """What a site makes of a drawn map: gain, smoothing, noise in the head; float32, >= 0."""
  sigma = site.smoothing / math.sqrt(8 * math.log(2)) / grid.spacing
  blurred = site.gain * ndimage.gaussian_filter(volume, sigma, mode='constant')
  offsets = [axis - middle for axis, middle in zip(grid.axes(), anatomy_lib.ORIGIN)]
  head = _ellipsoid_depth(offsets, anatomy.head_size * np.array(_HEAD_HALF_AXES)) > 0
  noise = site.noise * rng.standard_normal(volume.shape, dtype=np.float32)
  return np.maximum(blurred + noise * head, 0).astype(np.float32)


def _position(surface: anatomy_lib.Surface, offsets: np.ndarray) -> np.ndarray:
  return anatomy_lib.grid_position(offsets * np.array([-surface.side, 1, 1], np.float32))


def _interpolated(field: np.ndarray, position: np.ndarray) -> np.ndarray:
  field = anatomy_lib.wrapped(field).astype(np.float32)
  return ndimage.map_coordinates(field, position + 1, order=1)


def _parcel_sums(field: np.ndarray) -> np.ndarray:
  return np.bincount(anatomy_lib.template().labels.ravel(), field.ravel(),
                     len(anatomy_lib.NAMES) + 1)[:-1]


def _averaged(fine_map: np.ndarray, factor: int) -> np.ndarray:
  x, y, z = (count // factor for count in fine_map.shape)
  return fine_map.reshape(x, factor, y, factor, z, factor).mean((1, 3, 5))


def _ellipsoid_depth(offsets: list[np.ndarray], half_axes: np.ndarray) -> np.ndarray:
  """Approximate distance (mm) below the surface of an ellipsoid, negative outside: [X, Y, Z]."""
  squares = [[((offset / half)**2 / half**power) for offset, half in zip(offsets, half_axes)]
             for power in (0, 2)]
  level, slope = (np.sqrt(x[:, None, None] + y[:, None] + z) for x, y, z in squares)
  return (1 - level) * level / np.maximum(slope, 1e-9)
