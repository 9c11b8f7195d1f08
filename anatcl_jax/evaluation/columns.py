"""Representations of several kinds of columns: features to be harmonised, or beside covariates."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.base import clone

from anatcl_jax.evaluation.combat import ComBat
from anatcl_jax.evaluation.harmonization import Coding


@dataclasses.dataclass(frozen=True)
class Columns:
  """Values [n, F + C], of which the last C are covariates or what the harmoniser needs."""

  values: np.ndarray
  harmonizer: ComBat | None = None       # not fitted; it takes the last columns away
  covariates: int = 0                    # how many stand last beside the features
  coding: Coding | None = None           # of the harmonizer's columns

  def __len__(self) -> int:
    return len(self.values)

  def __getitem__(self, rows: np.ndarray) -> Columns:
    return dataclasses.replace(self, values=self.values[rows])

  def prepared(self, fit: np.ndarray) -> tuple[np.ndarray, ComBat | None]:
    """What a probe is fitted on and predicts from, [n, F'], and what harmonised it.

    It is learned of rows `fit`.
    """
    if self.harmonizer is None:
      return self.values, None
    harmonizer = clone(self.harmonizer).fit(self.values[fit])
    return harmonizer.transform(self.values), harmonizer
