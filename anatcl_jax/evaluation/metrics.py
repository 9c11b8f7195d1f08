"""How good predictions are: scikit-learn's metrics, and the same of many resamples at once.

Shapes: n scans, C classes, B resamples.
"""

from __future__ import annotations

import numpy as np
import sklearn.metrics

from anatcl_jax.evaluation.tasks import Target


def score(target: Target, prediction: np.ndarray,
          probability: np.ndarray | None) -> dict[str, float]:
  """Each metric of the predictions [n] of a target's scans, NaN where it is not defined.

  With more than two classes, ROC-AUC and average precision are the mean over classes of one against
  the rest. `probability` [n, C] may be any scores that rise with it.
  """
  truth = target.values
  if not target.classes:
    spread = min(np.ptp(truth), np.ptp(prediction)) > 0
    return {'mae': float(sklearn.metrics.mean_absolute_error(truth, prediction)),
            'r2': float(sklearn.metrics.r2_score(truth, prediction)) if np.ptp(truth) else np.nan,
            'pearson_r': float(np.corrcoef(truth, prediction)[0, 1]) if spread else np.nan}
  # Of the classes that are there: a fold may lack one.
  recalls = [np.mean(prediction[truth == code] == code) for code in np.unique(truth)]
  areas, precisions = [], []
  for code in _scored_classes(len(target.classes)):
    if 0 < np.sum(truth == code) < len(truth):
      areas.append(sklearn.metrics.roc_auc_score(truth == code, probability[:, code]))
      precisions.append(
          sklearn.metrics.average_precision_score(truth == code, probability[:, code]))
  return {'balanced_accuracy': float(np.mean(recalls)),
          'roc_auc': float(np.mean(areas)) if areas else np.nan,
          'average_precision': float(np.mean(precisions)) if areas else np.nan}


def resampled_scores(target: Target, prediction: np.ndarray, probability: np.ndarray | None,
                     weights: np.ndarray) -> dict[str, np.ndarray]:
  """`score` of B resamples, [B] each: weights[B, n] says how often a scan is in each of them."""
  truth, total = target.values, weights.sum(1)
  with np.errstate(divide='ignore', invalid='ignore'):
    if not target.classes:
      return _resampled_regression(truth, prediction, weights / total[:, None])
    recalls, areas, precisions = [], [], []
    for code in range(len(target.classes)):
      members = weights @ (truth == code)
      recalls.append((weights @ ((truth == code) & (prediction == code))) / members)
      if code in _scored_classes(len(target.classes)):
        area, precision = _ranked(truth == code, probability[:, code], weights)
        areas.append(area)
        precisions.append(precision)
  return {'balanced_accuracy': mean_of_known(recalls), 'roc_auc': mean_of_known(areas),
          'average_precision': mean_of_known(precisions)}


def _scored_classes(classes: int) -> range:
  return range(1, 2) if classes == 2 else range(classes)


def mean_of_known(values: list[np.ndarray]) -> np.ndarray:
  """The mean over the first axis, passing over NaN; NaN where nothing else is there."""
  values = np.stack(values)
  known = np.isfinite(values)
  with np.errstate(invalid='ignore'):
    return np.where(known, values, 0).sum(0) / known.sum(0)


def _resampled_regression(truth, prediction, share) -> dict[str, np.ndarray]:
  mean, mean_prediction = share @ truth, share @ prediction
  variance = share @ truth**2 - mean**2
  variance_prediction = share @ prediction**2 - mean_prediction**2
  covariance = share @ (truth * prediction) - mean * mean_prediction
  # A constant prediction has a variance of rounding errors alone.
  constant = np.ptp(prediction) == 0
  return {'mae': share @ np.abs(truth - prediction),
          'r2': 1 - share @ (truth - prediction)**2 / variance,
          'pearson_r': np.full(len(share), np.nan) if constant
                       else covariance / np.sqrt(variance * variance_prediction)}


def _ranked(positive: np.ndarray, values: np.ndarray,
            weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Area under the ROC curve and average precision a resample, [B]; ties share a threshold."""
  order = np.argsort(-values, kind='stable')
  ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
  weights, positive = weights[:, order], positive[order]
  hits = np.cumsum(weights * positive, 1)[:, ends]
  false = np.cumsum(weights * ~positive, 1)[:, ends]
  gained = np.diff(hits, axis=1, prepend=0)
  precision = np.where(gained > 0, hits / (hits + false), 0)
  area = (np.diff(false, axis=1, prepend=0) * (hits - gained / 2)).sum(1)
  return area / (hits[:, -1] * false[:, -1]), (gained * precision).sum(1) / hits[:, -1]
