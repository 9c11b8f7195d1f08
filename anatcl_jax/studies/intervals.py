"""Do the intervals of the probe cover, and its tests hold their level? On people of known truth.

  python -m anatcl_jax.studies intervals --out FILE.md
  python -m anatcl_jax.studies intervals --trials 200 --seed 1 --out FILE.md

Two representations that know equally much (or nothing) are drawn for a few people again and again,
linear probes are fitted on them, and the probe's own folds, metrics, intervals and tests are
applied; what each fitted probe would score on endlessly many people is computed, not drawn.
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import scipy.stats

from anatcl_jax import command_line, errors, outputs
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import metrics, statistics
from anatcl_jax.evaluation.splits import Split, grouped_folds
from anatcl_jax.evaluation.tasks import CLASSIFICATION, REGRESSION, Target, Task

_FOLDS, _FITTED = 5, 4                     # in a single split, four are fitted on for one predicted
_NOISE = 0.25                              # variance of a number that no feature knows
_HEADER = """<!-- {made_by} -->
# Do intervals cover, and do tests hold their level?

{trials} draws of each row, seed {seed}; 8 features where no other number stands. n people are
predicted: in {folds} folds, or in a single split by a probe that was fitted on {fitted} n others.
Covers: how often the 95 % interval holds the true score of the very probes of the draw / the mean
true score of such probes. Told apart: how often p is below 0.05 between two representations that
are equally good; in brackets, had the standard error only the people predicted (1/n for 1/n + 1/m).
First MAE or balanced accuracy, then R2 or ROC-AUC. A share of 0.95 has a standard error of
{error:.3f}.

Made by `python -m anatcl_jax.studies intervals --trials {trials} --seed {seed}`.

| what | n | split | covers | covers | told apart | told apart |
|---|---|---|---|---|---|---|
"""


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
  truth: float              # mean over the draws
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
        metric, mean, np.mean([low <= one <= high for (low, high), one in zip(bounds, truths)]),
        np.mean([low <= mean <= high for low, high in bounds]),
        np.mean([one.test()[1] < 0.05 for one in differences]),
        np.mean([dataclasses.replace(one, fitted=np.inf).test()[1] < 0.05
                 for one in differences])))
  return rows


def _trial(case, people: int, single: bool, rng: np.random.Generator, number: int):
  """Of one draw, by metric: the first representation's estimate and truth, and the difference."""
  target, features = case.draw(rng, people)
  if single:
    others = dataclasses.replace(case, rare=_FITTED * case.rare) if isinstance(
        case, Classes) else case
    fitted, more = others.draw(rng, _FITTED * people)
    target = _target(np.concatenate([fitted.values, target.values]), target.classes)
    features = [np.concatenate(pair) for pair in zip(more, features)]
    start = len(fitted.values)
    splits = [(np.arange(start), np.arange(start, start + people))]
  else:
    splits = grouped_folds(target, _FOLDS, number)
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


def main(arguments: list[str], prog: str) -> None:
  """The command line."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  parser.add_argument('--trials', type=command_line.at_least(1), default=500, metavar='N',
                      help='draws of each row (default: %(default)s, minutes)')
  parser.add_argument('--seed', type=command_line.seed, default=0, metavar='N',
                      help='of all draws (default: %(default)s)')
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='FILE.md',
                      help='the page')
  with errors.reported():
    options = parser.parse_args(arguments)
    from anatcl_jax.progress import progress_bar
    outputs.check_file(options.out, '--out')
    text = _HEADER.format(
        made_by=outputs.MADE_BY, trials=options.trials, seed=options.seed, folds=_FOLDS,
        fitted=_FITTED, error=np.sqrt(0.95 * 0.05 / options.trials))
    with progress_bar(2 * len(CASES), 'intervals', 'rows') as progress:
      for case, people in CASES:
        for single in (False, True):
          rows = measure(case, people, single, options.trials, options.seed)
          cells = [case.words, str(people), 'single' if single else f'{_FOLDS} folds',
                   *(f'{row.own:.3f} / {row.mean:.3f}' for row in rows),
                   *(f'{row.told_apart:.3f} ({row.uncorrected:.3f})' for row in rows)]
          text += f'| {" | ".join(cells)} |\n'
          progress.update()
    try:
      options.out.parent.mkdir(parents=True, exist_ok=True)
      options.out.write_text(text, encoding='utf-8')
    except OSError as error:
      raise UserError(f'{options.out}: cannot be written ({error.strerror})') from None
    print(text)
