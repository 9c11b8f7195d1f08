"""Metrics, intervals, tests and reliability against values computed by hand or by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from anatcl_jax.evaluation import metrics, statistics
from tests.evaluation.probing import target_of

# Six people rated by four judges: the example of Shrout and Fleiss, 1979, who give ICC(2,1) = 0.29
# and ICC(3,1) = 0.71.
_RATINGS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9],
                     [6, 2, 4, 7]])


def test_icc_of_shrout_and_fleiss():
  agreement, consistency = statistics.intraclass_correlation(_RATINGS)
  assert (round(agreement[0], 2), round(consistency[0], 2)) == (0.29, 0.71)
  # Every feature by itself, and one that is the same for all is not a reliable one.
  many = np.stack([_RATINGS, _RATINGS * 3.0 + 1, np.full((6, 4), 0.1)], -1)
  agreement, _ = statistics.intraclass_correlation(many)
  assert agreement[0] == pytest.approx(agreement[1]) and np.isnan(agreement[2])
  # A shift between sessions spoils agreement, not consistency.
  shifted = np.stack([np.arange(5.0), np.arange(5.0) + 2], 1)
  agreement, consistency = statistics.intraclass_correlation(shifted)
  assert consistency[0] == pytest.approx(1) and agreement[0] == pytest.approx(5 / 9)


def test_identification_rate():
  rng = np.random.default_rng(0)
  first = rng.normal(size=(30, 8))
  assert statistics.identification_rate(first, first * 2 + 0.01) == 1
  swapped = first.copy()
  swapped[[0, 1]] = swapped[[1, 0]]
  assert statistics.identification_rate(first, swapped) == pytest.approx(28 / 30)


def test_corrected_t_test_by_hand():
  differences = np.array([0.1, 0.3, 0.2, 0.4, 0.0])
  t, p = statistics.corrected_t_test(differences, fitted=80, tested=20)
  # mean 0.2, variance 0.025; 0.2 / sqrt(0.025 (1/5 + 1/4)) = 1.8856
  assert t == pytest.approx(1.885618) and p == pytest.approx(2 * scipy.stats.t.sf(1.885618, 4))
  uncorrected = scipy.stats.ttest_1samp(differences, 0)
  assert t < uncorrected.statistic and p > uncorrected.pvalue
  assert np.isnan(statistics.corrected_t_test(np.array([0.1]), 80, 20)).all()


def test_holm_by_hand():
  adjusted = statistics.holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
  np.testing.assert_allclose(adjusted, [0.03, 0.06, np.nan, 0.06, 0.02])


@pytest.mark.parametrize('classes', [(), ('a', 'b'), ('a', 'b', 'c')])
def test_resampled_scores_are_those_of_scikit_learn_on_the_resample(classes):
  rng = np.random.default_rng(1)
  count = 60
  truth = rng.integers(0, len(classes), count) if classes else rng.normal(50, 10, count)
  target = target_of(truth, classes)
  # Rounded, so that there are ties.
  probability = np.round(rng.random((count, len(classes))), 1) if classes else None
  prediction = probability.argmax(1) if classes else truth + rng.normal(0, 5, count)
  weights = rng.multinomial(count, np.full(count, 1 / count), 20).astype(float)
  many = metrics.resampled_scores(target, prediction, probability, weights)
  for row, share in enumerate(weights):
    drawn = np.repeat(np.arange(count), share.astype(int))
    one = metrics.score(target.select(drawn), prediction[drawn],
                        probability[drawn] if classes else None)
    for name, value in one.items():
      assert many[name][row] == pytest.approx(value), name


def test_scores_are_those_of_scikit_learn():
  rng = np.random.default_rng(2)
  truth = rng.integers(0, 3, 90)
  probability = rng.dirichlet(np.ones(3), 90)
  score = metrics.score(target_of(truth, ('a', 'b', 'c')), probability.argmax(1), probability)
  assert score['balanced_accuracy'] == pytest.approx(
      sklearn.metrics.balanced_accuracy_score(truth, probability.argmax(1)))
  assert score['roc_auc'] == pytest.approx(
      sklearn.metrics.roc_auc_score(truth, probability, multi_class='ovr'))


def test_bootstrap_interval_of_a_mean_is_the_textbook_one():
  """The MAE is a mean: its interval is +- 1.96 standard errors, of people and not of scans."""
  rng = np.random.default_rng(3)
  people = 200
  errors = np.abs(rng.normal(0, 5, people)) + 1
  once = target_of(np.zeros(people))
  split = [(np.array([], int), np.arange(people))]
  weights = statistics.resample_weights(once, split, 4000, 0)
  low, high = statistics.interval(statistics.bootstrap(once, errors, None, split, weights)['mae'])
  half = 1.96 * errors.std(ddof=1) / np.sqrt(people)
  assert low == pytest.approx(errors.mean() - half, abs=0.15 * half)
  assert high == pytest.approx(errors.mean() + half, abs=0.15 * half)
  # Four identical scans of each person say nothing new.
  four = target_of(np.zeros(4 * people), groups=np.repeat(once.groups, 4))
  split = [(np.array([], int), np.arange(4 * people))]
  weights = statistics.resample_weights(four, split, 4000, 0)
  samples = statistics.bootstrap(four, np.repeat(errors, 4), None, split, weights)['mae']
  assert np.ptp(statistics.interval(samples)) == pytest.approx(high - low, rel=0.1)


def test_interval_covers_the_truth_as_often_as_it_says():
  rng = np.random.default_rng(4)
  covered = 0
  for trial in range(200):
    errors = np.abs(rng.normal(size=60))
    target, split = target_of(np.zeros(60)), [(np.array([], int), np.arange(60))]
    weights = statistics.resample_weights(target, split, 400, trial)
    low, high = statistics.interval(
        statistics.bootstrap(target, errors, None, split, weights)['mae'])
    covered += low <= np.sqrt(2 / np.pi) <= high
  assert 0.89 <= covered / 200 <= 0.99
