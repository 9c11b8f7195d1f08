"""Where in the brain a linear probe of frozen features looks: gradients, occlusion; over scans."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from anatcl_jax import models
from anatcl_jax.data.arrange import Arrangement
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.errors import check_name
from anatcl_jax.evaluation import estimators
from anatcl_jax.evaluation.target import Target
from anatcl_jax.frozen import extract
from anatcl_jax.models.feature_pooling import MEAN, pooled
from anatcl_jax.progress import progress_bar
from anatcl_jax.weights.load import Weights, encoder_options

METHODS = ('gradient', 'occlusion')
_CUBES_ALONG_AXIS = 8
# Standard deviation in voxels of a Gaussian, against the checkerboard that strides leave.
_SMOOTHING = {'gradient': 1.0, 'occlusion': 0.0}
_STEPS = {'gradient': 'for each 1 that a voxel\'s value changes',
          'occlusion': 'where a cube of voxels is set to 0'}


@dataclasses.dataclass(frozen=True)
class Saliency:
  """A map on the grid of the shards, RAS, averaged over scans."""

  task: str
  features: str                # the encoder's name
  method: str
  map: np.ndarray              # [X, Y, Z], 1 is the mean over the brain; 0 outside
  level: float                 # what 1 is: that mean, in `unit`
  unit: str
  brain: np.ndarray            # [X, Y, Z] bool
  background: np.ndarray       # [X, Y, Z], the mean volume of the same scans
  affine: np.ndarray           # voxel to millimetres
  scans: int
  synthetic: bool              # the scans
  trained_on_synthetic: bool = False
  untrained: Saliency | None = None     # of the same scans and architecture, with fresh weights


def of_task(name: str, weights: Weights, features: np.ndarray, target: Target, records: np.ndarray,
            data: ShardSet, *, method: str = 'gradient', most: int = 8, seed: int = 0,
            pool: str = MEAN, show: bool = True) -> Saliency:
  """Fits the linear probe of a task to all its scans, and asks which voxels its prediction uses.

  Args:
    features: [rows of the labels, F].
    target: a regression, or a classification of two classes.
    records: [rows of the labels], the record of `data` that each row is.
    most: scans to average over, drawn by `seed`.
    pool: of the features, see models.feature_pooling.

  Raises:
    UserError: no such method.
  """
  check_name(method, METHODS, 'saliency')
  coefficients = probe_coefficients(features[target.rows], target, seed)
  drawn = np.random.default_rng(seed).permutation(target.rows)[:most]
  chosen = np.sort(records[drawn])
  saliency = gradient if method == 'gradient' else occlusion
  found, background = saliency(weights, coefficients, data, chosen, pool=pool, show=show)
  brain = brain_of(background)
  found = smoothed(found, brain, _SMOOTHING[method])
  level = float(found[brain].mean()) if brain.any() else 0.0
  what = f'log-odds of {target.classes[1]}' if target.classes else (
      target.task.unit or f'units of {target.task.column}')
  return Saliency(target.task.name, name, method, found / (level or 1.0), level,
                  f'{what} {_STEPS[method]}', brain, background, np.asarray(data.grid.affine),
                  len(chosen), data.synthetic, bool(weights.card.get('synthetic')))


def brain_of(background: np.ndarray) -> np.ndarray:
  """The brain in a mean volume [X, Y, Z]: above a tenth of its maximum, and what that encloses.

  Maps of gray matter are 0 in white matter and ventricles, which open downwards: what is enclosed
  in a slice of any plane counts.
  """
  above = background > 0.1 * background.max()
  brain = above.copy()
  for axis in range(3):
    slices, filled = np.moveaxis(above, axis, 0), np.moveaxis(brain, axis, 0)
    for plane, whole in zip(slices, filled):
      whole |= scipy.ndimage.binary_fill_holes(plane)
  return brain


def smoothed(values: np.ndarray, brain: np.ndarray, deviation: float) -> np.ndarray:
  """Inside the brain the mean of its own voxels, weighted by a Gaussian (voxels); 0 outside."""
  inside = np.where(brain, values, 0.0)
  if not deviation:
    return inside
  weight = scipy.ndimage.gaussian_filter(brain.astype(float), deviation)
  return np.where(brain, scipy.ndimage.gaussian_filter(inside, deviation)
                  / np.maximum(weight, 1e-12), 0.0)


def probe_coefficients(x: np.ndarray, target: Target, seed: int = 0) -> np.ndarray:
  """[F], what a unit of each feature adds to the prediction, or the second class's logit."""
  classification = bool(target.classes)
  pipeline, _ = estimators.pipeline('linear', classification, seed)
  pipeline.fit(x, target.values.astype(int) if classification else target.values)
  return pipeline['model'].coef_.reshape(-1) / pipeline['scale'].scale_


