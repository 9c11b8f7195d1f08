"""A saliency map over the mean brain, on slices with the patient's left and right marked."""

from __future__ import annotations

import numpy as np

from anatcl_jax.evaluation.saliency import Saliency
from anatcl_jax.report import style
from anatcl_jax.report.style import Picture

_PLANES = ('sagittal', 'coronal', 'axial')      # across x, y, z
_SHARES = (0.35, 0.5, 0.65)                     # where along the brain slices are taken


def picture(saliency: Saliency) -> Picture:
  """Three slices of each plane, in neurological order: the patient's left is on the left."""
  figure = style.new_figure(7.5, 7.2, f'{saliency.task}: where the probe of {saliency.features} '
                            'looks', f'mean of n = {saliency.scans} scans', saliency.synthetic,
                            saliency.trained_on_synthetic)
  largest = float(np.quantile(saliency.map, 0.995)) or float(saliency.map.max()) or 1.0
  brain = saliency.background > 0.1 * saliency.background.max()
  for row, plane in enumerate(_PLANES):
    inside = np.flatnonzero(brain.any(tuple({0, 1, 2} - {row})))
    for column, share in enumerate(_SHARES):
      index = int(inside[0] + share * (inside[-1] - inside[0])) if len(inside) else 0
      axes = figure.add_subplot(3, 3, 3 * row + column + 1)
      drawn = draw_slice(axes, saliency, row, index, largest)
      millimetres = saliency.affine[row, row] * index + saliency.affine[row, 3]
      axes.set_title(f'{plane}, {"xyz"[row]} = {millimetres:.0f} mm', fontsize=8)
  figure.colorbar(drawn, ax=figure.axes, shrink=0.5, label=_unit(saliency))
  peak = np.unravel_index(np.argmax(saliency.map), saliency.map.shape)
  x, y, z = saliency.affine[:3, :3] @ peak + saliency.affine[:3, 3]
  return Picture(f'saliency-{saliency.features}', figure, 'Saliency',
                 f'{_METHODS[saliency.method]} Over the mean volume; L and R are the patient\'s.',
                 f'Largest at ({x:.0f}, {y:.0f}, {z:.0f}) mm.',
                 style.said_synthetic(saliency.synthetic, [saliency.features]
                                      * saliency.trained_on_synthetic))


_METHODS = {
    'gradient': 'Mean absolute gradient of the linear probe\'s prediction with respect to voxels, '
                'smoothed by a voxel.',
    'occlusion': 'Mean absolute change of the linear probe\'s prediction when a cube of voxels is '
                 'set to 0.'}


def draw_slice(axes, saliency: Saliency, across: int, index: int, largest: float):
  """One slice across axis 0, 1 or 2, RAS: left, posterior and inferior at small indices."""
  cut = lambda volume: np.take(volume, index, across).T
  # Dark on light, also on paper: the map darkens what matters, a line is the rim of gray matter.
  background = cut(saliency.background)
  drawn = axes.imshow(cut(saliency.map), cmap='inferno_r', origin='lower', vmin=0, vmax=largest,
                      interpolation='nearest')
  rim = 0.15 * saliency.background.max()
  if background.min() < rim < background.max():
    axes.contour(background, [rim], colors='#000000', linewidths=0.9)
  if across != 0:      # x runs from left to right along the picture
    for place, side, align in ((0.02, 'L', 'left'), (0.98, 'R', 'right')):
      axes.text(place, 0.98, side, transform=axes.transAxes, ha=align, va='top', fontsize=10,
                fontweight='bold')
  axes.set(xticks=[], yticks=[])
  return drawn


def _unit(saliency: Saliency) -> str:
  return f'{saliency.task}, change a {"voxel" if saliency.method == "gradient" else "cube"}'
