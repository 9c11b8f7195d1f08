"""Probes of people of known truth: what the probe's intervals and tests say of them, drawn often.

Two representations that know equally much (or nothing) are drawn for a few people again and again,
linear probes are fitted on them, and the probe's own folds, metrics, intervals and tests are
applied; what each fitted probe would score on endlessly many people is computed, not drawn.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.stats

from anatcl_jax.evaluation import metrics, statistics
from anatcl_jax.evaluation.splits import Split, grouped_folds
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import CLASSIFICATION, REGRESSION, Task

FOLDS, FITTED = 5, 4                       # in a single split, four are fitted on for one predicted
_NOISE = 0.25                              # variance of a number that no feature knows


@dataclasses.dataclass(frozen=True)
class Number:
  """A number, and features that hold a part of it, `strength` standard deviations a feature."""

  strength: float
  words: str
  features: int = 8

  def draw(self, rng: np.random.Generator, people: int) -> tuple[Target, list[np.ndarray]]:
    """The people, and two representations of them."""
    part = rng.normal(size=people)
    features = [self.strength * part[:, None] + rng.normal(size=(people, self.features))
                for _ in range(2)]
    return _target(part + np.sqrt(_NOISE) * rng.normal(size=people), ()), features

  def truth(self, slopes: np.ndarray, constant: float) -> dict[str, float]:
    """Of the prediction x @ slopes + constant, whose errors are normal."""
    variance = (1 - self.strength * slopes.sum())**2 + _NOISE + slopes @ slopes
    spread = np.sqrt(variance)
    mae = (spread * np.sqrt(2 / np.pi) * np.exp(-constant**2 / (2 * variance))
           + constant * (1 - 2 * scipy.stats.norm.cdf(-constant / spread)))
    return {'mae': mae, 'r2': 1 - (variance + constant**2) / (1 + _NOISE)}


@dataclasses.dataclass(frozen=True)
class Classes:
  """Two classes whose features are normal and lie `distance` standard deviations apart."""

  distance: float
  words: str
  rare: int = 0             # people of the second class, of those predicted; 0 is a half
  features: int = 8

  def draw(self, rng: np.random.Generator, people: int) -> tuple[Target, list[np.ndarray]]:
    """The people, and two representations of them; `rare` is of the people predicted."""
    members = rng.permutation(people) < (self.rare or people // 2)
    shift = (members[:, None] - 0.5) * self.distance / np.sqrt(self.features)
    return (_target(members, ('control', 'case')),
            [shift + rng.normal(size=(people, self.features)) for _ in range(2)])

  def truth(self, slopes: np.ndarray, constant: float) -> dict[str, float]:
    """Of calling those cases where x @ slopes + constant is above 0."""
    spread = np.linalg.norm(slopes)
    half = slopes.sum() * self.distance / np.sqrt(self.features) / 2
    recalls = scipy.stats.norm.cdf([(half - constant) / spread, (half + constant) / spread])
    return {'balanced_accuracy': recalls.mean(),
            'roc_auc': scipy.stats.norm.cdf(2 * half / spread / np.sqrt(2))}


CASES = tuple((case, people) for case, sizes in (
    (Number(0.5, 'a number'), (30, 60, 150)),
    (Number(0.0, 'a number that nothing tells'), (30, 60, 150)),
    (Classes(1.2, 'two classes'), (30, 60, 150)),
    (Classes(0.0, 'two classes that nothing tells'), (30, 60, 150)),
    (Classes(1.2, 'a class of 10', 10), (60, 150)),
    (Classes(0.0, 'a class of 10 that nothing tells', 10), (60, 150)),
    (Number(0.15, 'a number, 256 features', 256), (60,)),
    (Classes(2.5, 'a class of 10, 256 features', 10, 256), (60, 150))) for people in sizes)


@dataclasses.dataclass(frozen=True)
class Row:
  """Shares of the draws of a case, by one metric."""

  metric: str
  own: float                # intervals that hold the score of the draw's own probes
  mean: float               # intervals that hold the mean score
  told_apart: float         # p below 0.05
  uncorrected: float        # the same without the people fitted on


def measure(case: Number | Classes, people: int, single: bool, trials: int, seed: int) -> list[Row]:
  """The case drawn `trials` times, a row a metric."""
  rng = np.random.default_rng([seed, people, single, CASES.index((case, people))])
  draws = [_trial(case, people, single, rng, number) for number in range(trials)]
  rows = []
  for metric in draws[0][0]:
    found, truths, differences = (np.array([draw[part][metric] for draw in draws], object)
                                  for part in range(3))
    mean = truths.mean()
    bounds = [one.interval(metrics.RANGES[metric]) for one in found]
    rows.append(Row(
        metric, np.mean([low <= one <= high for (low, high), one in zip(bounds, truths)]),
        np.mean([low <= mean <= high for low, high in bounds]),
        np.mean([one.test()[1] < 0.05 for one in differences]),
        np.mean([dataclasses.replace(one, fitted=np.inf).test()[1] < 0.05
                 for one in differences])))
  return rows


def _trial(case, people: int, single: bool, rng: np.random.Generator, number: int):
  """Of one draw, by metric: the first representation's estimate and truth, and the difference."""
  target, features = case.draw(rng, people)
  if single:
    others = dataclasses.replace(case, rare=FITTED * case.rare) if isinstance(
        case, Classes) else case
    fitted, more = others.draw(rng, FITTED * people)
    target = _target(np.concatenate([fitted.values, target.values]), target.classes)
    features = [np.concatenate(pair) for pair in zip(more, features)]
    start = len(fitted.values)
    splits = [(np.arange(start), np.arange(start, start + people))]
  else:
    splits = grouped_folds(target, FOLDS, number)
  (first, truth), (second, _) = (_evaluate(case, target, x, splits) for x in features)
  return ({metric: first[metric] for metric in truth}, truth,
          {metric: first[metric] - second[metric] for metric in truth})


