"""Losses against values worked out by hand, a float64 double loop, and finite differences.

Three subjects, one view each, unit features z1 = z2 = (1, 0), z3 = (0, 1), temperature 1:
s12 = 1, s13 = s23 = 0, s_ii = 1. With w_ii = w12 = 1, w13 = w23 = 1/2:
  yaware     l1 = l2 = -[1 (1 - log(e + 1)) + 1/2 (0 - log(e + 1))] / (3/2) = log(e + 1) - 2/3
             l3 = -[1/2 (0 - log 2) + 1/2 (0 - log 2)] / 1 = log 2
  supcon     only 1 and 2 are alike: l1 = l2 = log(e + 1) - 1; 3 has no positive and does not count
  expw       m = 1, so s12 - m = 0 and s13 - m = -1;
             l1 = l2 = log(e^0 + e^(-1/2)) - [1 0 + 1/2 (-1)] / (3/2) = log(1 + e^(-1/2)) + 1/3
             l3 = log(2 e^(-1/2)) - (-1) = log 2 + 1/2
  threshold  c12: in row 2 (1, 1, 1/2) one is below w21 = 1; c13: in row 3 (1/2, 1/2, 1) none is
             below w31 = 1/2; c31 = c32 = 0, so 3 has no denominator and does not count;
             l1 = l2 = log(1 e) - [1 1 + 1/2 0] / (3/2) = 1/3; `mean` divides c by 3: 1/3 - log 3
All times temperature / base_temperature = 1 / 0.5, over the anchors that count.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from anatcl_jax import kernels, losses
from anatcl_jax.errors import UserError

CONFIG = ml_collections.ConfigDict({
    'method': 'yaware', 'temperature': 0.1, 'base_temperature': 0.07, 'delta_reduction': 'sum',
    'memory_budget_mb': 64,
    'terms': {'age': {'weight': 1.0, 'kernel': 'rbf', 'sigma': 2.0},
              'anatomy': {'weight': 0.5, 'kernel': 'global'}}})

# Every method, with both reductions of threshold.
METHODS = (('yaware', 'sum'), ('supcon', 'sum'), ('expw', 'sum'), ('threshold', 'sum'),
           ('threshold', 'mean'))
methods = pytest.mark.parametrize('method, delta_reduction', METHODS)


def double_loop(features, weights, method='yaware', delta_reduction='sum', temperature=0.1,
                base_temperature=0.07):
  """The definitions of DESIGN section 4, one pair at a time in float64."""
  views = [(n, v) for n in range(features.shape[0]) for v in range(features.shape[1])]
  z = {i: features[i] / np.linalg.norm(features[i]) for i in views}
  weight = lambda i, j: weights[i[0], j[0]]
  rows = []
  for i in views:
    others = [j for j in views if j != i]
    s = {j: z[i] @ z[j] / temperature for j in views}
    w = {j: weight(i, j) for j in others}
    if method == 'supcon':
      w = {j: float(w[j] >= 1) for j in others}
    if method == 'expw':
      largest = max(s.values())
      s = {j: s[j] - largest for j in views}
      denominator = sum(math.exp(s[j] * (1 - w[j])) for j in others)
    elif method == 'threshold':
      below = {j: sum(weight(j, k) < weight(j, i) for k in views) for j in others}
      denominator = sum(math.exp(s[j]) * below[j] for j in others)
      denominator /= len(views) if delta_reduction == 'mean' else 1
    else:
      denominator = sum(math.exp(s[j]) for j in others)
    if sum(w.values()) and denominator:
      pulled = sum(w[j] * (s[j] - math.log(denominator)) for j in others)
      rows.append(-pulled / sum(w.values()))
  return temperature / base_temperature * np.mean(rows)


def _example(subjects=6, views=2, dim=5, seed=0):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(subjects, views, dim))
  age = rng.uniform(20, 30, subjects)
  return features, age, rng.uniform(size=(subjects, 4, 3))


def _age_weights(age):
  """In float32's values, so that ties are the same in both; two subjects are of one age."""
  age = np.concatenate([age[:1], age[:-1]])
  return np.exp(-(age[:, None] - age[None])**2 / 8).astype(np.float32).astype(float)


_NAMES = ('method', 'delta_reduction')
_loss = jax.jit(losses.weakly_contrastive_loss, static_argnames=_NAMES)
_anatcl_loss = jax.jit(lambda *arrays: losses.anatcl_loss(*arrays, CONFIG))


@functools.partial(jax.jit, static_argnames=_NAMES)
def _value_and_gradient(features, weights, present=None, *, method='yaware', delta_reduction='sum',
                        temperature=0.1):
  return jax.value_and_grad(losses.weakly_contrastive_loss)(
      jnp.asarray(features), jnp.asarray(weights), present=present, method=method,
      delta_reduction=delta_reduction, temperature=temperature)


