"""What is refused, and what stands out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from anatcl_jax.cohorts.t1 import brain, quality
from anatcl_jax.cohorts.t1.quality import Quality
from anatcl_jax.cohorts.t1.volume import Volume
from anatcl_jax.errors import UserError

GOOD = Quality(1500.0, 0.955, 0.56, 0.7, 1.3, 0.9, 1.0, 0.86)


def head(shape=(40, 48, 40), spacing: float = 4.5, shift: int = 0) -> tuple[Volume, np.ndarray]:
  """A ball of brain (about 1,300 ml) in a bigger ball of head, in air with noise."""
  at = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), -1) * spacing
  middle = np.array(shape) * spacing / 2 + [shift, 0, 0]
  radius = np.linalg.norm(at - middle, axis=-1)
  noise = np.random.default_rng(0).uniform(0, 20, shape)
  values = np.where(radius < 68, 800, np.where(radius < 85, 400, 0)) + noise
  return Volume(values.astype(np.float32), np.diag([spacing] * 3 + [1.0])), radius < 68


def test_a_head_is_told_from_a_brain_alone():
  scan, mask = head()
  assert brain.has_head(scan, mask)
  stripped = scan.having(scan.values * mask)
  assert not brain.has_head(stripped, mask)
  np.testing.assert_array_equal(brain.of_stripped(stripped), mask)
  defaced = scan.values.copy()          # the front of the head without brain
  defaced[:, 38:] = 0
  assert brain.has_head(scan.having(defaced * ~mask + scan.values * mask), mask)


def test_a_brain_has_a_brains_size_and_is_whole():
  quality.check_mask(*head())
  scan, mask = head()
  with pytest.raises(UserError, match=r'has 10,\d+ ml, .*are the voxel sizes in its header right'):
    quality.check_mask(Volume(scan.values, np.diag([9.0, 9, 9, 1])), mask)
  with pytest.raises(UserError, match='cuts the brain off: at its left end .* 100%'):
    quality.check_mask(Volume(scan.values[20:], scan.affine), mask[20:])
  with pytest.raises(UserError, match='cuts the brain off: at its top end'):
    quality.check_mask(Volume(scan.values[..., :28], scan.affine), mask[..., :28])


@pytest.mark.parametrize('change, with_gray, said', [
    ({}, 0.7, 'looks like a map of gray matter'),
    ({'correlation_template': 0.1}, 0.05, 'is it T1-weighted'),
    ({'dice_template': 0.7}, 0.2, 'does not register: Dice 0.70'),
    ({'scale_y': 1.4}, 0.2, r'scaled by 0.90 x 1.40 x 0.86'),
])
def test_what_does_not_lie_on_the_template_is_named(change, with_gray, said):
  quality.check_registered(GOOD, 0.3)
  with pytest.raises(UserError, match=said):
    quality.check_registered(dataclasses.replace(GOOD, **change), with_gray)


def test_outliers_are_those_that_are_worse_than_the_others():
  rng = np.random.default_rng(0)
  scans = [dataclasses.replace(GOOD, dice_template=0.955 + rng.normal(0, 0.003),
                               brain_ml=1500 + rng.normal(0, 100)) for _ in range(12)]
  scans[3] = dataclasses.replace(scans[3], dice_template=0.88)
  scans[7] = dataclasses.replace(scans[7], dice_template=0.999)      # better is no fault
  scans[9] = dataclasses.replace(scans[9], brain_ml=2500.0)
  found = quality.outliers(scans)
  assert [i for i, why in enumerate(found) if why] == [3, 9]
  assert found[3].startswith('dice_template 0.88 (median 0.95') and 'brain_ml 2500' in found[9]
  assert quality.outliers(scans[:4]) == [''] * 4        # of so few no spread is known
