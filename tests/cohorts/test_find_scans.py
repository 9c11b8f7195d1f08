"""Whose scan a volume is: CAT12's names, derivatives of fMRIPrep, any names by a pattern."""

from __future__ import annotations

import glob
import pathlib
import shutil

import numpy as np
import pandas
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import bids
from anatcl_jax.cohorts.find_scans import find_scans
from anatcl_jax.cohorts.identifiers import Known
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.cohorts.phenotypes import PRESETS
from anatcl_jax.data import shards
from anatcl_jax.data.make_shards import make_shards
from anatcl_jax.errors import UserError
from tests.one_line_error import one_line_error

_SPACE = 'space-MNI152NLin2009cAsym'


@pytest.fixture(scope='module')
def two_sessions(tmp_path_factory):
  """Six SYNTHETIC subjects, two sessions each, and their shards by the plain route."""
  directory = tmp_path_factory.mktemp('cohort') / 'two'
  settings = phantom.PhantomSettings(subjects=6, seed=5, spacing=15, sessions=2)
  cohort = phantom.write_cohort(directory, settings, progress=False)
  read = bids.read_cohort(cohort.volumes, cohort.participants, list(cohort.morphometry))
  return cohort, make_shards(read, tmp_path_factory.mktemp('shards') / 'plain')


def _lay_out(cohort, directory, name):
  """Copies each map to where `name` says, of its participant and session ('' for none)."""
  for path in map(pathlib.Path, glob.glob(cohort.volumes)):
    participant, *rest = path.name.split('_')
    session = rest[0] if rest[0].startswith('ses-') else ''
    target = directory / name(participant, session)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
  return directory


def _arguments(cohort, volumes, out, *more):
  return [str(text) for text in (
      'bids', '--volumes', volumes, '--participants', cohort.participants, '--morphometry',
      *cohort.morphometry, '--out', out, *more)]


def _assert_equal(made, plain):
  """The same scans with the same labels, morphometry and voxels, in whatever order."""
  labels = ['participant_id', 'session']
  order = [made.table[labels].apply(tuple, axis=1).tolist().index(key)
           for key in plain.table[labels].apply(tuple, axis=1)]
  assert len(made) == len(plain)
  pandas.testing.assert_frame_equal(made.table.iloc[order].reset_index(drop=True), plain.table)
  np.testing.assert_array_equal(made.morphometry[order], plain.morphometry)
  for record, other in enumerate(order):
    np.testing.assert_array_equal(made.read_volume(other)[0], plain.read_volume(record)[0])


