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


def test_a_test_and_interval_by_hand():
  """Ten people in five folds of two: errors of 1 to 10, each probe fitted on the other eight."""
  errors = np.arange(1.0, 11)
  target = target_of(np.zeros(10))
  folds = [(np.delete(np.arange(10), [i, i + 1]), np.array([i, i + 1])) for i in range(0, 10, 2)]
  one = statistics.estimates(target, folds, [errors[test] for _, test in folds], [None] * 5)['mae']
  # The mean 5.5; s^2 = 82.5 / 9, and its error s sqrt(1/10 + 1/8) = 1.436141
  np.testing.assert_allclose(one.pseudovalues, errors)
  assert one.value == pytest.approx(5.5) and one.standard_error == pytest.approx(1.436141)
  quantile = scipy.stats.t.ppf(0.975, 9)
  np.testing.assert_allclose(one.interval(), [5.5 - quantile * 1.436141, 5.5 + quantile * 1.436141],
                             rtol=1e-6)
  assert one.interval((3, 6)) == (3, 6)
  t, p = one.test()
  assert t == pytest.approx(5.5 / 1.436141) and p == pytest.approx(2 * scipy.stats.t.sf(t, 9))
  assert (p < 0.05) == (one.interval()[0] > 0)
  # A sum over folds of two is Nadeau and Bengio's t where people of a fold err independently.
  assert (one - one).test() == (0, 1) and (-one).value == -5.5


def test_p_values_have_no_floor():
  """After Holm over hundreds of comparisons a large difference stays one."""
  rng = np.random.default_rng(0)
  target, split = target_of(np.zeros(200)), [(np.arange(100), np.arange(100, 200))]
  good, bad = (statistics.estimates(target, split, [rng.normal(0, spread, 100)], [None])['mae']
               for spread in (1, 6))
  assert (bad - good).test()[1] < 1e-8


def test_a_rare_class_is_never_left_out_of_balanced_accuracy():
  """Always the control: .5 in every fold, also in those without anybody of the rare class."""
  truth = np.r_[np.ones(3), np.zeros(37)]
  target = target_of(truth, ('control', 'case'))
  folds = [(np.flatnonzero(np.arange(40) % 5 != i), np.flatnonzero(np.arange(40) % 5 == i))
           for i in range(5)]
  rates = [np.tile([0.9, 0.1], (8, 1))] * 5
  one = statistics.estimates(target, folds, [np.zeros(8)] * 5, rates)
  assert one['balanced_accuracy'].value == 0.5 and one['roc_auc'].value == 0.5
  assert one['balanced_accuracy'].interval((0, 1)) == (0.5, 0.5)
  # A probe that might have said otherwise: of 3 people all wrong, of 37 all right.
  said = [np.stack([1 - one, one], 1) for one in np.random.default_rng(0).uniform(0, 0.4, (5, 8))]
  probe = statistics.estimates(target, folds, [np.zeros(8)] * 5, said)['balanced_accuracy']
  unseen = 40 / 4 * (4 / 25 / 3 + 38 / 39**2 / 37)
  assert probe.value == 0.5 and probe.unseen == pytest.approx(unseen)
  assert probe.standard_error == pytest.approx(np.sqrt(unseen * (1 / 40 + 1 / 32)))
  # Where the class is but one person, nothing is known of how it varies.
  alone = target_of(np.r_[1, np.zeros(39)], ('control', 'case'))
  one = statistics.estimates(alone, folds, [np.zeros(8)] * 5, rates)['balanced_accuracy']
  assert one.value == 0.5 and np.isnan(one.interval()).all() and np.isnan(one.test()).all()


def test_holm_by_hand():
  adjusted = statistics.holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
  np.testing.assert_allclose(adjusted, [0.03, 0.06, np.nan, 0.06, 0.02])


@pytest.mark.parametrize('classes', [(), ('a', 'b'), ('a', 'b', 'c')])
def test_scores_of_one_fold_are_those_of_scikit_learn_without_each_person(classes):
  rng = np.random.default_rng(1)
  count = 30
  truth = rng.integers(0, len(classes), count) if classes else rng.normal(50, 10, count)
  target = target_of(truth, classes, np.array([f'sub-{row // 2}' for row in range(count)]))
  # Rounded, so that there are ties.
  probability = np.round(rng.random((count, len(classes))), 1) if classes else None
  prediction = probability.argmax(1) if classes else truth + rng.normal(0, 5, count)
  found = statistics.estimates(target, [(np.arange(0), np.arange(count))], [prediction],
                               [probability])
  whole = metrics.score(target, prediction, probability)
  for name, one in found.items():
    assert one.value == pytest.approx(whole[name]), name
    without = []
    for person in np.unique(target.groups):
      kept = np.flatnonzero(target.groups != person)
      without.append(metrics.score(target.select(kept), prediction[kept],
                                   probability[kept] if classes else None)[name])
    np.testing.assert_allclose(one.without_each, without, err_msg=name)


def test_folds_are_scored_together():
  """Means, recalls and R2 of everybody; ranks and correlations within folds."""
  truth = np.array([0.0, 1, 2, 10, 11, 12])
  folds = [(np.arange(3), np.arange(3, 6)), (np.arange(3, 6), np.arange(3))]
  predictions = [np.array([3.0, 1, 2]), np.array([1.0, 2, 3])]
  found = statistics.estimates(target_of(truth), folds, predictions, [None, None])
  pooled = np.r_[predictions[1], predictions[0]]
  assert found['r2'].value == pytest.approx(sklearn.metrics.r2_score(truth, pooled))
  assert found['mae'].value == pytest.approx(np.abs(truth - pooled).mean())
  assert found['pearson_r'].value == pytest.approx((2 - 1) / 4)    # cov 1 and -0.5, variances 1
  binary = target_of([0, 0, 1, 0, 1, 1], ('a', 'b'))
  chances = [np.array([0.9, 0.8, 0.95]), np.array([0.2, 0.1, 0.15])]
  both = [np.stack([1 - one, one], 1) for one in chances]
  found = statistics.estimates(binary, folds, [np.ones(3), np.zeros(3)], both)
  # Pairs: of the first fold a 0.9 against b 0.8, 0.95; of the second a 0.2, 0.1 against b 0.15.
  assert found['roc_auc'].value == pytest.approx((0 + 1 + 0 + 1) / 4)
  assert found['balanced_accuracy'].value == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_scores_are_those_of_scikit_learn():
  rng = np.random.default_rng(2)
  truth = rng.integers(0, 3, 90)
  probability = rng.dirichlet(np.ones(3), 90)
  score = metrics.score(target_of(truth, ('a', 'b', 'c')), probability.argmax(1), probability)
  assert score['balanced_accuracy'] == pytest.approx(
      sklearn.metrics.balanced_accuracy_score(truth, probability.argmax(1)))
  assert score['roc_auc'] == pytest.approx(
      sklearn.metrics.roc_auc_score(truth, probability, multi_class='ovr'))


def test_four_identical_scans_of_a_person_say_nothing_new():
  errors = np.abs(np.random.default_rng(3).normal(0, 5, 50))
  once, split = target_of(np.zeros(50)), [(np.arange(25), np.arange(25, 50))]
  four = target_of(np.zeros(200), groups=np.repeat(once.groups, 4))
  many = [(np.arange(100), np.arange(100, 200))]
  one = statistics.estimates(once, split, [errors[25:]], [None])['mae']
  other = statistics.estimates(four, many, [np.repeat(errors[25:], 4)], [None])['mae']
  np.testing.assert_allclose(other.interval(), one.interval())
