"""Representations of several kinds of columns: features to be harmonised, or beside covariates."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.base import clone
from sklearn.impute import SimpleImputer

from anatcl_jax.evaluation.harmonization import ComBat


@dataclasses.dataclass(frozen=True)
class Columns:
  """Values [n, F + C], of which the last C are covariates or what the harmoniser needs."""

  values: np.ndarray
  harmonizer: ComBat | None = None       # not fitted; it takes the last columns away
  covariates: int = 0                    # how many stand last beside the features

  def __len__(self) -> int:
    return len(self.values)

  def __getitem__(self, rows: np.ndarray) -> Columns:
    return dataclasses.replace(self, values=self.values[rows])

  def prepared(self, fit: np.ndarray) -> np.ndarray:
    """What a probe is fitted on and predicts from, [n, F']: harmonised as learned of rows `fit`."""
    if self.harmonizer is None:
      return self.values
    values = self.values
    if np.isnan(values).any():
      values = SimpleImputer(keep_empty_features=True).fit(values[fit]).transform(values)
    return clone(self.harmonizer).fit(values[fit]).transform(values)
