"""Tables of people: the columns, doubles and ages of real ones."""

from __future__ import annotations

import numpy as np
import pytest

from anatcl_jax.cohorts import bids
from anatcl_jax.cohorts.participants import Reading, read_participants, read_people, sex_codes
from anatcl_jax.errors import UserError


def _people(tmp_path, text, sidecar='', **reading):
  path = tmp_path / 'people.tsv'
  path.write_text(text, encoding='utf-8')
  if sidecar:
    path.with_suffix('.json').write_text(sidecar, encoding='utf-8')
  return read_people(path, Reading(**reading))


def _ages(people):
  keys = zip(people.table['participant_id'], people.table['session'])
  return {'_'.join(filter(None, key)): age for key, age in zip(keys, people.table['age'])}


@pytest.mark.parametrize('text', [
    'participant_id\tage\n01\t30\n02\t40\n', 'Subject ID,Age\nsub-01,30\n02,40\n',
    'IXI_ID;AGE\n01;30\n02;40\n', ',participant_id,age\n1,01,30\n2,02,40\n',
    '"","subject","Age (years)"\n"1","01",30\n"2","02",40\n',
    'MRID\tage_in_years\tIID_note\n01\t30\tx\n02\t40\ty\n',
    '\ufeffparticipant_id\tage\n01\t30\n02\t40\n'])
def test_whose_column_is_whose(tmp_path, text):
  assert _ages(_people(tmp_path, text)) == {'sub-01': 30, 'sub-02': 40}


def test_a_row_number_is_nobody_and_a_column_can_be_named(tmp_path):
  text = ',who,age\n1,10,30\n2,11,40\n'
  with pytest.raises(UserError, match='--id-column'):
    _people(tmp_path, text)
  assert _ages(_people(tmp_path, text, id_column='who')) == {'sub-10': 30, 'sub-11': 40}
  assert _ages(_people(tmp_path, text, id_column='2')) == {'sub-10': 30, 'sub-11': 40}
  with pytest.raises(UserError, match='has no column whom'):
    _people(tmp_path, text, id_column='whom')
  # The option may be of another table: what is certain here stays.
  assert _ages(_people(tmp_path, 'age\tparticipant_id\n30\t01\n', id_column='1')) == {'sub-01': 30}


@pytest.mark.parametrize('name', ['session', 'Session', 'session_id', 'SES', 'visit', 'Timepoint'])
def test_sessions(tmp_path, name):
  text = f'participant_id\t{name}\tage\n01\t1.0\t30\n01\tses-2\t32\n02\t1\t40\n'
  assert _ages(_people(tmp_path, text)) == {'sub-01_ses-1': 30, 'sub-01_ses-2': 32,
                                            'sub-02_ses-1': 40}


def test_a_visit_of_people_who_do_not_repeat_is_a_column(tmp_path):
  people = _people(tmp_path, 'participant_id\tvisit\tage\n01\tbaseline\t30\n02\tbaseline\t40\n')
  assert _ages(people) == {'sub-01': 30, 'sub-02': 40}
  assert list(people.table['visit']) == ['baseline', 'baseline']


def test_doubles_that_agree_are_one_and_others_are_a_problem(tmp_path, capsys):
  people = _people(tmp_path, 'participant_id\tage\tsite\n01\t30\tA\n02\t40\tA\n01\t30.0\tn/a\n'
                             '02\t41\tA\n03\t50\tB\n')
  assert _ages(people) == {'sub-01': 30, 'sub-02': 40, 'sub-03': 50}
  assert list(people.problems) == [('sub-02', '')]
  assert 'age 40 and 41' in people.problems['sub-02', '']
  assert '2 rows of' in capsys.readouterr().err


def test_where_all_rows_are_wanted_one_stops(tmp_path):
  path = tmp_path / 'people.tsv'
  path.write_text('participant_id\tage\n01\t30\n02\t89+\n')
  with pytest.raises(UserError, match='sub-02 has age 89+'):
    read_participants(path)
  path.write_text('participant_id\tage\n01\t30\n01\t30\n')
  with pytest.raises(UserError, match='sub-01 stands there more than once'):
    read_participants(path)


