"""Which scans are fitted on and which are predicted: no person ever stands on both sides."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation.target import Target, class_sizes

Split = tuple[np.ndarray, np.ndarray]     # positions to fit on, positions to predict

_BINS = 5     # of a regression's values, for folds that are alike


def strata(target: Target, folds: int) -> np.ndarray:
  """What folds have in like shares: classes, or fifths of the values of a regression.

  Of few people the shares are larger, so that each has someone for every fold.
  """
  if target.classes:
    return target.values.astype(int)
  bins = max(1, min(_BINS, len(set(target.groups)) // folds))
  edges = np.quantile(target.values, np.linspace(0, 1, bins + 1)[1:-1])
  return np.searchsorted(edges, target.values)


def grouped_folds(target: Target, folds: int, seed: int) -> list[Split]:
  """Folds for cross-validation, by group and stratified; fewer where a class has fewer people.

  Each fold has someone to predict and, of a classification, two classes to fit on.

  Raises:
    UserError: not even two folds can be made.
  """
  people = [size for size in class_sizes(target) if size] or [len(set(target.groups))]
  if not target.classes or len(people) > 1:
    zeros = np.zeros(len(target.rows))
    for count in range(min([folds, *people]), 1, -1):
      splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
      found = list(splitter.split(zeros, strata(target, count), target.groups))
      if all(_can_be_done(target, split) for split in found):
        return [check_apart(target.groups, split) for split in found]
  raise UserError(f'task {target.task.name}: too few people for two folds')


def _can_be_done(target: Target, split: Split) -> bool:
  fit, test = split
  return len(test) > 0 and len(fit) > 0 and (
      not target.classes or len(np.unique(target.values[fit])) > 1)


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
