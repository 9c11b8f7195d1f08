"""Morphometry from FreeSurfer's own folders is that of its tables; what is wrong there is named."""

from __future__ import annotations

import pathlib
import re
import shutil

import numpy as np
import pandas
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import atlas
from anatcl_jax.cohorts.morphometry import MEASURES
from anatcl_jax.cohorts.read_morphometry import read_tables
from anatcl_jax.data import shards
from anatcl_jax.errors import UserError
from tests.cohorts.layouts_freesurfer import COLUMNS, CONSTANTS, write_subject, write_subjects_dir
from tests.one_line_error import one_line_error

_REAL = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'ds000174-morphometry'
_RNG = np.random.default_rng(0)


@pytest.fixture(scope='module')
def tables(cohort):
  return read_tables(list(cohort.morphometry), 'desikan')


@pytest.fixture
def subjects(tables, tmp_path):
  return write_subjects_dir(tmp_path / 'subjects', tables)


def _arguments(cohort, subjects, out, *more):
  return ['bids', '--volumes', cohort.volumes, '--participants', cohort.participants,
          '--morphometry', subjects, '--out', out, *more]


def _printed(values, measures):
  """As a stats file prints them: areas and volumes without decimals."""
  return np.where([m == 'thickness' for m in measures], values, np.rint(values)).astype(np.float32)


def test_subjects_dir_equals_the_tables(cohort, subjects, tables, tmp_path):
  prepare.main(list(map(str, _arguments(cohort, subjects, tmp_path / 'out'))))
  made = shards.open_shards(tmp_path / 'out')
  assert made.measures == tuple(MEASURES) and len(made) == 20
  own = made.select_measures(tables.measures)
  np.testing.assert_array_equal(own, _printed(tables.values, tables.measures))
  for name, value in CONSTANTS.items():
    if name:
      assert (made.select_measures((name,)) == np.float32(value)).all()


def test_columns_are_matched_by_their_headers(tables, subjects, tmp_path):
  values = dict(zip(tables.measures, tables.values[0].T))
  write_subject(tmp_path / 'other' / 'sub-0001', 'desikan', values, COLUMNS[::-1])
  expected = read_tables([subjects], 'desikan').values[0]
  np.testing.assert_array_equal(read_tables([tmp_path / 'other'], 'desikan').values[0], expected)


def test_longitudinal_folders_are_preferred_and_templates_skipped(tmp_path):
  def write(name, thickness):
    write_subject(tmp_path / name, 'desikan', {
        'area': np.full(68, 500), 'volume': np.full(68, 1200), 'thickness': np.full(68, thickness)})
  for name, thickness in (
      ('sub-01_ses-1', 2.1), ('sub-01_ses-1.long.sub-01', 2.2), ('sub-01_ses-2.long.sub-01', 2.3),
      ('sub-01_ses-2', 2.4), ('sub-01', 2.5), ('sub-02_ses-1', 2.6), ('sub-03-base', 2.7),
      ('03', 2.8), ('fsaverage', 2.9), ('fsaverage5', 2.9)):
    write(name, thickness)
  (tmp_path / 'sub-03-base' / 'base-tps').write_text('03\n')
  (tmp_path / 'logs').mkdir()

  def read(stream):
    read = read_tables([tmp_path], 'desikan', stream=stream)
    thickness = read.values[:, 0, read.measures.index('thickness')].round(2)
    return {scan: value for scan, value in zip(read.scans, thickness) if not np.isnan(value)}, read

  longitudinal, measured = read('longitudinal')
  assert longitudinal == pytest.approx({('sub-01', 'ses-1'): 2.2, ('sub-01', 'ses-2'): 2.3})
  assert measured.absent.keys() == {('sub-02', 'ses-1'), ('sub-03', '')}
  assert 'only a cross-sectional row' in measured.absent['sub-03', '']
  cross, measured = read('cross-sectional')
  assert cross == pytest.approx({('sub-01', 'ses-1'): 2.1, ('sub-01', 'ses-2'): 2.4,
                                 ('sub-02', 'ses-1'): 2.6, ('sub-03', ''): 2.8})
  assert not measured.absent
  assert read('either')[0] == pytest.approx(longitudinal | {
      ('sub-02', 'ses-1'): 2.6, ('sub-03', ''): 2.8})