# Layout: name of a map by participant and session, glob, and what more is said.
LAYOUTS = {
    'cat12': (lambda p, s: f'mri/mwp1{p}_{s}_T1w.nii.gz', 'mri/mwp1*.nii.gz', []),
    'cat12 longitudinal': (lambda p, s: f'{p}/mri/mwp1r{p}_{s}_T1w.nii.gz', '*/mri/mwp1*', []),
    'cat12 large changes': (lambda p, s: f'mri/mwmwp1r{p}_{s}.nii.gz', 'mri/mwmwp1r*', []),
    'cat12 in folders': (lambda p, s: f'{p}/{s}/mri/mwp1T1.nii.gz', '*/*/mri/mwp1*', []),
    'cat12, bare names': (lambda p, s: f'mri/mwp1{p[4:]}_{s}.nii.gz', 'mri/*', []),
    'cat12, bare names, longitudinal': (lambda p, s: f'mri/mwp1r{p[4:]}_{s}.nii.gz', 'mri/*', []),
    'fmriprep': (lambda p, s: f'{p}/{s}/anat/{p}_{s}_{_SPACE}_res-2_label-GM_probseg.nii.gz',
                 f'sub-*/ses-*/anat/*_{_SPACE}*_label-GM_probseg.nii.gz', []),
    'any names': (lambda p, s: f'scan{s[4:]}/X{p[4:]}.nii.gz', '*/X*', [
        '--id-pattern', r'scan(?P<session>\d)/X(?P<participant>\d+)']),
    'any names, sub- and ses- in the groups': (
        lambda p, s: f'a-{p}-{s}.nii.gz', 'a-*',
        ['--id-pattern', '(?P<participant>sub-[0-9]+)-(?P<session>ses-.)']),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_same_shards(two_sessions, tmp_path, layout):
  cohort, plain = two_sessions
  name, pattern, more = LAYOUTS[layout]
  directory = _lay_out(cohort, tmp_path / 'maps', name)
  prepare.main(_arguments(cohort, directory / pattern, tmp_path / 'out', *more))
  _assert_equal(shards.open_shards(tmp_path / 'out'), plain)


@pytest.mark.parametrize('name, pattern', [
    (lambda p, s: f'mri/mwp1{p}_T1w.nii.gz', 'mri/mwp1*'),
    (lambda p, s: f'{p}/anat/{p}_{_SPACE}_label-GM_probseg.nii.gz', '**/*label-GM_probseg.nii.gz')])
def test_one_session(cohort, shard_set, tmp_path, name, pattern):
  directory = _lay_out(cohort, tmp_path / 'maps', name)
  prepare.main(_arguments(cohort, directory / pattern, tmp_path / 'out'))
  _assert_equal(shards.open_shards(tmp_path / 'out'), shard_set)


def _keys(tmp_path, names, participants=(), preset='bids', id_pattern=None):
  for name in names:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  known = Known.of(key if isinstance(key, tuple) else (key, '') for key in participants)
  scans = find_scans(f'{tmp_path}/**/*.nii*', known, PRESETS[preset], id_pattern)
  return [scan.key for scan in scans]


def test_averages_over_sessions_are_no_scans(tmp_path, capsys):
  names = ['mri/mwp1avg_sub-01_ses-1_T1w.nii', 'mri/mwp1rsub-01_ses-1_T1w.nii',
           'mri/mwp1rsub-01_ses-2_T1w.nii', 'mri/mwp1avgustin.nii']
  assert _keys(tmp_path, names) == [('sub-avgustin', ''), ('sub-01', 'ses-1'), ('sub-01', 'ses-2')]
  assert '1 averages' in capsys.readouterr().err


@pytest.mark.parametrize('name, participants, expected', [
    ('mwp1rachel.nii', {'sub-rachel'}, 'sub-rachel'),
    ('mwp1rrachel.nii', {'sub-rachel'}, 'sub-rachel'),
    ('mwp1rachel.nii', {'sub-achel'}, 'sub-achel'),
    ('mwp1rachel.nii', {'sub-rachel', 'sub-achel'}, 'sub-rachel'),
    ('mwp1rachel.nii', set(), 'sub-rachel'),
    ('mwp1sub-r01_T1w.nii', {'sub-01'}, 'sub-r01'),
    ('mwp1rsub-r01_T1w.nii', {'sub-01'}, 'sub-r01')])
def test_realigned_or_a_name_that_begins_with_r(tmp_path, name, participants, expected):
  assert _keys(tmp_path, [f'mri/{name}'], participants) == [(expected, '')]


@pytest.mark.parametrize('preset, name, expected', [
    ('adni', 'ADNI_002_S_0295_m06.nii', ('sub-002S0295', 'ses-m06')),
    ('adni', 'sub-ADNI002S0295/ses-M006/anat/sub-ADNI002S0295_ses-M006_T1w.nii',
     ('sub-002S0295', 'ses-m06')),
    ('adni', 'mwp1r002_S_0295_bl.nii', ('sub-002S0295', 'ses-m00')),
    ('oasis3', 'OAS30001_MR_d0129/mwp1sub-OAS30001_ses-d0129_T1w.nii',
     ('sub-OAS30001', 'ses-d0129')),
    ('oasis3', 'OAS30001_MR_d0129/T1.nii', ('sub-OAS30001', 'ses-d0129')),
    ('abide1', 'Pitt_0050003_anat.nii', ('sub-50003', '')),
    ('abide1', 'mwp10050003.nii', ('sub-50003', '')),
    ('adni', 'mwp1002_S_0295.nii', ('sub-002S0295', '')),
    ('abide1', 'mwp1sub-50003.nii', ('sub-50003', ''))])
def test_presets_know_the_names_of_their_cohorts(tmp_path, preset, name, expected):
  assert _keys(tmp_path / 'data', [name], preset=preset) == [expected]


@pytest.mark.parametrize('names, id_pattern, expected', [
    (['sub-01_space-A_label-GM.nii', 'sub-01_space-B_label-GM.nii'], None,
     ['sub-01 has two volumes', '*space-A*', '--id-pattern']),
    (['sub-01.nii', 'anna.nii'], None, ['anna.nii', 'sub-...', '--id-pattern']),
    (['sub-01.nii', 'sub-02.nii.json'], None, ['sub-02.nii.json', 'not a .nii']),
    (['01.nii'], '(?P<participant>[0-9]+', ['no regular expression', '(?P<participant>[0-9]+']),
    (['01.nii'], '([0-9]+)', ['no group participant', '(?P<participant>']),
    (['01.nii', 'x.nii'], r'(?P<participant>\d+)\.nii', ['x.nii', '--id-pattern']),
    (['01_a.nii', '01_b.nii'], r'(?P<participant>\d+)_', ['sub-01 has two volumes']),
    (['mwp1avg_sub-01.nii'], None, ['no file matches']),
    ([], None, ['no file matches'])])
def test_wrong_names_are_errors_that_say_what_to_do(tmp_path, names, id_pattern, expected):
  (tmp_path / 'maps').mkdir()
  with pytest.raises(UserError) as error:
    _keys(tmp_path / 'maps', names, id_pattern=id_pattern)
  for text in expected:
    assert text in str(error.value)


@pytest.mark.parametrize('id_pattern, expected', [
    ('(?P<participant>sub-', ['--id-pattern', 'no regular expression']),
    ('(?P<participant>patient-[0-9]+)', ['--id-pattern', 'sub-0001', 'mend it']),
    ('/(?P<participant>sub-[0-9]+)/', ['sub-0001 has two volumes', '--id-pattern']),
    ('(?P<participant>sub-[0-9]+)_ses-(?P<session>[0-9])_space', None),
    ('(?P<session>s)(?P<participant>ub-[0-9]+_ses-[0-9])', ['12 of 12 scans', 'has no row in']),
    ('(?P<participant>sub-[0-9]+)_ses-1', ['ses-2', '--id-pattern'])])
def test_wrong_patterns_end_in_one_line(two_sessions, tmp_path, capsys, id_pattern, expected):
  cohort, plain = two_sessions
  arguments = _arguments(cohort, cohort.volumes, tmp_path / 'out', '--id-pattern', id_pattern)
  if expected is None:
    prepare.main(arguments)
    return _assert_equal(shards.open_shards(tmp_path / 'out'), plain)
  line = one_line_error(capsys, tmp_path, *arguments)
  for text in expected:
    assert text in line


def test_a_scan_without_its_session_is_told_which_there_are(two_sessions, tmp_path, capsys):
  cohort, _ = two_sessions
  volumes = cohort.volumes.replace('ses-*', 'ses-1')
  line = one_line_error(capsys, tmp_path, *_arguments(
      cohort, volumes, tmp_path / 'out', '--id-pattern', '/(?P<participant>sub-[0-9]+)/'))
  assert 'sub-0001 has no row' in line and 'ses-1, ses-2' in line
