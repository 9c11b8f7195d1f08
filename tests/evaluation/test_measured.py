"""Morphometry of tables beside tables of features, or alone; and covariates beside either."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from anatcl_jax import probe
from anatcl_jax.cohorts import atlas
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import estimators, sources
from configs.probe import get_config

REGIONS = atlas.regions('desikan')
PEOPLE = [f'sub-con_{number:02d}' for number in range(40)]


def values():
  rng = np.random.default_rng(0)
  return rng.normal(2.5, 0.1, (40, 68)).astype(np.float32).astype(float)


def write(directory, names=PEOPLE, measured=None, sessions=None):
  """A table of people, and thickness in an order of its own with a column that is no region."""
  rng = np.random.default_rng(1)
  labels = pandas.DataFrame({'participant_id': PEOPLE, 'age': rng.uniform(20, 80, 40),
                             'sex': np.resize(['M', 'F', 'F'], 40)})
  labels.to_csv(directory / 'people.tsv', sep='\t', index=False)
  measured = values() if measured is None else measured
  table = pandas.DataFrame(measured, columns=[f'{name}_thickness' for name in REGIONS])
  table = table[table.columns[::-1]].assign(eTIV=1.5e6)
  table.insert(0, 'participant_id', names)
  if sessions:
    table.insert(1, 'session', sessions)
  table.sample(frac=1, random_state=2).to_csv(directory / 'thickness.csv', index=False)
  return {'participants': f'{directory}/people.tsv', 'morphometry': f'{directory}/thickness.csv'}


def gather(**given):
  return sources.gather(**{'checkpoint': '', 'tables': '', 'data_dir': '', 'trained_on': '',
                           'untrained_seeds': 0, 'batch_size': 1, 'show': False, **given})


def test_a_table_of_morphometry_is_joined_by_names(tmp_path):
  found = gather(**write(tmp_path))
  np.testing.assert_allclose(found.cohort.morphometry[:, :, 0], values(), rtol=1e-6)
  assert found.cohort.measures == ('thickness',) and found.cohort.regions == REGIONS
  assert found.cohort.table['participant_id'].tolist() == PEOPLE and not found.encoders
  # Names that differ in punctuation between digits or letters and digits, only if asked for.
  loose = write(tmp_path, [name.replace('_', '-').upper() for name in PEOPLE])
  np.testing.assert_array_equal(gather(**loose, loose_names=True).cohort.morphometry,
                                found.cohort.morphometry)
  # A session of the table is that of everybody's only scan.
  once = gather(**write(tmp_path, sessions=['ses-2'] * 40)).cohort
  assert set(once.table['session']) == {'ses-2'}
  places = [PEOPLE.index(name) for name in once.table['participant_id']]
  assert sorted(places) == list(range(40))
  np.testing.assert_array_equal(once.morphometry, found.cohort.morphometry[places])


def test_it_stands_beside_features_of_the_same_scans(tmp_path):
  given = write(tmp_path, PEOPLE[:30], values()[:30])
  x = np.arange(40.0)
  pandas.DataFrame({'participant_id': PEOPLE, 'session': 'ses-1', 'f0': x, 'f1': -x}).iloc[
      10:].to_csv(tmp_path / 'ours.tsv', sep='\t', index=False)
  found = gather(**given, tables=f'ours={tmp_path}/ours.tsv')
  assert found.cohort.table['participant_id'].tolist() == PEOPLE[10:30]
  np.testing.assert_array_equal(found.encoders['ours'][0][:, 0], x[10:30])
  np.testing.assert_allclose(found.cohort.morphometry[:, :, 0], values()[10:30], rtol=1e-6)
  assert any("10 scans have no morphometry in thickness.csv and are left out: sub-con_30_ses-1 has "
             "no row there" in note for note in found.cohort.notes)


def test_values_that_are_missing_or_wrong_are_said(tmp_path):
  spoilt = values()
  spoilt[3, 5] = np.nan
  spoilt[4, 5] = 25.0           # no cortex
  found = gather(**write(tmp_path, measured=spoilt)).cohort
  assert len(found.table) == 39 and PEOPLE[4] not in set(found.table['participant_id'])
  assert np.isnan(found.morphometry[3, 5, 0]) and np.isnan(found.morphometry).sum() == 1
  assert any('1 scans have no morphometry' in note and PEOPLE[4] in note for note in found.notes)
  assert any('1 scans lack a region' in note for note in found.notes)


@pytest.mark.parametrize('changes, message', [
    ({'morphometry': 'none.csv'}, 'config.morphometry: none.csv: no such table or folder'),
    ({'morphometry': 'none*.csv'}, r'config.morphometry: none\*.csv: no such'),
    ({'atlas': 'aal'}, "unknown atlas 'aal'"),
    ({'atlas': 'destrieux'}, 'its columns are of the desikan atlas'),
    ({'participants': ''}, 'whose scans'),
    ({'morphometry': ''}, 'nothing to evaluate')])
def test_wrong_use(changes, message, tmp_path):
  with pytest.raises(UserError, match=message):
    gather(**write(tmp_path) | changes)


def test_nobody_there_and_twice_there(tmp_path, training_set):
  with pytest.raises(UserError, match='no scan of .*people.tsv, such as sub-con_00, is in '
                                      'thickness.csv, which has .*loose_names'):
    gather(**write(tmp_path, [f'other{row}' for row in range(40)]))
  given = write(tmp_path) | {'participants': '', 'data_dir': str(training_set.directory)}
  with pytest.raises(UserError, match='holds morphometry; give it once'):
    gather(**given)


def test_morphometry_alone_is_evaluated(tmp_path, capsys):
  config = get_config()
  config.update(write(tmp_path) | {
      'tasks': 'age,thickness:lh_insula', 'folds': 2, 'inner_folds': 2, 'fewest': 3, 'jobs': 1,
      'learning_curve': 'none', 'sections': 'labels', 'out': str(tmp_path / 'out')})
  done = probe.probe(config)
  assert [one.features for one in done.outcomes if one.task.name == 'age'] == [
      'morphometry', 'covariates + morphometry', 'covariates', 'mean']
  truth = next(one for one in done.outcomes if one.task.name != 'age').truth
  np.testing.assert_allclose(np.sort(truth), np.sort(values()[:, REGIONS.index('lh_insula')]),
                             rtol=1e-6)
  page = (tmp_path / 'out' / 'report.html').read_text()
  assert 'Morphometry was evaluated, for 40 scans of 40 people.' in page
  assert 'untrained' not in capsys.readouterr().err


def test_covariates_weigh_as_much_as_all_features():
  """By hand: of 8 features and 2 covariates, each of a variance of 1, covariates get one of 4."""
  x = np.random.default_rng(0).normal(3, 5, (50, 10))
  found = estimators.ScalerBesideCovariates(2).fit_transform(x)
  plain = (x - x.mean(0)) / x.std(0)
  np.testing.assert_allclose(found[:, :8], plain[:, :8])
  np.testing.assert_allclose(found[:, 8:], 2 * plain[:, 8:])
  assert found[:, :8].var(0).sum() == pytest.approx(found[:, 8:].var(0).sum())
