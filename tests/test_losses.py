"""Losses against a value worked out by hand, a float64 double loop, and finite differences.

Three subjects, one view each, unit features z1 = z2 = (1, 0), z3 = (0, 1), temperature 1:
s12 = 1, s13 = s23 = 0. With w12 = 1, w13 = w23 = 1/2:
  l1 = l2 = -[1 (1 - log(e + 1)) + 1/2 (0 - log(e + 1))] / (3/2) = log(e + 1) - 2/3
  l3 = -[1/2 (0 - log 2) + 1/2 (0 - log 2)] / 1 = log 2
times temperature / base_temperature = 1 / 0.5, over 3: 2 (2 (log(e + 1) - 2/3) + log 2) / 3.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from anatcl_jax import kernels, losses
from anatcl_jax.errors import UserError

CONFIG = ml_collections.ConfigDict({
    'method': 'yaware', 'temperature': 0.1, 'base_temperature': 0.07,
    'terms': {'age': {'weight': 1.0, 'kernel': 'rbf', 'sigma': 2.0},
              'anatomy': {'weight': 0.5, 'descriptor': 'global'}}})


def double_loop_yaware(features, weights, temperature=0.1, base_temperature=0.07):
  """The definition, one pair at a time in float64."""
  views = [(n, v) for n in range(features.shape[0]) for v in range(features.shape[1])]
  z = {i: features[i] / np.linalg.norm(features[i]) for i in views}
  rows = []
  for i in views:
    others = [j for j in views if j != i]
    s = {j: z[i] @ z[j] / temperature for j in others}
    log_denominator = math.log(sum(math.exp(s[j]) for j in others))
    w = {j: weights[i[0], j[0]] for j in others}
    if sum(w.values()):
      rows.append(-sum(w[j] * (s[j] - log_denominator) for j in others) / sum(w.values()))
  return temperature / base_temperature * np.mean(rows)


def _example(subjects=6, views=2, dim=5, seed=0):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(subjects, views, dim))
  age = rng.uniform(20, 30, subjects)
  return features, age, rng.uniform(size=(subjects, 4, 3))


def test_yaware_by_hand():
  features = jnp.array([[[1.0, 0.0]], [[3.0, 0.0]], [[0.0, 2.0]]])   # normalised by the loss
  weights = jnp.array([[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]])
  expected = 2 * (2 * (math.log(math.e + 1) - 2 / 3) + math.log(2)) / 3
  result = losses.weakly_contrastive_loss(features, weights, temperature=1.0, base_temperature=0.5)
  np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize('views', [1, 2, 3])
def test_yaware_is_the_double_loop(views):
  features, age, _ = _example(views=views)
  weights = np.exp(-(age[:, None] - age[None])**2 / 8)
  result = losses.weakly_contrastive_loss(jnp.asarray(features, jnp.float32), jnp.asarray(weights))
  np.testing.assert_allclose(result, double_loop_yaware(features, weights), rtol=1e-5)


def test_gradient_is_the_finite_difference():
  features, age, _ = _example(subjects=4)
  weights = np.exp(-(age[:, None] - age[None])**2 / 8)
  gradient = jax.grad(losses.weakly_contrastive_loss)(jnp.asarray(features, jnp.float32),
                                                     jnp.asarray(weights, jnp.float32))
  expected, step = np.zeros_like(features), 1e-6
  for index in np.ndindex(features.shape):
    moved = np.zeros_like(features)
    moved[index] = step
    expected[index] = (double_loop_yaware(features + moved, weights)
                       - double_loop_yaware(features - moved, weights)) / (2 * step)
  np.testing.assert_allclose(gradient, expected, atol=1e-4)


def test_rows_without_positives_do_not_count():
  features, _, _ = _example(subjects=4, views=1)
  weights = np.zeros((4, 4))
  weights[0, 1] = weights[1, 0] = 0.5
  value, gradient = jax.value_and_grad(losses.weakly_contrastive_loss)(
      jnp.asarray(features, jnp.float32), jnp.asarray(weights, jnp.float32))
  np.testing.assert_allclose(value, double_loop_yaware(features, weights), atol=1e-6)
  assert np.isfinite(gradient).all()
  assert losses.weakly_contrastive_loss(jnp.asarray(features), jnp.zeros((4, 4))) == 0


def test_low_temperature_and_duplicates_stay_finite():
  features = jnp.ones((4, 2, 8), jnp.bfloat16)
  value, gradient = jax.value_and_grad(losses.weakly_contrastive_loss)(
      features, jnp.ones((4, 4)), temperature=0.01)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, math.log(7) * 0.01 / 0.07, rtol=1e-5)
  assert np.isfinite(gradient.astype(jnp.float32)).all()


def test_anatcl_loss_is_the_weighted_sum_of_its_terms():
  features, age, morphometry = _example()
  result, metrics = losses.anatcl_loss(
      jnp.asarray(features, jnp.float32), jnp.asarray(age, jnp.float32),
      jnp.asarray(morphometry, jnp.float32), CONFIG)
  by_age = np.exp(-(age[:, None] - age[None])**2 / 8)
  unit = morphometry / np.linalg.norm(morphometry, axis=1, keepdims=True)
  by_anatomy = np.einsum('arm,brm->ab', unit, unit) / 3
  expected_age = double_loop_yaware(features, by_age)
  expected_anatomy = double_loop_yaware(features, by_anatomy)
  np.testing.assert_allclose(result, expected_age + 0.5 * expected_anatomy, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/age'], expected_age, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/anatomy'], expected_anatomy, rtol=1e-5)
  others = ~np.eye(len(age), dtype=bool)
  np.testing.assert_allclose(metrics['effective_positives/age'],
                             kernels.effective_positives(by_age, others).mean(), rtol=1e-5)


def test_a_term_of_weight_zero_is_left_out():
  features, age, morphometry = map(jnp.asarray, _example())
  config = CONFIG.copy_and_resolve_references()
  config.terms.anatomy.weight = 0.0
  result, metrics = losses.anatcl_loss(features, age, morphometry, config)
  assert 'loss/anatomy' not in metrics and result == metrics['loss/age']


def test_unknown_method():
  with pytest.raises(UserError, match="did you mean 'yaware'"):
    losses.weakly_contrastive_loss(jnp.ones((2, 1, 2)), jnp.ones((2, 2)), method='y-aware')
