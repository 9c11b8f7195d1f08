"""What frozen features know of people whose truth is known: scores, and their replicates.

Shapes: n people, F features, B ways of weighting the people. Whatever is learned, standardisation
and strength of regularisation among it, is learned on other people than those it is scored on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import sklearn.metrics
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anatcl_jax.studies.study_data import Asked

_ALPHAS = tuple(10.0**power for power in range(-2, 6))
_DRAWS = 5                                # of the labelled people of a learning curve

Scores = dict[str, np.ndarray]            # [1 + B]: of all people, then of each replicate


def weightings(people: int, replicates: int, seed: int = 0) -> np.ndarray:
  """Everybody once, then how often each resampling has them: [1 + B, n], the same for all runs."""
  rng = np.random.default_rng([seed, people])
  drawn = rng.multinomial(people, np.full(people, 1 / people), replicates)
  return np.vstack([np.ones((1, people)), drawn])


def answers(features: np.ndarray | None, again: np.ndarray | None, people: Asked, folds: int,
            labels: list[int], replicates: int, known: tuple[str, ...] = ()) -> Scores:
  """All questions to features [n, F] of the first and `again` [n, F] of the second session.

  Of people of seen sites by cross-validation, of unseen sites fitted on all of the seen (the names
  end in _unseen). `features` None are covariates alone, age and sex. `known` are attributes that
  the features are made of, which are not asked.
  """
  covariates = np.column_stack([people.age, people.male])
  x = covariates if features is None else features
  weights = weightings(len(people.age), replicates)
  seen, unseen = np.flatnonzero(~people.unseen), np.flatnonzero(people.unseen)
  found: Scores = {}

  def ask(name: str, y: np.ndarray, learn: Callable, score: Callable, rows: np.ndarray,
          strata: np.ndarray, values: np.ndarray = x) -> None:
    """Of `rows`, a mask; where a side has too few of a class, the question is left out."""
    inside, outside = seen[rows[seen]], unseen[rows[unseen]]
    if len(inside) < 2 * folds or np.unique(strata[inside], return_counts=True)[1].min() < folds:
      return
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(
        inside, strata[inside]))
    parts = [learn(values[inside[fit]], y[inside[fit]], values[inside[test]])
             for fit, test in splits]
    order = np.concatenate([inside[test] for _, test in splits])
    if score is auc:     # of pairs within a fold: folds have no common scale
      each = [auc(y[inside[test]], part, weights[:, inside[test]])
              for (_, test), part in zip(splits, parts)]
      found[name] = np.nanmean(each, 0)
    else:
      found[name] = score(y[order], np.concatenate(parts), weights[:, order])
    if len(outside) and (y.dtype.kind == 'f' or set(y[outside]) == set(y[inside])):
      found[f'{name}_unseen'] = score(y[outside], learn(values[inside], y[inside], values[outside]),
                                      weights[:, outside])

  everybody = np.ones(len(people.age), bool)
  thirds = np.searchsorted(np.quantile(people.age[seen], (1 / 3, 2 / 3)), people.age)
  if 'age' not in known:
    ask('age_mae', people.age, ridge, mean_error, everybody, thirds)
  if 'sex' not in known:
    ask('sex_auc', people.male.astype(int), logistic, auc, everybody, people.male)
  ask('head_size_r2', people.head_size, ridge, r2, everybody, thirds)
  ask('thickness_r2', people.thickness, ridge, r2, everybody, thirds)
  if features is not None:
    ask('thickness_beyond_r2', people.thickness, _beyond(covariates.shape[1]), r2_beyond, everybody,
        thirds, np.hstack([covariates, x]))
  ask('disease_auc', people.patient.astype(int), logistic, auc, everybody, people.patient)
  ask('subtype_accuracy', people.subtype, classes, balanced_accuracy, people.patient,
      people.subtype)
  inside = everybody & ~people.unseen
  ask('site_accuracy', people.site, classes, balanced_accuracy, inside, people.site)
  if again is not None:
    found |= retest(x, again, weights)
  for number in labels:
    if number < len(seen) and len(unseen):
      found |= few_labels(x, people, seen, unseen, number, weights[:, unseen], known)
  return found


def few_labels(x: np.ndarray, people: Asked, seen: np.ndarray, unseen: np.ndarray, number: int,
               weights: np.ndarray, known: tuple[str, ...]) -> Scores:
  """Age and disease on unseen sites from `number` people with labels, mean over draws of them."""
  totals: dict[str, list[np.ndarray]] = {}
  for draw in range(_DRAWS):
    fit = np.random.default_rng([number, draw]).permutation(seen)[:number]
    if 'age' not in known:
      totals.setdefault(f'age_mae_{number}', []).append(
          mean_error(people.age[unseen], ridge(x[fit], people.age[fit], x[unseen]), weights))
    ill = people.patient.astype(int)
    if np.bincount(ill[fit], minlength=2).min() >= 3 and np.ptp(ill[unseen]):
      totals.setdefault(f'disease_auc_{number}', []).append(
          auc(ill[unseen], logistic(x[fit], ill[fit], x[unseen]), weights))
  return {name: np.mean(of, 0) for name, of in totals.items()}


def retest(x: np.ndarray, again: np.ndarray, weights: np.ndarray) -> Scores:
  """Two scanners: mean correlation of a feature over people, and who is found again among all.

  Features are standardised; a person is found where no other's first session is more like the
  second, by cosine.
  """
  mean, spread = x.mean(0), x.std(0)
  varies = spread > 1e-6 * max(spread.max(), 1e-12)
  a, b = ((values[:, varies] - mean[varies]) / spread[varies] for values in (x, again))
  total = weights.sum(1, keepdims=True)

  def centred(values):
    return weights @ values / total

  covariance = centred(a * b) - centred(a) * centred(b)
  variance = [np.maximum(centred(v**2) - centred(v)**2, 1e-12) for v in (a, b)]
  unit = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b)]
  found = (unit[1] @ unit[0].T).argmax(1) == np.arange(len(a))
  return {'retest_r': (covariance / np.sqrt(variance[0] * variance[1])).mean(1),
          'identification': (weights @ found) / total[:, 0]}


# How predictions are made: (x to fit on, y, x to predict) -> predictions.

def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Of numbers [n] or [n, T], all with the strength that leave-one-out chooses."""
  return make_pipeline(StandardScaler(), RidgeCV(_ALPHAS)).fit(x, y).predict(new)