@pytest.mark.parametrize('method, delta_reduction, expected', [
    ('yaware', 'sum', 2 * (2 * (math.log(math.e + 1) - 2 / 3) + math.log(2)) / 3),
    ('supcon', 'sum', 2 * (math.log(math.e + 1) - 1)),
    ('expw', 'sum', 2 * (2 * (math.log(1 + math.exp(-0.5)) + 1 / 3) + math.log(2) + 0.5) / 3),
    ('threshold', 'sum', 2 / 3),
    ('threshold', 'mean', 2 * (1 / 3 - math.log(3)))])
def test_three_subjects_by_hand(method, delta_reduction, expected):
  features = jnp.array([[[1.0, 0.0]], [[3.0, 0.0]], [[0.0, 2.0]]])   # normalised by the loss
  weights = jnp.array([[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]])
  result = _loss(
      features, weights, method=method, delta_reduction=delta_reduction, temperature=1.0,
      base_temperature=0.5)
  np.testing.assert_allclose(result, expected, rtol=1e-6)
  loop = double_loop(np.asarray(features, float), np.asarray(weights, float), method,
                     delta_reduction, 1.0, 0.5)
  np.testing.assert_allclose(loop, expected, rtol=1e-12)


@methods
@pytest.mark.parametrize('views', [1, 3])
def test_value_is_the_double_loop(method, delta_reduction, views):
  features, age, _ = _example(views=views)
  weights = _age_weights(age)
  value, _ = _value_and_gradient(features, weights, method=method, delta_reduction=delta_reduction)
  np.testing.assert_allclose(value, double_loop(features, weights, method, delta_reduction),
                             rtol=1e-5, atol=1e-6)


@methods
def test_gradient_is_the_finite_difference(method, delta_reduction):
  features, age, _ = _example(subjects=4)
  weights = _age_weights(age)
  _, gradient = _value_and_gradient(features, weights, method=method,
                                    delta_reduction=delta_reduction)
  expected, step = np.zeros_like(features), 1e-6
  for index in np.ndindex(features.shape):
    moved = np.zeros_like(features)
    moved[index] = step
    after, before = (double_loop(features + sign * moved, weights, method, delta_reduction)
                     for sign in (1, -1))
    expected[index] = (after - before) / (2 * step)
  np.testing.assert_allclose(gradient, expected, atol=1e-4)


@methods
def test_missing_subjects_leave_the_loss_of_the_others(method, delta_reduction):
  features, age, _ = _example(subjects=7)
  weights, present = _age_weights(age), np.array([1, 0, 1, 1, 0, 1, 1], bool)
  options = dict(method=method, delta_reduction=delta_reduction)
  subset = weights[np.ix_(present, present)]
  expected = double_loop(features[present], subset, method, delta_reduction)
  _, expected_gradient = _value_and_gradient(features[present], subset, **options)
  for gap in (np.nan, 0.0):
    holed = np.where(present[:, None] & present, weights, gap)
    value, gradient = _value_and_gradient(features, holed, present, **options)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[present], expected_gradient, atol=1e-5)
    assert (gradient[~present] == 0).all()


def test_supcon_without_labels_is_simclr():
  features, _, _ = _example(subjects=5)
  value, _ = _value_and_gradient(features, np.eye(5), method='supcon')
  z = (features / np.linalg.norm(features, axis=-1, keepdims=True)).reshape(10, -1)
  s = np.where(np.eye(10), -np.inf, z @ z.T / 0.1)
  other_view = np.arange(10) ^ 1
  expected = np.mean(np.log(np.exp(s).sum(1)) - s[np.arange(10), other_view]) * 0.1 / 0.07
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_rows_without_positives_do_not_count():
  features, _, _ = _example(subjects=4, views=1)
  weights = np.zeros((4, 4))
  weights[0, 1] = weights[1, 0] = 0.5
  value, gradient = _value_and_gradient(features, weights)
  np.testing.assert_allclose(value, double_loop(features, weights), atol=1e-6)
  assert np.isfinite(gradient).all()
  assert _value_and_gradient(features, np.zeros((4, 4)))[0] == 0


@methods
@pytest.mark.parametrize('subjects, views, dtype', [(4, 2, jnp.bfloat16), (2, 1, jnp.float32)])
def test_low_temperature_duplicates_and_pairs_stay_finite(method, delta_reduction, subjects, views,
                                                          dtype):
  """All features alike; all weights 1, so that every count of `threshold` is 0 and its loss too."""
  value, gradient = _value_and_gradient(
      jnp.ones((subjects, views, 8), dtype), jnp.ones((subjects, subjects)), method=method,
      delta_reduction=delta_reduction, temperature=0.01)
  assert value.dtype == jnp.float32
  # All others at once; expw's shift leaves e^0 for each of them, up to the rounding of z.z / 0.01.
  alike = math.log(subjects * views - 1) * 0.01 / 0.07
  np.testing.assert_allclose(value, 0 if method == 'threshold' else alike, rtol=1e-5, atol=1e-5)
  assert np.isfinite(gradient.astype(jnp.float32)).all()