def gradient(weights: Weights, coefficients: np.ndarray, data: ShardSet, records: np.ndarray, *,
             pool: str = MEAN, show: bool = True) -> tuple[np.ndarray, np.ndarray]:
  """Mean over scans of |d prediction / d voxel|, and the mean volume, on the shards' grid."""
  encoder = models.get_encoder(weights.encoder, **encoder_options(weights.card))

  @jax.jit
  def slope(variables, coefficients, volume):
    return jax.grad(lambda volume: jnp.vdot(
        pooled(encoder, variables, volume[None, ..., None], pool)[0], coefficients))(volume)

  def of_volume(volume: np.ndarray) -> np.ndarray:
    return np.abs(slope(weights.variables, jnp.asarray(coefficients, jnp.float32), volume))

  return _mean(of_volume, weights, data, records, show)


def occlusion(weights: Weights, coefficients: np.ndarray, data: ShardSet, records: np.ndarray, *,
              cube: int | None = None, batch_size: int = 32, pool: str = MEAN,
              show: bool = True) -> tuple[np.ndarray, np.ndarray]:
  """Mean over scans of |change of the prediction| when a cube is set to 0, and the mean volume.

  Args:
    cube: voxels along an edge; an eighth of the longest axis by default. Empty cubes stay 0.
  """
  encode = extract.frozen(weights, pool=pool)

  def of_volume(volume: np.ndarray) -> np.ndarray:
    edge = cube or -(-max(volume.shape) // _CUBES_ALONG_AXIS)
    filled = [part for part in _cubes(volume.shape, edge) if volume[part].any()]
    found, before = np.zeros_like(volume), encode(volume[None])[0]
    for start in range(0, len(filled), batch_size):
      occluded = np.repeat(volume[None], batch_size, 0)      # of one shape, for one program
      parts = filled[start:start + batch_size]
      for row, part in enumerate(parts):
        occluded[(row, *part)] = 0
      changes = np.abs((encode(occluded) - before) @ coefficients)
      for part, change in zip(parts, changes):
        found[part] = change
    return found

  return _mean(of_volume, weights, data, records, show)


def _cubes(shape: tuple[int, ...], edge: int) -> Iterator[tuple[slice, ...]]:
  return itertools.product(*([slice(start, start + edge) for start in range(0, n, edge)]
                             for n in shape))


def _mean(of_volume: Callable[[np.ndarray], np.ndarray], weights: Weights, data: ShardSet,
          records: np.ndarray, show: bool) -> tuple[np.ndarray, np.ndarray]:
  """The mean map and the mean volume, as the encoder sees volumes and then put back on the grid."""
  arrangement = Arrangement.of(weights.card)
  found = background = 0.0
  with progress_bar(len(records), 'saliency', 'scans', show=show) as bar:
    for record in records:
      stored, scale = data.read_volume(int(record))
      volume = arrangement(stored).astype(np.float32) * np.float32(scale)
      found = found + of_volume(volume)
      background = background + stored.astype(np.float32) * np.float32(scale)
      bar.update()
  return put_back(found / len(records), arrangement, data.grid.shape), background / len(records)


def put_back(arranged: np.ndarray, arrangement: Arrangement, shape: tuple[int, ...]) -> np.ndarray:
  """An array as an encoder sees it, on the RAS grid that it was made from; 0 where it was cut."""
  # Numbers of voxels take the same way as their values did: 0 is padding.
  numbers = arrangement(np.arange(1, np.prod(shape) + 1).reshape(shape))
  whole = np.zeros(int(np.prod(shape)), np.float32)
  whole[numbers[numbers > 0] - 1] = arranged[numbers > 0]
  return whole.reshape(shape)
