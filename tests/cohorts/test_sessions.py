"""Ages of follow-ups: from sub-*_sessions.tsv, and never silently those of another session."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import bids
from anatcl_jax.cohorts.participants import Reading
from anatcl_jax.data import shards
from tests.one_line_error import one_line_error


def _volume(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  values = np.random.default_rng(len(str(path))).uniform(0.1, 1, (6, 7, 8)).astype(np.float32)
  nibabel.save(nibabel.Nifti1Image(values, np.diag([20.0, 20, 20, 1])), path)


def _lay_out(root, *names, people='participant_id\tage\tsex\nsub-01\t70.1\tF\n', **files):
  for name in names:
    participant, *session = name.split('_')
    _volume(root.joinpath(participant, *session, 'anat', f'{name}_T1w.nii.gz'))
  (root / 'participants.tsv').write_text(people)
  for name, text in files.items():
    (root / name.replace('__', '/')).write_text(text)
  return f'{root}/**/*.nii.gz', root / 'participants.tsv'


def _read(volumes, participants, **more):
  cohort = bids.read_cohort(str(volumes), participants, [], **more)
  ages = {scan.label: age for scan, age in zip(cohort.scans, cohort.table['age'])}
  return ages, {problem.subject: problem for problem in cohort.problems}, cohort.table


def _sessions(root, text, participant='sub-01'):
  (root / participant / f'{participant}_sessions.tsv').write_text(text)


@pytest.mark.parametrize('relative', [False, True])
def test_bids_and_clinica(tmp_path, monkeypatch, relative):
  volumes, participants = _lay_out(tmp_path, 'sub-01_ses-M000', 'sub-01_ses-M012', 'sub-02',
                                   people='participant_id\tage\tsex\nsub-01\t70.1\tF\n02\t50\tM\n')
  _sessions(tmp_path, 'session_id\tage\tmmse\nses-M000\t70.1\t29\nses-M012\t71.2\t27\n')
  if relative:
    monkeypatch.chdir(tmp_path)
    volumes, participants = '**/*.nii.gz', participants.relative_to(tmp_path)
  ages, problems, table = _read(volumes, participants)
  assert ages == {'sub-01_ses-M000': 70.1, 'sub-01_ses-M012': 71.2, 'sub-02': 50}
  assert not problems and list(table['sex']) == ['F', 'F', 'M']
  assert list(table['mmse'][:2]) == ['29', '27']


def test_without_an_age_in_the_participants_table_and_maps_elsewhere(tmp_path):
  _, participants = _lay_out(tmp_path / 'raw', 'sub-01_ses-1', 'sub-01_ses-10', 'sub-01_ses-2',
                             people='participant_id\tsex\nsub-01\tF\n')
  _sessions(tmp_path / 'raw', 'session_id\tAge (years)\n1\t20\n2\t22\n10\t30\n')
  for session in (1, 2, 10):
    _volume(tmp_path / f'cat12/mwp1sub-01_ses-{session:02d}_T1w.nii')
  ages, problems, _ = _read(f'{tmp_path}/cat12/*.nii', participants)
  assert ages == {'sub-01_ses-01': 20, 'sub-01_ses-02': 22, 'sub-01_ses-10': 30} and not problems
  ages, problems, _ = _read(f'{tmp_path}/raw/**/*.nii.gz', participants)
  assert ages == {'sub-01_ses-1': 20, 'sub-01_ses-2': 22, 'sub-01_ses-10': 30} and not problems
  assert list(ages) == ['sub-01_ses-1', 'sub-01_ses-2', 'sub-01_ses-10']


def test_a_table_of_all_sessions_and_its_unit(tmp_path):
  volumes, participants = _lay_out(
      tmp_path, 'sub-01_ses-1', 'sub-01_ses-2', people='participant_id\tsex\nsub-01\tF\n',
      **{'sessions.tsv': 'participant_id\tsession_id\tage\nsub-01\tses-1\t18\nsub-01\tses-2\t24\n',
         'sessions.json': '\ufeff{"age": {"Units": "months"}}'})
  assert _read(volumes, participants)[0] == {'sub-01_ses-1': 1.5, 'sub-01_ses-2': 2}


@pytest.mark.parametrize('text', ['', 'session_id\tage\n', 'session_id\tbp\nses-1\t120\n',
                                  'note\tage\nx\t20\n'])
def test_files_of_sessions_that_tell_no_ages_change_nothing(tmp_path, text):
  volumes, participants = _lay_out(tmp_path, 'sub-01_ses-1')
  _sessions(tmp_path, text)
  (tmp_path / 'sessions.tsv').write_text(text)
  assert _read(volumes, participants)[0] == {'sub-01_ses-1': 70.1}


def test_what_the_sessions_do_not_say_is_a_problem(tmp_path):
  volumes, participants = _lay_out(tmp_path, 'sub-01_ses-1', 'sub-01_ses-2', 'sub-01_ses-3')
  _sessions(tmp_path, 'session_id\tage\nses-1\t70.1\nses-2\t89+\n')
  _, problems, table = _read(volumes, participants)
  assert list(table['age'][:1]) == [70.1] and set(problems) == {'sub-01_ses-2', 'sub-01_ses-3'}
  assert '--top-coded-age' in problems['sub-01_ses-2'].why
  assert 'ses-1, ses-2' in problems['sub-01_ses-3'].why
  ages, problems, _ = _read(volumes, participants, reading=Reading(top_coded_age=89.0))
  assert ages['sub-01_ses-2'] == 89 and set(problems) == {'sub-01_ses-3'}


def test_one_age_of_several_sessions_is_asked_for(tmp_path, capsys):
  volumes, participants = _lay_out(tmp_path / 'bids', 'sub-01_ses-1', 'sub-01_ses-2')
  ages, problems, _ = _read(volumes, participants)
  assert np.isnan(list(ages.values())).all() and all(one.missing for one in problems.values())
  # Also where the pattern shows only the follow-up.
  _, problems, _ = _read(f'{tmp_path}/bids/**/*ses-2*.nii.gz', participants)
  assert set(problems) == {'sub-01_ses-2'}
  for session in (1, 2):
    _volume(tmp_path / f'flat/mwp1sub-01_ses-{session}_T1w.nii')
  assert set(_read(f'{tmp_path}/flat/*ses-2*.nii', participants)[1]) == {'sub-01_ses-2'}
  arguments = ['bids', '--volumes', volumes, '--participants', str(participants), '--out',
               str(tmp_path / 'out'), '--workers', '1']
  line = one_line_error(capsys, tmp_path, *arguments)
  assert 'ses-1, ses-2' in line and '--same-age' in line and 'sessions.tsv' in line
  prepare.main([*arguments, '--same-age'])
  assert list(shards.open_shards(tmp_path / 'out').table['age']) == [70.1, 70.1]


def test_a_volume_without_session_of_a_participant_with_several_ages(tmp_path):
  volumes, participants = _lay_out(tmp_path, 'sub-01')
  _sessions(tmp_path, 'session_id\tage\nses-1\t70.1\nses-2\t75.4\n')
  assert 'must say which' in _read(volumes, participants)[1]['sub-01'].why
  _sessions(tmp_path, 'session_id\tage\nses-1\t70.1\n')
  assert _read(volumes, participants)[0] == {'sub-01': 70.1}


def test_lost_zeros_are_said(tmp_path):
  volumes, participants = _lay_out(tmp_path, 'sub-0007', people='participant_id\tage\n7\t70\n')
  why = _read(volumes, participants)[1]['sub-0007'].why
  assert 'sub-7' in why and 'leading zeros' in why


def test_rows_that_no_scan_uses_stop_nothing(tmp_path):
  volumes, participants = _lay_out(
      tmp_path, 'sub-01', 'sub-02', 'sub-03', people=
      'participant_id\tage\nsub-01\t40\nsub-02\t89+\nsub-03\t30\nsub-03\t31\nsub-01\t40\n'
      'sub-98\twords\nsub-99\t30\nsub-99\t31\n')
  arguments = ['bids', '--volumes', volumes, '--participants', str(participants), '--out',
               str(tmp_path / 'out'), '--workers', '1', '--leave-out-bad']
  prepare.main([*arguments, '--top-coded-age', '89'])
  assert list(shards.open_shards(tmp_path / 'out').table['age']) == [40, 89]
  _, problems, _ = _read(volumes, participants)
  assert {name: one.missing for name, one in problems.items()} == {'sub-02': True, 'sub-03': False}


def test_somebody_else_with_a_shorter_name_is_named(tmp_path):
  volumes, participants = _lay_out(tmp_path, 'sub-con-01', people='participant_id\tage\ncon\t20\n')
  why = _read(volumes, participants)[1]['sub-con-01'].why
  assert 'sub-con is there' in why and '--id-pattern' in why
