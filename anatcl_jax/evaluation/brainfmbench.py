"""BrainFMBench's protocol: random forests over seeds and shares of the people fitted on.

As eval/scorer.py of github.com/arokem/BrainFMBench has it (2026): a tenth of the people is held out
by each seed; of the others five folds choose nothing but tell how scores grow with the share of the
people fitted on; scores are of forests fitted on all of them. Deviations are over seeds, without a
correction, and are no intervals: people are held out by several seeds.
"""

from __future__ import annotations

import dataclasses
import pathlib

import joblib
import numpy as np
import pandas
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.metrics import (
  balanced_accuracy_score,
  mean_absolute_error,
  r2_score,
  roc_auc_score,
)
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.estimators import MEAN
from anatcl_jax.evaluation.representations import Variants, inputs
from anatcl_jax.evaluation.target import Target, read_target
from anatcl_jax.evaluation.tasks import CLASSIFICATION, REGRESSION, Task

NAME = 'brainfmbench'
SEEDS = (0, 1, 2, 3, 42)
FRACTIONS = (0.01, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0)
FOREST = {'n_estimators': 200, 'max_depth': 6, 'min_samples_split': 5}
_HELD_OUT, _FOLDS = 0.1, 5
_METRICS = {True: ('acc', 'auc'), False: ('mae', 'r2')}     # of classes, and of numbers
SCORES = ('dataset', 'task', 'model',
          *(f'test_{metric}_{kind}' for metric in ('acc', 'auc', 'mae', 'r2')
            for kind in ('mean', 'std')),
          'best_alpha', *(f'cv_{metric}_{kind}' for metric in ('acc', 'mae')
                          for kind in ('mean', 'std')), 'n', 'dimensions')
VALUES = ('dataset', 'task', 'model', 'seed', 'side', 'fold', 'alpha', 'fitted', 'metric', 'value')


@dataclasses.dataclass(frozen=True)
class _Fit:
  """A forest fitted on the people at `fit`, and where `test` stands in the protocol."""

  seed: int
  side: str            # cv or test
  fold: int            # -1 of test
  fraction: float
  fit: np.ndarray
  test: np.ndarray


def run(cohort: Cohort, encoders: dict[str, Variants], tasks: dict[str, tuple[Task, bool]],
        fewest: int, jobs: int) -> tuple[dict[str, pandas.DataFrame], list[str]]:
  """Tables by the names of their CSV files, and notes of what the protocol can't do.

  `brainfmbench.csv` has SCORES, `brainfmbench_values.csv` VALUES, and `brainfmbench-NAME.csv` the
  features of each encoder as a submission has them. Nobody seen in pretraining takes part, and of
  everybody the first scan.
  """
  one_each, notes = _one_scan_each(cohort)
  encoders = {name: (own[0][one_each],) for name, own in encoders.items()}
  cohort = cohort.select(one_each)
  dataset = pathlib.Path(cohort.source).stem
  scores, values = [], []
  for name, (task, _) in tasks.items():
    try:
      target = read_target(task, cohort.table, fewest)
      if task.kind not in (REGRESSION, CLASSIFICATION) or len(target.classes) > 2:
        raise UserError(f'{name}: BrainFMBench has numbers and two classes alone')
      fits = _fits(target)
    except UserError as error:
      notes.append(f'not done for BrainFMBench: {error}')
      continue
    for model, (x,) in inputs(target, cohort, encoders).items():
      if model == MEAN:
        continue
      x = np.asarray(x, np.float64)
      found = joblib.Parallel(jobs)(joblib.delayed(_score)(one, x, target.values,
                                                           bool(target.classes)) for one in fits)
      scores.append(_row(found, bool(target.classes)) | {
          'dataset': dataset, 'task': name, 'model': model, 'n': len(target.rows),
          'dimensions': x.shape[1]})
      values += [(dataset, name, model, one.seed, one.side, one.fold, one.fraction, len(one.fit),
                  metric, value) for one, own in found for metric, value in own.items()]
  if not scores:
    return {}, notes
  tables = {f'{NAME}.csv': pandas.DataFrame(scores, columns=SCORES),
            f'{NAME}_values.csv': pandas.DataFrame(values, columns=VALUES)}
  subjects = cohort.table['participant_id'].str.removeprefix('sub-')
  for name, (x,) in encoders.items():
    table = pandas.DataFrame(x, columns=[f'f{column}' for column in range(x.shape[1])])
    table.insert(0, 'subject_id', subjects.to_numpy())
    tables[f'{NAME}-{"".join(c if c.isalnum() else "-" for c in name)}.csv'] = table
  return tables, notes


