"""Where the brain is in a scan of a head, by deepbet's networks (Fisch et al., 2024)."""

from __future__ import annotations

import functools

import numpy as np
import scipy.ndimage

from anatcl_jax.cohorts.t1.volume import Volume
from anatcl_jax.errors import UserError

_SHELL, _BARE = 10.0, 0.6     # mm around the brain; share of background there


def extract(scan: Volume) -> np.ndarray:
  """The mask of the brain, bool [X, Y, Z]: one piece without holes.

  Raises:
    UserError: there is none.
  """
  import torch
  network = _network()
  with torch.inference_mode():
    try:
      found = network.run_model(scan.values.astype(np.float32)) > 0.5
      mask = network.postprocess(found).astype(bool)
    except (AssertionError, ValueError, IndexError, RuntimeError) as error:
      if isinstance(error, RuntimeError) and 'size' not in str(error):
        raise
      mask = np.zeros(scan.values.shape, bool)
  if not mask.any():
    raise UserError('no brain is found in it; is it a T1-weighted scan of a whole head?')
  return mask


def of_stripped(scan: Volume) -> np.ndarray:
  """The mask of the brain in an image without skull: what is not background; holes are filled."""
  return scipy.ndimage.binary_fill_holes(scan.values != _background(scan.values))


def has_head(scan: Volume, mask: np.ndarray) -> bool:
  """Whether something surrounds the brain: skull and skin, not one value everywhere.

  Of real scans, defaced ones too, hardly a voxel within a centimetre of the brain is background.
  """
  steps = max(1, round(_SHELL / float(scan.spacing.mean())))
  shell = scipy.ndimage.binary_dilation(mask, iterations=steps) & ~mask
  return bool((scan.values[shell] == _background(scan.values)).mean() < _BARE)


def _background(values: np.ndarray) -> float:
  """The value of the corners where they agree, else the lowest."""
  corners = values[::values.shape[0] - 1, ::values.shape[1] - 1, ::values.shape[2] - 1]
  return float(corners.flat[0] if np.ptp(corners) == 0 else values.min())


@functools.cache
def _network():
  import torch
  from deepbet.bet import BrainExtraction
  torch.set_num_threads(1)      # scans go side by side instead
  return BrainExtraction(no_gpu=True)
