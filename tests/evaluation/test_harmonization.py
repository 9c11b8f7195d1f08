"""ComBat takes away what sites do and nothing else, and learns on the fitted side alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import columns as columns_module
from anatcl_jax.evaluation import estimators, harmonization, splits, tasks, write
from anatcl_jax.evaluation.columns import Columns
from anatcl_jax.evaluation.combat import PASS, ComBat
from anatcl_jax.evaluation.estimators import Fit
from anatcl_jax.evaluation.evaluate import Settings
from anatcl_jax.evaluation.harmonization import Harmonization, asked, in_table
from anatcl_jax.evaluation.run import Extent, run
from anatcl_jax.evaluation.target import read_target
from anatcl_jax.evaluation.tasks import Task
from tests.evaluation.probing import cohort_of, features_of, target_of

TASKS, COHORTS = tasks.read_tasks('configs/tasks.py')
FEW = Settings(folds=2, inner_folds=2)


def two_sites(people=120, features=20, seed=0):
  """Features with an effect of age and an effect of site that is planted; sites differ in age."""
  rng = np.random.default_rng(seed)
  site = np.arange(people) % 2
  age = rng.uniform(20, 60, people) + 20 * site
  slope = rng.normal(size=features) * 0.1
  noise = rng.normal(size=(people, features))
  shift, scale = rng.normal(size=features), rng.uniform(1.5, 2.5, features)
  moved = np.where(site[:, None] == 1, shift + scale * noise, noise)
  spoilt = 2 + np.outer(age - 50, slope) + moved
  beside = np.column_stack([site, np.arange(people), age])
  return spoilt, beside, slope


def test_neurocombat_gives_the_same():
  """Values of neuroCombat 0.2.12 (categorical sex, continuous age), run once for these numbers."""
  x = np.array([[1.0, 5.0, 2.0], [2.0, 4.0, 2.5], [1.5, 6.0, 3.5], [2.5, 5.5, 3.0],
                [4.0, 9.0, 2.0], [6.0, 7.0, 1.0], [5.5, 9.5, 0.0], [7.0, 8.0, 3.0]])
  age, sex = np.array([20, 30, 40, 55, 25, 35, 45, 60]), np.array([0, 1, 0, 1, 1, 0, 0, 1])
  site = np.repeat([0, 1], 4)
  found = ComBat(2).fit_transform(np.column_stack([x, site, np.arange(8), age, sex]))
  expected = [[2.76364, 6.56854, 1.39972], [3.79142, 5.49696, 1.88393],
              [3.22932, 7.63154, 2.93175], [4.24139, 7.09842, 2.38437],
              [2.42317, 7.18096, 2.48994], [4.09496, 5.77701, 1.56752],
              [3.83949, 7.72142, 0.84051], [5.17390, 6.54451, 3.41645]]
  np.testing.assert_allclose(found, expected, atol=1e-5)


def effects(x, beside):
  """What a site adds, and what a year adds, to each feature, and the sites' residual deviations."""
  site, age = beside[:, 0], beside[:, 2] - 50
  design = np.column_stack([np.ones(len(x)), site, age])
  coefficients, *_ = np.linalg.lstsq(design, x, rcond=None)
  residual = x - design @ coefficients
  return coefficients[1], coefficients[2], [residual[site == s].std() for s in (0, 1)]


def test_the_effect_of_site_goes_and_that_of_age_stays():
  """Fitted on half of the people and seen in the others; sites differ by 20 years of age."""
  spoilt, beside, slope = two_sites(people=4000)
  fit, test = np.arange(2000), np.arange(2000, 4000)
  before, _, (quiet, loud) = effects(spoilt[test], beside[test])
  assert np.abs(before).mean() > 0.6 and loud > 1.5 * quiet
  x = np.column_stack([spoilt, beside])
  found = ComBat(1).fit(x[fit]).transform(x[test])
  after, years, (one, other) = effects(found, beside[test])
  # A standard error of 0.1 on each half, since sites go with age.
  assert np.abs(after).mean() < 0.15 and np.abs(after).max() < 0.35
  assert other == pytest.approx(one, rel=0.08)
  np.testing.assert_allclose(years, slope, atol=0.03)
  # The same without age kept takes the part of age that goes with site for site's.
  forgotten = ComBat().fit(x[fit, :-1]).transform(x[test, :-1])
  gap = forgotten[beside[test, 0] == 1].mean(0) - forgotten[beside[test, 0] == 0].mean(0)
  kept = found[beside[test, 0] == 1].mean(0) - found[beside[test, 0] == 0].mean(0)
  assert np.abs(gap).mean() < 0.3 and np.abs(kept - 20 * slope).mean() < 0.3
  assert np.abs(20 * slope).mean() > 1