def _one_scan_each(cohort: Cohort) -> tuple[np.ndarray, list[str]]:
  """The first scan of everybody not seen in pretraining, in the order of names, and notes.

  The protocol splits places in this order.
  """
  table = cohort.table[['participant_id', 'session']].assign(row=range(len(cohort.table)))
  unseen = table[~cohort.seen].sort_values(['participant_id', 'session'], kind='stable')
  first = unseen.drop_duplicates('participant_id')
  notes = [f'BrainFMBench: {count} {why} take no part' for count, why in (
      (int(cohort.seen.sum()), 'scans of people seen in pretraining'),
      (len(unseen) - len(first), 'further scans of the same people')) if count]
  return first['row'].to_numpy(), notes


def _fits(target: Target) -> list[_Fit]:
  """All forests of a task; UserError where it has too few people for the splits."""
  y, people, found = target.values, np.arange(len(target.values)), []
  classes = bool(target.classes)
  try:
    for seed in SEEDS:
      def part(rows, size, key, seed=seed):
        return train_test_split(rows, **{key: size}, stratify=y[rows] if classes else None,
                                random_state=seed)
      fitted, held_out = part(people, int(_HELD_OUT * len(y)), 'test_size')
      folds = (StratifiedKFold if classes else KFold)(_FOLDS, shuffle=True, random_state=seed)
      for number, (rows, test) in enumerate(folds.split(fitted, y[fitted])):
        rows, test = fitted[rows], fitted[test]
        for fraction in FRACTIONS:
          size = int(fraction * len(rows))
          if size < 2:       # one person teaches nothing, nor can both classes be drawn
            continue
          drawn = rows if size >= len(rows) else part(rows, size, 'train_size')[0]
          if not classes or len(set(y[drawn])) > 1:
            found.append(_Fit(seed, 'cv', number, fraction, drawn, test))
      found.append(_Fit(seed, 'test', -1, 1.0, fitted, held_out))
  except ValueError as error:
    raise UserError(f'{target.task.name}: {" ".join(str(error).split())}') from None
  return found


def _score(one: _Fit, x: np.ndarray, y: np.ndarray,
           classes: bool) -> tuple[_Fit, dict[str, float]]:
  forest = (RandomForestClassifier(**FOREST, max_features='sqrt', class_weight='balanced',
                                   random_state=one.seed) if classes
            else RandomForestRegressor(**FOREST, random_state=one.seed))
  steps = [SimpleImputer(keep_empty_features=True)] if np.isnan(x).any() else []
  model = make_pipeline(*steps, StandardScaler(), forest)
  truth = y.astype(int) if classes else y
  model.fit(x[one.fit], truth[one.fit])
  predicted = model.predict(x[one.test])
  if classes:
    return one, {'acc': balanced_accuracy_score(truth[one.test], predicted),
                 'auc': roc_auc_score(truth[one.test], model.predict_proba(x[one.test])[:, 1])}
  return one, {'mae': mean_absolute_error(truth[one.test], predicted),
               'r2': r2_score(truth[one.test], predicted)}


def _row(found: list[tuple[_Fit, dict[str, float]]], classes: bool) -> dict[str, float]:
  """Means and deviations over seeds, and of the share whose folds are best on average."""
  main, row = _METRICS[classes][0], {}
  for metric in _METRICS[classes]:
    own = [values[metric] for one, values in found if one.side == 'test']
    row |= {f'test_{metric}_mean': np.mean(own), f'test_{metric}_std': np.std(own)}
  by_fraction = {fraction: [values[main] for one, values in found
                            if one.side == 'cv' and one.fraction == fraction]
                 for fraction in FRACTIONS}
  means = {fraction: np.mean(own) for fraction, own in by_fraction.items() if own}
  best = (max if classes else min)(means, key=means.get)
  return row | {'best_alpha': best, f'cv_{main}_mean': means[best],
                f'cv_{main}_std': np.std(by_fraction[best])}
