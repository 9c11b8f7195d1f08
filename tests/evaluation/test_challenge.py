"""OpenBHB's challenge on SYNTHETIC numbers: its score written out, chance, who is tested."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anatcl_jax.evaluation import challenge, splits, tasks
from anatcl_jax.evaluation.evaluate import Settings
from anatcl_jax.evaluation.run import Extent, run
from anatcl_jax.evaluation.target import read_target
from tests.evaluation.probing import cohort_of, features_of, target_of

TASKS, COHORTS = tasks.read_tasks('configs/tasks.py')
FEW = Settings(folds=2, inner_folds=2)
BARE = Extent('none', False)


def _challenge_cohort():
  rng = np.random.default_rng(4)
  count = 200
  split = np.repeat(['train', 'internal_test', 'external_test'], [120, 40, 40])
  site = np.where(split == 'external_test', 'new', rng.choice(['a', 'b', 'c'], count))
  return cohort_of({'age': rng.uniform(20, 80, count), 'sex': rng.choice(['M', 'F'], count),
                    'site': site, 'split': split})


def test_the_challenge_score_is_the_one_written_out():
  cohort = _challenge_cohort()
  x = features_of(cohort)
  x[:, 3] += 2 * (cohort.table['site'] == 'a')
  target = read_target(TASKS['openbhb_challenge'], cohort.table, 10)
  one, = challenge.evaluate(target, cohort.table, cohort.seen, {'x': (x,)}, Settings())
  table = cohort.table
  train, internal, external = (np.flatnonzero(table['split'] == name) for name in (
      'train', 'internal_test', 'external_test'))
  strengths = {'alpha': [0.01, 0.1, 1, 10, 100]}
  age, site = table['age'].to_numpy(float), table['site'].to_numpy()
  inner = splits.grouped_folds(target_of(age[train], groups=target.groups[train]), 5, 0)
  ridge = GridSearchCV(make_pipeline(StandardScaler(), Ridge()),
                       {'ridge__alpha': strengths['alpha']}, cv=inner, scoring='r2')
  ridge.fit(x[train], age[train])
  external_mae = mean_absolute_error(age[external], ridge.predict(x[external]))
  logistic = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
                          {'logisticregression__C': strengths['alpha']}, cv=inner,
                          scoring='balanced_accuracy').fit(x[train], site[train])
  accuracy = balanced_accuracy_score(site[internal], logistic.predict(x[internal]))
  scores = {name: values[0] for name, values in one.outcome.fold_scores.items()}
  assert scores['mae_external'] == pytest.approx(external_mae)
  assert scores['mae_internal'] == pytest.approx(
      mean_absolute_error(age[internal], ridge.predict(x[internal])))
  assert scores['site_balanced_accuracy'] == pytest.approx(accuracy)
  assert scores['challenge_score'] == pytest.approx(external_mae * accuracy**0.3)
  low, high = one.outcome.interval['challenge_score']
  assert low < scores['challenge_score'] < high


def test_the_challenge_of_shuffled_labels_is_chance():
  """Features that hold age and site find them; shuffled ones as a guess would."""
  cohort = _challenge_cohort()
  site = (cohort.table['site'].to_numpy()[:, None] == np.array(['a', 'b', 'c'])).astype(float)
  x = np.concatenate([features_of(cohort), 3 * site], 1)

  def scores(table, inputs):
    target = read_target(TASKS['openbhb_challenge'], table, 10)
    return [{name: values[0] for name, values in one.outcome.fold_scores.items()}
            for one in challenge.evaluate(target, table, cohort.seen, inputs, FEW)]

  own, guess = scores(cohort.table, {'x': (x,), 'mean': (np.zeros((200, 1)),)})
  assert own['mae_external'] < 0.6 * guess['mae_external']
  assert own['site_balanced_accuracy'] > 0.9
  assert guess['site_balanced_accuracy'] == pytest.approx(1 / 3)
  shuffled = []
  for seed in range(2):
    rng, table = np.random.default_rng(seed), cohort.table.copy()
    inside = np.flatnonzero(table['split'] != 'external_test')
    table['age'] = rng.permutation(table['age'])
    table.loc[inside, 'site'] = rng.permutation(table['site'].to_numpy()[inside])
    shuffled += scores(table, {'x': (x,)})
  # 4 standard errors of two means of 40 people: of a share of a third, and of a ratio of MAEs.
  accuracy = np.mean([one['site_balanced_accuracy'] for one in shuffled])
  assert abs(accuracy - 1 / 3) < 4 * np.sqrt(2 / 9 / 80)
  ratio = np.mean([one['mae_external'] / guess['mae_external'] for one in shuffled])
  assert abs(ratio - 1) < 4 * 0.6 / np.sqrt(80)


def test_the_challenge_refuses_test_people_seen_in_pretraining():
  cohort = _challenge_cohort()
  chosen = tasks.choose_tasks('openbhb', TASKS, COHORTS)
  encoders = {'x': (features_of(cohort),)}
  done = run(cohort, encoders, chosen, FEW, BARE, {}, progress=False)
  assert {outcome.task.name for outcome in done.outcomes if not outcome.refused} == set(chosen)
  seen = dataclasses.replace(cohort, seen=np.arange(200) < 130)
  alone = tasks.choose_tasks('openbhb_challenge,age', TASKS, COHORTS)
  done = run(seen, encoders, alone, FEW, BARE, {}, progress=False)
  refused, = [outcome for outcome in done.outcomes if outcome.refused]
  assert 'pretrain on the split train alone' in refused.note
