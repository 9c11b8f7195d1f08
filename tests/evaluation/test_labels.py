"""Labels of a table that people have, joined to features of their scans."""

from __future__ import annotations

import numpy as np
import pandas

from anatcl_jax.evaluation import beyond
from anatcl_jax.evaluation import cohort as cohorts


def _joined(tmp_path, labels, features):
  path = tmp_path / 'labels.tsv'
  path.write_text(labels)
  table = pandas.DataFrame(features, columns=['participant_id', 'session', 'file'])
  return cohorts.join(cohorts.of_table(path), {'features': table})


def test_names_are_matched_whole_and_by_the_file(tmp_path):
  cohort, rows = _joined(
      tmp_path, 'Subject ID\tAge\nsub-con-01\t63\nsub-con\t20\nNDAR_INV1\t9\nanna\t50\n',
      [('sub-con', '', '/d/sub-con_T1w.nii'), ('sub-con-01', '', '/d/sub-con-01_T1w.nii'),
       ('sub-NDARINV1', '', '/d/x.nii'), ('anna_T1', '', '/d/anna_T1.nii')])
  assert dict(zip(cohort.table['participant_id'], cohort.table['age'])) == {
      'sub-con-01': 63, 'sub-con': 20, 'sub-NDAR_INV1': 9, 'sub-anna': 50}
  assert list(rows['features']) == [1, 0, 2, 3]


def test_one_age_is_not_that_of_several_sessions(tmp_path):
  cohort, rows = _joined(tmp_path, 'participant_id\tage\tsex\n01\t70\tF\n02\t50\tM\n', [
      ('sub-01', 'ses-1', ''), ('sub-01', 'ses-2', ''), ('sub-02', 'ses-1', '')])
  np.testing.assert_array_equal(cohort.table['age'], [np.nan, np.nan, 50])
  assert list(cohort.table['sex']) == ['F', 'F', 'M']
  assert any('several sessions and one age' in note for note in cohort.notes)


def test_the_first_two_sessions_are_so_in_natural_order():
  sessions = ['ses-10', 'ses-2', 'ses-1']
  rng = np.random.default_rng(0)
  people = [f'sub-{i}' for i in range(20) for _ in sessions]
  table = pandas.DataFrame({'participant_id': people, 'session': sessions * 20})
  cohort = cohorts.Cohort('x', table, None, (), (), np.zeros(60, bool), True)
  values = np.repeat(rng.normal(size=(20, 5)), 3, 0)
  values[::3] = rng.normal(size=(20, 5))      # session 10 knows nothing of the person
  _, icc = beyond.reliability(cohort, {'x': values})
  np.testing.assert_allclose(icc['x'], 1)


def test_rows_that_can_not_be_used_are_noted(tmp_path):
  cohort, _ = _joined(tmp_path, 'participant_id\tage\n01\t70\n02\t89+\n03\t1\n03\t2\n', [
      ('sub-01', '', ''), ('sub-02', '', ''), ('sub-03', '', '')])
  assert list(cohort.table['participant_id']) == ['sub-01', 'sub-02']
  assert np.isnan(cohort.table['age'][1])
  assert any('2 rows' in note and '89+' in note and 'more than once' in note
             for note in cohort.notes)
