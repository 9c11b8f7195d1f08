"""Which scans are fitted on and which are predicted: no person ever stands on both sides."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation.tasks import Target, class_sizes

Split = tuple[np.ndarray, np.ndarray]     # positions to fit on, positions to predict

_BINS = 5     # of a regression's values, for folds that are alike


def strata(target: Target) -> np.ndarray:
  """What folds have in like shares: classes, or fifths of the values of a regression."""
  if target.classes:
    return target.values.astype(int)
  edges = np.quantile(target.values, np.linspace(0, 1, _BINS + 1)[1:-1])
  return np.searchsorted(edges, target.values)


def grouped_folds(target: Target, folds: int, seed: int) -> list[Split]:
  """Folds for cross-validation, by group and stratified; fewer where a class has fewer people.

  Raises:
    UserError: not even two folds can be made.
  """
  people = [size for size in class_sizes(target) if size] or [len(set(target.groups))]
  folds = min([folds, *people])
  if folds < 2 or target.classes and len(people) < 2:
    raise UserError(f'task {target.task.name}: too few people for two folds')
  splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
  zeros = np.zeros(len(target.rows))
  return [check_apart(target.groups, split)
          for split in splitter.split(zeros, strata(target), target.groups)]


def seen_and_unseen(target: Target, seen: np.ndarray) -> list[Split]:
  """One split: fitted on the scans of people seen in pretraining, tested on all others.

  Raises:
    UserError: one side is empty, or lacks a class.
  """
  split = np.flatnonzero(seen[target.rows]), np.flatnonzero(~seen[target.rows])
  if target.classes:     # a site that one side lacks can't be learned, or not be tested
    shared = set(target.values[split[0]]) & set(target.values[split[1]])
    split = tuple(side[np.isin(target.values[side], list(shared))] for side in split)
  if min(map(len, split)) < 2 or target.classes and len(shared) < 2:
    raise UserError(f'task {target.task.name}: too few of the scans trained on, or of those held '
                    'out in pretraining, have a value; try --config.protocol=cross_validation')
  return [check_apart(target.groups, split)]


def check_apart(groups: np.ndarray, split: Split) -> Split:
  """The split itself; raises UserError where someone stands on both of its sides."""
  both = set(groups[split[0]]) & set(groups[split[1]])
  if both:
    raise UserError(f'{min(both)} has scans on both sides of a split')
  return split
