"""Axis order, crop and padding, against indexing by hand."""

from __future__ import annotations

import numpy as np
import pytest

from anatcl_jax.data.arrange import AXIS_CODES, Arrangement
from anatcl_jax.errors import UserError

VOLUME = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)      # RAS


@pytest.mark.parametrize('axes, expected', [
    ('RAS', VOLUME), ('LAS', VOLUME[::-1]), ('LPS', VOLUME[::-1, ::-1]),
    ('SRA', VOLUME.transpose(2, 0, 1)), ('ASL', VOLUME[::-1].transpose(1, 2, 0))])
def test_axis_codes(axes, expected):
  np.testing.assert_array_equal(Arrangement(axes)(VOLUME), expected)


def test_every_axis_code_keeps_every_voxel():
  assert len(AXIS_CODES) == 48
  for axes in AXIS_CODES:
    arranged = Arrangement(axes)
    assert sorted(arranged(VOLUME).ravel()) == sorted(VOLUME.ravel())
    assert arranged(VOLUME).shape == arranged.shape(VOLUME.shape)
  assert len({Arrangement(axes)(VOLUME).tobytes() for axes in AXIS_CODES}) == 48


def test_predecessor_reshapes_after_it_transposed():
  """Its loader: array.transpose(2, 0, 1), then reshape to the array's own shape; arrays are LAS."""
  stored = VOLUME[::-1]
  flat = [stored[x, y, z] for z in range(7) for x in range(5) for y in range(6)]
  np.testing.assert_array_equal(Arrangement('predecessor')(VOLUME).ravel(), flat)
  assert Arrangement('predecessor')(VOLUME).shape == (5, 6, 7)


def test_crop_and_padding_follow_the_axes():
  arranged = Arrangement('SRA', crop=(5, 9, 3), pad=(6, 8, 3))(VOLUME)
  expected = np.zeros((6, 8, 3), np.float32)
  expected[0:5, 1:6, :] = VOLUME.transpose(2, 0, 1)[1:6, :, 1:4]
  np.testing.assert_array_equal(arranged, expected)


def test_card():
  card = {'encoder': 'tiny', 'axes': 'LAS', 'crop': [4, 4, 4]}
  assert Arrangement.of(card) == Arrangement('LAS', (4, 4, 4), None)
  assert Arrangement.of(card, crop=None, pad=(9, 9, 9)) == Arrangement('LAS', None, (9, 9, 9))
  assert Arrangement.of({'axes': None, 'crop': None}) == Arrangement()
  for axes in ('RAX', 'RLS', 'ras', ''):
    with pytest.raises(UserError, match='axis code'):
      Arrangement(axes)
