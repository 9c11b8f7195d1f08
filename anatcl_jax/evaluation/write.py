"""The files that an evaluation leaves, and its table for the terminal."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas

from anatcl_jax import outputs
from anatcl_jax.cohorts.write_tables import as_tsv
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation.results import (
  BESIDE,
  COVARIATES,
  METRIC_NAMES,
  UNTRAINED,
  Evaluation,
  Outcome,
  is_baseline,
  is_derived,
  row_names,
  score_and_sd,
)
from anatcl_jax.evaluation.tasks import METRICS

SCORES_CSV = 'brainfmbench.csv'     # as evaluation.brainfmbench names it
TABLES = ('results.tsv', 'predictions.tsv', 'comparisons.tsv', 'leakage.tsv',
          'leave_one_site_out.tsv', 'reliability.tsv', 'scanners.tsv',
          'variance_components.tsv', 'learning_curves.tsv', 'brain_age.tsv',
          'brain_age_groups.tsv')
PREDICTIONS = ('participant_id', 'session', 'task', 'features', 'estimator', 'fold', 'truth',
               'prediction', 'true_class', 'predicted_class', 'probability')


def results_table(evaluation: Evaluation) -> pandas.DataFrame:
  """A row a task, representation and metric; of a task that was refused, one row with its note."""
  rows = []
  for outcome in evaluation.outcomes:
    for metric in METRICS[outcome.task.kind] if not outcome.refused else [outcome.task.main_metric]:
      mean, sd = score_and_sd(outcome, metric)
      low, high = outcome.interval.get(metric, (np.nan, np.nan))
      rows.append({
          'task': outcome.task.name, 'features': outcome.features, 'metric': metric,
          'mean': mean, 'sd': sd, 'low': low, 'high': high, 'n': len(outcome.truth),
          'folds': len(outcome.fold_scores.get(metric, [])), 'estimator': outcome.estimator,
          'subjects': len(set(outcome.participant_id)), 'unit': outcome.task.unit,
          'classes': class_counts(outcome), 'note': outcome.note})
  return pandas.DataFrame(rows)


def class_counts(outcome: Outcome) -> str:
  """`CN 40 / AD 22`, and nothing of a regression."""
  return ' / '.join(f'{name} {np.sum(outcome.truth == name)}' for name in outcome.classes)


def predictions_table(evaluation: Evaluation) -> pandas.DataFrame:
  """A row a scan, task, representation and estimator: what was predicted out of fold.

  Numbers stand in `truth` and `prediction`, classes in `true_class` and `predicted_class`, so that
  each column is of one kind. `probability` is that of the positive class, where there are two.
  """
  parts = []
  for outcome in evaluation.outcomes:
    if outcome.refused:
      continue
    binary = outcome.probability is not None and len(outcome.classes) == 2
    values, missing = ('truth', 'prediction'), ('true_class', 'predicted_class')
    if outcome.classes:
      values, missing = missing, values
    parts.append(pandas.DataFrame({
        'participant_id': outcome.participant_id, 'session': outcome.session,
        'task': outcome.task.name, 'features': outcome.features, 'estimator': outcome.estimator,
        'fold': outcome.fold,
        **dict(zip(values, (outcome.truth, outcome.prediction))), **dict.fromkeys(missing, np.nan),
        'probability': outcome.probability[:, 1] if binary else np.nan}))
  return pandas.concat(parts, ignore_index=True)[list(PREDICTIONS)]


def write_tables(evaluation: Evaluation, out: pathlib.Path,
                 unfinished: Sequence[str] = ()) -> list[str]:
  """Writes every table that has rows, as TSV, and made.json; returns their names.

  Args:
    unfinished: tasks that are still to be done, for made.json.

  Raises:
    UserError: `out` can't be written.
  """
  tables = dict(zip(TABLES, (
      results_table(evaluation), predictions_table(evaluation), evaluation.comparisons,
      evaluation.leakage, evaluation.leave_one_site_out, evaluation.reliability,
      evaluation.scanners, evaluation.components, evaluation.learning_curves, evaluation.gaps,
      evaluation.gap_groups)))
  texts = {name: as_tsv(table, na_rep='n/a', float_format='%.6g')
           for name, table in tables.items() if len(table)}
  texts |= {name: table.to_csv(index=False) for name, table in evaluation.csv.items()}
  record = ({'made_by': outputs.MADE_BY, 'files': [*texts, outputs.RECORD]} | evaluation.made
            | {'synthetic': evaluation.synthetic,
               'trained_on_synthetic': evaluation.trained_on_synthetic,
               'notes': evaluation.notes}
            | ({'unfinished': list(unfinished)} if unfinished else {}))
  texts[outputs.RECORD] = json.dumps(record, indent=1, default=str) + '\n'
  try:
    out.mkdir(parents=True, exist_ok=True)
    for name in {name for name in outputs.recorded(out) - set(texts)
                 if name in TABLES or name.endswith('.csv')}:
      (out / name).unlink(missing_ok=True)     # of a run before this one
    for name, text in texts.items():
      temporary = out / f'.{name}.writing'
      temporary.write_text(text, encoding='utf-8')
      os.replace(temporary, out / name)
  except OSError as error:
    raise UserError(f'{out}: can\'t be written ({error.strerror}); choose another '
                    '--config.out') from None
  return list(texts)


def summary(evaluation: Evaluation) -> str:
  """The results as a table for the terminal: a block a task, its main metric with the interval."""
  blocks = []
  for name in dict.fromkeys(outcome.task.name for outcome in evaluation.outcomes):
    own = [outcome for outcome in evaluation.outcomes if outcome.task.name == name]
    if own[0].refused:
      blocks.append(f'{name}: not done. {own[0].note}')
    else:
      blocks.append(_block(own) + _against_untrained(evaluation, own[0])
                    + _gaps(evaluation, name))
  if SCORES_CSV in evaluation.csv:
    blocks.append(_benchmark(evaluation.csv[SCORES_CSV]))
  if len(evaluation.reliability):
    blocks.append('test-retest reliability\n' + _aligned(
        [('', 'identification (chance)', 'ICC(2,1), median (5 % to 95 %)', 'people')]
        + [(row.features, f'{row.identification:.2f} ({row.chance:.2f})',
            f'{row.icc_median:.2f} ({row.icc_low:.2f} to {row.icc_high:.2f})', str(row.subjects))
           for row in evaluation.reliability.itertuples()]))
  if len(evaluation.scanners):
    first = evaluation.scanners.iloc[0]
    blocks.append(
        f'{first["subjects"]} people on several of {first["scanners"]} scanners: shares of the '
        'variance, and the scanner named\n' + _aligned(
            [('', 'person', 'scanner', 'rest', 'balanced accuracy (chance)', '95 % interval')]
            + [(row.features, *(f'{share:.2f}' for share in (row.person, row.scanner, row.rest)),
                f'{shown(row.balanced_accuracy)} ({shown(row.chance)})',
                f'{shown(row.low)} to {shown(row.high)}')
               for row in evaluation.scanners.itertuples()]))
  if evaluation.trained_on_synthetic:
    blocks.insert(0, f'trained on SYNTHETIC subjects: {", ".join(evaluation.trained_on_synthetic)}')
  if evaluation.synthetic:
    blocks.insert(0, 'SYNTHETIC subjects: figures say that the path works, nothing about people')
  return '\n\n'.join(blocks)


def _benchmark(table: pandas.DataFrame) -> str:
  """BrainFMBench's scores of people held out, mean and deviation over its seeds."""
  rows = [('', 'task', 'score, SD over seeds', 'ROC-AUC or R2')]
  for row in table.to_dict('records'):
    main, more = ('acc', 'auc') if row['test_acc_mean'] == row['test_acc_mean'] else ('mae', 'r2')
    rows.append((row['model'], row['task'], *(
        f'{shown(row[f"test_{metric}_mean"])} ± {shown(row[f"test_{metric}_std"])}'
        for metric in (main, more))))
  return f'BrainFMBench: balanced accuracy or MAE of people held out\n{_aligned(rows)}'


