"""Deformations with a known answer: volumes by hand, amounts that stay, sides that stay."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from anatcl_jax.cohorts.t1.deformation import Warp, jacobian
from anatcl_jax.cohorts.t1.volume import Volume
from anatcl_jax.cohorts.volumes import Grid

SHAPE = (40, 44, 36)
GRID = np.array([[2.0, 0, 0, -40], [0, 2, 0, -44], [0, 0, 2, -36], [0, 0, 0, 1]])


def blob(centre: tuple[float, ...], width: float = 6.0) -> Volume:
  """A smooth ball about a place in millimetres, on the grid."""
  voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing='ij'), -1)
  distance = np.linalg.norm(voxels * 2 + GRID[:3, 3] - centre, axis=-1)
  return Volume(np.exp(-distance ** 2 / (2 * width ** 2)).astype(np.float32), GRID)


def waves(amplitude: float) -> np.ndarray:
  """A smooth displacement [X, Y, Z, 3], different along each axis."""
  x, y, z = np.meshgrid(*(np.linspace(0, np.pi, n) for n in SHAPE), indexing='ij')
  bump = np.sin(x) * np.sin(y) * np.sin(z)
  return amplitude * np.stack([bump * np.cos(y), bump * np.sin(2 * z), bump * np.cos(x)], -1)


def centre(volume: Volume) -> np.ndarray:
  at = np.argwhere(volume.values > 0)
  mean = np.average(at, axis=0, weights=volume.values[volume.values > 0])
  return volume.affine[:3, :3] @ mean + volume.affine[:3, 3]


def test_the_jacobian_is_the_volume_in_the_scan():
  grid = Grid.of(SHAPE, GRID)
  affine = np.diag([0.9, 1.1, -0.8, 1.0])
  still = np.zeros((*SHAPE, 3), np.float32)
  places = Warp(still, still, GRID, affine).in_scan(grid)
  np.testing.assert_allclose(jacobian(places, grid), -0.9 * 1.1 * 0.8, rtol=1e-4)
  fine = Grid.of((60, 60, 60), nibabel.affines.from_matvec(np.eye(3), [-30] * 3))
  places = Warp(still, still, GRID, affine).in_scan(fine)
  np.testing.assert_allclose(jacobian(places, fine), -0.9 * 1.1 * 0.8, rtol=1e-3)


@pytest.mark.parametrize('spacing', (2.0, 1.5))
def test_modulation_keeps_the_amount_of_tissue(spacing):
  tissue = blob((-8, 5, 3))
  affine = np.diag([0.85, 1.05, 0.9, 1.0])
  affine[:3, 3] = 2, -3, 1
  grid = Grid.of([n * 2 / spacing for n in SHAPE],
                 nibabel.affines.from_matvec(np.eye(3) * spacing, GRID[:3, 3]))
  still = np.zeros((*SHAPE, 3))
  for field in (still, waves(2.5)):
    found = Warp(field, still, GRID, affine).modulated(tissue, grid)
    assert found.values.sum() * found.voxel_ml == pytest.approx(
        tissue.values.sum() * tissue.voxel_ml, rel=0.01)
  plain = (Warp(waves(2.5), still, GRID, affine).modulated(tissue, grid).values
           / np.abs(jacobian(Warp(waves(2.5), still, GRID, affine).in_scan(grid), grid)))
  assert plain.sum() * found.voxel_ml != pytest.approx(      # not by chance
      tissue.values.sum() * tissue.voxel_ml, rel=0.05)


def test_left_stays_left_and_the_way_back_is_the_inverse():
  affine = np.eye(4)
  affine[:3, 3] = 1, 2, -1
  still = np.zeros((*SHAPE, 3))
  warp = Warp(still, still, GRID, affine)
  for side in (-15, 15):
    found = warp.modulated(blob((side, 4, 2), 3), Grid.of(SHAPE, GRID))
    np.testing.assert_allclose(centre(found), [side - 1, 2, 3], atol=0.1)
  scan = blob((0, 0, 0))
  back = warp.in_template(scan)
  np.testing.assert_allclose(back[20, 22, 18], [-1, -2, 1], atol=1e-4)


def test_forward_displacements_are_in_voxels_of_the_template():
  """Two voxels of 2 mm to the right: what lies 4 mm to the right in the scan comes here."""
  field = np.zeros((*SHAPE, 3))
  field[..., 0] = 2
  found = Warp(field, -field, GRID, np.eye(4)).modulated(blob((6, 0, 0), 3), Grid.of(SHAPE, GRID))
  np.testing.assert_allclose(centre(found), [2, 0, 0], atol=0.05)
