"""The tables of a page, as HTML."""

from __future__ import annotations

import html
import re

import numpy as np
import pandas

from anatcl_jax.evaluation.results import (
  METRIC_NAMES,
  Evaluation,
  Outcome,
  is_baseline,
  is_derived,
  row_names,
  score_and_sd,
)
from anatcl_jax.evaluation.tasks import METRICS
from anatcl_jax.evaluation.write import class_counts, shown, shown_p
from anatcl_jax.report import style


def scores_table(outcomes: list[Outcome]) -> str:
  """A row a representation and estimator; the best of each metric is bold."""
  task = outcomes[0].task
  metrics = sorted(METRICS[task.kind], key=lambda metric: metric != task.main_metric)
  means = {metric: [score_and_sd(one, metric)[0] for one in outcomes] for metric in metrics}
  best = {metric: (np.nanmax if METRICS[task.kind][metric] else np.nanmin)(values)
          for metric, values in means.items() if np.isfinite(values).any()}
  rows = []
  for name, one in zip(row_names(outcomes), outcomes):
    cells = [f'<th scope="row">{html.escape(name)}</th>']
    for metric in metrics:
      value, deviation = score_and_sd(one, metric)
      low, high = one.interval.get(metric, (np.nan, np.nan))
      text = shown(value) + (f' ± {shown(deviation)}' if np.isfinite(deviation) else '')
      if np.isfinite(value) and value == best.get(metric):
        text = f'<strong>{text}</strong>'
      if np.isfinite(low):
        text += f'<br><small>{shown(low)} to {shown(high)}</small>'
      cells.append(f'<td>{text}</td>')
    mark = ' class=baseline' if is_baseline(one.features) else ''
    rows.append(f'<tr{mark}>{"".join(cells)}</tr>')
  arrows = {metric: '↑' if METRICS[task.kind][metric] else '↓' for metric in metrics}
  head = ''.join(f'<th scope="col">{METRIC_NAMES.get(metric, metric)} {arrows[metric]}</th>'
                 for metric in metrics)
  counts = class_counts(outcomes[0])
  caption = style.people(outcomes[0].participant_id, len(outcomes[0].truth)) + ' predicted' + (
      f' ({counts})' if counts else '') + (f'; unit: {task.unit}' if task.unit else '')
  deviations = any(np.isfinite(score_and_sd(one, task.main_metric)[1]) for one in outcomes)
  return (f'<table class="figures"><caption>{html.escape(caption)}. Score of all predictions'
          + (' ± standard deviation over folds' if deviations else '')
          + ', 95 % interval; arrows point to the better.</caption>'
          f'<thead><tr><th scope="col">features</th>{head}</tr></thead>'
          f'<tbody>{"".join(rows)}</tbody></table>')


def table(rows: pandas.DataFrame, caption: str) -> list[str]:
  """A table as it is, its figures rounded; none where there are no rows."""
  if not len(rows):
    return []
  cells = rows.map(lambda value: ('n/a' if value != value else shown(value))
                    if isinstance(value, float) else value)
  for name in {'p', 'p_holm'} & set(rows):
    cells[name] = rows[name].map(p_cell)
  body = cells.to_html(index=False, border=0, escape=True)
  return [re.sub(r'<table[^>]*>', f'<table><caption>{html.escape(caption)}.</caption>', body)]


def p_cell(p: float) -> str:
  """A p value that stays on one line."""
  return shown_p(p).removeprefix('= ').replace(' ', '\u00a0')


def summary(evaluation: Evaluation) -> list[tuple[str, str, str]]:
  """Task, and the best encoder and the best baseline by its main metric."""
  rows = []
  for name in dict.fromkeys(one.task.name for one in evaluation.outcomes):
    own = [one for one in evaluation.outcomes if one.task.name == name]
    if own[0].refused:
      continue
    metric = own[0].task.main_metric
    best = max if METRICS[own[0].task.kind][metric] else min
    words = []
    for group in (lambda one: not is_baseline(one.features), lambda one: is_baseline(one.features)):
      members = [one for one in own if group(one) and not is_derived(one.features)]
      if not members:
        words.append('none')
        continue
      first = best(members, key=lambda one: score_and_sd(one, metric)[0])
      low, high = first.interval[metric]
      words.append(f'{first.features}: {METRIC_NAMES.get(metric, metric)} '
                   f'{shown(score_and_sd(first, metric)[0])} ({shown(low)} to {shown(high)})'
                   + (f' {first.task.unit}' if first.task.unit else ''))
    rows.append((name, *words))
  return rows