def test_sites_that_nobody_was_fitted_on_are_refused_or_left_as_they_are():
  spoilt, beside, _ = two_sites(40)
  x = np.column_stack([spoilt, beside])
  strange = x[:5].copy()
  strange[:2, 20], strange[2, 20] = 7, -1          # another site, and one that is not known
  with pytest.raises(UserError, match='3 scans are of sites'):
    ComBat(1).fit(x).transform(strange)
  found = ComBat(1, PASS).fit(x).transform(strange)
  np.testing.assert_array_equal(found[:3], strange[:3, :20])
  np.testing.assert_allclose(found[3:], ComBat(1).fit(x).transform(x[3:5]))
  # Whose site is not known teaches nothing.
  unknown = np.concatenate([x, np.where(np.arange(23) == 20, -1, 100 * x[:1])])
  np.testing.assert_array_equal(ComBat(1).fit(unknown).transform(x), ComBat(1).fit(x).transform(x))


def test_a_site_of_one_person_has_a_place_and_no_spread():
  spoilt, beside, _ = two_sites(41)
  beside[40] = 2, 40, beside[40, 2]
  twice = np.column_stack([spoilt, beside])[[*range(41), 40]]
  for x in (twice[:41], twice):
    combat = ComBat(1).fit(x)
    found = combat.transform(x)
    assert np.isfinite(found).all() and (combat.delta_[2] == 1).all()
    assert np.abs(found[40] - x[40, :20]).max() > 0.1 and np.ptp(combat.gamma_[2]) > 0.1


@pytest.mark.parametrize('change', ['one feature', 'constant', 'one site', 'two scans a site'])
def test_what_has_little_to_learn_from_stays_finite(change):
  spoilt, beside, _ = two_sites(4 if change == 'two scans a site' else 30, 6)
  if change == 'constant':
    spoilt[:, :2] = 3.3, 0
    spoilt[beside[:, 0] == 0, 2] = 1     # at one site alone
  if change == 'one site':
    beside[:, 0] = 1
  features = spoilt[:, :1] if change == 'one feature' else spoilt
  found = ComBat().fit_transform(np.column_stack([features, beside[:, :2]]))
  assert np.isfinite(found).all()
  if change == 'constant':
    np.testing.assert_allclose(found[:, :2], spoilt[:, :2], atol=1e-9)
  if change == 'one site':
    np.testing.assert_array_equal(found, features)
  if change == 'one feature':     # its own mean and deviation, by hand
    site = beside[:, 0]
    z = [(features[site == s] - features[site == s].mean()) / features[site == s].std(ddof=1)
         for s in (0, 1)]
    inside = np.sqrt(np.mean([features[site == s].var() for s in (0, 1)]))
    expected = np.concatenate(z)[np.argsort(np.argsort(site, kind='stable'), kind='stable')]
    np.testing.assert_allclose(found, features.mean() + inside * expected, rtol=1e-9)


def check_harmonisation_is_not_learned_from_the_test_side():
  """A scan is predicted as before whatever the other scans of the test side are."""
  spoilt, beside, _ = two_sites(60)
  target = target_of(spoilt[:, 0] + np.random.default_rng(3).normal(size=60))
  split = splits.grouped_folds(target, 3, 0)[0]
  inner = estimators.inner_splits(target, [split], 3, 0)[0]
  found = []
  for change in (1, 1e3):
    x = np.column_stack([spoilt, beside])
    x[split[1][1:], :20] *= change
    found.append(estimators.predict(
        Fit('linear', Columns(x, ComBat(1)), target, split, inner, 0)))
  assert found[0].parameters == found[1].parameters
  assert found[0].prediction[0] == pytest.approx(found[1].prediction[0], rel=1e-9)


def test_harmonisation_that_sees_the_test_side_is_found(monkeypatch):
  check_harmonisation_is_not_learned_from_the_test_side()
  original = columns_module.Columns.prepared
  monkeypatch.setattr(columns_module.Columns, 'prepared',
                      lambda self, fit: original(self, np.arange(len(self))))
  with pytest.raises(AssertionError):
    check_harmonisation_is_not_learned_from_the_test_side()


