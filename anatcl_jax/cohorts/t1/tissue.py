"""Gray matter, white matter and CSF in a brain, with the voxels that hold two of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.ndimage

_MIXED = ((0, 1), (1, 2))          # CSF with gray matter, gray with white
_SHARES = (np.arange(7) + 0.5) / 7
_FIRST = (8.0, 45.0, 85.0)         # percentiles of the brain, from which the means set out
_SMOOTHED = 0.5                    # voxels, the template's probabilities


@dataclasses.dataclass(frozen=True)
class Classes:
  """The share of each tissue in each voxel, float32 [X, Y, Z]; 0 outside the brain."""

  gray: np.ndarray
  white: np.ndarray
  csf: np.ndarray
  means: tuple[float, float, float]     # intensity of CSF, gray and white matter
  noise: float                          # standard deviation that all of them share


def classify(values: np.ndarray, mask: np.ndarray, gray: np.ndarray, white: np.ndarray, *,
             neighbours: float, doubt: float, iterations: int = 15) -> Classes:
  """Classes of a brain by intensity, place and neighbourhood.

  Five classes: three pure ones that are Gaussian with one standard deviation, the scanner's noise,
  and two of voxels with two tissues in any proportion (Shattuck et al., NeuroImage 13, 2001).
  Expectation and maximisation with priors of a template (Ashburner and Friston, NeuroImage 26,
  2005), whose probabilities go up where neighbours are alike (mean field of a Potts model). The
  share of a mixed voxel is where its intensity lies between the two means.

  Args:
    values: T1-weighted intensities without bias.
    mask: bool, the brain.
    gray: the template's probability at each voxel; so is `white`, and the rest is CSF.
    neighbours: by how much each of six neighbours of a class raises the log of its probability.
    doubt: added to the template's probabilities, which may be wrong by the registration.
  """
  intensities = values[mask].astype(np.float64)
  scale = np.percentile(intensities, 99)
  intensities = intensities / scale
  prior = _priors(mask, gray, white, doubt)
  means, variance = np.percentile(intensities, _FIRST), 0.005
  posterior = prior
  for step in range(iterations):
    # The first steps find the means, which neighbours could lead astray.
    weight = prior * np.exp(neighbours * _alike(posterior, mask)) if step > 2 else prior
    posterior = weight * _likelihood(intensities, means, variance)
    posterior /= posterior.sum(0) + 1e-30
    pure = posterior[:3]
    means = (pure * intensities).sum(1) / (pure.sum(1) + 1e-30)
    variance = max((pure * (intensities - means[:, None]) ** 2).sum() / pure.sum(), 1e-6)
  shares = posterior[:3].copy()
  for (low, high), mixed in zip(_MIXED, posterior[3:]):
    part = np.clip((intensities - means[low]) / max(means[high] - means[low], 1e-6), 0, 1)
    shares[low] += mixed * (1 - part)
    shares[high] += mixed * part
  maps = []
  for share in shares:
    whole = np.zeros(mask.shape, np.float32)
    whole[mask] = share
    maps.append(whole)
  csf, gray_matter, white_matter = maps
  return Classes(gray_matter, white_matter, csf, tuple(float(mean * scale) for mean in means),
                 float(np.sqrt(variance) * scale))


def _priors(mask: np.ndarray, gray: np.ndarray, white: np.ndarray, doubt: float) -> np.ndarray:
  """Of the five classes at each voxel of the mask, [5, voxels]."""
  gray, white = (scipy.ndimage.gaussian_filter(one, _SMOOTHED)[mask].astype(np.float64)
                 for one in (gray, white))
  pure = np.clip(np.stack([1 - gray - white, gray, white]), 0, 1) + doubt
  pure /= pure.sum(0)
  mixed = [np.sqrt(pure[low] * pure[high]) for low, high in _MIXED]
  prior = np.concatenate([pure, mixed])
  return prior / prior.sum(0)


def _likelihood(intensities: np.ndarray, means: np.ndarray, variance: float) -> np.ndarray:
  """Up to a factor that all classes share, [5, voxels]."""
  def gaussian(mean: float) -> np.ndarray:
    return np.exp(-(intensities - mean) ** 2 / (2 * variance))
  mixed = [np.mean([gaussian(means[low] * (1 - share) + means[high] * share)
                    for share in _SHARES], axis=0) for low, high in _MIXED]
  return np.stack([*map(gaussian, means), *mixed])


def _alike(posterior: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """The sum of each class's probability over the six neighbours, [5, voxels]."""
  kernel = scipy.ndimage.generate_binary_structure(3, 1).astype(float)
  kernel[1, 1, 1] = 0
  sums = []
  for one in posterior:
    whole = np.zeros(mask.shape)
    whole[mask] = one
    sums.append(scipy.ndimage.convolve(whole, kernel, mode='constant')[mask])
  return np.stack(sums)
