"""Whether features tell scans apart: spread of each channel, and scans on their main axes."""

from __future__ import annotations

import numpy as np

from anatcl_jax.figures import Figure
from anatcl_jax.report import style

_MOST_LABELS = 20


def draw(features: np.ndarray, constant: np.ndarray, labels: list[str], participants: list[str],
         source: str, synthetic: bool, trained_on_synthetic: bool = False) -> Figure:
  """Standard deviation of each channel, sorted, and the first two principal components.

  Args:
    features: [N, F].
    constant: bool [F], channels that are the same for all scans.
    labels, participants: of each scan.
    source: what made the features, for the title.
    synthetic, trained_on_synthetic: see style.new_figure.
  """
  figure = style.new_figure(10, 4.2, f'Features of {source}',
                            style.people(participants, len(labels)), synthetic,
                            trained_on_synthetic)
  spread, scatter = figure.subplots(1, 2)
  _spread(spread, features.astype(np.float64), constant)
  _components(scatter, features.astype(np.float64), labels)
  for axes in (spread, scatter):
    style.tidy(axes)
  return figure


def _spread(axes, features: np.ndarray, constant: np.ndarray) -> None:
  deviation = np.where(constant, 0, features.std(0))
  order = np.argsort(-deviation)
  alive = int((deviation > 0).sum())
  axes.plot(np.arange(1, alive + 1), deviation[order][:alive], color=style.COLOURS[0], linewidth=2)
  if alive:
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')   # the usual one writes formulas, see figures.py
  if alive < len(deviation):
    axes.axvspan(alive + 0.5, len(deviation) + 0.5, color=style.COLOURS[1], alpha=0.25, hatch='//')
  axes.set(xlim=(0, len(deviation) + 1), xlabel='channel, by its spread',
           ylabel='standard deviation over scans',
           title=f'{alive} of {len(deviation)} channels differ between scans')


def _components(axes, features: np.ndarray, labels: list[str]) -> None:
  centred = features - features.mean(0)
  left, singular, _ = np.linalg.svd(centred, full_matrices=False)
  variance = singular**2
  if len(labels) < 3 or not variance.sum():
    axes.text(0.5, 0.5, 'too few scans' if len(labels) < 3 else 'all scans are alike',
              ha='center', transform=axes.transAxes)
    axes.set(xticks=[], yticks=[], title='Scans')
    return
  share = variance / variance.sum()
  points = left[:, :2] * singular[:2]
  axes.scatter(*points.T, color=style.COLOURS[0], s=28, alpha=0.8, edgecolor='white', linewidth=0.5)
  if len(labels) <= _MOST_LABELS:
    for label, point in zip(labels, points):
      axes.annotate(label.removeprefix('sub-'), point, xytext=(4, 4), textcoords='offset points',
                    fontsize=8, color=style.GREY)
  axes.margins(0.12)
  axes.set(xlabel=f'first principal component ({share[0]:.0%} of variance)',
           ylabel=f'second ({share[1]:.0%})', title='Scans')