def test_ages(tmp_path):
  text = 'participant_id\tage\n01\t89+\n02\t20-25\n03\tP25Y\n04\tn/a\n'
  people = _people(tmp_path, text)
  np.testing.assert_array_equal(people.table['age'], [np.nan, np.nan, 25, np.nan])
  assert {name for name, _ in people.problems} == {'sub-01', 'sub-02'}
  people = _people(tmp_path, text, top_coded_age=89.0)
  np.testing.assert_array_equal(people.table['age'], [89, np.nan, 25, np.nan])
  assert {name for name, _ in people.problems} == {'sub-02'}


@pytest.mark.parametrize('column, cells, sidecar, expected', [
    ('Gender', 'male female', '', 'M F'), ('sex', 'F m', '', 'F M'), ('SEX', '1 2', '', '1 2'),
    ('sex', '1 2', '{"sex": {"Levels": {"1": "male", "2": "Female"}}}', 'M F'),
    ('Gender', '0 1', '{"Gender": {"Levels": {"0": {"Description": "female"}, "1": "male"}}}',
     'F M')])
def test_sex(tmp_path, column, cells, sidecar, expected):
  first, second = cells.split()
  people = _people(tmp_path, f'participant_id\tage\t{column}\n01\t3\t{first}\n02\t4\t{second}\n',
                   sidecar)
  assert list(people.table['sex']) == expected.split()


def test_codes_of_sex_by_option(tmp_path):
  people = _people(tmp_path, 'participant_id\tage\tsex\n01\t3\t1\n02\t4\t2.0\n03\t5\tF\n',
                   sex_codes=sex_codes('1=M, 2=female'))
  assert list(people.table['sex']) == ['M', 'F', 'F']
  for text in ('1', '1=M,1=F', '1=x', ''):
    with pytest.raises(UserError, match='--sex-codes'):
      sex_codes(text)


@pytest.mark.parametrize('note', ['5" tall', '"he said', '"a"'])
def test_a_lone_quote_swallows_nothing(tmp_path, note):
  people = _people(tmp_path, f'participant_id\tnote\tage\n01\t{note}\t30\n02\tx\t40\n03\t"y\t50\n')
  assert _ages(people) == {'sub-01': 30, 'sub-02': 40, 'sub-03': 50}
  assert people.table['note'][0] == note.replace('"a"', 'a')


def test_two_lone_quotes_in_a_row_swallow_no_cell(tmp_path):
  people = _people(tmp_path, 'participant_id\tnote\tplace\tage\n01\t"he\tshe"\t30\n02\tx\ty\t40\n')
  assert _ages(people) == {'sub-01': 30, 'sub-02': 40}
  assert list(people.table['note']) == ['"he', 'x'] and people.table['place'][0] == 'she"'


def test_a_lone_quote_before_a_long_table(tmp_path):
  rows = ''.join(f'{i:04d}\t{"x" * 50}\t{i % 80}\n' for i in range(1, 4000))
  people = _people(tmp_path, f'participant_id\tnote\tage\n0000\t"he\t30\n{rows}')
  assert len(people.table) == 4000 and people.table['age'][3999] == 3999 % 80


def test_quotes_of_a_spreadsheet(tmp_path):
  people = _people(tmp_path, 'participant_id,note,age\n01,"a, b",30\n02,"two\nlines",40\n')
  assert _ages(people) == {'sub-01': 30, 'sub-02': 40}


def test_scans_that_say_that_they_are_synthetic_are_so_with_labels_of_any_folder(cohort, tmp_path):
  labels = tmp_path / 'participants.tsv'
  labels.write_bytes(cohort.participants.read_bytes())
  read = bids.read_cohort(cohort.volumes, labels, list(cohort.morphometry))
  assert read.synthetic