def logistic(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Of two classes: the decision, which rises with the second."""
  return _fitted_classes(x, y).decision_function(new)


def classes(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Of several classes: the most probable."""
  return _fitted_classes(x, y).predict(new)


def _fitted_classes(x: np.ndarray, y: np.ndarray) -> GridSearchCV:
  folds = int(min(3, np.unique(y, return_counts=True)[1].min()))
  model = make_pipeline(StandardScaler(),
                        LogisticRegression(class_weight='balanced', max_iter=300))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)   # of the weakest penalty, rarely chosen
    return GridSearchCV(model, {'logisticregression__C': (1e-3, 1e-2, 0.1, 1.0)}, cv=folds,
                        scoring='balanced_accuracy').fit(x, y)


def _beyond(covariates: int) -> Callable:
  """Predictions [n, T, 2]: from all columns, and from the first ones alone."""
  return lambda x, y, new: np.stack([ridge(x, y, new),
                                     ridge(x[:, :covariates], y, new[:, :covariates])], -1)


# How good they are, for each weighting [B, n]: [B].

def mean_error(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Mean absolute error."""
  return weights @ np.abs(predicted - truth) / weights.sum(1)


def r2(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """1 less the squared error over that of the mean; the mean over columns."""
  truth, predicted = truth.reshape(len(truth), -1), predicted.reshape(len(truth), -1)
  total = weights.sum(1, keepdims=True)
  spread = weights @ truth**2 / total - (weights @ truth / total)**2
  return (1 - weights @ (predicted - truth)**2 / total / spread).mean(1)


def r2_beyond(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """1 less the squared error of predicted[..., 0] over that of predicted[..., 1]; mean."""
  full, part = (weights @ (predicted[..., i] - truth)**2 for i in (0, 1))
  return (1 - full / part).mean(1)


def auc(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Area under the receiver operating characteristic; NaN where a class is missing."""
  return np.array([sklearn.metrics.roc_auc_score(truth, predicted, sample_weight=w)
                   if (truth[w > 0] == 1).any() and (truth[w > 0] == 0).any() else np.nan
                   for w in weights])


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Mean recall over the classes."""
  recalls = []
  for name in np.unique(truth):
    own = truth == name
    with np.errstate(invalid='ignore'):
      recalls.append((weights @ (own & (predicted == truth))) / (weights @ own))
  return np.nanmean(recalls, 0)

