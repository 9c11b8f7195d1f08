"""How good predictions are: scikit-learn's metrics, and the same of several folds together.

Shapes: n scans, C classes, B ways of weighting the scans.
"""

from __future__ import annotations

import numpy as np
import sklearn.metrics

from anatcl_jax.evaluation.target import Target

RANGES = {'mae': (0, np.inf), 'r2': (-np.inf, 1), 'pearson_r': (-1, 1),
          'balanced_accuracy': (0, 1), 'roc_auc': (0, 1), 'average_precision': (0, 1)}


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


def sums(target: Target, prediction: np.ndarray, probability: np.ndarray | None,
         weights: np.ndarray) -> np.ndarray:
  """What the metrics of several folds are made of, of a fold's n scans weighted B ways, [B, S].

  Sums of folds add up; `pooled` makes metrics of them.
  """
  if not target.classes:
    return _sums_of_regression(target.values, prediction, weights)
  columns = []
  for code in range(len(target.classes)):
    own = target.values == code
    columns += [weights @ own, weights @ (own & (prediction == code))]
    if code in _scored_classes(len(target.classes)):
      columns += _ranked(own, probability[:, code], weights)
  return np.stack(columns, 1)


def pooled(totals: np.ndarray, classes: int) -> dict[str, np.ndarray]:
  """Metrics of all folds together, [B], from their added sums [B, S]; NaN where not defined.

  MAE, R2 and the recall of each class are of all scans. Folds have probes of their own, whose
  predictions have no common scale: r is of values centred in their fold, ROC-AUC of pairs within a
  fold, and average precision the mean over folds, weighted by their positive scans. Of one fold all
  are what `score` gives. `classes` is 0 for a regression.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    if not classes:
      count, absolute, squared, truth, truth2, varied, predicted, together = totals.T
      return {'mae': absolute / count, 'r2': 1 - squared / _varies(truth2 - truth**2 / count),
              'pearson_r': together / np.sqrt(_varies(varied) * _varies(predicted))}
    columns, recalls, areas, precisions = iter(totals.T), [], [], []
    for code in range(classes):
      members, hits = next(columns), next(columns)
      recalls.append(hits / members)
      if code in _scored_classes(classes):
        ordered, pairs, precision, positive = (next(columns) for _ in range(4))
        areas.append(ordered / pairs)
        precisions.append(precision / positive)
  return {'balanced_accuracy': _mean_of_known(recalls), 'roc_auc': _mean_of_known(areas),
          'average_precision': _mean_of_known(precisions)}


def _scored_classes(classes: int) -> range:
  return range(1, 2) if classes == 2 else range(classes)


def _mean_of_known(values: list[np.ndarray]) -> np.ndarray:
  """Over what is known of all scans (the first row); NaN where a row lacks one of these."""
  values = np.stack(values, 1)
  known = values[:, np.isfinite(values[0])]
  return known.mean(1) if known.shape[1] else np.full(len(values), np.nan)


def _varies(variance: np.ndarray) -> np.ndarray:
  return np.where(variance > 0, variance, np.nan)


def _sums_of_regression(truth, prediction, weights) -> np.ndarray:
  count = weights.sum(1)
  # About a value of the fold itself, so that a constant has no variance of rounding errors.
  a, b = truth - truth[0], prediction - prediction[0]
  with np.errstate(divide='ignore', invalid='ignore'):
    centred = [weights @ (one * other) - (weights @ one) * (weights @ other) / count
               for one, other in ((a, a), (b, b), (a, b))]
  # A fold whose only person is left out adds nothing.
  centred = [np.where(count > 0, one, 0) for one in centred]
  error = truth - prediction
  return np.stack([count, weights @ np.abs(error), weights @ error**2, weights @ truth,
                   weights @ truth**2, *centred], 1)


def _ranked(positive: np.ndarray, values: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
  """Of each row of weights, [B]: pairs in the right order, pairs, average precision x positives and
  positives; ties share a threshold, and where a class is missing all are 0."""
  order = np.argsort(-values, kind='stable')
  ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
  weights, positive = weights[:, order], positive[order]
  hits = np.cumsum(weights * positive, 1)[:, ends]
  false = np.cumsum(weights * ~positive, 1)[:, ends]
  gained = np.diff(hits, axis=1, prepend=0)
  with np.errstate(divide='ignore', invalid='ignore'):
    precision = np.where(gained > 0, hits / (hits + false), 0)
  ordered = (np.diff(false, axis=1, prepend=0) * (hits - gained / 2)).sum(1)
  pairs = hits[:, -1] * false[:, -1]
  return [ordered, pairs, np.where(pairs > 0, (gained * precision).sum(1), 0),
          np.where(pairs > 0, hits[:, -1], 0)]
