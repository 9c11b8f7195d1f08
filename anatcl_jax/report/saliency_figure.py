"""A saliency map inside the mean brain, that of the untrained encoder below it, R on the left."""

from __future__ import annotations

import textwrap

import numpy as np

from anatcl_jax.evaluation.saliency import Saliency
from anatcl_jax.report import style
from anatcl_jax.report.style import Picture

_PLANES = ('sagittal', 'coronal', 'axial')      # across x, y, z
_SIDES = ('AP', 'RL', 'RL')                     # left and right edge of each
_SHARES = (0.4, 0.65)                           # where along the brain slices are taken


def picture(saliency: Saliency) -> Picture:
  """Slices of three planes, radiological as all of this program: the patient's right is left."""
  shown = [saliency] + ([saliency.untrained] if saliency.untrained else [])
  rows = len(_SHARES) * len(shown)
  figure = style.new_figure(7, 1.9 * rows + 0.9, f'{saliency.task}: where the probe of '
                            f'{saliency.features} looks', f'mean of n = {saliency.scans} scans',
                            saliency.synthetic, saliency.trained_on_synthetic)
  axes = figure.subplots(rows, 3, squeeze=False)
  largest = max(float(np.quantile(one.map[one.brain], 0.995)) if one.brain.any() else 1.0
                for one in shown) or 1.0
  for i, one in enumerate(shown):
    for j, share in enumerate(_SHARES):
      for across, plane in enumerate(_PLANES):
        inside = np.flatnonzero(saliency.brain.any(tuple({0, 1, 2} - {across})))
        index = int(inside[0] + share * (inside[-1] - inside[0])) if len(inside) else 0
        panel = axes[len(_SHARES) * i + j, across]
        drawn = draw_slice(panel, one, across, index, largest)
        millimetres = saliency.affine[across, across] * index + saliency.affine[across, 3]
        panel.set_title(f'{plane}, {"xyz"[across]} = {millimetres:.0f} mm', fontsize=8)
      axes[len(_SHARES) * i + j, 0].set_ylabel(textwrap.fill(one.features, 16), fontsize=9)
  figure.colorbar(drawn, ax=axes, shrink=0.6, extend='max',
                  label='saliency (1: its mean over the brain)')
  levels = '; '.join(f'{one.features} {one.level:.3g}' for one in shown)
  return Picture(
      f'saliency-{saliency.features}', figure, f'Saliency of {saliency.features}',
      f'{_METHODS[saliency.method]} Inside the brain (a line is the rim of what the mean volume '
      f'shows), as multiples of the mean over it, which is, in {saliency.unit}: {levels}. R and L '
      'are the patient\'s, A and P front and back.',
      '; '.join(f'{one.features} largest at {_peak(one)} mm' for one in shown),
      style.said_synthetic(saliency.synthetic, [saliency.features]
                           * saliency.trained_on_synthetic))


_METHODS = {
    'gradient': 'Mean absolute gradient of the linear probe\'s prediction with respect to voxels, '
                'smoothed by a voxel.',
    'occlusion': 'Mean absolute change of the linear probe\'s prediction when a cube of voxels is '
                 'set to 0.'}


def draw_slice(axes, saliency: Saliency, across: int, index: int, largest: float):
  """One slice across axis 0, 1 or 2 of RAS: right or anterior on the left, superior on top."""
  cut = lambda volume: np.take(volume, index, across).T[:, ::-1]
  # Dark on light, also on paper: the map darkens what matters, a line is the rim of gray matter.
  background, brain = cut(saliency.background), cut(saliency.brain)
  drawn = axes.imshow(np.ma.masked_array(cut(saliency.map), ~brain), cmap='inferno_r',
                      origin='lower', vmin=0, vmax=largest, interpolation='nearest')
  rim = 0.15 * saliency.background.max()
  if background.min() < rim < background.max():
    axes.contour(background, [rim], colors='#000000', linewidths=0.7)
  for place, side, align in zip((0.02, 0.98), _SIDES[across], ('left', 'right')):
    axes.text(place, 0.98, side, transform=axes.transAxes, ha=align, va='top', fontsize=9,
              fontweight='bold')
  places = [np.flatnonzero(brain.any(axis)) for axis in (0, 1)]     # columns, rows
  if all(map(len, places)):
    axes.set(xlim=(places[0][0] - 2, places[0][-1] + 2), ylim=(places[1][0] - 2, places[1][-1] + 4))
  axes.set(xticks=[], yticks=[])
  axes.spines[:].set_visible(False)
  return drawn


def _peak(saliency: Saliency) -> str:
  peak = np.unravel_index(np.argmax(saliency.map), saliency.map.shape)
  return '({:.0f}, {:.0f}, {:.0f})'.format(
      *saliency.affine[:3, :3] @ peak + saliency.affine[:3, 3])