def _evaluate(case, target: Target, x: np.ndarray, splits: list[Split]
              ) -> tuple[dict[str, statistics.Estimate], dict[str, float]]:
  """What the program says of the probes, and what they truly score, mean over folds."""
  predictions, probabilities, truths = [], [], []
  for fit, test in splits:
    slopes, constant = _probe(x[fit], target.values[fit], target.classes)
    values = x[test] @ slopes + constant
    predictions.append((values > 0).astype(float) if target.classes else values)
    probabilities.append(np.stack([-values, values], 1) if target.classes else None)
    truths.append(case.truth(slopes, constant))
  return (statistics.estimates(target, splits, predictions, probabilities),
          {metric: float(np.mean([one[metric] for one in truths])) for metric in truths[0]})


def _probe(x: np.ndarray, values: np.ndarray, classes: tuple[str, ...]) -> tuple[np.ndarray, float]:
  """Ridge regression of the number, or of -1 and 1 with classes weighted alike."""
  weights = np.ones(len(x))
  if classes:
    weights = 0.5 / np.where(values == 1, np.mean(values == 1), np.mean(values == 0))
    values = 2 * values - 1
  weights = weights / weights.sum()
  centre, mean = weights @ x, weights @ values
  centred = (x - centre) * weights[:, None]
  penalty = 0.4 * x.shape[1] / len(x) * np.eye(x.shape[1])
  slopes = np.linalg.solve(centred.T @ (x - centre) + penalty, centred.T @ (values - mean))
  return slopes, float(mean - centre @ slopes)


def _target(values: np.ndarray, classes: tuple[str, ...]) -> Target:
  count = len(values)
  groups = np.array([f'sub-{row:04d}' for row in range(count)])
  task = Task('drawn', 'drawn', CLASSIFICATION if classes else REGRESSION)
  return Target(task, np.arange(count), np.asarray(values, float), classes, groups,
                np.stack([groups, np.full(count, '')], 1), ())
