"""The whole evaluation on SYNTHETIC numbers: baselines, sites, curves, reliability, few people."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import beyond, representations, tasks, write
from anatcl_jax.evaluation import cohort as cohorts
from anatcl_jax.evaluation.evaluate import Settings, choose_protocol
from anatcl_jax.evaluation.run import Extent, run
from anatcl_jax.evaluation.target import read_target
from tests.evaluation.probing import cohort_of, features_of, two_strengths

TASKS, COHORTS = tasks.read_tasks('configs/tasks.py')
FEW = Settings(folds=2, inner_folds=2)
BARE = Extent('none', False)


@pytest.fixture(scope='module')
def cohort():
  rng = np.random.default_rng(1)
  return cohort_of({'age': rng.uniform(20, 80, 90), 'sex': rng.choice(['M', 'F'], 90),
                    'site': rng.choice(['x', 'y', 'z'], 90)}, sessions=2)


@pytest.fixture(scope='module')
def evaluation(cohort):
  encoders = {'good': (features_of(cohort),), 'poor': (features_of(cohort, 0.2),),
              'untrained': tuple(features_of(cohort, 0, seed) for seed in range(2))}
  chosen = tasks.choose_tasks('age,sex,thickness:lh_insula,adni', TASKS, COHORTS)
  with two_strengths():
    return run(cohort, encoders, chosen, FEW, Extent('25,45', True), {}, progress=False)


def test_every_representation_stands_beside_every_other(evaluation):
  table = write.results_table(evaluation)
  done = table[table['n'] > 0]
  for name in ('age', 'sex', 'thickness:lh_insula'):
    assert list(dict.fromkeys(done[done['task'] == name]['features'])) == [
        'good', 'covariates + good', 'poor', 'covariates + poor', 'untrained', 'morphometry',
        'covariates + morphometry', 'covariates', 'mean']
  assert set(done['n']) == {180} and set(done['subjects']) == {90} and set(done['folds']) == {2}
  age = done[(done['task'] == 'age') & (done['metric'] == 'mae')].set_index('features')
  assert age.loc['good', 'mean'] < age.loc['poor', 'mean'] < age.loc['mean', 'mean']
  assert (age['low'] < age['mean']).all() and (age['mean'] < age['high']).all()
  # The mean predictor's MAE by hand, within 5 %: folds take their own means.
  ages = evaluation.table['age'].astype(float)
  assert age.loc['mean', 'mean'] == pytest.approx(np.abs(ages - ages.mean()).mean(), rel=0.05)
  sex = done[(done['task'] == 'sex') & (done['metric'] == 'balanced_accuracy')]
  assert float(sex[sex['features'] == 'mean']['mean'].iloc[0]) == 0.5


def test_tasks_of_a_cohort_that_do_not_apply_are_said(evaluation):
  table = write.results_table(evaluation)
  refused = table[table['n'] == 0].set_index('task')
  assert set(refused.index) == {name for name in COHORTS['adni']
                                if name not in ('age', 'sex', 'site')}
  assert "no column 'mci_course'; it has participant_id" in refused.loc['progressive_mci', 'note']
  assert 'progressive_mci: not done.' in write.summary(evaluation)


def test_a_named_task_without_column_stops_the_run(cohort):
  chosen = tasks.choose_tasks('age,mmse', TASKS, COHORTS)
  with pytest.raises(UserError, match="no column 'mmse'"):
    run(cohort, {'good': (features_of(cohort),)}, chosen, FEW, BARE, {}, progress=False)
  with pytest.raises(UserError, match="unknown region 'lh_insulaa'"):
    run(cohort, {'good': (features_of(cohort),)},
        tasks.choose_tasks('thickness:lh_insulaa', TASKS, COHORTS), FEW, BARE, {}, progress=False)
  spoilt = features_of(cohort)
  spoilt[7, 3] = np.nan
  with pytest.raises(UserError, match="features 'good' are not finite for 1 scans, such as "
                                      'sub-0003_ses-2'):
    run(cohort, {'good': (spoilt,)}, tasks.choose_tasks('age', TASKS, COHORTS), FEW, BARE, {},
        progress=False)


def test_comparisons_are_the_differences_of_the_results(evaluation):
  table = write.results_table(evaluation)
  rows = evaluation.comparisons
  for row in rows.itertuples():
    def mean(name, row=row):
      return float(table[(table['task'] == row.task) & (table['metric'] == row.metric)
                         & (table['features'] == name)]['mean'].iloc[0])
    sign = -1 if row.metric == 'mae' else 1
    assert row.difference == pytest.approx(sign * (mean(row.features) - mean(row.against)))
    assert row.low <= row.difference <= row.high and (row.p <= row.p_holm or row.against == 'mean')
  pairs = rows[rows['task'] == 'age'][['features', 'against']].values.tolist()
  assert ['good', 'poor'] in pairs and ['poor', 'good'] not in pairs and len(pairs) == 12
  best = rows[(rows['task'] == 'age') & (rows['against'] == 'mean')].set_index('features')
  assert best.loc['good', 'low'] > 0 and 0 < best.loc['good', 'p'] < 0.5


def test_site_is_chance_in_features_that_do_not_know_it(evaluation):
  leakage = evaluation.leakage.set_index('features')
  assert set(leakage['chance'].round(6)) == {0.333333} and set(leakage['sites']) == {3}
  for name in ('good', 'untrained', 'morphometry'):
    assert abs(leakage.loc[name, 'balanced_accuracy'] - 1 / 3) < 4 * np.sqrt(2 / 9 / 90)
  assert 'site (leakage)' not in write.results_table(evaluation)['task'].tolist()


def test_a_left_out_site_is_predicted_from_the_others_alone(evaluation, cohort):
  target = read_target(TASKS['age'], cohort.table, 10)
  protocol = choose_protocol(target, cohort.seen, FEW)
  sites = cohort.table['site'].to_numpy()
  for site, (split, _) in beyond.left_out_sites(protocol, sites, FEW)[0].items():
    assert set(sites[split[1]]) == {site} and site not in set(sites[split[0]])
    assert len(split[0]) + len(split[1]) == 180
  rows = evaluation.leave_one_site_out
  row = rows[(rows['task'] == 'age') & (rows['features'] == 'good') & (rows['site'] == 'x')]
  fit, test = sites != 'x', sites == 'x'
  x, age = features_of(cohort), cohort.table['age'].to_numpy(float)
  direct = [mean_absolute_error(age[test], make_pipeline(StandardScaler(), Ridge(alpha)).fit(
      x[fit], age[fit]).predict(x[test])) for alpha in (0.01, 0.1, 1, 10, 100)]
  assert min(abs(value - row['score'].iloc[0]) for value in direct) < 1e-5


def test_the_last_point_of_a_learning_curve_is_the_result(evaluation):
  curve = evaluation.learning_curves
  own = curve[(curve['task'] == 'age') & (curve['features'] == 'good')].set_index('subjects')
  assert list(own.index) == [25, 45] and own.loc[45, 'mean'] <= own.loc[25, 'mean'] * 1.1
  table = write.results_table(evaluation)
  result = table[(table['task'] == 'age') & (table['features'] == 'good')
                 & (table['metric'] == 'mae')]['mean'].iloc[0]
  assert own.loc[45, 'mean'] == pytest.approx(result)     # 45 of 90 people are all of a fold's
  assert beyond.curve_sizes('auto', 256) == [25, 50, 100, 256]
  with pytest.raises(UserError, match='neither numbers of people'):
    beyond.curve_sizes('many', 256)


def test_reliability_of_sessions(cohort):
  rng = np.random.default_rng(2)
  person = np.repeat(rng.normal(size=(90, 20)), 2, axis=0)
  stable = person + 0.1 * rng.normal(size=person.shape)
  table, icc = beyond.reliability(cohort, {'stable': stable, 'noise': rng.normal(size=(180, 20))})
  own = table.set_index('features')
  # The variance of persons is 1 and of sessions 0.01: ICC is 1 / 1.01.
  np.testing.assert_allclose(icc['stable'], 1 / 1.01, atol=0.01)
  assert own.loc['stable', 'identification'] == 1 and own.loc['noise', 'identification'] < 0.1
  assert abs(own.loc['noise', 'icc_median']) < 0.25 and set(own['subjects']) == {90}
  assert not len(beyond.reliability(cohort.select(np.arange(0, 180, 2)), {'x': stable[::2]})[0])


def test_no_baseline_holds_what_it_predicts(cohort):
  with_head = dataclasses.replace(cohort, table=cohort.table.assign(TIV=1500.0))
  age, sex = TASKS['age'], TASKS['sex']
  assert representations.covariates(age, with_head.table).shape == (180, 2)     # sex and head size
  np.testing.assert_allclose(representations.covariates(sex, with_head.table)[:, 0],
                             cohort.table['age'], rtol=1e-15)
  assert representations.covariates(tasks.Task('x', 'x', 'regression', covariates=('iq',)),
                                    cohort.table) is None
  region = tasks.Task('t', 'thickness:lh_insula', 'regression')
  left = representations.morphometry(region, cohort)
  answer = cohort.morphometry[:, cohort.regions.index('lh_insula'), 0]
  assert left.shape == (180, 67) and not (left == answer[:, None]).all(0).any()
  assert representations.morphometry(age, cohort).shape == (180, 68)


def test_labels_and_features_are_joined_by_identifier(cohort):
  order = np.random.default_rng(3).permutation(180)[:150]
  features = cohort.table[['participant_id', 'session']].iloc[order].reset_index(drop=True)
  extra = pandas.DataFrame({'participant_id': ['sub-9'], 'session': ['']})
  joined, rows = cohorts.join(cohort, {'a': pandas.concat([features, extra], ignore_index=True)})
  assert (features.iloc[rows['a']].values
          == joined.table[['participant_id', 'session']].values).all() and len(rows['a']) == 150
  assert any('30 scans of SYNTHETIC have no features' in note for note in joined.notes)
  assert any('1 scans of a have no labels in SYNTHETIC' in note for note in joined.notes)
  # A table of people without sessions serves all of theirs, but for the age.
  people = cohort_of({'age': np.arange(90.0), 'iq': np.arange(90.0)})
  joined, rows = cohorts.join(people, {'a': features})
  assert len(joined.table) == 150
  assert [f'sub-{int(iq):04d}' for iq in joined.table['iq']] == joined.table[
      'participant_id'].tolist()
  several = joined.table['participant_id'].duplicated(keep=False)
  assert (joined.table['age'].isna() == several).all() and not several.all()
  with pytest.raises(UserError, match='stands there twice'):
    cohorts.join(cohort, {'a': pandas.concat([features, features])})
  with pytest.raises(UserError, match='no scan of SYNTHETIC'):
    cohorts.join(cohort, {'a': extra})


def test_tables_are_written_whole_and_can_be_read(evaluation, tmp_path):
  assert 'reliability.tsv' in write.write_tables(evaluation, tmp_path)
  names = write.write_tables(dataclasses.replace(
      evaluation, reliability=evaluation.reliability.iloc[:0]), tmp_path)
  assert set(names) == {path.name for path in tmp_path.iterdir()}     # and nothing of another run
  results = pandas.read_csv(tmp_path / 'results.tsv', sep='\t')
  assert list(results)[:9] == ['task', 'features', 'metric', 'mean', 'sd', 'low', 'high', 'n',
                               'folds']
  predictions = pandas.read_csv(tmp_path / 'predictions.tsv', sep='\t')
  own = predictions[(predictions['task'] == 'age') & (predictions['features'] == 'good')]
  errors = (own['truth'].astype(float) - own['prediction'].astype(float)).abs()
  row = results[(results['task'] == 'age') & (results['features'] == 'good')
                & (results['metric'] == 'mae')]
  assert errors.groupby(own['fold']).mean().mean() == pytest.approx(row['mean'].iloc[0], rel=1e-4)
  text = write.summary(evaluation)
  assert 'SYNTHETIC' in text and 'age: 90 people, 180 scans predicted in 2 folds' in text
  assert max(map(len, text.splitlines()[:20])) < 120


@pytest.mark.parametrize('people, seen, sizes', [
    (24, 0, 'auto'), (30, 2, 'auto'), (30, 3, '2,5,10,50'), (30, 8, 'none'), (100, 96, 'auto')])
@pytest.mark.parametrize('inner', [2, 8])
def test_few_people_are_done_or_left_out_with_a_reason(people, seen, sizes, inner):
  """No number of people, or of people seen in pretraining, ends in an error of a library."""
  rng = np.random.default_rng(people + seen)
  cohort = cohort_of({'age': rng.uniform(20, 80, people), 'sex': rng.choice(['M', 'F'], people),
                      'site': np.where(np.arange(people) < 3 * people // 4, 'x', 'y')},
                     seen=np.arange(people) < seen)
  if inner == 8:     # more folds to make, of which all representations have the same
    cohort = dataclasses.replace(cohort, morphometry=None, measures=())
  tasks_ = tasks.choose_tasks('age,sex', TASKS, COHORTS)
  settings = Settings(folds=2, inner_folds=inner, fewest=5)
  try:
    with two_strengths():
      found = run(cohort, {'ours': (features_of(cohort),)}, tasks_, settings, Extent(sizes, True),
                  {}, progress=False)
  except UserError as error:
    assert 'too few' in str(error)
    return
  assert {one.task.name for one in found.outcomes} == {'age', 'sex'}
  for one in found.outcomes:
    assert one.note if one.refused else np.isfinite(list(one.fold_scores.values())[0]).all()


def test_a_task_that_nobody_named_ends_nothing():
  """A site of which one person was seen in pretraining: no leakage, and a word, but the age."""
  rng = np.random.default_rng(0)
  cohort = cohort_of({'age': rng.uniform(20, 80, 60),
                      'site': np.where(np.arange(60) % 30 == 0, 'x', 'y')},
                     seen=np.arange(60) < 30)
  found = run(cohort, {'ours': (features_of(cohort.__class__(
      **{**vars(cohort), 'table': cohort.table.assign(sex='F')})),)},
              tasks.choose_tasks('age', TASKS, COHORTS), dataclasses.replace(FEW, fewest=2), BARE,
              {}, progress=False)
  assert not found.outcomes[0].refused and not len(found.leakage)
  assert any('not done: task site (leakage): too few people' in note for note in found.notes)


def test_a_contrast_of_two_sites_is_a_task_and_no_leakage():
  """Leakage is of all three sites, whatever else is asked of their column."""
  rng = np.random.default_rng(0)
  cohort = cohort_of({'site': np.repeat(['x', 'y', 'z'], 20)})
  x = (rng.normal(size=(60, 2)).astype(np.float32),)
  chosen = tasks.choose_tasks('site:x/y', TASKS, COHORTS, cohort.table)
  found = run(cohort, {'ours': x}, chosen, FEW, Extent('20', True), {}, progress=False)
  assert set(found.leakage['sites']) == {3} and set(found.leakage['n']) == {60}
  assert {one.task.name for one in found.outcomes} == {'site:x/y'}
  assert len(found.outcomes[0].truth) == 40 and set(found.learning_curves['subjects']) == {20}
  assert not len(found.leave_one_site_out)


def test_a_site_that_is_not_left_out_is_said_with_the_reason():
  """A small site, one of a single class, and one without which a class is missing."""
  rng = np.random.default_rng(0)
  site = np.repeat(['small', 'one', 'all', 'more'], [4, 20, 30, 30])
  sex = np.where(site == 'one', 'F', rng.choice(['M', 'F'], 84))
  cohort = cohort_of({'age': rng.uniform(20, 80, 84), 'sex': sex, 'site': site})
  found = run(cohort, {'ours': (features_of(cohort),)}, tasks.choose_tasks('sex', TASKS, COHORTS),
              FEW, Extent('none', True), {}, progress=False)
  assert set(found.leave_one_site_out['site']) == {'all', 'more'}
  assert 'sex: not predicted from the other sites: one: a single class, small: 4 people' in (
      found.notes)


@pytest.mark.parametrize('seen', [0, 61])
def test_one_number_for_one_thing(seen):
  """The right end of a curve is the result, also where folds differ in size and seeds are even."""
  rng = np.random.default_rng(5)
  cohort = cohort_of({'age': rng.uniform(20, 80, 83), 'sex': rng.choice(['M', 'F'], 83)},
                     seen=np.arange(83) < seen)
  encoders = {'ours': (features_of(cohort, 0.3),),
              'untrained': tuple(features_of(cohort, 0.1, seed) for seed in (1, 2))}
  with two_strengths():
    found = run(cohort, encoders, tasks.choose_tasks('age,sex', TASKS, COHORTS),
                dataclasses.replace(FEW, folds=4), Extent(str(seen or 62), False), {},
                progress=False)
  table = write.results_table(found).set_index(['task', 'features', 'metric'])['mean']
  curve = found.learning_curves
  last = curve[curve['subjects'] == (seen or 62)]
  assert len(last) == 6
  for row in last.itertuples():
    assert row.mean == pytest.approx(table[row.task, row.features, row.metric], rel=1e-12)