def test_what_is_predicted_is_never_kept():
  rng = np.random.default_rng(0)
  age = rng.uniform(20, 80, 60)
  cohort = cohort_of({'age': age, 'months': 12 * age + 1, 'sex': rng.choice(['M', 'F'], 60),
                      'group': rng.choice(['HC', 'AD', 'MCI'], 60),
                      'site': np.resize(['x', 'y'], 60)})
  table = cohort.table.assign(dx=cohort.table['group'].str.lower())
  wanted = in_table(asked('SITE', 'age,Months,sex,group,dx', 'refuse'), table)
  assert wanted == Harmonization('site', ('age', 'months', 'sex', 'group', 'dx'))

  def kept(task):
    target = read_target(task, table, 5)
    return harmonization.columns_of(wanted, target, splits.grouped_folds(target, 3, 0), table)[1:]

  columns, notes = kept(Task('age', 'age', tasks.REGRESSION))
  assert columns.shape[1] == 2 + 1 + 2 + 2 and not np.isin(columns, age).any()
  assert notes == ['age: harmonised without keeping age, months, which is or tells what is '
                   'predicted']
  # dx is group under another name: it tells the class, and group is the task's own column.
  task = Task('ad', 'group', tasks.CLASSIFICATION, positive=('AD',), control=('HC',))
  columns, notes = kept(task)
  assert 'without keeping dx, group' in notes[0] and columns.shape[1] == 2 + 3
  assert asked('site', 'none', 'refuse').keep == () and asked('', 'auto', 'refuse') is None
  assert in_table(asked('site', 'auto', 'refuse'), table).keep == ('age', 'sex')


def test_why_a_task_is_not_harmonised():
  rng = np.random.default_rng(0)
  columns = {'age': rng.uniform(20, 80, 60), 'site': np.resize(['x', 'y'], 60)}
  cohort = cohort_of(columns)
  task = Task('age', 'age', tasks.REGRESSION)

  def why(wanted, table):
    target = read_target(task, table, 5)
    return harmonization.columns_of(wanted, target, splits.grouped_folds(target, 3, 0), table)

  alone = cohort.table.assign(site=np.where(np.arange(60) == 7, 'z', cohort.table['site']))
  with pytest.raises(UserError, match='age: not harmonised: nobody of site z is on the fitted'):
    why(Harmonization('site'), alone)
  *_, notes = why(Harmonization('site', unseen=PASS), alone)
  assert 'scans of site z are not harmonised' in notes[0]
  missing = cohort.table.assign(site=cohort.table['site'].where(np.arange(60) > 1))
  with pytest.raises(UserError, match='nobody of site unknown'):
    why(Harmonization('site'), missing)
  confounded = cohort.table.assign(group=np.where(cohort.table['site'] == 'x', 'HC', 'AD'))
  with pytest.raises(UserError, match="can't be told apart from site"):
    why(Harmonization('site', ('group',)), confounded)
  with pytest.raises(UserError, match="unknown column of config.keep 'grop'"):
    in_table(asked('site', 'grop', 'refuse'), confounded)
  with pytest.raises(UserError, match='column site holds 1 value; '):
    in_table(asked('site', 'auto', 'refuse'), cohort.table.assign(site='x'))
  with pytest.raises(UserError, match='names site, which config.harmonize removes'):
    asked('site', 'age,site', 'refuse')


def test_results_with_and_without():
  """A site that moves features is read from them no more."""
  rng = np.random.default_rng(1)
  site = np.resize(['x', 'y', 'z'], 120)
  cohort = cohort_of({'age': rng.uniform(20, 80, 120), 'sex': rng.choice(['M', 'F'], 120),
                      'site': site})
  features = features_of(cohort, 0.7)
  features += np.where(site == 'x', 4, 0)[:, None] * np.linspace(-1, 1, 8, dtype=np.float32)
  cohort = dataclasses.replace(cohort, morphometry=cohort.morphometry[:, :4],
                               regions=cohort.regions[:4])
  chosen = tasks.choose_tasks('age', TASKS, COHORTS)
  wanted = dataclasses.replace(FEW, harmonization=asked('site', 'auto', 'refuse'))
  found = run(cohort, {'ours': (features,), 'untrained': (features, features)}, chosen, wanted,
              Extent('none', True), {}, progress=False)
  rows = list(dict.fromkeys(one.features for one in found.outcomes if one.task.name == 'age'))
  assert rows == ['ours', 'ours, harmonised', 'covariates + ours', 'untrained',
                  'untrained, harmonised', 'morphometry', 'morphometry, harmonised',
                  'covariates + morphometry', 'covariates', 'mean']
  assert list(found.leakage['features']) == [name for name in rows if 'covariates +' not in name]
  leaks = found.leakage.set_index('features')['balanced_accuracy']
  assert leaks['ours'] > 0.6 and leaks['ours, harmonised'] < 0.45
  assert set(found.comparisons[found.comparisons['features'] == 'ours, harmonised']['against']) == {
      'ours'}
  beside = found.comparisons[found.comparisons['features'] == 'covariates + ours']
  assert set(beside['against']) == {'covariates'} and (beside['difference'] > 0).all()
  assert set(found.leave_one_site_out['features']) == {'ours', 'untrained', 'morphometry',
                                                       'covariates'}
  assert any(note.startswith('age: harmonised without keeping age') for note in found.notes)
  assert 'covariates + ours: better than covariates, by' in write.summary(found)
