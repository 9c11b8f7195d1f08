"""Probes: scikit-learn pipelines, fitted and tuned on one side of a split, predict the other."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import pickle
import warnings
from collections.abc import Callable

import joblib
import numpy as np
import sklearn
import threadpoolctl
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.evaluation import fitted
from anatcl_jax.evaluation.columns import Columns
from anatcl_jax.evaluation.fitted import FittedProbe
from anatcl_jax.evaluation.splits import Split, grouped_folds
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import BRAIN_AGE

ESTIMATORS = ('linear', 'svm', 'mlp')
MEAN = 'mean'                                  # predicts the mean, or the share of each class
NETWORK = 'network'                            # the encoder itself was trained on the task

STRENGTHS = tuple(10.0**power for power in range(-2, 3))


@dataclasses.dataclass(frozen=True)
class Predicted:
  """Predictions of the test side of a split: [n], and [n, classes] unless it is a regression."""

  prediction: np.ndarray
  probability: np.ndarray | None
  parameters: dict[str, float]                 # that the grid search chose
  converged: bool
  probe: FittedProbe | None = None             # that predicted; None of the mean


@dataclasses.dataclass(frozen=True)
class Fit:
  """A probe to tune and fit on x[split[0], F] and to predict x[split[1], F] with.

  `x` has a row for each scan of the target; `inner` are positions within split[0].
  """

  estimator: str
  x: np.ndarray | Columns
  target: Target
  split: Split
  inner: list[Split]
  seed: int


class ScalerBesideCovariates(StandardScaler):
  """Standardises; the last `covariates` columns together weigh as much as all others.

  Else a penalty that many features need would take away what few covariates know.
  """

  def __init__(self, covariates: int):
    super().__init__()
    self.covariates = covariates

  def fit(self, X, y=None, sample_weight=None):
    super().fit(X, y, sample_weight)
    others = self.n_features_in_ - self.covariates
    self.scale_[-self.covariates:] /= np.sqrt(max(1, others / self.covariates))
    return self


def pipeline(name: str, classification: bool, seed: int, impute: bool = False,
             covariates: int = 0) -> tuple[Pipeline, dict[str, tuple]]:
  """Standardisation and an estimator, and the grid it is tuned over; first the mean for NaN.

  Ridge, or logistic regression with classes weighted alike; linear support vectors; a perceptron
  with one hidden layer of 64.
  """
  if name == 'linear':
    # Positive classes are often rare: unweighted, the rare one is hardly ever predicted.
    model = (LogisticRegression(max_iter=2000, class_weight='balanced') if classification
             else Ridge())
    grid = {'C' if classification else 'alpha': STRENGTHS}
  elif name == 'svm':
    model = (LinearSVC(class_weight='balanced', dual='auto', max_iter=5000, random_state=seed)
             if classification else
             LinearSVR(dual='auto', loss='squared_epsilon_insensitive', max_iter=5000,
                       random_state=seed))
    grid = {'C': tuple(strength / 100 for strength in STRENGTHS)}
  else:
    model = (MLPClassifier if classification else MLPRegressor)(
        hidden_layer_sizes=(64,), learning_rate_init=3e-3, max_iter=200, random_state=seed)
    grid = {'alpha': (1e-3, 1e-1, 10.0)}
  if not classification and name != 'linear':   # these learn poorly from years or points
    model = TransformedTargetRegressor(model, transformer=StandardScaler())
    grid = {f'regressor__{key}': values for key, values in grid.items()}
  scale = ScalerBesideCovariates(covariates) if covariates else StandardScaler()
  steps = [('scale', scale), ('model', model)]
  if impute:
    steps.insert(0, ('impute', SimpleImputer(keep_empty_features=True)))
  return Pipeline(steps), {f'model__{key}': values for key, values in grid.items()}


def inner_splits(target: Target, splits: list[Split], folds: int, seed: int) -> list[list[Split]]:
  """Folds of the grid search of each split, within the side that is fitted on, by group."""
  return [grouped_folds(target.select(fit), folds, seed) for fit, _ in splits]


def predictions(fits: list[Fit], jobs: int,
                advance: Callable[[], None] = lambda: None) -> list[Predicted]:
  """`predict` of each, in order, by as many processes as `jobs` says; `advance` after each."""
  if jobs == 1 or len(fits) < 8:
    found = map(predict, fits)
  else:
    found = joblib.Parallel(jobs, return_as='generator')(joblib.delayed(predict)(fit)
                                                         for fit in fits)
  results = []
  try:
    for one in found:
      results.append(one)
      advance()
  except (OSError, pickle.PicklingError, concurrent.futures.BrokenExecutor) as error:
    # joblib shares large arrays through files, and tells a full disk as it likes.
    why = ' '.join(str(error).split())[:160] or type(error).__name__
    raise RunFailure(f'the {jobs} processes of the probe can\'t share their work ({why}); where '
                     'temporary files have no room, JOBLIB_TEMP_FOLDER names another folder; '
                     '--config.jobs=1 needs neither') from None
  return results


def predict(fit: Fit) -> Predicted:
  """Tunes and fits a probe on one side of its split and predicts the other; NaN is missing.

  Whatever is learned, imputation, harmonisation and standardisation and the strength of
  regularisation among it, is learned on the fitted side. The search maximises R2 or balanced
  accuracy.
  """
  x, harmonizer, covariates, coding = fit.x, None, 0, None
  if isinstance(x, Columns):
    covariates, coding = x.covariates, x.coding
    x, harmonizer = x.prepared(fit.split[0])
  # Features are checked once; BLAS's threads cost more than they gain on matrices of this size.
  with (_thread_pools().limit(limits=1),
        sklearn.config_context(assume_finite=True, skip_parameter_validation=True)):
    found = _predict(fit.estimator, x, fit.target, fit.split, fit.inner, fit.seed, covariates)
  return found if harmonizer is None else dataclasses.replace(
      found, probe=dataclasses.replace(found.probe, harmonizer=harmonizer, coding=coding))


@functools.cache
def _thread_pools() -> threadpoolctl.ThreadpoolController:
  """Of this process; to look for them takes a tenth of the time of a small fit."""
  return threadpoolctl.ThreadpoolController()


def _predict(name: str, x: np.ndarray, target: Target, split: Split, inner: list[Split],
             seed: int, covariates: int = 0) -> Predicted:
  fit, test = split
  classification = bool(target.classes)
  truth = target.values[fit].astype(int) if classification else target.values[fit]
  if name == MEAN:
    model = (DummyClassifier(strategy='prior') if classification else DummyRegressor()).fit(
        np.zeros((len(fit), 1)), truth)
    zeros = np.zeros((len(test), 1))
    rates = _columns(model, model.predict_proba(zeros), target) if classification else None
    return Predicted(model.predict(zeros), rates, {}, True)
  steps, grid = pipeline(name, classification, seed, bool(np.isnan(x).any()), covariates)
  search = GridSearchCV(steps, grid, cv=inner,
                        scoring='balanced_accuracy' if classification else 'r2')
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    search.fit(x[fit], truth)
  converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
  chosen = {key.split('__')[-1]: value for key, value in search.best_params_.items()}
  probe = fitted.of_pipeline(search.best_estimator_, classification)
  if target.task.kind == BRAIN_AGE:
    probe = _with_correction(probe, search.best_estimator_, x[fit], truth, inner)
  return Predicted(probe.predict(x[test]),
                   probe.probability(x[test], len(target.classes)) if classification else None,
                   chosen, converged, probe)


def _with_correction(probe: FittedProbe, best: Pipeline, x: np.ndarray, age: np.ndarray,
                     inner: list[Split]) -> FittedProbe:
  """The probe with how predicted age hangs on age among those whom it was fitted on.

  Their predictions are out of the inner folds: a probe is too sure of those it was fitted on.
  Beheshti et al., NeuroImage: Clinical 24, 2019; de Lange and Cole, NeuroImage: Clinical 26, 2020.
  """
  predicted = np.full(len(age), np.nan)
  for fit, test in inner:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')      # what they say was said where the probe was fitted
      one = fitted.of_pipeline(clone(best).fit(x[fit], age[fit]), False)
    predicted[test] = one.predict(x[test])
  slope, intercept = np.polyfit(age, predicted, 1)
  return probe.with_correction(slope, intercept)


def _columns(model, scores: np.ndarray, target: Target) -> np.ndarray:
  """Scores [n, classes of the fitted side] as [n, all classes]."""
  every = np.zeros((len(scores), len(target.classes)))
  every[:, model.classes_] = scores
  return every


def check_finite(name: str, x: np.ndarray, labels: list[str]) -> None:
  """Raises UserError for features that are not finite; the text names the scans."""
  wrong = [labels[row] for row in np.flatnonzero(~np.isfinite(x).all(1))]
  if wrong:
    raise UserError(f'features {name!r} are not finite for {len(wrong)} scans, such as '
                    f'{wrong[0]}; extract them again')
