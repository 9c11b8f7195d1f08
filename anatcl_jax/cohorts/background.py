"""NaN voxels that stand for the background, as SPM writes them, or for a fault."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

_TOGETHER = 0.9    # of the finite voxels, which a head in one piece has at least


def is_background(missing: np.ndarray, values: np.ndarray) -> bool:
  """Whether NaN voxels [X, Y, Z] are exactly what lies around the head.

  Each hangs together with the border of the volume by NaN, no voxel on the border is 0 (there is no
  other background), and the other voxels are one piece: no slab of NaN cuts the head in two.
  """
  if (values[~missing & _border(missing.shape)] == 0).any():
    return False
  pieces, _ = scipy.ndimage.label(missing)
  outside = np.unique(pieces[_border(missing.shape)])
  if not np.isin(pieces[missing], outside).all():
    return False
  head, _ = scipy.ndimage.label(~missing, np.ones((3, 3, 3)))
  sizes = np.bincount(head[~missing])
  return bool(sizes.size and sizes.max() >= _TOGETHER * sizes.sum())


def _border(shape: tuple[int, ...]) -> np.ndarray:
  border = np.ones(shape, bool)
  border[1:-1, 1:-1, 1:-1] = False
  return border
