"""Networks trained on a task find what volumes hold, and nothing where labels are shuffled."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest

from anatcl_jax import models
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation.splits import grouped_folds
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import CLASSIFICATION, REGRESSION, Task
from anatcl_jax.training import networks
from anatcl_jax.weights.load import Weights

BUDGET = networks.Budget(epochs=12, learning_rate=3e-2, batch_size=8)


class Volumes:
  """A little noise, and a corner as bright as `values` say: what stands for a ShardSet."""

  damaged = frozenset()
  grid = types.SimpleNamespace(shape=(10, 10, 10))

  def __init__(self, values: np.ndarray):
    self.values = values

  def __len__(self) -> int:
    return len(self.values)

  def read_volume(self, record):
    volume = np.random.default_rng(record).normal(0, 0.1, self.grid.shape).astype(np.float32)
    volume[:5, :5, :5] += self.values[record]
    return volume, 1.0


@pytest.fixture
def weights(small_model):
  del small_model
  encoder = models.get_encoder('tiny')
  variables = encoder.init(jax.random.key(5), np.zeros((1, 10, 10, 10, 1)), False)
  return Weights('tiny', jax.tree.map(np.asarray, variables), None, {'axes': 'RAS', 'crop': None})


@pytest.fixture
def brightness():
  return np.random.default_rng(7).normal(size=40)


def _predicted(values, classes, weights, data, from_weights=False, budget=BUDGET, folds=2):
  rows = np.arange(len(data))
  names = np.array([f'sub-{row:02d}' for row in rows])
  target = Target(Task('what', 'what', CLASSIFICATION if classes else REGRESSION), rows,
                  values.astype(float), classes, names, np.stack([names, names], 1), ())
  splits = grouped_folds(target, folds, 0)
  found = networks.predictions(target, splits, rows, weights, data, budget,
                               from_weights=from_weights, show=False)
  out = np.full(len(rows), np.nan)
  for (_, test), one in zip(splits, found):
    out[test] = one.prediction
    if classes:
      np.testing.assert_allclose(one.probability.sum(1), 1, rtol=1e-5)
      np.testing.assert_array_equal(one.probability.argmax(1), one.prediction)
  return out


@pytest.mark.parametrize('from_weights', [False, True])
def test_a_number_is_found_and_shuffled_labels_are_not(from_weights, weights, brightness):
  found = _predicted(brightness, (), weights, Volumes(brightness), from_weights)
  assert np.corrcoef(found, brightness)[0, 1] > 0.8
  shuffled = np.random.default_rng(0).permutation(brightness)
  missed = _predicted(shuffled, (), weights, Volumes(brightness), from_weights) - shuffled
  assert np.abs(missed).mean() > 0.9 * np.abs(shuffled - np.median(shuffled)).mean()


@pytest.mark.slow
def test_classes_are_found_and_shuffled_labels_are_not(weights, brightness):
  codes = (brightness > np.quantile(brightness, 0.6)).astype(int)

  def balanced_accuracy(truth):
    found = _predicted(truth, ('less', 'more'), weights, Volumes(brightness))
    return np.mean([(found == truth)[truth == code].mean() for code in (0, 1)])

  assert balanced_accuracy(codes) > 0.8
  assert balanced_accuracy(np.random.default_rng(1).permutation(codes)) < 0.7


def test_nothing_of_the_test_side_is_looked_at(weights, brightness):
  """Predictions stay as they are, bit for bit, when the truth of those predicted changes."""
  budget = networks.Budget(epochs=3, batch_size=8)
  rows, names = np.arange(40), np.array([f'sub-{row:02d}' for row in range(40)])
  split = (np.arange(32), np.arange(32, 40))

  def found(values):
    target = Target(Task('what', 'what', REGRESSION), rows, values, (), names,
                    np.stack([names, names], 1), ())
    return networks.predictions(target, [split], rows, weights, Volumes(brightness), budget,
                                from_weights=False, show=False)[0].prediction

  changed = brightness.copy()
  changed[32:] += 100
  np.testing.assert_array_equal(found(brightness), found(changed))
  changed[:32] += 100
  np.testing.assert_allclose(found(changed), found(brightness) + 100, atol=1e-3)


def test_too_few_people_to_train_on(weights, brightness):
  with pytest.raises(UserError, match='fewer than network_batch_size 32'):
    _predicted(brightness, (), weights, Volumes(brightness), budget=networks.Budget(batch_size=32))
