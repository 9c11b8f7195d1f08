"""Morphometry without columns: ComBat's formulas one number at a time, and what can't be fitted."""

from __future__ import annotations

import numpy as np
import pytest

from anatcl_jax import residuals
from anatcl_jax.errors import UserError

_SITES = np.array(['a'] * 9 + ['b'] * 7 + ['c'] * 12, object)


def _cohort(sites=_SITES, seed=0):
  """Thickness (mm), say, and a large measure; sites are confounded with age."""
  rng = np.random.default_rng(seed)
  n = len(sites)
  shift = {'a': 0.0, 'b': 0.4, 'c': -0.3}
  scale = {'a': 1.0, 'b': 2.0, 'c': 0.5}
  age = rng.uniform(20, 60, n) + 20 * (sites == 'b')
  sex = np.where(rng.random(n) < 0.5, 'F', 'M').astype(object)
  x = rng.normal(0, 0.1, (n, 4, 2)) * np.array([scale.get(s, 1) for s in sites])[:, None, None]
  x += 3 + np.array([shift.get(s, 0.0) for s in sites])[:, None, None] - 0.01 * age[:, None, None]
  x += 0.2 * (sex == 'M')[:, None, None]
  return x * [1, 1000], {'site': sites, 'age': age, 'sex': sex}


def _combat(x, columns, kept=(), removed=()):
  """Johnson et al.'s steps 1 to 3 without empirical Bayes, a region and measure at a time."""
  sites, numbers = columns['site'], {'age': columns['age'], 'sex': columns['sex'] == 'M'}
  result = np.empty_like(x)
  for index in np.ndindex(x.shape[1:]):
    y = x[(slice(None), *index)]
    design = np.stack([sites == s for s in 'abc'] + [numbers[c] for c in (*kept, *removed)], 1)
    fitted = np.linalg.lstsq(design.astype(float), y, rcond=None)[0]
    pooled = np.sqrt(np.mean((y - design @ fitted)**2))
    of = dict(zip((*kept, *removed), fitted[3:]))
    mean = np.mean(design[:, :3] @ fitted[:3])
    z = (y - mean - sum(of[c] * numbers[c] for c in of)) / pooled
    for s in 'abc':
      z[sites == s] -= z[sites == s].mean()
      z[sites == s] /= z[sites == s].std(ddof=1)
    stays = sum((of[c] * numbers[c] for c in kept), np.zeros(len(y)))
    level = sum(of[c] * np.mean(numbers[c]) for c in removed)
    result[(slice(None), *index)] = pooled * z + mean + stays + level
  return result


@pytest.mark.parametrize('without, keeping', [
    (['site'], []), (['site'], ['age', 'sex']), (['site', 'age', 'sex'], []),
    (['sex', 'site'], ['age'])])
def test_location_and_scale_of_sites_are_combat_s(without, keeping):
  x, columns = _cohort()
  stats = residuals.fit_residuals(x, columns, without, keeping)
  expected = _combat(x, columns, keeping, [name for name in without if name != 'site'])
  np.testing.assert_allclose(residuals.remove(x, columns, stats), expected, rtol=2e-6)


def test_columns_without_a_site_are_least_squares():
  x, columns = _cohort()
  design = np.stack([np.ones(len(x)), columns['age'], columns['sex'] == 'M'], 1).astype(float)
  flat = x.reshape(len(x), -1)
  errors = flat - design @ np.linalg.lstsq(design, flat, rcond=None)[0]
  stats = residuals.fit_residuals(x, columns, ['age', 'sex'])
  result = residuals.remove(x, columns, stats)
  np.testing.assert_allclose(result.reshape(len(x), -1), errors + flat.mean(0), rtol=1e-5)


def test_nothing_of_the_columns_is_left_and_what_is_kept_stays():
  x, columns = _cohort()
  site_alone = residuals.remove(x, columns, residuals.fit_residuals(x, columns, ['site']))
  kept = residuals.remove(x, columns, residuals.fit_residuals(x, columns, ['site'], ['age']))
  for s in 'abc':
    np.testing.assert_allclose(site_alone[_SITES == s].mean(0), x.mean(0), rtol=1e-5)
  slope = lambda y: np.polyfit(columns['age'], y[:, 0, 0], 1)[0]
  # The 20 years between b and the others are taken for the site where age is not kept.
  assert slope(kept) < 1.5 * slope(site_alone) < 0


def test_small_and_unseen_sites_keep_their_effect_and_are_told():
  x, columns = _cohort(np.append(_SITES, ['d', 'd', '']))
  training = np.arange(len(x)) != len(x) - 2
  fit = lambda rows: residuals.fit_residuals(
      x[rows], {name: values[rows] for name, values in columns.items()}, ['site', 'age', 'sex'])
  stats, alone = fit(training), fit(np.arange(len(_SITES)))
  for name, value in stats.items():
    np.testing.assert_array_equal(value, alone[name])       # a site of one person changes nothing
  result = residuals.remove(x, columns, stats)
  assert np.isnan(result[-1]).all() and np.isfinite(result[:-1]).all()   # of a site not known
  explained = (np.array([columns['age'], columns['sex'] == 'F', columns['sex'] == 'M']).T
               - stats['removed_mean']).astype(float) @ stats['removed_slopes'].reshape(3, -1)
  np.testing.assert_allclose(result[-3:-1].reshape(2, -1), x[-3:-1].reshape(2, -1)
                             - explained[-3:-1], rtol=1e-5)
  assert residuals.not_fitted(columns, stats) == {'site': {'d': 2}}


def test_gaps_are_their_subjects_alone():
  x, columns = _cohort()
  holed, rows = np.concatenate([x, x[:2]]), {n: np.append(v, v[:2]) for n, v in columns.items()}
  holed[-1, 2, 1] = rows['age'][-2] = np.nan
  stats = residuals.fit_residuals(x, columns, ['site', 'age'])
  for name, value in residuals.fit_residuals(holed, rows, ['site', 'age']).items():
    np.testing.assert_array_equal(value, stats[name])
  result = residuals.remove(holed, rows, stats)
  assert np.isnan(result[-2]).all() and np.isnan(result[-1, 2, 1])
  np.testing.assert_array_equal(result[:-2], residuals.remove(x, columns, stats))


def test_constants_are_no_division_by_zero():
  x, columns = _cohort()
  x[:, 1] = 2
  x[_SITES == 'a', 2] = 3
  columns['sex'][:] = 'F'
  stats = residuals.fit_residuals(x, columns, ['site', 'age', 'sex'])
  result = residuals.remove(x, columns, stats)
  assert np.isfinite(result).all()
  np.testing.assert_allclose(result[:, 1], 2, rtol=1e-6)


@pytest.mark.parametrize('without, keeping, change, message', [
    (['site', 'scanner'], [], {'scanner': _SITES}, 'one column of sites'),
    (['site'], ['age'], {'age': (_SITES == 'b') * 20.0}, "can't be told apart"),
    (['site'], [], {'site': np.arange(len(_SITES)).astype(str).astype(object)},
     'no site has 5 training subjects .* the largest has 1'),
    (['sex'], [], {'sex': np.arange(len(_SITES)).astype(str).astype(object)}, 'too few to fit 28')])
def test_what_can_not_be_fitted(without, keeping, change, message):
  x, columns = _cohort()
  with pytest.raises(UserError, match=message):
    residuals.fit_residuals(x, columns | change, without, keeping)
