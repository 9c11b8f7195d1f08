"""A picture of every augmentation, on one SYNTHETIC subject.

  python -m anatcl_jax.report.augmentations --out docs/augmentations.png

Each pair of slices, coronal and axial, is a random draw of one augmentation, or of a preset: of
eight draws the one that changes these slices most. The volume as it is stands first. L and R are
the patient's, before any flip.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from anatcl_jax import errors, figures, outputs
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.data import augment
from anatcl_jax.data.inspection import radiological_slices
from anatcl_jax.report import style

_COLUMNS = 3
_DRAWS = 8


def picture(spacing: float, seed: int) -> style.Picture:
  """The picture at a spacing of voxels in mm; `seed` draws the augmentations."""
  subject = phantom.draw_subject(phantom.PhantomSettings(subjects=1, spacing=spacing), 0)
  volume = jnp.asarray(subject.scans[0].volume, jnp.float32)
  panels = [('none', 'as it is', volume)]
  panels += [(name, chosen.summary, _strongest(volume, (name,), seed))
             for name, chosen in augment.AUGMENTATIONS.items()]
  panels += [(name, ' + '.join(parts), _strongest(volume, parts, seed))
             for name, parts in augment.PRESETS.items()]

  rows = -(-len(panels) // _COLUMNS)
  figure = style.new_figure(9.5, 2.0 * rows, 'Augmentations, a strong draw of each',
                            f'n = 1 person, {spacing:g} mm', True)
  brightest = float(volume.max())
  for axes, (name, summary, made) in zip(figure.subplots(rows, _COLUMNS).ravel(), panels):
    slices = _slices(made)
    height = max(part.shape[0] for part in slices)
    axes.imshow(np.concatenate([np.pad(part, ((0, height - part.shape[0]), (1, 1)))
                                for part in slices], 1), cmap='gray', vmin=-0.15 * brightest,
                vmax=brightest)
    axes.set_title(f'{name}: {summary}', fontsize=8)
    for number, part in enumerate(slices):
      left = number * (slices[0].shape[1] + 2)
      for place, side, align in ((left + 1, 'R', 'left'), (left + part.shape[1], 'L', 'right')):
        axes.text(place, 1, side, color='white', fontsize=8, fontweight='bold', ha=align, va='top')
    axes.axis('off')
  return style.Picture('augmentations', figure, 'Augmentations',
                       'The strongest of eight draws of each, on coronal and axial slices.',
                       f'{len(panels) - 1} augmentations of one SYNTHETIC volume.')


def _strongest(volume: jax.Array, names: tuple[str, ...], seed: int) -> jax.Array:
  """Of some draws, all augmentations applied in each, that which changes the slices most."""
  @jax.jit
  def draw(key, volume):      # a volume that is closed over would be a constant, slow to compile
    made = volume
    for number, name in enumerate(names):
      made = augment.AUGMENTATIONS[name].apply(jax.random.fold_in(key, number), made,
                                               volume.mean(), volume.std())
    return made

  def change(made):
    return sum(np.abs(a - b).sum() for a, b in zip(_slices(made), _slices(volume)))

  return max((draw(key, volume) for key in jax.random.split(jax.random.key(seed), _DRAWS)),
             key=change)


def _slices(volume: jax.Array) -> list[np.ndarray]:
  return radiological_slices(np.asarray(volume))[1:]


def main() -> None:
  """The command line."""
  parser = errors.Parser(prog='python -m anatcl_jax.report.augmentations', description=__doc__,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='FILE.png')
  parser.add_argument('--spacing', type=float, default=2.0, help='of voxels, mm (default 2)')
  parser.add_argument('--seed', type=int, default=0, help='of the random draws (default 0)')
  with errors.reported():
    arguments = parser.parse_args()
    outputs.check_file(arguments.out, '--out')
    drawn = picture(arguments.spacing, arguments.seed)
    try:
      arguments.out.parent.mkdir(parents=True, exist_ok=True)
      figures.save(drawn.figure, arguments.out, style.DPI)
    except OSError as error:
      raise errors.UserError(f'{arguments.out}: can\'t be written ({error.strerror}); choose '
                             'another --out') from None
    print(f'picture: {arguments.out} (a SYNTHETIC subject)')


if __name__ == '__main__':
  main()
