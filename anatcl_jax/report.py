"""Pictures of a run."""

from __future__ import annotations

import itertools
import pathlib

import matplotlib.figure

from anatcl_jax import tracking

# Okabe and Ito's, told apart by colour-blind readers; line style says training or held out.
_COLOURS = ('#000000', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')


def training_curves(workdir: pathlib.Path, synthetic: bool) -> pathlib.Path:
  """Draws loss and effective positives, training and held out, to curves.png of the workdir."""
  rows = tracking.read_metrics(workdir)
  terms = sorted(name.split('/')[1] for name in rows[-1] if name.startswith('loss/'))
  figure = matplotlib.figure.Figure((11, 4), layout='constrained')
  loss, positives = figure.subplots(1, 2)
  colours = dict(zip(['loss', *terms], itertools.cycle(_COLOURS)))
  for name, colour in colours.items():
    key, label = ('loss', 'sum') if name == 'loss' else (f'loss/{name}', name)
    _curve(loss, rows, key, colour, label)
    if name != 'loss':
      _curve(positives, rows, f'effective_positives/{name}', colour, label)
  loss.set(xlabel='epoch', ylabel='loss', title='Loss')
  positives.set(xlabel='epoch', ylabel='subjects', title='Effective positives of an anchor')
  for axes in (loss, positives):
    axes.grid(alpha=0.3)
    if axes.lines:
      axes.legend(frameon=False)
  figure.suptitle(f'{workdir.name}' + (' (SYNTHETIC subjects)' if synthetic else ''))
  path = workdir / 'curves.png'
  figure.savefig(path, dpi=120)
  return path


def _curve(axes, rows: list[dict], key: str, colour: str, label: str) -> None:
  steps_per_epoch = rows[-1]['step'] / rows[-1]['epoch']
  for prefix, style, side in (('', '-', 'training'), ('heldout/', '--', 'held out')):
    points = [(row['step'] / steps_per_epoch, row[prefix + key])
              for row in rows if prefix + key in row]
    if points:
      axes.plot(*zip(*points), style, color=colour, label=f'{label}, {side}')
