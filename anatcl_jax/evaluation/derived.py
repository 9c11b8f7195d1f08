"""Rows made of others: features that are harmonised, and features beside covariates."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import harmonization
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.columns import Columns
from anatcl_jax.evaluation.combat import PASS, ComBat
from anatcl_jax.evaluation.estimators import MEAN
from anatcl_jax.evaluation.evaluate import Protocol, Settings
from anatcl_jax.evaluation.harmonization import Coding
from anatcl_jax.evaluation.representations import Variants
from anatcl_jax.evaluation.results import (
  BESIDE,
  COVARIATES,
  HARMONISED,
  MORPHOMETRY,
  is_baseline,
  is_derived,
)
from anatcl_jax.evaluation.rows import in_order

_SITE = 'site'


def names(found: Iterable[str], protocol: Protocol, cohort: Cohort, settings: Settings,
          leakage: bool) -> dict[str, str]:
  """Derived rows that a task has, by name, and the row that each is made of."""
  return _names(found, _needed(protocol, cohort, settings, leakage)[0] is not None, leakage)


def rows(found: dict[str, Variants], protocol: Protocol, cohort: Cohort, settings: Settings,
         leakage: bool) -> tuple[dict[str, Variants], list[str]]:
  """All rows of a task's scans, in the order of tables, and notes.

  Of a representation with several variants the first is used.

  Args:
    leakage: the task is how much features know of all sites: what is harmonised is asked there
      alone, since the site must be known for it.
  """
  beside, notes = _needed(protocol, cohort, settings, leakage)
  made = {}
  for name, source in _names(found, beside is not None, leakage).items():
    features = found[source][0]
    if name.startswith(BESIDE):
      covariates = found[COVARIATES][0]
      made[name] = (Columns(_side_by_side(features, covariates), None, covariates.shape[1]),)
    else:
      coding, numbers = beside
      made[name] = (Columns(with_sites(features, numbers),
                            ComBat(coding.kept, settings.harmonization.unseen), coding=coding),)
  every = found | made
  return {name: every[name] for name in in_order(every)}, notes


def with_sites(features: np.ndarray, numbers: np.ndarray) -> np.ndarray:
  """Features [n, F] and what the harmoniser needs of each scan, as ComBat takes them, float64."""
  return np.concatenate([features.astype(np.float64), numbers], 1)


def for_left_out(found: dict[str, Variants], settings: Settings) -> dict[str, Variants]:
  """What predicts a site that nobody was fitted on: unharmonised, unless such sites are passed."""
  passed = settings.harmonization and settings.harmonization.unseen == PASS
  return {name: own for name, own in found.items()
          if not is_derived(name) or passed and name.endswith(HARMONISED)}


def _names(found: Iterable[str], harmonised: bool, leakage: bool) -> dict[str, str]:
  every = list(found)
  own = [name for name in every if name not in (COVARIATES, MEAN)]
  made = {name + HARMONISED: name for name in own if harmonised}
  if COVARIATES in every and not leakage:
    made |= {BESIDE + name: name for name in own if not is_baseline(name) or name == MORPHOMETRY}
  return made


def _needed(protocol: Protocol, cohort: Cohort, settings: Settings,
            leakage: bool) -> tuple[tuple[Coding, np.ndarray] | None, list[str]]:
  """What harmonisation needs beside features; None where it is not asked for, or can't be done."""
  wanted, task = settings.harmonization, protocol.target.task
  if wanted is None or not leakage and task.column in (wanted.column, _SITE):
    return None, []
  try:
    coding, numbers, notes = harmonization.columns_of(wanted, protocol.target, protocol.splits,
                                                      cohort.table)
    return (coding, numbers), notes
  except UserError as error:
    return None, [str(error)]


def _side_by_side(features: np.ndarray, last: np.ndarray) -> np.ndarray:
  return np.concatenate([features, last.astype(features.dtype)], 1)
