"""Signs that features mean nothing: channels that never change, input of another kind."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np

from anatcl_jax.cohorts.origins import QUASI_RAW, Origin
from anatcl_jax.cohorts.volumes import Grid
from anatcl_jax.data import intensity
from anatcl_jax.errors import listed
from anatcl_jax.frozen.rows import Row

# Modulated gray-matter maps: of AOMIC's ten, 1 % of the voxels that are not zero exceed 1.28 to
# 1.44, and 26 to 27 % of all voxels are not zero. A T1 image has values in the hundreds; with its
# background in, hardly a voxel is zero.
MOST_HIGH, MOST_NONZERO = 2.0, 0.9
# Rounding of float32 makes no channel alive.
_SAME = 1e-5


def constant_channels(features: np.ndarray) -> np.ndarray:
  """Whether each channel of features [N, F] is the same in all rows but for rounding; bool [F]."""
  span = np.ptp(features.astype(np.float64), axis=0)
  return span <= _SAME * np.abs(features).max(0)


def far_outside(features: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """Where features [N, F] leave [low, high] by more than its width on either side; bool [N, F]."""
  width = high - low
  return (features < low - width) | (features > high + width)


def of_volumes(rows: list[Row], labels: list[str], card: dict[str, Any]) -> list[str]:
  """A sentence for each sign that volumes are of a wrong kind; rows and labels belong together."""
  found = []
  trained = Origin.of_record(card.get('maps'))
  of_t1 = trained is not None and trained.values == QUASI_RAW     # and so T1 is what it wants
  if not of_t1 and (unlike := [label for label, row in zip(labels, rows)
                               if row.high > MOST_HIGH or row.nonzero > MOST_NONZERO]):
    high, nonzero = max(row.high for row in rows), max(row.nonzero for row in rows)
    found.append(
        f'{len(unlike)} of {len(rows)} volumes look like T1 images, not like gray-matter maps '
        f'({listed(unlike, 3)}; values up to {high:.4g}, expected below about {MOST_HIGH:g}; '
        f'{nonzero:.0%} of voxels not zero): features of such input mean nothing; give the '
        'modulated maps of CAT12 (mwp1) or FSL-VBM')
  return found + intensity.warnings(labels, np.array([[row.high] for row in rows]))


def of_features(rows: list[Row], labels: list[str], card: dict[str, Any]) -> list[str]:
  """A sentence for each sign that an encoder's features mean nothing."""
  features = np.stack([row.features for row in rows])
  found = []
  if len(rows) > 1:
    same = constant_channels(features)
    if same.all():
      found.append(f'all {len(same)} channels are the same for all {len(rows)} scans: these '
                   'features tell nobody from anybody; are the volumes different ones, and the '
                   'weights right?')
    elif same.any():
      names = [f'f{i}' for i in np.flatnonzero(same)]
      found.append(f'{same.sum()} of {len(same)} channels are the same for all {len(rows)} scans '
                   f'({listed(names)})')
  if limits := card.get('features_range'):
    low, high = (np.asarray(limits[name]) for name in ('low', 'high'))
    outside = far_outside(features, low, high)
    if outside.any():
      scans = [label for label, any_outside in zip(labels, outside.any(1)) if any_outside]
      found.append(f'{outside.any(0).sum()} of {outside.shape[1]} channels are far outside the '
                   f'range of the training set, in {len(scans)} of {len(rows)} scans '
                   f'({listed(scans, 3)}); was the input made as the training set\'s?')
  return found


def several_grids(grids: list[Grid], labels: list[str]) -> list[str]:
  """A sentence where volumes that are taken as they are lie on several grids."""
  usual = collections.Counter(grids).most_common(1)[0][0]
  others = [f'{label} on {grid}' for label, grid in zip(labels, grids) if not grid.matches(usual)]
  return [f'{len(others)} of {len(grids)} volumes are on another grid than the others, {usual} '
          f'({listed(others, 2)}): their features differ by the grid too; --grid mni1.5 puts all '
          'on one'] if others else []
