"""A probe that is fitted, as plain arrays: what it predicts is the same to the last bit anywhere.

scikit-learn fits; these arrays predict. A row's prediction hangs on nothing but the row: BLAS sums
in another order when other rows stand beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from anatcl_jax.evaluation.combat import ComBat
from anatcl_jax.evaluation.harmonization import Coding

_WEIGHTS, _BIAS = 'weights', 'bias'


@dataclasses.dataclass(frozen=True)
class FittedProbe:
  """Imputation, standardisation and layers; shapes: F features, C classes that it was fitted on.

  `arrays`: impute [F] for NaN, mean [F], scale [F]; weights0 [F, H], bias0 [H], ... with a ReLU
  between layers, the last with one column, or one a class of more than two; of a regression also
  target [2], what its output is multiplied by and what is added; of a brain age correction [2], the
  slope and intercept of predicted age over age. Of a classification, codes [C] are those of its
  columns, and `softmax` says what makes probabilities of more than two. Of harmonised features, x
  is what the harmonizer takes: features, then the numbers that `coding` makes of a table.
  """

  arrays: dict[str, np.ndarray]
  softmax: bool = False
  harmonizer: ComBat | None = None
  coding: Coding | None = None

  def knows(self, sites: np.ndarray) -> np.ndarray:
    """Whether the codes of sites [n] are of those that the harmonizer was fitted on."""
    return np.isin(sites, self.harmonizer.sites_)

  @property
  def classification(self) -> bool:
    return 'codes' in self.arrays

  @property
  def correction(self) -> tuple[float, float] | None:
    """Slope and intercept of predicted age over age."""
    found = self.arrays.get('correction')
    return None if found is None else (float(found[0]), float(found[1]))

  def with_correction(self, slope: float, intercept: float) -> FittedProbe:
    return dataclasses.replace(
        self, arrays=self.arrays | {'correction': np.array([slope, intercept])})

  def predict(self, x: np.ndarray) -> np.ndarray:
    """Numbers [n], or codes of classes, of features [n, F]."""
    output = self._output(x)
    if not self.classification:
      return output[:, 0]
    place = output[:, 0] > 0 if output.shape[1] == 1 else output.argmax(1)
    return self.arrays['codes'][place.astype(int)]

  def probability(self, x: np.ndarray, classes: int) -> np.ndarray:
    """[n, classes] of all classes; of the svm, scores that rise with it."""
    output = self._output(x)
    if output.shape[1] == 1:
      scores = scipy.special.expit(np.concatenate([-output, output], 1))
    else:
      scores = scipy.special.softmax(output, 1) if self.softmax else scipy.special.expit(output)
    every = np.zeros((len(x), classes))
    every[:, self.arrays['codes']] = scores
    return every

  def _output(self, x: np.ndarray) -> np.ndarray:
    x = x if self.harmonizer is None else self.harmonizer.transform(x)
    values = np.ascontiguousarray(x, np.float64)
    values = np.where(np.isnan(values), self.arrays['impute'], values)
    values = (values - self.arrays['mean']) / self.arrays['scale']
    last = sum(name.startswith(_WEIGHTS) for name in self.arrays) - 1
    for layer in range(last + 1):
      columns = np.ascontiguousarray(self.arrays[f'{_WEIGHTS}{layer}'].T)
      values = np.stack([(values * column).sum(1) for column in columns], 1)
      values = values + self.arrays[f'{_BIAS}{layer}']
      values = np.maximum(values, 0) if layer < last else values
    if 'target' in self.arrays:
      values = values * self.arrays['target'][0] + self.arrays['target'][1]
    return values


def of_pipeline(pipeline: Pipeline, classification: bool) -> FittedProbe:
  """The arrays of a pipeline that `estimators.pipeline` made, fitted."""
  scaler = pipeline['scale']
  # Nobody who was fitted on lacked a value: the mean is what would have stood there.
  missing = (np.nan_to_num(pipeline['impute'].statistics_) if 'impute' in pipeline.named_steps
             else scaler.mean_)
  arrays: dict[str, Any] = {'impute': missing, 'mean': scaler.mean_, 'scale': scaler.scale_}
  model = pipeline['model']
  if isinstance(model, TransformedTargetRegressor):
    arrays['target'] = np.array([model.transformer_.scale_[0], model.transformer_.mean_[0]])
    model = model.regressor_
  if hasattr(model, 'coefs_'):
    layers = list(zip(model.coefs_, model.intercepts_))
  else:
    weights = np.atleast_2d(model.coef_)
    layers = [(weights.T, np.broadcast_to(model.intercept_, len(weights)))]
  for place, (weights, bias) in enumerate(layers):
    arrays |= {f'{_WEIGHTS}{place}': weights, f'{_BIAS}{place}': bias}
  if classification:
    arrays['codes'] = model.classes_
  # The svm has one score a class, each against the rest.
  return FittedProbe({name: np.array(values, np.int64 if name == 'codes' else np.float64)
                      for name, values in arrays.items()},
                     softmax=hasattr(model, 'predict_proba'))


def mean(values: Sequence[np.ndarray]) -> np.ndarray:
  """The mean of arrays of one shape, summed in their order whatever their length."""
  return functools.reduce(operator.add, values) / len(values)
