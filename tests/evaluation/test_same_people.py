"""Strangers of one name are not taken for people who were trained on, and the same people are."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas
import pytest

from anatcl_jax.data import digests, pipeline, shards
from anatcl_jax.evaluation import cohort as cohorts
from anatcl_jax.evaluation import same_people


def _people(count=60, seed=0, session='', years=0.0):
  rng = np.random.default_rng(seed)
  return pandas.DataFrame({
      'participant_id': [f'sub-{row:04d}' for row in range(count)], 'session': session,
      'age': rng.uniform(20, 80, count) + years, 'sex': rng.choice(['M', 'F'], count)})


def test_strangers_of_one_name_are_others():
  found = same_people.match(_people(), _people(seed=1))
  assert not found.people and 'taken for others, config.same_people=yes' in found.why
  ages, sexes = map(int, re.search(
      r'60 names are in both; age agrees of (\d+) of 60; sex agrees of (\d+) of 60', found.why
  ).groups())
  one, other = _people(), _people(seed=1)
  assert ages == (abs(one['age'] - other['age']) <= 1).sum()
  assert sexes == (one['sex'] == other['sex']).sum()
  assert len(same_people.match(one, other, 'yes').people) == 60


@pytest.mark.parametrize('change', [
    lambda table: table,
    lambda table: table.assign(age=table['age'].round()),               # as tables round it
    lambda table: table.assign(session='ses-1'),                        # one has no sessions
    lambda table: table.drop(columns='sex'),
    lambda table: table.assign(sex=np.nan, age=np.nan),                 # nothing to compare
    lambda table: table.iloc[::3],
    lambda table: table.assign(age=table['age'].where(table.index > 9, 20))])   # ten are mended
def test_the_same_people_are_the_same(change):
  other = change(_people())
  found = same_people.match(_people(), other)
  assert found.people == set(other['participant_id'])
  assert not same_people.match(_people(), other, 'no').people


def test_later_sessions_are_of_the_same_people():
  first, later = _people(session='ses-1'), _people(session='ses-2', years=4.0)
  assert len(same_people.match(later, first).people) == 60
  assert not same_people.match(later.assign(session='ses-1'), first).people


def test_a_cohort_of_strangers_and_some_who_are_the_same():
  ours, theirs = _people(), _people(seed=1)
  ours.iloc[:20] = theirs.iloc[:20]
  found = same_people.match(ours, theirs)
  assert set(theirs['participant_id'][:20]) <= found.people and len(found.people) < 25
  assert 'these alone' in found.why


@pytest.fixture
def stranger(training_set, tmp_path):
  """As many others as `training_set` has, of the same names on the same grid, as far as labels."""
  directory = tmp_path / 'other'
  shutil.copytree(training_set.directory, directory)
  table = training_set.table.assign(age=np.roll(training_set.table['age'], 7),
                                    sex=np.roll(training_set.table['sex'], 7))
  table.to_csv(directory / 'participants.tsv', sep='\t', index=False)
  info = training_set.info | {'shards': [shard | {'sha256': '0' * 64}
                                         for shard in training_set.info['shards']]}
  (directory / 'dataset.json').write_text(json.dumps(digests.signed(info, directory, table)))
  return shards.open_shards(directory)


def test_a_run_marks_its_own_people_and_no_strangers(training_set, stranger, tmp_path):
  assert stranger.identity() == training_set.identity()      # which is why volumes count as well
  run = {'fold': 0, 'num_folds': 5, 'seed': 0, 'data_identity': training_set.identity(),
         'data_dir': str(training_set.directory)}
  fit, _ = pipeline.split_by_participant(
      training_set.table['participant_id'].to_numpy(), 0, 5, 0)
  other = cohorts.mark_seen(cohorts.of_shards(stranger), run, tmp_path)
  assert not other.seen.any() and 'taken for others' in other.notes[-1]
  assert cohorts.mark_seen(cohorts.of_shards(stranger), run, tmp_path, 'yes').seen.sum() == len(fit)
  # The same volumes elsewhere, of corrected ages, are the same people whatever is said.
  moved = tmp_path / 'moved'
  shutil.copytree(training_set.directory, moved)
  for own in (cohorts.of_shards(training_set), cohorts.of_table(moved / 'participants.tsv'),
              cohorts.of_shards(shards.open_shards(moved))):
    seen = cohorts.mark_seen(own, run, tmp_path)
    assert list(np.flatnonzero(seen.seen)) == list(fit)
  assert cohorts.mark_seen(own, run, tmp_path, 'no').seen.sum() == len(fit)
  gone = run | {'data_dir': str(tmp_path / 'gone')}
  assert cohorts.mark_seen(own, gone, tmp_path).seen.sum() == len(fit)
