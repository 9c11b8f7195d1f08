"""What is predicted, as data: a task is a column of the labels and how to score its prediction."""

from __future__ import annotations

import dataclasses

REGRESSION, CLASSIFICATION = 'regression', 'classification'


@dataclasses.dataclass(frozen=True)
class Task:
  """One thing to predict from frozen features.

  Without `positive` a classification is among all values of the column; with it, the values of
  `positive` stand against those of `control`, named by `classes`, and other rows are left out.
  """

  name: str
  column: str
  kind: str                               # REGRESSION or CLASSIFICATION
  positive: tuple[str, ...] = ()          # values of the column, compared without regard to case
  control: tuple[str, ...] = ()
  classes: tuple[str, str] = ()           # names of control and positive, in this order
  covariates: tuple[str, ...] = ('age', 'sex', 'tiv')
  groups: str = 'participant_id'          # rows with equal values never fall on both sides
  metric: str = ''                        # the main one; '' is the kind's own
  unit: str = ''

  @property
  def main_metric(self) -> str:
    return self.metric or ('mae' if self.kind == REGRESSION else 'balanced_accuracy')
