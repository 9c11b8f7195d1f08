"""What a probe is fitted on: an encoder's features, and the baselines beside them."""

from __future__ import annotations

import numpy as np
import pandas

from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.columns import Columns
from anatcl_jax.evaluation.estimators import MEAN
from anatcl_jax.evaluation.harmonization import coded
from anatcl_jax.evaluation.results import COVARIATES, MORPHOMETRY
from anatcl_jax.evaluation.rows import in_order
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import Task

# A representation of all scans: [n, F], or several of them that differ by a seed.
Variants = tuple[np.ndarray | Columns, ...]


def inputs(target: Target, cohort: Cohort, encoders: dict[str, Variants]) -> dict[str, Variants]:
  """Every representation of a target's scans, by name, in the order of tables.

  Encoders hold all scans of the cohort, each as one array, or as several drawn by seeds. No
  baseline holds what is to be predicted.
  """
  found = dict(encoders)
  if (values := morphometry(target.task, cohort)) is not None:
    found[MORPHOMETRY] = (values,)
  if (values := covariates(target.task, cohort.table)) is not None:
    found[COVARIATES] = (values,)
  found[MEAN] = (np.zeros((len(cohort.table), 1)),)
  return {name: tuple(values[target.rows] for values in found[name])
          for name in in_order(found)}


def morphometry(task: Task, cohort: Cohort) -> np.ndarray | None:
  """Every measure of every region, [n, R x M]; of a region to be predicted, none.

  Thickness, area and volume of a region say nearly everything of each other. Scans without a value
  have NaN.
  """
  if cohort.morphometry is None:
    return None
  measure, _, region = task.column.partition(':')
  values = cohort.morphometry
  if measure in cohort.measures and region in cohort.regions:
    values = np.delete(values, cohort.regions.index(region), axis=1)
  return values.reshape(len(values), -1).astype(np.float64)


def covariates(task: Task, table: pandas.DataFrame) -> np.ndarray | None:
  """The task's covariates that the table has, but never the task's own column, [n, C].

  Numbers as they are; of text, a column of 0 and 1 for each value but the first. NaN is missing.
  """
  by_name = {str(name).lower(): name for name in table.columns}
  names = tuple(by_name[wanted.lower()] for wanted in task.covariates if wanted.lower() in by_name)
  values = coded(table, tuple(name for name in names if name != task.column))
  return values if values.shape[1] else None
