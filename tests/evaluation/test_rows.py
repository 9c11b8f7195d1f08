"""Rows stand where a reader looks for them, and p values are adjusted within their question."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from anatcl_jax.evaluation import rows


def test_encoders_come_first_the_mean_last_and_what_is_made_of_a_row_right_under_it():
  expected = ['b', 'b, harmonised', 'covariates + b', 'a', 'covariates + a', 'supervised',
              'finetuned b', 'finetuned a', 'untrained', 'untrained, harmonised',
              'untrained (covariance)', 'untrained resnet50', 'morphometry',
              'morphometry, harmonised', 'covariates + morphometry', 'covariates', 'mean']
  # Of a kind, rows stay as they came; otherwise it does not matter how they came.
  mixed = ['mean', 'covariates', 'covariates + morphometry', 'morphometry, harmonised',
           'covariates + b', 'covariates + a', 'untrained, harmonised', 'untrained', 'b', 'a',
           'untrained (covariance)', 'untrained resnet50', 'supervised', 'b, harmonised',
           'finetuned b', 'finetuned a', 'morphometry']
  assert rows.in_order(mixed) == expected == rows.in_order(expected + mixed)


def test_holm_within_each_family_by_hand():
  """Four comparisons of what was named; what options add makes none of them stricter."""
  main = [('ours', 'untrained', 0.021), ('ours', 'morphometry', 0.5), ('ours', 'covariates', 0.004),
          ('ours', 'theirs', 0.03)]
  more = [('ours', 'mean', 1e-9), ('ours, harmonised', 'ours', 0.02),
          ('untrained, harmonised', 'untrained', 0.04), ('covariates + ours', 'covariates', 0.01),
          ('ours', 'supervised', 0.02), ('ours', 'finetuned ours', 0.3),
          ('ours', 'untrained (covariance)', np.nan)]

  def adjusted(pairs):
    return rows.adjusted(pandas.DataFrame(pairs, columns=['features', 'against', 'p'])
                         ).set_index(['features', 'against'])

  # In order .004 x 4, .021 x 3, .03 x 2 (no less than the one before), .5 x 1.
  by_hand = [0.063, 0.5, 0.016, 0.063]
  alone, together = adjusted(main), adjusted(main + more)
  for found in (alone, together.iloc[:4]):
    assert found['p_holm'].tolist() == pytest.approx(by_hand) and set(found['family']) == {'main'}
  rest = together.iloc[4:]
  assert rest['family'].tolist() == ['', 'harmonisation', 'harmonisation', 'added to covariates',
                                     *['further baselines'] * 3]
  np.testing.assert_allclose(rest['p_holm'], [np.nan, 0.04, 0.04, 0.01, 0.04, 0.3, np.nan])
