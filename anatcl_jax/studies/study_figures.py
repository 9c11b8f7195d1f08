"""The figures of a study of objectives: a colour and mark a group, a label a point.

Labels stand in a column beside the axes, so that they never overlap, each with a line to its point.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import numpy as np

from anatcl_jax.figures import Figure
from anatcl_jax.report import style
from anatcl_jax.studies import findings, objectives
from anatcl_jax.studies.comparison import Estimate
from anatcl_jax.studies.findings import AGE_ALONE, AS_PUBLISHED, NAMES
from anatcl_jax.studies.results import BY_NAME, GROUPS, Question, Results

DPI = style.DPI
_WIDTH = 8.2              # inches: 900 points on a screen
_LINE = 0.155             # inches of a label's line
_FONT = 8

Drawn = tuple[Figure, str]      # and what it shows, in words
LOOKS = style.marks(list(GROUPS))
FOREST = ('thickness_beyond_r2_unseen', 'disease_auc_unseen', 'subtype_accuracy_unseen',
          'site_accuracy')


def draw(results: Results) -> dict[str, Drawn]:
  """All figures that the results have something for, by name."""
  figures: dict[str, Callable[[Results], Drawn | None]] = {
      'age-disease': age_and_disease, 'differences': differences, 'labels': learning_curves,
      'site-identity': site_and_identity, 'sharpness': sharpness}
  drawn = {name: of(results) for name, of in figures.items()}
  return {name: one for name, one in drawn.items() if one}


def _new(height: float, title: str, results: Results) -> Figure:
  count = f'{results.settings["phantom"]["subjects"]:,} people drawn'
  return style.new_figure(_WIDTH, height, title, count, synthetic=True)


def _axis(question: Question) -> str:
  where = ', unseen sites' if question.name.endswith('_unseen') else ''
  return f'{question.words} ({question.unit}{where})'


def spread(places: np.ndarray, gap: float) -> np.ndarray:
  """Places [n] in 0 to 1, moved apart to `gap` at least, in their order and near where they were.

  All of a run of neighbours that are too near are moved about their mean.
  """
  order = np.argsort(places, kind='stable')
  runs: list[list[float]] = []           # places less the gaps before them, whose mean is taken
  for number, at in enumerate(np.asarray(places, float)[order]):
    runs.append([at - number * gap])
    while len(runs) > 1 and np.mean(runs[-2]) > np.mean(runs[-1]):
      last = runs.pop()
      runs[-1] += last
  moved = np.concatenate([[np.mean(run)] * len(run) for run in runs]) if runs else np.zeros(0)
  moved = np.clip(moved, 0, max(0.0, 1 - gap * (len(moved) - 1))) + gap * np.arange(len(moved))
  found = np.empty(len(moved))
  found[order] = moved
  return found


def _points(axes, points: dict[str, tuple[Estimate, Estimate]], results: Results, height: float
            ) -> None:
  """Crosses of intervals, a mark each, and their names in a column on the right."""
  for name, (x, y) in points.items():
    look = LOOKS[results.groups[name]]
    axes.errorbar(x.value, y.value, [[y.value - y.low], [y.high - y.value]],
                  [[x.value - x.low], [x.high - x.value]], color=look.color, marker=look.marker,
                  markersize=5, linewidth=0.8, alpha=0.75)
  _labels(axes, {name: (x.value, y.value) for name, (x, y) in points.items()},
          _looks(results), height)
  style.tidy(axes)


def _looks(results: Results) -> dict[str, style.Mark]:
  return {name: LOOKS[group] for name, group in results.groups.items()}


def _labels(axes, points: dict[str, tuple[float, float]], looks: dict[str, style.Mark],
            height: float) -> None:
  """Names in a column on the right, each with its mark and a line to its point."""
  axes.set_xlim(*axes.get_xlim())
  axes.set_ylim(*axes.get_ylim())
  if not points:
    return
  inside = (axes.transScale + axes.transLimits).transform(list(points.values()))
  column = spread(inside[:, 1], min(_LINE / height, 1 / max(1, len(points) - 1)))
  free = {'transform': axes.transAxes, 'clip_on': False}
  for name, (x, y), at in zip(points, inside, column):
    look = looks[name]
    axes.plot([x, 1.04], [y, at], color='0.75', linewidth=0.5, zorder=0, **free)
    axes.plot(1.055, at, look.marker, color=look.color, markersize=4, **free)
    axes.text(1.075, at, name, va='center', fontsize=_FONT, transform=axes.transAxes,
              fontweight='bold' if name in NAMES else 'normal')


def _legend(figure: Figure, results: Results, names: Iterable[str]) -> None:
  """The groups of those who are shown."""
  from matplotlib.lines import Line2D
  own = {results.groups[name] for name in names}
  groups = [group for group in GROUPS if group in own]
  figure.legend(handles=[Line2D([], [], color=LOOKS[group].color, marker=LOOKS[group].marker,
                                linestyle='', label=group) for group in groups],
                loc='outside lower center', ncols=3, fontsize=_FONT, frameon=False)


def _both(results: Results, across: str, up: str) -> dict[str, tuple[Estimate, Estimate]]:
  """Estimates of two questions, of all to whom both were put."""
  pairs = {name: (results.estimate(name, across), results.estimate(name, up))
           for name in results.groups}
  return {name: pair for name, pair in pairs.items() if all(pair)}


def _height(results: Results) -> float:
  """Of axes with a label for each objective, in inches."""
  return max(2.5, _LINE * (len(results.groups) + 1))


def age_and_disease(results: Results) -> Drawn | None:
  """Disease against age on unseen sites."""
  points = _both(results, 'age_mae_unseen', 'disease_auc_unseen')
  if not points:
    return None
  height = _height(results)
  figure = _new(height + 1.6, 'Knowledge of disease at each knowledge of age', results)
  axes = figure.add_subplot()
  axes.invert_xaxis()
  _points(axes, points, results, height)
  axes.set_xlabel(_axis(BY_NAME['age_mae_unseen']) + ', better to the right')
  axes.set_ylabel(_axis(BY_NAME['disease_auc_unseen']))
  if alone := results.estimate('covariates', 'disease_auc_unseen'):
    axes.axhline(alone.value, color=style.GREY, linestyle=':', linewidth=1)
    axes.text(0.01, alone.value, 'age and sex alone', color=style.GREY, fontsize=_FONT,
              transform=axes.get_yaxis_transform(), va='bottom')
  _legend(figure, results, points)
  return figure, ('Disease against age, on sites never seen, a point an objective with 95 % '
                  'intervals over people and seeds. Higher at the same place across is more '
                  'knowledge of disease at equal knowledge of age.')


def differences(results: Results) -> Drawn | None:
  """A forest of differences to y-Aware."""
  found = findings.findings(results, AGE_ALONE)
  panels = [name for name in FOREST if name in found]
  if not panels:
    return None
  names = [name for name in results.groups if name not in (AGE_ALONE, 'morphometry')][::-1]
  figure = _new(_LINE * 1.3 * len(names) + 1.9, f'Differences to {NAMES[AGE_ALONE]}', results)
  for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels):
    question = BY_NAME[panel]
    axes.axvspan(-question.matters, question.matters, color='0.93', linewidth=0)
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    for one in found[panel]:
      if one.objective not in names:
        continue
      look, at = LOOKS[results.groups[one.objective]], names.index(one.objective)
      shown = one.verdict in findings.SHOWN
      axes.hlines(at, one.difference.low, one.difference.high, color=look.color, linewidth=1.5,
                  linestyle='-' if one.difference.over_seeds else ':')
      axes.plot(one.difference.value, at, look.marker, color=look.color, markersize=6,
                markerfacecolor=look.color if shown else 'white',
                markeredgecolor='black' if shown else look.color)
    style.tidy(axes)
    axes.set_title(f'{question.words},\n{question.unit}', fontsize=_FONT)
    axes.set_xlabel('better to the right', fontsize=_FONT)
    axes.tick_params(labelsize=_FONT)
    axes.locator_params(axis='x', nbins=4)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
  _legend(figure, results, names)
  return figure, (f'Differences to {NAMES[AGE_ALONE]} with 95 % intervals, paired over people, '
                  'turned so that better is on the right (of site leakage: less). Filled marks are '
                  'shown after Holm, dotted intervals are of one seed and over people alone; the '
                  'band is what does not matter. Thickness, disease and subtype on unseen sites. '
                  'Measured morphometry is far off and stands in the table.')


def chosen_for_curves(results: Results) -> list[str]:
  """Fixed rows, and of each group the one that knows most of disease on unseen sites."""
  fixed = [AGE_ALONE, AS_PUBLISHED, objectives.UNTRAINED, 'morphometry']
  best = {}
  for name, group in results.groups.items():
    one = results.estimate(name, 'disease_auc_unseen')
    if one and name not in fixed and name != 'covariates' and (
        group not in best or one.value > best[group][0]):
      best[group] = one.value, name
  chosen = {*fixed, *(name for _, name in best.values())}
  return [name for name in results.groups if name in chosen]


def learning_curves(results: Results) -> Drawn | None:
  """Age and disease on unseen sites against people with labels."""
  kinds = ('disease_auc', 'age_mae')
  numbers = [int(number) for number in results.settings['labels'].split(',') if number]
  chosen = chosen_for_curves(results)
  curves = {kind: {name: [(number, one) for number in numbers
                          if (one := results.estimate(name, f'{kind}_{number}'))]
                   for name in chosen} for kind in kinds}
  if not any(points for of in curves.values() for points in of.values()):
    return None
  height = max(2.6, _LINE * (len(chosen) + 1))
  figure = _new(2 * height + 1.9, 'Knowledge with few labels', results)
  lines = {group: itertools.cycle(('-', '--', ':')) for group in GROUPS}
  looks = {name: dataclasses.replace(LOOKS[results.groups[name]],
                                     linestyle=next(lines[results.groups[name]]))
           for name in chosen}
  for axes, kind in zip(figure.subplots(2, 1), kinds):
    ends: dict[str, tuple[float, float]] = {}
    for place, (name, points) in enumerate(curves[kind].items()):
      if not points:
        continue
      look = looks[name]
      x = np.array([number for number, _ in points]) * 1.015**(place - len(chosen) / 2)
      y = np.array([[one.value, one.low, one.high] for _, one in points])
      axes.errorbar(x, y[:, 0], [y[:, 0] - y[:, 1], y[:, 2] - y[:, 0]], color=look.color,
                    marker=look.marker, linestyle=look.linestyle, markersize=4, linewidth=1.2,
                    elinewidth=0.6, alpha=0.85)
      ends[name] = x[-1], y[-1, 0]
    axes.set_xscale('log')
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_xticks([], minor=True)
    question = BY_NAME[f'{kind}_unseen']
    axes.set_xlabel('people with labels')
    axes.set_ylabel(_axis(question), fontsize=_FONT)
    _labels(axes, ends, looks, height)
    style.tidy(axes)
  return figure, ('Learning curves on unseen sites: rows that always stand here, and of each group '
                  'the one that knows most of disease with all labels. 95 % intervals over people '
                  'and seeds, mean over five draws of the people with labels; points are moved '
                  'aside a little to be seen.')


def site_and_identity(results: Results) -> Drawn | None:
  """Test-retest and identification against site leakage."""
  panels = [name for name in ('retest_r', 'identification')
            if _both(results, 'site_accuracy', name)]
  if not panels:
    return None
  height = _height(results)
  figure = _new(len(panels) * (height + 0.5) + 1.2, 'Site leakage, and the person found again',
                results)
  phantom = results.settings['phantom']
  chance = 1 / (phantom['sites'] - phantom['held_out_sites'])
  for axes, name in zip(np.atleast_1d(figure.subplots(len(panels), 1)), panels):
    points = _both(results, 'site_accuracy', name)
    if measured := points.pop('morphometry', None):     # far from all others
      axes.set_title('measured morphometry, not shown: {:.2f} across, {:.2f} up'.format(
          *(one.value for one in measured)), fontsize=_FONT)
    _points(axes, points, results, height)
    axes.set_ylabel(_axis(BY_NAME[name]))
    axes.set_xlabel(_axis(BY_NAME['site_accuracy']) + f', chance {chance:.2f}')
  _legend(figure, results, points)
  return figure, ('How well a feature agrees over two scanners, and how often a person is found '
                  'again on another scanner, against how well it tells the seen sites. The best '
                  'corner is above on the left.')


def sharpness(results: Results) -> Drawn | None:
  """Thickness beyond age and sex against effective positives of the anatomical term."""
  up = 'thickness_beyond_r2_unseen'
  points = {name: (positives, one) for name in results.groups
            if (positives := results.positives(name))
            and (one := results.estimate(name, up))}
  if not points:
    return None
  height = max(3.4, _LINE * (len(points) + 1))
  figure = _new(height + 1.6, 'Does a sharper kernel teach more anatomy?', results)
  axes = figure.add_subplot()
  for name, (x, y) in points.items():
    look = LOOKS[results.groups[name]]
    axes.errorbar(x, y.value, [[y.value - y.low], [y.high - y.value]], color=look.color,
                  marker=look.marker, markersize=5, linewidth=0.8, alpha=0.75)
  for name, line in ((AGE_ALONE, '--'), (objectives.UNTRAINED, ':'), ('simclr', '-.')):
    if one := results.estimate(name, up):
      axes.axhline(one.value, color=style.GREY, linestyle=line, linewidth=1, label=name)
  if axes.get_legend_handles_labels()[0]:
    axes.legend(fontsize=_FONT, frameon=False, loc='upper left')
  axes.set_xscale('log')
  from matplotlib.ticker import NullFormatter, ScalarFormatter
  axes.xaxis.set_major_formatter(ScalarFormatter())
  axes.set_xticks([at for at in (1, 2, 5, 10, 20, 50, 100, 200)
                   if axes.get_xlim()[0] <= at <= axes.get_xlim()[1]])
  axes.xaxis.set_minor_formatter(NullFormatter())
  _labels(axes, {name: (x, y.value) for name, (x, y) in points.items()}, _looks(results), height)
  style.tidy(axes)
  axes.set_xlabel('effective positives of the anatomical term, in a batch')
  axes.set_ylabel(_axis(BY_NAME[up]), fontsize=9)
  _legend(figure, results, points)
  return figure, ('What features know of thickness beyond age and sex, against how many others the '
                  'anatomical term attracts a person to; lines are rows without such a term. 95 % '
                  'intervals over people and seeds.')