def _block(outcomes: list[Outcome]) -> str:
  first = outcomes[0]
  metrics = list(METRICS[first.task.kind])
  metrics = [first.task.main_metric] + [m for m in metrics if m != first.task.main_metric]
  unit = f' ({first.task.unit})' if first.task.unit else ''
  people = len(set(first.participant_id))
  scans = f', {len(first.truth)} scans' if len(first.truth) != people else ''
  counts = class_counts(first)
  folds = len(first.fold_scores[metrics[0]])
  title = (f'{first.task.name}: {people} people{scans} predicted'
           + (f' ({counts})' if counts else '') + (f' in {folds} folds' if folds > 1 else ''))
  rows = [('', f'{METRIC_NAMES.get(metrics[0], metrics[0])}{unit}', '95 % interval',
           *(METRIC_NAMES.get(metric, metric) for metric in metrics[1:]))]
  for label, outcome in zip(row_names(outcomes), outcomes):
    low, high = outcome.interval[metrics[0]]
    rows.append((label, shown(score_and_sd(outcome, metrics[0])[0]),
                 f'{shown(low)} to {shown(high)}',
                 *(shown(score_and_sd(outcome, metric)[0]) for metric in metrics[1:])))
  return f'{title}\n{_aligned(rows)}'


def _against_untrained(evaluation: Evaluation, outcome: Outcome) -> str:
  """Whether the corrected t test tells each encoder from untrained, and adds to covariates."""
  rows = evaluation.comparisons
  plain = (rows['against'] == UNTRAINED) & ~rows['features'].map(is_derived).astype(bool)
  beside = (rows['against'] == COVARIATES) & rows['features'].str.startswith(BESIDE)
  rows = rows[(rows['task'] == outcome.task.name) & (plain | beside)]
  several = rows['estimator'].nunique() > 1
  return ''.join(
      f'\n  {row.features}{f", {row.estimator}" if several else ""}: '
      + ('not told apart from' if not row.p < 0.05 else
         'better than' if row.difference > 0 else 'worse than')
      + f' {row.against}, by {shown(row.difference)} ({shown(row.low)} to {shown(row.high)}), '
        f'p {shown_p(row.p)}, after Holm {shown_p(row.p_holm).removeprefix("= ")}'
      for row in rows.itertuples())


