"""What an evaluation gives: predictions and scores of each task and representation, and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas

from anatcl_jax.evaluation.tasks import Task

# Rows of `features` that stand beside every encoder.
UNTRAINED, MORPHOMETRY, COVARIATES = 'untrained', 'morphometry', 'covariates'
SUPERVISED, FINETUNED = 'supervised', 'finetuned'      # networks trained on the task
BASELINES = (UNTRAINED, SUPERVISED, FINETUNED, MORPHOMETRY, COVARIATES, 'mean')


# Rows that are made of another one: NAME, harmonised, and covariates + NAME.
HARMONISED = ', harmonised'
BESIDE = f'{COVARIATES} + '


def plain(name: str) -> str:
  """The row that a derived one is made of, or the name itself."""
  return name.removeprefix(BESIDE).removesuffix(HARMONISED)


def is_derived(name: str) -> bool:
  """Whether a row is made of another: beside covariates, or harmonised."""
  return name != plain(name)


# Metrics as people write them.
METRIC_NAMES = {
    'mae': 'MAE', 'r2': 'R2', 'pearson_r': 'r', 'balanced_accuracy': 'balanced accuracy',
    'roc_auc': 'ROC-AUC', 'average_precision': 'average precision',
    'challenge_score': 'challenge score', 'mae_external': 'MAE external',
    'mae_internal': 'MAE internal', 'r2_external': 'R2 external', 'r2_internal': 'R2 internal',
    'site_balanced_accuracy': 'balanced accuracy of site'}


# How people were split, of an outcome: who was fitted on, who predicted.
FOLDS = 'folds'                      # cross-validation
UNSEEN_FOLDS = 'unseen_folds'        # the same, without people seen in pretraining
SEEN_AND_UNSEEN = 'seen_and_unseen'  # those are fitted on, all others predicted
GIVEN = 'given'                      # by a file of splits


def is_baseline(name: str) -> bool:
  """Whether a row of `features` is a baseline, or made of one.

  `untrained NAME` is one of a second architecture.
  """
  name = plain(name)
  return name in BASELINES or name.startswith(f'{UNTRAINED} ')


@dataclasses.dataclass(frozen=True)
class Outcome:
  """One task predicted from one representation, out of fold: row i is the i-th scan scored.

  A task that was refused has arrays of length 0 and says in `note` why.
  """

  task: Task
  features: str                      # one of BASELINES, or the encoder's name
  estimator: str                     # linear, svm or mlp; 'mean' for the mean predictor, 'network'
                                     # where the encoder was trained on the task
  participant_id: np.ndarray         # [n] text
  session: np.ndarray                # [n] text, '' for none
  truth: np.ndarray                  # [n] float, or the names of classes
  prediction: np.ndarray             # [n] as truth
  probability: np.ndarray | None     # [n, classes] in the order of `classes`, None for regression;
                                     # of the svm, scores that rise with it
  classes: tuple[str, ...]           # () for regression; of two, the positive one stands last
  fold: np.ndarray                   # [n] int
  fold_scores: dict[str, list[float]]              # metric -> a value a fold
  score: dict[str, float]                          # metric -> of all folds together
  interval: dict[str, tuple[float, float]]         # metric -> 95 % interval of it, by people
  note: str = ''
  design: str = ''                   # one of those above; '' where a task has a split of its own
  seeds: int = 1                     # of so many, the first stands for them

  @property
  def refused(self) -> bool:
    return not len(self.truth)


def row_names(outcomes: Sequence[Outcome]) -> list[str]:
  """The name of each row of a task's table: with its estimator, where probes of several were."""
  probes = {one.estimator for one in outcomes} - {'mean', 'network'}
  return [one.features + (f', {one.estimator}' if len(probes) > 1 and one.estimator in probes
                          else '') for one in outcomes]


def score_and_sd(outcome: Outcome, metric: str) -> tuple[float, float]:
  """The score of all folds together, and the deviation of those folds where it is defined.

  NaN where there are too few, or the task was refused.
  """
  folds = np.array(outcome.fold_scores.get(metric, []), float)
  folds = folds[np.isfinite(folds)]
  return (outcome.score.get(metric, np.nan),
          float(folds.std(ddof=1)) if len(folds) > 1 else np.nan)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """All that a probe found, and how it was made. Tables without rows were not applicable."""

  outcomes: tuple[Outcome, ...]
  comparisons: pandas.DataFrame      # run.COMPARISONS; a difference above 0 favours `features`
  leakage: pandas.DataFrame          # beyond.LEAKAGE
  leave_one_site_out: pandas.DataFrame  # beyond.LEFT_OUT
  reliability: pandas.DataFrame      # beyond.RELIABILITY; icc_low and icc_high are 5 % and 95 %
  icc: dict[str, np.ndarray]         # features name -> [F] ICC(2,1) of each feature
  learning_curves: pandas.DataFrame  # beyond.CURVES; subjects are those fitted on
  table: pandas.DataFrame            # identifiers and labels, one row a scan
  features: dict[str, np.ndarray]    # name -> [rows of table, F] float32
  synthetic: bool                    # the scans; what encoders were trained on is another fact
  made: dict[str, Any]               # command, versions, config, data, seeds, cards by features
  csv: dict[str, pandas.DataFrame] = dataclasses.field(default_factory=dict)  # benchmarks', by file
  notes: tuple[str, ...] = ()        # what was left out or held out and why, a sentence each
  trained_on_synthetic: tuple[str, ...] = ()     # names of encoders
  gaps: pandas.DataFrame = dataclasses.field(default_factory=pandas.DataFrame)   # brain_age.GAPS
  gap_groups: pandas.DataFrame = dataclasses.field(default_factory=pandas.DataFrame)   # GROUPS
  # scanners.COMPONENTS and SCANNERS
  components: pandas.DataFrame = dataclasses.field(default_factory=pandas.DataFrame)
  scanners: pandas.DataFrame = dataclasses.field(default_factory=pandas.DataFrame)
