"""Figures of one task: scores with intervals, predictions against the truth, ROC, confusion."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import auc, confusion_matrix, roc_curve

from anatcl_jax.evaluation import estimators
from anatcl_jax.evaluation.results import (
  METRIC_NAMES,
  Outcome,
  is_baseline,
  is_derived,
  score_and_sd,
)
from anatcl_jax.evaluation.tasks import METRICS
from anatcl_jax.report import style
from anatcl_jax.report.style import Picture

_MOST_PANELS = 4
# Of a true and a predicted class, the second being the positive one.
_RATES = {(0, 0): 'true negative\nrate ', (0, 1): 'false positive\nrate ',
          (1, 0): 'false negative\nrate ', (1, 1): 'true positive\nrate '}


def pictures(outcomes: list[Outcome], synthetic: bool,
             trained_on_synthetic: bool = False) -> list[Picture]:
  """All figures of a task that was done; outcomes are one a representation and estimator."""
  outcomes = [one for one in outcomes if one.estimator in (
      outcomes[0].estimator, estimators.MEAN, estimators.NETWORK)]
  made_up = synthetic, trained_on_synthetic
  found = [_intervals(outcomes, made_up)]
  informed = [one for one in outcomes
              if one.estimator != estimators.MEAN and not is_derived(one.features)]
  if not outcomes[0].classes:
    found.append(_predicted(_panels(informed), made_up))
  else:
    if len(outcomes[0].classes) == 2:
      found.append(_roc(informed, made_up))
    found.append(_confusion(_panels(informed), made_up))
  return found


def _panels(outcomes: list[Outcome]) -> list[Outcome]:
  """The encoders first, and as many baselines as there is room for."""
  return sorted(outcomes, key=lambda one: is_baseline(one.features))[:_MOST_PANELS]


def _grid(panels: int, size: float, title: str, outcome: Outcome, made_up: tuple[bool, bool],
          **shared):
  """A figure with so many square panels, two a row, so that a phone shows them large enough."""
  columns = min(panels, 2)
  rows = -(-panels // columns)
  figure = style.new_figure(size * columns + 0.6, size * rows + 0.9, title, _count(outcome),
                            *made_up)
  axes = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
  for unused in axes[panels:]:
    unused.set_axis_off()
  return figure, axes


def _count(outcome: Outcome) -> str:
  return style.people(outcome.participant_id, len(outcome.truth))


def _file(kind: str, outcome: Outcome) -> str:
  return f'{kind}-' + ''.join(c if c.isalnum() else '-' for c in outcome.task.name)


def _intervals(outcomes: list[Outcome], made_up: tuple[bool, bool]) -> Picture:
  task, metric = outcomes[0].task, outcomes[0].task.main_metric
  figure = style.new_figure(style.COLUMN, 1.4 + 0.34 * len(outcomes), task.name,
                            _count(outcomes[0]), *made_up)
  axes = figure.subplots()
  looks = style.marks([one.features for one in outcomes])
  for row, one in enumerate(outcomes):
    look, (low, high) = looks[one.features], one.interval[metric]
    axes.plot([low, high], [row, row], color=look.color, linewidth=2)
    axes.plot(score_and_sd(one, metric)[0], row, look.marker, color=look.color,
              markerfacecolor=look.face, markersize=8)
  axes.set_yticks(range(len(outcomes)), [one.features for one in outcomes])
  axes.invert_yaxis()
  better = 'right' if METRICS[task.kind][metric] else 'left'
  axes.set_xlabel(f'{style.metric_label(task, metric)}\nbetter to the {better}')
  if metric == 'balanced_accuracy':
    axes.axvline(1 / len(outcomes[0].classes), color=style.GREY, linestyle=':')
    axes.text(1 / len(outcomes[0].classes), -0.6, ' chance', color=style.GREY, fontsize=8)
  style.tidy(axes)
  words = '; '.join(f'{one.features} {score_and_sd(one, metric)[0]:.3g} '
                    f'({one.interval[metric][0]:.3g} to {one.interval[metric][1]:.3g})'
                    for one in outcomes)
  return Picture(_file('scores', outcomes[0]), figure, 'Scores',
                 'With 95 % intervals.' + (' Hollow: harmonised, or beside covariates.' if any(
                     is_derived(one.features) for one in outcomes) else ''), words)


def _predicted(outcomes: list[Outcome], made_up: tuple[bool, bool]) -> Picture:
  task = outcomes[0].task
  figure, panels = _grid(len(outcomes), 2.3, f'{task.name}: predicted against true', outcomes[0],
                         made_up, sharex=True, sharey=True)
  looks = style.marks([one.features for one in outcomes])
  values = np.concatenate([np.r_[one.truth, one.prediction] for one in outcomes])
  span = [values.min(), values.max()]
  for axes, one in zip(panels, outcomes):
    look = looks[one.features]
    axes.plot(span, span, color=style.GREY, linestyle=':')
    axes.plot(one.truth.astype(float), one.prediction.astype(float), look.marker, color=look.color,
              markersize=4, alpha=0.7, markeredgewidth=0)
    figures = [f'{METRIC_NAMES.get(metric, metric)} {score_and_sd(one, metric)[0]:.2f}'
               for metric in ('mae', 'r2', 'mae_external') if metric in one.fold_scores]
    axes.set_title(f'{one.features}\n{", ".join(figures)}', fontsize=9)
    axes.set_aspect('equal')
    style.tidy(axes)
  figure.supxlabel(f'true ({style.unit_of(task)})', fontsize=10)
  figure.supylabel(f'predicted ({style.unit_of(task)})', fontsize=10)
  return Picture(_file('predicted', outcomes[0]), figure, 'Predicted against true',
                 'A point a scan, predicted out of fold; on the dotted line, prediction and truth '
                 'are equal.',
                 '; '.join(f'{one.features}: correlation '
                           f'{score_and_sd(one, "pearson_r")[0]:.2f}' for one in outcomes
                           if 'pearson_r' in one.fold_scores))


def _roc(outcomes: list[Outcome], made_up: tuple[bool, bool]) -> Picture:
  first = outcomes[0]
  figure = style.new_figure(style.COLUMN, 4.8, f'{first.task.name}: ROC', _count(first), *made_up)
  axes, words = figure.subplots(), []
  axes.plot([0, 1], [0, 1], color=style.GREY, linestyle=':')
  for name, look in style.marks([one.features for one in outcomes]).items():
    one = next(one for one in outcomes if one.features == name)
    false, true, _ = roc_curve(one.truth == one.classes[1], one.probability[:, 1])
    words.append(f'{name} {auc(false, true):.2f}')
    axes.plot(false, true, color=look.color, linestyle=look.linestyle, linewidth=2,
              label=f'{name}, area {auc(false, true):.2f}')
  control, positive = first.classes
  axes.set(xlabel=f'false positive rate: share of {control} taken for {positive}',
           ylabel=f'true positive rate: share of {positive} found', aspect='equal')
  axes.legend(frameon=False, fontsize=8, loc='lower right')
  style.tidy(axes)
  return Picture(_file('roc', first), figure, 'ROC curves',
                 'Out-of-fold probabilities of all folds pooled: the area can differ a little from '
                 'that in the table, which is of pairs within a fold.',
                 'Areas: ' + ', '.join(words))


def _confusion(outcomes: list[Outcome], made_up: tuple[bool, bool]) -> Picture:
  first = outcomes[0]
  figure, panels = _grid(len(outcomes), 2.3 + 0.25 * max(0, len(first.classes) - 3),
                         f'{first.task.name}: confusion', first, made_up)
  words = []
  for axes, one in zip(panels, outcomes):
    counts = confusion_matrix(one.truth, one.prediction, labels=list(one.classes))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
      rate = _RATES[row, column] if len(one.classes) == 2 else ''
      axes.text(column, row, f'{count}\n{rate}{shares[row, column]:.0%}', ha='center',
                va='center', fontsize=7, color='white' if shares[row, column] > 0.6 else 'black')
    places = range(len(one.classes))
    axes.set_xticks(places, one.classes, rotation=30 if len(places) > 2 else 0, fontsize=8)
    axes.set_yticks(places, one.classes, fontsize=8)
    axes.set_title(one.features, fontsize=9)
    words.append(f'{one.features}: {np.trace(counts)} of {counts.sum()} right')
  figure.supxlabel('predicted class', fontsize=10)
  figure.supylabel('true class', fontsize=10)
  return Picture(_file('confusion', first), figure, 'Confusion matrices',
                 'Scans, predicted out of fold; the shade is the share of the true class, '
                 'and is each rate in percent.',
                 '; '.join(words))
