"""MNI152 as nilearn's wheel holds it, and the grids that maps are written on.

ICBM 152 nonlinear symmetric 2009a at 1 mm, without skull: T1 and probabilities of gray and white
matter (Fonov et al., NeuroImage 47, 2009). BIDS calls the space MNI152NLin2009aSym.
"""

from __future__ import annotations

import dataclasses

import nibabel
import numpy as np
import scipy.ndimage

from anatcl_jax.cohorts.t1.volume import Volume, resampled
from anatcl_jax.cohorts.volumes import NAMED_GRIDS, Grid

SPACE = 'MNI152NLin2009aSym'
# FSL's box of MNI152 at 1 mm, in which OpenBHB's quasi-raw images lie; and CAT12's at 1.5 mm.
GRIDS = {'quasiraw': Grid.of((182, 218, 182), [[1, 0, 0, -91], [0, 1, 0, -126], [0, 0, 1, -72],
                                               [0, 0, 0, 1]]),
         'gm': NAMED_GRIDS['mni1.5']}
_TISSUE = 0.05     # of T1's brightest, above which there is brain: its background is exactly 0


@dataclasses.dataclass(frozen=True)
class Template:
  """One grid; T1 from 0 to 1, probabilities of gray and white matter, and the brain."""

  t1: Volume
  gray: Volume
  white: Volume
  brain: Volume        # bool

  def at(self, spacing: float) -> Template:
    """The same at another voxel size (mm)."""
    affine = self.t1.affine.copy()
    affine[:3, :3] *= spacing / self.t1.spacing
    shape = tuple(int(n) for n in np.ceil(np.array(self.t1.values.shape)
                                          * self.t1.spacing / spacing))
    t1, gray, white, brain = (Volume(resampled(image, shape, affine), affine)
                              for image in (self.t1, self.gray, self.white, self.brain))
    return Template(t1, gray, white, brain.having(brain.values > 0.5))


def load() -> Template:
  """The template at 1 mm."""
  from nilearn import datasets
  t1, gray, white = (_volume(read(resolution=1))
                     for read in (datasets.load_mni152_template, datasets.load_mni152_gm_template,
                                  datasets.load_mni152_wm_template))
  brain = scipy.ndimage.binary_fill_holes(t1.values > _TISSUE)
  return Template(t1, gray, white, t1.having(scipy.ndimage.binary_opening(brain)))


def _volume(image: nibabel.Nifti1Image) -> Volume:
  image = nibabel.as_closest_canonical(image)
  values = image.get_fdata(dtype=np.float32)
  return Volume(values / values.max(), np.asarray(image.affine, float))
