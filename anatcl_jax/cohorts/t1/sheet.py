"""The contact sheet of `prepare t1`: each scan with the outline of its brain mask."""

from __future__ import annotations

import pathlib

import nibabel
import numpy as np

from anatcl_jax import figures
from anatcl_jax.cohorts.volumes import VolumeSource, read_grid, read_volume

_COLUMNS = 3


def draw(scans: list[tuple[str, VolumeSource, pathlib.Path, str]], path: pathlib.Path,
         most: int = 60) -> None:
  """Draws middle slices through each brain; what stands out comes first, and is said.

  Args:
    scans: label, scan, the file of its mask, and why it stands out or ''.
    most: at most so many scans, evenly chosen among those that do not stand out.
  """
  unusual, usual = ([scan for scan in scans if bool(scan[3]) == which] for which in (True, False))
  room = max(0, most - len(unusual))
  evenly = np.unique(np.linspace(0, len(usual) - 1, min(room, len(usual))).round().astype(int))
  chosen = unusual[:most] + [usual[i] for i in evenly]
  columns = min(_COLUMNS, len(chosen))
  rows = -(-len(chosen) // columns)
  figure = figures.Figure((5.4 * columns, 2.1 * rows + 0.6), layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis in axes:
    axis.axis('off')
  for axis, (label, volume, mask_path, why) in zip(axes, chosen):
    _draw_scan(axis, volume, mask_path)
    axis.set_title(f'{label}: {why}' if why else label, fontsize=8,
                   color='#D55E00' if why else 'black', wrap=True)
  figure.suptitle(f'{len(chosen)} of {len(scans)} scans with the outline of the brain mask; '
                  'sagittal beside the midline, coronal, axial; L, R of the patient by the header',
                  fontsize=9)
  figures.save(figure, path, dpi=110)


def _draw_scan(axis, volume: VolumeSource, mask_path: pathlib.Path) -> None:
  grid = read_grid(volume)
  values = read_volume(volume, grid)
  mask = np.asarray(nibabel.load(mask_path).dataobj) > 0
  bright = np.percentile(values[mask], 99.5)
  shown, outlines = _slices(values, mask, np.asarray(grid.spacing))
  left = 0
  height = max(image.shape[0] for image in shown)
  for image, outline, marks in zip(shown, outlines, ('AP', 'RL', 'RL')):
    extent = (left, left + image.shape[1], image.shape[0], 0)
    axis.imshow(image, cmap='gray', vmin=0, vmax=bright, extent=extent, aspect='equal')
    axis.contour(np.linspace(left + 0.5, left + image.shape[1] - 0.5, image.shape[1]),
                 np.arange(image.shape[0]) + 0.5, outline, [0.5], colors='#E69F00', linewidths=0.8)
    for mark, at, side in ((marks[0], left + 2, 'left'),
                           (marks[1], left + image.shape[1] - 2, 'right')):
      axis.text(at, 2, mark, color='#56B4E9', fontsize=8, va='top', ha=side)
    left += image.shape[1]
  axis.set_xlim(0, left)
  axis.set_ylim(height, 0)


def _slices(values: np.ndarray, mask: np.ndarray, spacing: np.ndarray
            ) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Radiological slices through the middle of the mask at about 1.5 mm, and the mask's."""
  at = [round(float(np.mean(np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))))))
        for axis in range(3)]
  width = int(mask.any((1, 2)).sum())
  at[0] -= width // 8          # where there is brain in a sagittal slice
  shown = []
  for image in (values, mask.astype(np.float32)):
    planes = [image[at[0]][::-1, ::-1].T, image[::-1, at[1]][:, ::-1].T,
              image[::-1, :, at[2]][:, ::-1].T]
    sizes = [(spacing[2], spacing[1]), (spacing[2], spacing[0]), (spacing[1], spacing[0])]
    shown.append([_at_resolution(plane, size) for plane, size in zip(planes, sizes)])
  return shown[0], shown[1]


def _at_resolution(plane: np.ndarray, spacing: tuple[float, float], wanted: float = 1.5
                   ) -> np.ndarray:
  rows, columns = (np.minimum(np.arange(0, n * step, wanted) / step, n - 1).astype(int)
                   for n, step in zip(plane.shape, spacing))
  return plane[rows][:, columns]
