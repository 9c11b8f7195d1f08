"""Splits of a file: who is on which side, and what is wrong with a file; all SYNTHETIC."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import given_splits, tasks
from anatcl_jax.evaluation.evaluate import Settings
from anatcl_jax.evaluation.run import Extent, run
from tests.evaluation.probing import cohort_of, features_of

TASKS, COHORTS = tasks.read_tasks('configs/tasks.py')
FEW = Settings(folds=2, inner_folds=2)
PEOPLE = [f'sub-{number:04d}' for number in range(60)]


@pytest.fixture(scope='module')
def cohort():
  rng = np.random.default_rng(0)
  return cohort_of({'age': rng.uniform(20, 80, 60), 'sex': np.resize(['M', 'F', 'F'], 60)})


def given(path, cohort, rows, header='participant_id\tsplit'):
  path.write_text('\n'.join([header, *('\t'.join(row) for row in rows)]) + '\n')
  return given_splits.of_cohort(path, given_splits.read(path), cohort)


def scores(cohort, splits, names='age'):
  found = run(cohort, {'ours': (features_of(cohort),)}, tasks.choose_tasks(names, TASKS, COHORTS),
              FEW, Extent('none', False), {}, progress=False, given=splits)
  return found, {(one.task.name, one.features): one for one in found.outcomes}


def test_train_and_test_are_as_the_file_has_them(tmp_path, cohort):
  """In another order than the labels', with names as others write them, and one left out."""
  sides = ['Train'] * 40 + ['test'] * 19 + ['n/a']
  rows = [(name.removeprefix('sub-'), side) for name, side in zip(PEOPLE, sides)][::-1]
  found, done = scores(cohort, given(tmp_path / 'a.tsv', cohort, rows))
  one = done['age', 'ours']
  assert sorted(one.participant_id) == PEOPLE[40:59] and set(one.fold) == {0}
  x, age = features_of(cohort), cohort.table['age'].to_numpy(float)
  direct = [mean_absolute_error(age[40:59], make_pipeline(StandardScaler(), Ridge(alpha)).fit(
      x[:40], age[:40]).predict(x[40:59])) for alpha in (0.01, 0.1, 1, 10, 100)]
  assert min(abs(value - one.score['mae']) for value in direct) < 1e-5
  assert f'age: the split of {tmp_path}/a.tsv' in found.notes


def test_folds_are_as_the_file_has_them(tmp_path, cohort):
  folds = [str(10 if number % 3 == 2 else number % 3) for number in range(60)]
  found, done = scores(cohort, given(tmp_path / 'a.csv', cohort, zip(PEOPLE, folds),
                                     'participant_id\tFold'))
  one = done['age', 'ours']
  place = {name: number for number, name in enumerate(PEOPLE)}
  assert [place[name] % 3 for name in one.participant_id] == one.fold.tolist()
  assert len(one.fold_scores['mae']) == 3 and f'age: the 3 folds of {tmp_path}/a.csv' in found.notes


def test_sessions_have_the_side_of_their_person(tmp_path, cohort):
  twice = cohort_of({'age': cohort.table['age']}, sessions=2)
  by_person = given(tmp_path / 'a.tsv', twice, [
      (name, 'test' if number > 40 else 'train') for number, name in enumerate(PEOPLE)])
  assert by_person.sides.tolist() == ['train'] * 82 + ['test'] * 38
  rows = [(name, session, 'test' if number > 40 else 'train')
          for number, name in enumerate(PEOPLE) for session in ('ses-1', '02')]
  header = 'participant_id\tsession\tsplit'
  np.testing.assert_array_equal(given(tmp_path / 'b.tsv', twice, rows, header).sides,
                                by_person.sides)
  with pytest.raises(UserError, match='1 scans have no row .sub-0007_ses-2.'):
    given(tmp_path / 'b.tsv', twice, [row for row in rows if row[:2] != ('sub-0007', '02')], header)
  rows[0] = 'sub-0000', 'ses-1', 'test'
  with pytest.raises(UserError, match='sub-0000 is on both sides: test, train'):
    given(tmp_path / 'b.tsv', twice, rows, header)


SPLIT = [(name, 'test' if number > 40 else 'train') for number, name in enumerate(PEOPLE)]


@pytest.mark.parametrize('rows, header, message', [
    (SPLIT[1:], 'participant_id\tsplit', '1 scans have no row .sub-0000.; a row with n/a in split'),
    ([*SPLIT, ('sub-99', 'test')], 'participant_id\tsplit', '1 rows are of nobody .*sub-99'),
    ([*SPLIT, ('sub-0000', 'test')], 'participant_id\tsplit',
     'sub-0000 stands there more than once, with split train and test'),
    ([*SPLIT[1:], ('sub-0000', 'val')], 'participant_id\tsplit', 'split holds val; a row is train'),
    ([(name, 'train') for name in PEOPLE], 'participant_id\tsplit', 'split holds train; train and'),
    ([(name, '1') for name in PEOPLE], 'participant_id\tfold', 'fold holds 1; two folds'),
    (SPLIT, 'participant_id\tside', 'has no column split or fold; it has participant_id, side'),
    ([(name, 'train', '1') for name in PEOPLE], 'participant_id\tsplit\tfold', 'has both columns')])
def test_what_is_wrong_with_a_file_is_said(rows, header, message, tmp_path, cohort):
  with pytest.raises(UserError, match=message):
    given(tmp_path / 'a.tsv', cohort, rows, header)


def test_nobody_is_predicted_who_was_seen_or_whose_class_nobody_taught(tmp_path, cohort):
  seen = dataclasses.replace(cohort, seen=np.arange(60) == 50)
  with pytest.raises(UserError, match='1 scans to be predicted are of people seen in pretraining '
                                      '.sub-0050.'):
    given(tmp_path / 'a.tsv', seen, SPLIT)
  given(tmp_path / 'a.tsv', dataclasses.replace(cohort, seen=np.arange(60) == 5), SPLIT)
  men = cohort.table['sex'] == 'M'
  by_sex = given(tmp_path / 'a.tsv', cohort, [
      (name, 'train' if man else 'test') for name, man in zip(PEOPLE, men)])
  found, done = scores(cohort, by_sex, 'age,sex')
  refused, = [one for one in found.outcomes if one.refused]
  assert refused.task.name == 'sex' and 'test: of those fitted on nobody is F' in refused.note