def test_destrieux_in_both_spellings(tmp_path):
  values = {'thickness': _RNG.uniform(2, 3, 148).round(3), 'area': np.full(148, 500),
            'volume': np.full(148, 1200)}
  for name in ('sub-01', 'sub-02'):
    write_subject(tmp_path / name, 'destrieux', values)
  for path in (tmp_path / 'sub-02' / 'stats').iterdir():   # as FreeSurfer 6.0 writes them
    path.write_text(path.read_text().replace('_and_', '&'))
  read = read_tables([tmp_path], 'destrieux')
  assert not read.absent and read.values.shape == (2, 148, 8)
  for scan in range(2):
    np.testing.assert_allclose(read.values[scan, :, 0], values['thickness'], rtol=1e-6)


def test_tables_with_a_session_column(tmp_path):
  """One wide CSV: all measures and both hemispheres, participants and sessions in two columns."""
  rows = [('01', '1'), ('01', 'ses-2'), ('sub-02', '1')]
  columns = {f'{region}_{measure}': _RNG.uniform(low, low * 1.1, len(rows))
             for measure, low in (('thickness', 2), ('area', 500), ('volume', 1000))
             for region in atlas.regions('desikan')}
  table = pandas.DataFrame({'participant_id': [row[0] for row in rows],
                            'session_id': [row[1] for row in rows], **columns, 'eTIV': 1.5e6})
  table.to_csv(tmp_path / 'wide.csv', index=False)
  read = read_tables([tmp_path / 'wide.csv'], 'desikan')
  assert read.scans == (('sub-01', 'ses-1'), ('sub-01', 'ses-2'), ('sub-02', 'ses-1'))
  np.testing.assert_allclose(read.values[:, 67, 1], columns['rh_insula_area'], rtol=1e-6)


def _edit(change, name='rh.aparc.stats', subject='sub-0003'):
  def spoil(subjects):
    path = subjects / subject / 'stats' / name
    path.write_text(change(path.read_text()))
  return spoil


def _drop(text, word):
  return ''.join(line for line in text.splitlines(True) if not line.startswith(word))


_STATS = 'sub-0003/stats/rh.aparc.stats'