def _gaps(evaluation: Evaluation, task: str) -> str:
  """A line for each encoder and group: the brain-age gap against the healthy, corrected and raw."""
  rows = evaluation.gap_groups
  rows = rows[(rows['task'] == task) & np.isfinite(rows['d'])] if len(rows) else rows
  lines = []
  for (name, estimator, group), own in rows.groupby(['features', 'estimator', 'group'], sort=False
                                                    ) if len(rows) else ():
    if len(own) == 2 and not is_baseline(name):
      raw, row = own.itertuples()
      lines.append(
          f'\n  {name}{f", {estimator}" if rows["estimator"].nunique() > 2 else ""}: the gap of '
          f'{row.n} {group} is {shown(row.difference)} {row.unit} ({shown(row.low)} to '
          f'{shown(row.high)}) above that of {row.n_against} {row.against}, d {shown(row.d)}; '
          f'raw {shown(raw.difference)}')
  return ''.join(lines)


def shown(value: float) -> str:
  """A figure with two decimals, three below 1, none from 1,000; a dash for NaN."""
  size = abs(value)
  return ('-' if np.isnan(value) else f'{value:,.0f}' if size >= 1000 else
          f'{value:.2f}' if size >= 1 else f'{value:.3f}')


def shown_p(value: float) -> str:
  """`= 0.012`, or `< 0.001`: of a test on few people the tail is no finer."""
  return 'n/a' if np.isnan(value) else '< 0.001' if value < 0.001 else f'= {value:.3f}'


def _aligned(rows: list[tuple[str, ...]]) -> str:
  widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
  return '\n'.join('  ' + '  '.join(
      text.ljust(width) if column == 0 else text.rjust(width)
      for column, (text, width) in enumerate(zip(row, widths))).rstrip() for row in rows)
