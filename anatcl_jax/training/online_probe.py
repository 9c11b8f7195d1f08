"""Linear probes during pretraining: what frozen features of the moment say of people held out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import jax
import numpy as np

from anatcl_jax.data.feed import Feed
from anatcl_jax.devices import processes
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import estimators, metrics
from anatcl_jax.evaluation.estimators import Fit
from anatcl_jax.evaluation.splits import grouped_folds, seen_and_unseen
from anatcl_jax.evaluation.target import Target, read_target
from anatcl_jax.evaluation.tasks import CLASSIFICATION, REGRESSION, Task
from anatcl_jax.training import training_features
from anatcl_jax.training.step import TrainState

TASKS = (Task('age', 'age', REGRESSION), Task('sex', 'sex', CLASSIFICATION),
         Task('site', 'site', CLASSIFICATION))

_INNER_FOLDS = 3
_FEWEST = 5            # people a class


@dataclasses.dataclass(frozen=True)
class OnlineProbe:
  """Fits on scans that are trained on and predicts those held out; every process calls it alike.

  The scores of the fresh encoder stand beside those of the moment, as `..._untrained`.
  """

  encode: Callable[..., jax.Array]
  feed: Feed
  records: np.ndarray                      # those fitted on, then those predicted
  targets: tuple[Target, ...]
  fitted: int                              # how many of the records are fitted on
  batch_size: int
  seed: int
  reference: dict[str, float] = dataclasses.field(default_factory=dict)

  def beside(self, fresh: TrainState) -> OnlineProbe:
    """The same probe with the scores of a state before its first step to compare with."""
    return dataclasses.replace(self, reference={
        f'{name}_untrained': value for name, value in self(fresh)().items()})

  def __call__(self, state: TrainState) -> Callable[[], dict[str, float]]:
    """Begins, and gives what waits for the scores; the state is not needed then.

    `probe/age_mae`, `probe/sex_balanced_accuracy`, ...; none on all processes but the first.
    """
    features = training_features.of_records(self.encode, state, self.feed, self.records,
                                            self.batch_size)
    return lambda: self._scores(features())

  def _scores(self, features: np.ndarray) -> dict[str, float]:
    if not processes.is_first():
      return {}
    scores = {}
    for target in self.targets:
      split = np.arange(len(target.rows))[target.rows < self.fitted], np.flatnonzero(
          target.rows >= self.fitted)
      inner = grouped_folds(target.select(split[0]), _INNER_FOLDS, self.seed)
      found = estimators.predict(
          Fit('linear', features[target.rows], target, split, inner, self.seed))
      metric = target.task.main_metric
      scores[f'probe/{target.task.name}_{metric}'] = metrics.score(
          target.select(split[1]), found.prediction, found.probability)[metric]
    return scores | self.reference


def make(encode: Callable[..., jax.Array], feed: Feed, train_records: np.ndarray,
         heldout_records: np.ndarray, batch_size: int, seed: int) -> OnlineProbe | None:
  """A probe of age, sex and site, as far as the shards have them; None, and a note, for none.

  Args:
    encode: step.make_encode_step, mapped over the devices.
    batch_size: of all devices together.
  """
  rng = np.random.default_rng(seed)
  sides = [training_features.drawn(records, rng) for records in (train_records, heldout_records)]
  records = np.concatenate(sides)
  table = feed.reader.shards.table.iloc[records].reset_index(drop=True)
  seen = np.arange(len(records)) < len(sides[0])
  targets, lacking = [], []
  for task in TASKS:
    try:
      target = read_target(task, table, _FEWEST)
      fit, test = seen_and_unseen(target, seen)[0]      # of classes that both sides have
      grouped_folds(target.select(fit), _INNER_FOLDS, seed)
      targets.append(target.select(np.concatenate([fit, test])))
    except UserError as error:
      lacking.append(str(error))
  if lacking and processes.is_first():
    print(f'note: no online probe of {"; ".join(lacking)}', file=sys.stderr)
  if not targets:
    return None

  return OnlineProbe(encode, feed, records, tuple(targets), len(sides[0]), batch_size, seed)
