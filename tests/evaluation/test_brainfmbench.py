"""BrainFMBench's protocol, against scikit-learn written out; few trees, all SYNTHETIC."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler

from anatcl_jax import probe
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import brainfmbench, tasks, write
from configs.probe import get_config
from tests.evaluation.probing import cohort_of, features_of

TASKS, COHORTS = tasks.read_tasks('configs/tasks.py')


def test_the_constants_are_the_published_ones():
  assert brainfmbench.SEEDS == (0, 1, 2, 3, 42)
  assert brainfmbench.FRACTIONS == (0.01, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0)
  assert brainfmbench.FOREST == {'n_estimators': 200, 'max_depth': 6, 'min_samples_split': 5}
  config = get_config('brainfmbench')
  assert (config.benchmark, config.tasks) == ('brainfmbench', 'age,sex')


@pytest.fixture(scope='module')
def done():
  """Two seeds and two shares; people in a random order, one of them seen, one scanned twice."""
  rng = np.random.default_rng(0)
  cohort = cohort_of({'age': rng.uniform(20, 80, 121).round(3), 'sex': rng.choice(['M', 'F'], 121)})
  features = features_of(cohort, 0.5)
  cohort = dataclasses.replace(cohort, seen=np.arange(121) == 120, morphometry=None)
  order = np.append(rng.permutation(121), 7)
  cohort = cohort.select(order)
  cohort.table.loc[121, 'session'] = 'ses-2'
  x = features[order]
  x[121] = 99          # a second scan takes no part
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(brainfmbench, 'SEEDS', (0, 42))
    patch.setattr(brainfmbench, 'FRACTIONS', (0.01, 0.25, 1.0))
    patch.setattr(brainfmbench, 'FOREST', brainfmbench.FOREST | {'n_estimators': 6})
    chosen = tasks.choose_tasks('age,sex,adni', TASKS, COHORTS)
    tables, notes = brainfmbench.run(cohort, {'ours': (x, x + 1)}, chosen, 10, 1)
  people = np.sort(cohort.table['participant_id'].unique())[:120]
  place = {name: row for row, name in reversed(list(enumerate(cohort.table['participant_id'])))}
  rows = [place[name] for name in people]
  return tables, notes, x[rows].astype(float), cohort.table.iloc[rows].reset_index(drop=True)


def forest(kind, seed, **more):
  return kind(n_estimators=6, max_depth=6, min_samples_split=5, random_state=seed, **more)


def test_scores_of_people_held_out(done):
  tables, _, x, table = done
  found = tables['brainfmbench.csv'].set_index(['task', 'model'])
  one = found.loc[('age', 'ours')]
  assert (one['dataset'], one['n'], one['dimensions']) == ('SYNTHETIC', 120, 8)
  sex, age = (table['sex'] == 'F').to_numpy(int), table['age'].to_numpy(float)
  accuracy, area, error = [], [], []
  for seed in (0, 42):
    fit, test = train_test_split(np.arange(120), test_size=12, stratify=sex, random_state=seed)
    scale = StandardScaler().fit(x[fit])
    model = forest(RandomForestClassifier, seed, max_features='sqrt', class_weight='balanced')
    model.fit(scale.transform(x[fit]), sex[fit])
    accuracy.append(balanced_accuracy_score(sex[test], model.predict(scale.transform(x[test]))))
    area.append(roc_auc_score(sex[test], model.predict_proba(scale.transform(x[test]))[:, 1]))
    fit, test = train_test_split(np.arange(120), test_size=12, random_state=seed)
    scale = StandardScaler().fit(x[fit])
    model = forest(RandomForestRegressor, seed).fit(scale.transform(x[fit]), age[fit])
    error.append(mean_absolute_error(age[test], model.predict(scale.transform(x[test]))))
  one = found.loc[('sex', 'ours')]
  assert one['test_acc_mean'] == pytest.approx(np.mean(accuracy), rel=1e-12)
  assert one['test_acc_std'] == pytest.approx(np.std(accuracy), rel=1e-12)
  assert one['test_auc_mean'] == pytest.approx(np.mean(area), rel=1e-12)
  assert np.isnan(one['test_mae_mean'])
  one = found.loc[('age', 'ours')]
  assert one['test_mae_mean'] == pytest.approx(np.mean(error), rel=1e-12)
  assert ('age', 'covariates') in found.index and ('age', 'mean') not in found.index


def test_shares_of_the_people_fitted_on(done):
  """A fold of the second seed with a quarter of its people, by hand; a hundredth is nobody."""
  tables, _, x, table = done
  values = tables['brainfmbench_values.csv']
  cv = values[(values['task'] == 'sex') & (values['model'] == 'ours')
              & (values['metric'] == 'acc') & (values['side'] == 'cv')]
  assert len(cv) == 2 * 5 * 2 and set(cv['alpha']) == {0.25, 1.0}
  sex = (table['sex'] == 'F').to_numpy(int)
  fitted, _ = train_test_split(np.arange(120), test_size=12, stratify=sex, random_state=42)
  splits = StratifiedKFold(5, shuffle=True, random_state=42).split(fitted, sex[fitted])
  rows, test = [fitted[side] for side in list(splits)[3]]
  drawn, _ = train_test_split(rows, train_size=len(rows) // 4, stratify=sex[rows], random_state=42)
  scale = StandardScaler().fit(x[drawn])
  model = forest(RandomForestClassifier, 42, max_features='sqrt', class_weight='balanced')
  model.fit(scale.transform(x[drawn]), sex[drawn])
  one = cv[(cv['seed'] == 42) & (cv['fold'] == 3) & (cv['alpha'] == 0.25)]
  assert one['fitted'].tolist() == [len(drawn)] == [21]
  assert one['value'].iloc[0] == pytest.approx(
      balanced_accuracy_score(sex[test], model.predict(scale.transform(x[test]))), rel=1e-12)
  means = cv.groupby('alpha')['value'].mean()
  row = tables['brainfmbench.csv'].set_index(['task', 'model']).loc[('sex', 'ours')]
  assert row['best_alpha'] == means.idxmax() and row['cv_acc_mean'] == pytest.approx(means.max())


def test_who_takes_part_and_what_is_not_done(done):
  tables, notes, x, table = done
  assert 'BrainFMBench: 1 scans of people seen in pretraining take no part' in notes
  assert 'BrainFMBench: 1 further scans of the same people take no part' in notes
  assert any(note.startswith('not done for BrainFMBench: task ad: ') for note in notes)
  features = tables['brainfmbench-ours.csv']
  assert list(features) == ['subject_id', *(f'f{column}' for column in range(8))]
  assert features['subject_id'].tolist() == [
      name.removeprefix('sub-') for name in table['participant_id']]
  np.testing.assert_array_equal(features.iloc[:, 1:], x)


def test_too_few_people_are_said():
  rng = np.random.default_rng(0)
  cohort = cohort_of({'sex': np.resize(['M', 'F'], 12), 'age': rng.uniform(20, 80, 12)})
  tables, (note,) = brainfmbench.run(cohort, {}, tasks.choose_tasks('sex', TASKS, COHORTS), 3, 1)
  assert not tables and re.match('not done for BrainFMBench: sex: .*test_size', note)


def test_a_probe_writes_its_csv_and_takes_it_away_again(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(brainfmbench, 'SEEDS', (0,))
  monkeypatch.setattr(brainfmbench, 'FRACTIONS', (1.0,))
  monkeypatch.setattr(brainfmbench, 'FOREST', brainfmbench.FOREST | {'n_estimators': 3})
  rng = np.random.default_rng(0)
  people = pandas.DataFrame({'participant_id': [f'sub-{row:02d}' for row in range(40)],
                             'age': rng.uniform(20, 80, 40)})
  people.to_csv(tmp_path / 'NKI.csv', index=False)
  people.assign(f0=people['age'] + rng.normal(size=40), f1=0.0).drop(columns='age').to_csv(
      tmp_path / 'ours.tsv', sep='\t', index=False)
  config = get_config('brainfmbench')
  config.update({'features': f'{tmp_path}/ours.tsv', 'participants': f'{tmp_path}/NKI.csv',
                 'tasks': 'age', 'folds': 2, 'inner_folds': 2, 'jobs': 1, 'sections': 'benchmark',
                 'out': f'{tmp_path}/out'})
  probe.probe(config)
  row, = pandas.read_csv(tmp_path / 'out' / 'brainfmbench.csv').to_dict('records')
  assert (row['dataset'], row['task'], row['model']) == ('NKI', 'age', 'ours')
  shown = f'ours  age  {write.shown(row["test_mae_mean"])} ± 0.000'
  assert ' '.join(shown.split()) in ' '.join(capsys.readouterr().out.split())
  assert '<section id="brainfmbench">' in (tmp_path / 'out' / 'report.html').read_text()
  config.benchmark = ''
  probe.probe(config)
  assert not list((tmp_path / 'out').glob('brainfmbench*'))
  (tmp_path / 'out' / 'brainfmbench.csv').write_text('a,b\n')       # somebody else's
  config.benchmark = 'brainfmbench'
  with pytest.raises(UserError, match='brainfmbench.csv would be replaced'):
    probe.probe(config)
