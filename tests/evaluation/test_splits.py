"""Folds of few people, of rare classes and of people with many scans: made, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import splits
from tests.evaluation.probing import target_of


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('people', [2, 3, 5, 8, 20, 23, 26])
@pytest.mark.parametrize('folds', [2, 5, 8, 12])
def test_numbers_of_few_people_have_folds(people, folds, seed):
  """Everybody is predicted once, by a probe fitted on nobody of theirs."""
  rng = np.random.default_rng(seed)
  groups = np.array([f'sub-{who}' for who in np.repeat(range(people), rng.integers(1, 4, people))])
  target = target_of(rng.choice([rng.normal(size=len(groups)), np.ones(len(groups))]), (), groups)
  found = splits.grouped_folds(target, folds, seed)
  assert len(found) == min(folds, people)
  assert sorted(np.concatenate([test for _, test in found])) == list(range(len(groups)))
  for fit, test in found:
    assert len(fit) + len(test) == len(groups) and not set(groups[fit]) & set(groups[test])


def test_folds_of_many_people_are_alike_in_fifths():
  """With 20 people and 4 folds each fold has one person of each fifth."""
  values = np.random.default_rng(0).permutation(20).astype(float)
  for _, test in splits.grouped_folds(target_of(values), 4, 0):
    assert sorted(values[test] // 4) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('seed', range(20))
def test_each_fold_is_fitted_on_two_classes(seed):
  """Also where a person has scans of both, and where a class has hardly anybody."""
  rng = np.random.default_rng(seed)
  groups = np.array([f'sub-{who}' for who in rng.integers(0, 9, 24)])
  target = target_of(rng.integers(0, 2, 24), ('a', 'b'), groups)
  try:
    found = splits.grouped_folds(target, 5, seed)
  except UserError as error:
    assert 'too few people for two folds' in str(error)
    return
  assert len(found) > 1
  for fit, test in found:
    assert len(test) and set(target.values[fit]) == {0, 1}


@pytest.mark.parametrize('values, classes', [
    ([3.0], ()), ([0, 0, 0], ('a', 'b')), ([0, 1], ('a', 'b')), ([0, 0, 0, 1], ('a', 'b'))])
def test_too_few_people_are_said(values, classes):
  with pytest.raises(UserError, match='task some: too few people for two folds'):
    splits.grouped_folds(target_of(values, classes), 5, 0)