@methods
def test_empty_corners_are_zero_and_finite(method, delta_reduction):
  """Nobody has the attribute; one subject alone; features of norm 0."""
  options = dict(method=method, delta_reduction=delta_reduction, temperature=0.01)
  nobody = _value_and_gradient(jnp.ones((3, 2, 4)), jnp.full((3, 3), jnp.nan), jnp.zeros(3, bool),
                               **options)
  alone = _value_and_gradient(jnp.ones((1, 1, 4)), jnp.ones((1, 1)), **options)
  for value, gradient in (nobody, alone):
    assert value == 0 and (gradient == 0).all()
  weights = _age_weights(_example(subjects=3)[1])
  value, gradient = _value_and_gradient(jnp.zeros((3, 2, 4)), weights, **options)
  assert np.isfinite(value) and np.isfinite(gradient).all()


def test_opposite_features_at_low_temperature_are_exact():
  """Logits of -100 and 100: without log-sum-exp the denominator would overflow."""
  features = np.array([[[1.0, 0]], [[-1, 0.01]], [[0.5, 1]], [[-1, 0]]])
  weights = _age_weights(np.array([20.0, 22, 23, 27]))
  for method, delta_reduction in METHODS:
    value, _ = _value_and_gradient(features, weights, method=method,
                                   delta_reduction=delta_reduction, temperature=0.01)
    expected = double_loop(features, weights, method, delta_reduction, temperature=0.01)
    np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=method)


def test_anatcl_loss_is_the_weighted_sum_of_its_terms():
  features, age, morphometry = _example()
  result, metrics = _anatcl_loss(features, age, morphometry)
  by_age = np.exp(-(age[:, None] - age[None])**2 / 8)
  unit = morphometry / np.linalg.norm(morphometry, axis=1, keepdims=True)
  by_anatomy = np.einsum('arm,brm->ab', unit, unit) / 3
  expected_age = double_loop(features, by_age)
  expected_anatomy = double_loop(features, by_anatomy)
  np.testing.assert_allclose(result, expected_age + 0.5 * expected_anatomy, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/age'], expected_age, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/anatomy'], expected_anatomy, rtol=1e-5)
  others = ~np.eye(len(age), dtype=bool)
  np.testing.assert_allclose(metrics['effective_positives/age'],
                             kernels.effective_positives(by_age, others).mean(), rtol=1e-5)


def test_each_term_of_anatcl_loss_has_its_own_missing_subjects():
  features, age, morphometry = (jnp.asarray(x, jnp.float32) for x in _example())
  _, metrics = _anatcl_loss(features, age.at[1].set(jnp.nan),
                            morphometry.at[2, 3, 0].set(jnp.nan))
  for term, missing in (('age', 1), ('anatomy', 2)):
    keep = np.arange(len(age)) != missing
    _, expected = _anatcl_loss(features[keep], age[keep], morphometry[keep])
    for metric in (f'loss/{term}', f'effective_positives/{term}'):
      np.testing.assert_allclose(metrics[metric], expected[metric], rtol=1e-5, err_msg=metric)


def test_a_term_of_weight_zero_is_left_out():
  features, age, morphometry = map(jnp.asarray, _example())
  config = CONFIG.copy_and_resolve_references()
  config.terms.anatomy.weight = 0.0
  result, metrics = jax.jit(lambda *arrays: losses.anatcl_loss(*arrays, config))(
      features, age, morphometry)
  assert 'loss/anatomy' not in metrics and result == metrics['loss/age']


def test_unknown_names():
  features, weights = jnp.ones((2, 1, 2)), jnp.ones((2, 2))
  with pytest.raises(UserError, match="did you mean 'yaware'"):
    losses.weakly_contrastive_loss(features, weights, method='y-aware')
  with pytest.raises(UserError, match="did you mean 'mean'"):
    losses.weakly_contrastive_loss(features, weights, delta_reduction='average mean')


def test_effective_positives_of_supcon_count_equal_labels_only():
  features, _, morphometry = map(jnp.asarray, _example())
  config = CONFIG.copy_and_resolve_references()
  config.method = 'supcon'
  age = jnp.array([20.0, 20, 20, 25, 25, 30])
  _, metrics = losses.anatcl_loss(features, age, morphometry, config)
  np.testing.assert_allclose(metrics['effective_positives/age'], (3 * 2 + 2 * 1 + 0) / 6, rtol=1e-6)
  assert metrics['effective_positives/anatomy'] == 0
