"""Curves of a run: loss and effective positives, training and held out."""

from __future__ import annotations

import pathlib
from collections.abc import Collection

from anatcl_jax import figures
from anatcl_jax.report import style
from anatcl_jax.report.style import Picture
from anatcl_jax.training import tracking


def training_curves(workdir: pathlib.Path, synthetic: bool) -> pathlib.Path:
  """Draws the curves of a workdir to its curves.png."""
  path = workdir / 'curves.png'
  figures.save(_draw(workdir, synthetic), path, dpi=120)
  return path


def pictures(workdirs: dict[str, pathlib.Path], synthetic: Collection[str]) -> list[Picture]:
  """The same for a report, of each run with metrics; `synthetic` names those on such subjects."""
  return [_picture(name, workdir, name in synthetic) for name, workdir in workdirs.items()
          if tracking.read_metrics(workdir)]


def _picture(name: str, workdir: pathlib.Path, synthetic: bool) -> Picture:
  rows = tracking.read_metrics(workdir)
  last = rows[-1]
  return Picture(
      f'training-{name}', _draw(workdir, synthetic), f'Training of {name}',
      'Loss of each term and of their weighted sum, and of contrasts the effective number of other '
      'subjects of its batch to which an anchor is drawn. Solid: training; dashed: held out.',
      f'Training curves of {name}: the loss goes from {rows[0]["loss"]:.2f} at step '
      f'{rows[0]["step"]} to {last["loss"]:.2f} at step {last["step"]}.',
      style.said_synthetic(synthetic))


def _draw(workdir: pathlib.Path, synthetic: bool) -> figures.Figure:
  rows = tracking.read_metrics(workdir)
  terms = sorted(name.split('/')[1] for name in rows[-1] if name.startswith('loss/'))
  contrastive = any(name.startswith('effective_positives/') for name in rows[-1])
  figure = figures.Figure((11 if contrastive else 6, 4), layout='constrained')
  loss, *positives = figure.subplots(1, 1 + contrastive, squeeze=False)[0]
  for name, look in style.marks(['loss', *terms]).items():
    key, label = ('loss', 'sum') if name == 'loss' else (f'loss/{name}', name)
    _curve(loss, rows, key, look.color, label)
    for axes in positives if name != 'loss' else ():
      _curve(axes, rows, f'effective_positives/{name}', look.color, label)
  loss.set(xlabel='epoch', ylabel='loss', title='Loss')
  for axes in positives:
    axes.set(xlabel='epoch', ylabel='subjects', title='Effective positives of an anchor')
  for axes in (loss, *positives):
    style.tidy(axes)
    if axes.lines:
      axes.legend(frameon=False)
  figure.suptitle(f'{workdir.name}' + (' (SYNTHETIC subjects)' if synthetic else ''))
  return figure


def _curve(axes, rows: list[dict], key: str, colour: str, label: str) -> None:
  steps_per_epoch = rows[-1]['step'] / rows[-1]['epoch']
  for prefix, line, side in (('', '-', 'training'), ('heldout/', '--', 'held out')):
    points = [(row['step'] / steps_per_epoch, row[prefix + key])
              for row in rows if prefix + key in row]
    if points:
      axes.plot(*zip(*points), linestyle=line, color=colour, label=f'{label}, {side}')
