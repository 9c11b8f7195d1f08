"""The digital cohort's anatomy: a template of two folded hemispheres, and a subject's surfaces.

A hemisphere is star-shaped: its mid-surface lies at one distance from its centre in each direction,
so every field on it (radius, thickness, parcel) is a picture over a grid of directions. Everything
is laid out for the left hemisphere; the right one is its mirror image in x.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from anatcl_jax.cohorts import atlas

NAMES = atlas.ATLASES['desikan']
SIDES = (-1.0, 1.0)                       # sign of x in lh, rh
REFERENCE_AGE = 40.0                      # years at which the table below holds
ORIGIN = np.array([0.0, -18.0, 14.0])     # mm, about which head size scales

# Seed of the parcel (mm, lh), relative area, thickness (mm), thinning (mm a year), thinning at
# severity 1 (mm). Figures follow published normative values in order of size, no one cohort.
_REGIONS = {
    'bankssts': (-66, -46, 6, 1050, 2.50, 0.006, 0.15),
    'caudalanteriorcingulate': (-6, 18, 32, 800, 2.65, 0.004, 0.0),
    'caudalmiddlefrontal': (-48, 12, 54, 2200, 2.55, 0.007, 0.0),
    'cuneus': (-6, -86, 28, 1500, 1.95, 0.003, 0.0),
    'entorhinal': (-18, -2, -36, 650, 3.20, 0.004, 0.50),
    'fusiform': (-38, -44, -34, 3200, 2.75, 0.005, 0.25),
    'inferiorparietal': (-52, -66, 34, 4500, 2.50, 0.007, 0.10),
    'inferiortemporal': (-56, -30, -32, 3300, 2.80, 0.005, 0.30),
    'isthmuscingulate': (-6, -46, 14, 1000, 2.45, 0.005, 0.05),
    'lateraloccipital': (-42, -88, 0, 4700, 2.20, 0.004, 0.0),
    'lateralorbitofrontal': (-34, 36, -26, 2600, 2.65, 0.006, 0.0),
    'lingual': (-10, -70, -12, 3000, 2.05, 0.003, 0.0),
    'medialorbitofrontal': (-8, 40, -20, 2000, 2.45, 0.006, 0.0),
    'middletemporal': (-66, -20, -18, 3200, 2.85, 0.006, 0.30),
    'parahippocampal': (-16, -34, -26, 800, 2.75, 0.005, 0.35),
    'paracentral': (-8, -28, 66, 1500, 2.40, 0.006, 0.0),
    'parsopercularis': (-62, 16, 22, 1700, 2.60, 0.008, 0.0),
    'parsorbitalis': (-52, 42, -12, 800, 2.70, 0.007, 0.0),
    'parstriangularis': (-56, 34, 10, 1500, 2.50, 0.008, 0.0),
    'pericalcarine': (-8, -90, 4, 1400, 1.90, 0.003, 0.0),
    'postcentral': (-58, -22, 50, 4000, 2.15, 0.005, 0.0),
    'posteriorcingulate': (-6, -20, 42, 1200, 2.50, 0.006, 0.0),
    'precentral': (-54, -4, 50, 4600, 2.55, 0.008, 0.0),
    'precuneus': (-8, -62, 46, 3700, 2.40, 0.006, 0.10),
    'rostralanteriorcingulate': (-6, 38, 8, 850, 2.85, 0.005, 0.0),
    'rostralmiddlefrontal': (-40, 50, 26, 5400, 2.40, 0.007, 0.0),
    'superiorfrontal': (-14, 34, 58, 6200, 2.70, 0.009, 0.0),
    'superiorparietal': (-26, -66, 60, 5000, 2.25, 0.006, 0.0),
    'superiortemporal': (-68, -12, -2, 3600, 2.80, 0.008, 0.20),
    'supramarginal': (-66, -38, 32, 3900, 2.55, 0.008, 0.05),
    'frontalpole': (-18, 66, -4, 650, 2.70, 0.006, 0.0),
    'temporalpole': (-42, 18, -34, 650, 3.30, 0.004, 0.40),
    'transversetemporal': (-66, -22, 14, 650, 2.35, 0.007, 0.05),
    'insula': (-62, 4, 4, 2200, 3.00, 0.006, 0.05),
}
_TABLE = np.array([_REGIONS[name] for name in NAMES])
SEEDS, _AREAS, THICKNESS, SLOPES, LOSSES = (
    _TABLE[:, :3], _TABLE[:, 3], _TABLE[:, 4], _TABLE[:, 5], _TABLE[:, 6])
_WALL_SEED, _WALL_AREA = (-4, -8, 4), 5500    # callosum and brainstem: no cortex, no parcel

# Deep gray structures: centre and half-axes (mm, lh), share of the half-axes lost a year and at
# severity 1.
DEEP = {
    'thalamus': ((-13, -18, 8), (7.5, 13, 8.5), 0.0015, 0.04),
    'putamen': ((-26, 4, 2), (5.5, 14, 8.5), 0.0020, 0.04),
    'hippocampus': ((-27, -22, -15), (6, 17, 5.5), 0.0012, 0.15),
}

_CENTRE = np.array([-33.5, -18.0, 14.0])
_HALF_AXES = np.array([36.0, 86.0, 58.0])
_MEDIAL = 28.0                            # mm from the centre to the medial wall: a gap of 11 mm
# Lobes and the lateral fissure: direction's target (mm, lh), share of the radius, concentration.
_RELIEF = (((-52, 8, -40), 0.16, 10), ((-60, 30, -8), -0.16, 40), ((-68, 6, 2), -0.22, 40),
           ((-68, -24, 12), -0.20, 40), ((-30, 30, -30), -0.10, 12), ((-30, -85, -30), -0.10, 12),
           ((-45, -60, 45), 0.05, 12))

_ROWS, _COLUMNS = 128, 256               # of the grid of directions
_WAVES = 100
_FOLDS_SEED = 77                          # of the template: its steepest spots miss small parcels
_BLEND = 5.0                              # mm, how gradually one parcel passes into the next
_SULCUS_DEPTH, _SULCUS_WIDTH = 13.0, 0.45


@dataclasses.dataclass(frozen=True)
class Template:
  """What all subjects share; H x W directions, R regions, K fold coefficients.

  directions [H, W, 3] unit vectors from the centre; envelope [H, W] mm, the surface that gyri
  touch; depth [H, W] mm, of sulci along the ray; weights [H, W, R] the parcels' smooth shares
  (sum 1); labels [H, W] parcel, R on the medial wall; cortex [H, W] 1 on cortex, 0 well inside the
  wall; mixing [R, R] mean share of parcel s over the area of parcel r; waves [H, W, K] and folds
  [K] the fold pattern; cholesky [R, R] factor of the correlation between a hemisphere's regions.
  """

  directions: np.ndarray
  envelope: np.ndarray
  depth: np.ndarray
  weights: np.ndarray
  labels: np.ndarray
  cortex: np.ndarray
  mixing: np.ndarray
  waves: np.ndarray
  folds: np.ndarray
  cholesky: np.ndarray


@dataclasses.dataclass(frozen=True)
class Anatomy:
  """The truth about one subject; the first axis of arrays is lh, rh.

  age years; sex 'M' or 'F'; head_size linear factor; severity 0 to 1; thickness [2, R] mm;
  expansion [2, R] change of log area, of which the radius follows at most `most_growth`, a share;
  folds [2, K]; deep [2, D] linear size of the deep structures.
  """

  age: float
  sex: str
  head_size: float
  severity: float
  thickness: np.ndarray
  expansion: np.ndarray
  folds: np.ndarray
  deep: np.ndarray
  most_growth: float = 0.07


@dataclasses.dataclass(frozen=True)
class Surface:
  """A hemisphere's mid-surface in world millimetres over the grid of directions.

  side -1 or 1 (sign of x); centre [3]; radius [H, W]; thickness [H, W] along the normal, 0 on the
  medial wall; area [H, W] of the mesh cell around each vertex, mm^2; cosine [H, W] between ray and
  normal.
  """

  side: float
  centre: np.ndarray
  radius: np.ndarray
  thickness: np.ndarray
  area: np.ndarray
  cosine: np.ndarray


def wrapped(field: np.ndarray) -> np.ndarray:
  """Pads a field [H, W, ...] by a cell on each side, across the poles: [H+2, W+2, ...]."""
  turned = np.roll(field[[0, -1]], field.shape[1] // 2, axis=1)
  field = np.concatenate([turned[:1], field, turned[1:]])
  return np.concatenate([field[:, -1:], field, field[:, :1]], axis=1)


def grid_position(offsets: np.ndarray) -> np.ndarray:
  """Row and column (fractional, unwrapped grid) of the directions of offsets [..., 3]: [2, ...]."""
  x, y, z = np.moveaxis(offsets, -1, 0)
  polar = np.arctan2(np.hypot(x, z), y)
  around = np.arctan2(z, x) % (2 * np.pi)
  return np.stack([polar * (_ROWS / np.pi) - 0.5, around * (_COLUMNS / (2 * np.pi)) - 0.5])


@functools.lru_cache(maxsize=1)
def template() -> Template:
  """The shared anatomy: parcels fitted to their target areas, fold pattern, covariance."""
  polar, around = np.meshgrid((np.arange(_ROWS) + 0.5) * np.pi / _ROWS,
                              (np.arange(_COLUMNS) + 0.5) * 2 * np.pi / _COLUMNS, indexing='ij')
  directions = np.stack(
      [np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)], -1)
  envelope = _envelope(directions)
  points = _CENTRE + envelope[..., None] * directions
  rng = np.random.default_rng(_FOLDS_SEED)
  waves = _fold_waves(points, rng)
  folds = rng.standard_normal(waves.shape[-1])
  # Shallower where the envelope is oblique, or the banks of sulci would lie along the rays.
  depth = _SULCUS_DEPTH * _cells(envelope, directions)[1]
  area, _ = _cells(_radius(envelope, depth, _folding(waves, folds)), directions)

  seeds = _CENTRE + _on_envelope(np.vstack([SEEDS, _WALL_SEED]) - _CENTRE)
  targets = np.append(_AREAS, _WALL_AREA)
  shares = _fitted_shares(points, seeds, area, targets / targets.sum())
  wall, named = shares[..., -1], shares[..., :-1]
  labels = shares.argmax(-1)
  # The cortex ends inside the wall's own cell, so that its neighbours are measured whole.
  odds = np.log(wall + 1e-12) - np.log(named.max(-1) + 1e-12)
  cortex = 1 / (1 + np.exp(2 * (odds - 6)))
  weights = named / np.maximum(named.sum(-1, keepdims=True), 1e-12)
  mixing = np.stack([np.average(weights[labels == region], axis=0, weights=area[labels == region])
                     for region in range(len(NAMES))])
  distance = np.linalg.norm(seeds[:-1, None] - seeds[None, :-1], axis=-1)
  correlation = 0.25 + 0.7 * np.exp(-distance**2 / (2 * 30.0**2)) + 0.05 * np.eye(len(NAMES))
  return Template(directions, envelope, depth, weights, labels, cortex, mixing, waves, folds,
                  np.linalg.cholesky(correlation))


def surfaces(anatomy: Anatomy) -> tuple[Surface, Surface]:
  """The mid-surfaces of lh and rh; they stay on their own side of the midline."""
  shared = template()
  result = []
  for side, thickness, expansion, folds in zip(SIDES, anatomy.thickness, anatomy.expansion,
                                               anatomy.folds):
    # Solved for, so that the mean over each parcel is the regional value in spite of the blend.
    field, growth = np.moveaxis(
        shared.weights @ np.linalg.solve(shared.mixing, np.stack([thickness, expansion], 1)), -1, 0)
    # Area grows with the square of the radius; the bound keeps the hemispheres apart.
    bound = anatomy.most_growth
    envelope = shared.envelope * (1 + bound * np.tanh(growth / 2 / bound))
    radius = anatomy.head_size * _radius(envelope, shared.depth, _folding(shared.waves, folds))
    area, cosine = _cells(radius, shared.directions)
    apart = np.array([_MEDIAL * (bound - Anatomy.most_growth), 0, 0])
    centre = ORIGIN + anatomy.head_size * (_CENTRE - apart - ORIGIN)
    result.append(Surface(side, centre * (-side, 1, 1), radius, field * shared.cortex, area,
                          cosine))
  return tuple(result)


def _radius(envelope: np.ndarray, depth: np.ndarray, folding: np.ndarray) -> np.ndarray:
  """Sulci follow the lines on which the fold field is zero, so they wind as real ones do."""
  return envelope - depth * np.exp(-folding**2 / (2 * _SULCUS_WIDTH**2))


def _folding(waves: np.ndarray, folds: np.ndarray) -> np.ndarray:
  """The fold field [H, W]; summed in one order, so that the number of threads changes no bit."""
  return np.einsum('hwk,k->hw', waves, folds.astype(waves.dtype))


def _cells(radius: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Area of the mesh cell around each vertex and the cosine between its ray and its normal."""
  points = wrapped(radius[..., None] * directions)
  down = (points[2:, 1:-1] - points[:-2, 1:-1]) / 2
  along = (points[1:-1, 2:] - points[1:-1, :-2]) / 2
  normal = np.cross(along, down)
  area = np.linalg.norm(normal, axis=-1)
  return area, np.abs((normal * directions).sum(-1)) / area


