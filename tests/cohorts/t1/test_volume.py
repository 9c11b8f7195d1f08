"""Images in one another's space: places, sides and sizes by hand."""

from __future__ import annotations

import numpy as np
import pytest

from anatcl_jax.cohorts.t1.volume import Volume, box_around, dice, resampled


def test_a_transform_takes_the_grids_millimetres_to_the_images():
  values = np.zeros((20, 20, 20), np.float32)
  values[4, 10, 12] = 1
  image = Volume(values, np.array([[2.0, 0, 0, -20], [0, 2, 0, -20], [0, 0, 2, -20], [0, 0, 0, 1]]))
  shift = np.eye(4)
  shift[:3, 3] = 4, 0, -2                    # a place x of the grid is at x + (4, 0, -2)
  found = resampled(image, values.shape, image.affine, shift)
  assert np.argwhere(found == 1).tolist() == [[2, 10, 13]] and found.sum() == 1


def test_left_stays_left_on_another_grid():
  values = np.zeros((20, 24, 18), np.float32)
  values[3:6, 10:13, 8:11] = 1               # x = -14 mm at its middle
  affine = np.array([[2.0, 0, 0, -22], [0, 2, 0, -20], [0, 0, 2, -20], [0, 0, 0, 1]])
  grid = np.array([[-1.5, 0, 0, 30], [0, 1.5, 0, -30], [0, 0, 1.5, -30], [0, 0, 0, 1]])   # LAS
  found = resampled(Volume(values, affine), (41, 41, 41), grid)
  at = np.average(np.argwhere(found > 0), axis=0, weights=found[found > 0])
  np.testing.assert_allclose(grid[:3, :3] @ at + grid[:3, 3], [-14, 2, -2], atol=0.2)


def test_a_part_keeps_its_place():
  image = Volume(np.arange(6 * 7 * 8.0).reshape(6, 7, 8), np.diag([2.0, 3, 4, 1]))
  mask = np.zeros(image.values.shape, bool)
  mask[2, 3:5, 6] = True
  box = box_around(mask, 2)
  part = image.cut(box)
  assert box == (slice(0, 5), slice(1, 7), slice(4, 8))
  assert part.affine[:3, 3].tolist() == [0, 3, 16] and part.values[2, 2, 2] == image.values[2, 3, 6]
  assert part.voxel_ml == pytest.approx(0.024)


def test_dice_by_hand():
  a, b = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool)
  assert dice(a, b) == pytest.approx(4 / 6) and dice(a & False, b & False) == 0