# What is spoilt, and what the one line on stderr must say.
FAULTS = {
    'no right hemisphere': (lambda d: (d / _STATS).unlink(), ['sub-0003', _STATS, 'no such file']),
    'empty': (_edit(lambda t: ''), ['sub-0003', _STATS, 'ColHeaders']),
    'cut within the header': (_edit(lambda t: t[:300]), ['sub-0003', _STATS, 'ColHeaders']),
    'cut within a row': (_edit(lambda t: t[:t.index('lingual') + 60]),
                         ['sub-0003', _STATS, 'lingual', 'truncated']),
    'cut between rows': (_edit(lambda t: t[:t.index('lingual')]),
                         ['sub-0003', _STATS, 'no region lingual', 'more']),
    'cut within the last number': (_edit(lambda t: t[:-2]), ['sub-0003', _STATS, 'truncated']),
    'a region lacks': (_edit(lambda t: _drop(t, 'frontalpole')),
                       ['sub-0003', _STATS, 'no region frontalpole', 'recon-all']),
    'a region twice': (_edit(lambda t: t + t.splitlines(True)[-1]), ['sub-0003', _STATS, 'twice']),
    'text for a number': (_edit(lambda t: t.replace(' 0.500', ' x.500', 1)),
                          ['sub-0003', _STATS, 'bankssts', 'damaged']),
    'hemispheres swapped': (lambda d: shutil.copy(d / 'sub-0003/stats/lh.aparc.stats', d / _STATS),
                            ['sub-0003', _STATS, 'lh', 'swapped']),
    'not text': (lambda d: (d / _STATS).write_bytes(b'\xff\xfe\x00\x81'),
                 ['sub-0003', _STATS, 'UTF-8']),
    'a directory in its place': (lambda d: ((d / _STATS).unlink(), (d / _STATS).mkdir()),
                                 ['sub-0003', _STATS, 'is a directory']),
    'no such subject': (lambda d: shutil.rmtree(d / 'sub-0003'), ['sub-0003', 'no row in']),
    'an outlying thickness': (_edit(lambda t: re.sub(r' 2(\.\d{3} 0\.500)', r' 9\1', t, count=1)),
                              ['sub-0003', 'thickness 9.', '0.5 to 6 mm']),
    'two folders of a subject': (
        lambda d: (shutil.copytree(d / 'sub-0003', d / '0003'), _edit(
            lambda t: re.sub(r'( 2)\.\d{3} 0\.500', r'\1.111 0.500', t, count=1))(d)),
        ['sub-0003', 'more than one row in subjects', 'keep one']),
    'no subjects': (lambda d: [shutil.rmtree(path) for path in d.iterdir()],
                    ['subjects', 'SUBJECTS_DIR']),
    'another parcellation': (lambda d: [path.rename(path.with_name(path.name.replace(
        'aparc', 'aparc.DKTatlas'))) for path in d.glob('*/stats/*')],
        ['no subject can be read', 'sub-0001/stats/lh.aparc.stats', '--atlas dkt']),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_wrong_folders_are_one_line_naming_the_culprit(cohort, subjects, tmp_path, capsys, fault):
  spoil, expected = FAULTS[fault]
  spoil(subjects)
  line = one_line_error(capsys, tmp_path, *_arguments(cohort, subjects, tmp_path / 'out'))
  for text in expected:
    assert text in line


def test_incomplete_subjects_are_left_out_or_kept(cohort, subjects, tables, tmp_path):
  FAULTS['a region lacks'][0](subjects)
  prepare.main(list(map(str, _arguments(cohort, subjects, tmp_path / 'out', '--leave-out-bad'))))
  assert 'sub-0003' not in set(shards.open_shards(tmp_path / 'out').table['participant_id'])
  prepare.main(list(map(str, _arguments(cohort, subjects, tmp_path / 'all', '--keep-incomplete'))))
  made = shards.open_shards(tmp_path / 'all')
  lacking = np.isnan(made.morphometry).all(2)
  assert np.argwhere(lacking).tolist() == [[2, atlas.regions('desikan').index('rh_frontalpole')]]
  FAULTS['hemispheres swapped'][0](subjects)    # none of a file that is not what it says
  half = read_tables([subjects], 'desikan').values[2]
  assert np.isnan(half[34:]).all() and np.isfinite(half[:34]).all()


def test_a_stats_file_given_as_a_table_says_what_to_give(subjects):
  with pytest.raises(UserError, match='SUBJECTS_DIR'):
    read_tables([subjects / 'sub-0001' / 'stats' / 'lh.aparc.stats'], 'desikan')


def test_real_wide_table():
  """42 people of ds000174: each value under its own name, summaries passed over."""
  if not _REAL.is_dir():
    pytest.skip(f'{_REAL} is not here')
  path = _REAL / 'openneuro_baseline_dktatlas.csv'
  read, source = read_tables([path], 'desikan'), pandas.read_csv(path, index_col=0)
  assert read.values.shape == (42, 68, 7) and not read.outliers and not np.isnan(read.values).any()
  for j, region in enumerate(read.regions):
    for k, measure in enumerate(read.measures):
      np.testing.assert_allclose(read.values[:, j, k], source[f'{region}_{measure}'], rtol=1e-6)