def _envelope(directions: np.ndarray) -> np.ndarray:
  """Radius (mm) of the ellipsoid with lobes, flattened towards the midline: [...]."""
  radius = 1 / np.linalg.norm(directions / _HALF_AXES, axis=-1)
  relief = sum(height * np.exp(concentration * (directions @ _unit(target - _CENTRE) - 1))
               for target, height, concentration in _RELIEF)
  medial = _MEDIAL / np.maximum(directions[..., 0], 1e-6)
  return ((radius * (1 + relief))**-10.0 + medial**-10.0) ** -0.1


def _on_envelope(offsets: np.ndarray) -> np.ndarray:
  directions = _unit(offsets)
  return _envelope(directions)[..., None] * directions


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _fold_waves(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Plane waves in millimetres [H, W, K], of which unit coefficients make unit variance."""
  wavelength = rng.uniform(26.0, 40.0, (_WAVES, 1))
  phase = points @ (2 * np.pi / wavelength * _unit(rng.standard_normal((_WAVES, 3)))).T
  return (np.concatenate([np.cos(phase), np.sin(phase)], -1) / np.sqrt(_WAVES)).astype(np.float32)


def _fitted_shares(points: np.ndarray, seeds: np.ndarray, area: np.ndarray,
                   targets: np.ndarray) -> np.ndarray:
  """Smooth parcels [H, W, R] of given areas (shares of 1): Sinkhorn scaling of Gaussians."""
  squared = ((points[..., None, :] - seeds)**2).sum(-1)
  near = np.exp((squared.min(-1, keepdims=True) - squared) / (2 * _BLEND**2))
  area, scale = area / area.sum(), np.ones(len(seeds))
  for _ in range(300):
    scale = targets / np.einsum('hw,hwr->r', area / (near @ scale), near)
  return near * scale / (near @ scale)[..., None]
