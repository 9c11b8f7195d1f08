"""Variance by person and scanner on SYNTHETIC numbers: by hand, by a second route, and planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas

from anatcl_jax.evaluation import scanners, statistics, tasks, write
from anatcl_jax.evaluation.evaluate import Settings
from anatcl_jax.evaluation.run import Extent, run
from anatcl_jax.report import beyond, methods
from tests.evaluation.probing import cohort_of

SETTINGS = Settings(folds=3, inner_folds=2)


def test_two_people_on_two_scanners_by_hand():
  """Mean squares of people 9, scanners 4 and rest 1: (9 - 1) / 2, (4 - 1) / 2 and 1."""
  values = np.array([1.0, 2, 3, 6])[:, None]
  found = scanners.variance_components(values, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
  np.testing.assert_allclose(found[:, 0], [4, 1.5, 1])
  np.testing.assert_allclose(scanners.shares(found)[:, 0], np.array([4, 1.5, 1]) / 6.5)
  assert np.isnan(scanners.variance_components(
      np.ones((4, 1)), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))).all()


def test_where_everybody_was_everywhere_the_share_of_the_person_is_the_icc():
  values = np.random.default_rng(0).normal(size=(9, 4, 5))
  values += np.random.default_rng(1).normal(0, 2, (9, 1, 5)) + np.arange(4)[:, None]
  people, on = np.divmod(np.arange(36), 4)
  found = scanners.variance_components(values.reshape(36, 5), people, on)
  np.testing.assert_allclose(found[0] / found.sum(0),
                             statistics.intraclass_correlation(values)[0])


def _scanned(features, person, scanner, rest, people=40, of=10, seed=0):
  """Each person on two to four of the scanners, some of them twice."""
  rng = np.random.default_rng(seed)
  where = [np.r_[own, own[:i % 2]] for i in range(people)
           for own in [rng.permutation(of)[:2 + i % 3]]]
  codes, on = np.repeat(np.arange(people), list(map(len, where))), np.concatenate(where)
  values = (person**0.5 * rng.normal(size=(people, features))[codes]
            + scanner**0.5 * rng.normal(size=(of, features))[on]
            + rest**0.5 * rng.normal(size=(len(on), features)))
  return values, codes, on


def test_planted_variances_come_back_from_unbalanced_scans():
  """Within four standard errors of the mean over 300 features."""
  truth = 4.0, 2.0, 1.0
  values, people, on = _scanned(300, *truth)
  found = scanners.variance_components(values, people, on)
  error = found.std(1, ddof=1) / 300**0.5
  assert (np.abs(found.mean(1) - truth) < 4 * error).all() and (error < 0.08).all()
  # No scanner effect: on average 0, and negative about as often as not.
  none = scanners.variance_components(*_scanned(300, 4, 0, 1))[1]
  assert abs(none.mean()) < 4 * none.std() / 300**0.5 and 0.3 < (none < 0).mean() < 0.8


def _cohort(effect, people=36):
  """Two scans a person on scanners x and y, y's shifted; f0 is the person's, f1 the scanner's."""
  cohort = cohort_of({'age': np.linspace(20, 80, people)}, sessions=2)
  on = np.resize(['x', 'y', 'y', 'x'], 2 * people)
  cohort = dataclasses.replace(cohort, table=cohort.table.assign(site=on))
  rng = np.random.default_rng(0)
  x = np.stack([np.repeat(rng.normal(0, 3, people), 2), effect * (on == 'y')], 1)
  return cohort, (x + rng.normal(0, 1, x.shape)).astype(np.float32)


def test_a_probe_names_the_scanner_of_the_same_people():
  cohort, x = _cohort(6.0)
  noise = np.random.default_rng(1).normal(size=x.shape)
  features, rows, notes = scanners.by_scanner(cohort, {'ours': x, 'noise': noise}, SETTINGS)
  assert not notes and list(features['features']) == ['ours'] * 2 + ['noise'] * 2
  own = features[features['features'] == 'ours']
  assert own['person_share'].iloc[0] > 0.8 and own['scanner_share'].iloc[1] > 0.8
  rows = rows.set_index('features')
  assert list(rows.columns) == list(scanners.SCANNERS[1:]) and set(rows['chance']) == {0.5}
  assert rows.loc['ours', 'balanced_accuracy'] > 0.95
  assert rows.loc['noise', 'low'] < 0.5 < rows.loc['noise', 'high']
  assert rows.loc['ours', ['subjects', 'scans', 'scanners']].tolist() == [36, 72, 2]
  np.testing.assert_allclose(rows.loc['ours', ['person', 'scanner', 'rest']].astype(float),
                             own[['person_share', 'scanner_share', 'rest_share']].mean(), rtol=1e-6)


def test_one_scanner_only_is_said():
  cohort, x = _cohort(1.0)
  one = dataclasses.replace(cohort, table=cohort.table.assign(site='x'))
  features, rows, (note,) = scanners.by_scanner(one, {'ours': x}, SETTINGS)
  assert not len(features) and not len(rows)
  assert note == ('variance by scanner: 0 people with several scans were on two scanners or more '
                  '(column site), and 3 are needed')
  single = cohort_of({'age': np.arange(9), 'site': ['x', 'y', 'z'] * 3})
  assert scanners.by_scanner(single, {'ours': x[:9]}, SETTINGS)[2] == []


def test_people_of_pretraining_are_left_out():
  cohort, x = _cohort(1.0)
  cohort = dataclasses.replace(cohort, seen=np.arange(72) < 36)
  _, rows, _ = scanners.by_scanner(cohort, {'ours': x}, SETTINGS)
  assert rows['subjects'].item() == 18


def test_a_run_writes_them_and_its_report_shows_them(tmp_path):
  cohort, x = _cohort(6.0)
  known, cohorts = tasks.read_tasks('configs/tasks.py')
  found = run(cohort, {'ours': (x,)}, tasks.choose_tasks('age', known, cohorts), SETTINGS,
              Extent('none', False), {}, progress=False)
  assert {'scanners.tsv', 'variance_components.tsv'} <= set(write.write_tables(found, tmp_path))
  written = pandas.read_csv(tmp_path / 'scanners.tsv', sep='\t').set_index('features')
  assert set(written.index) == {'ours', 'morphometry'}
  assert len(pandas.read_csv(tmp_path / 'variance_components.tsv', sep='\t')) == 2 + 68
  drawn, = beyond.scanners(found)
  bars = np.array([bar.get_width() for bar in drawn.figure.axes[0].patches]).reshape(3, 2)
  np.testing.assert_allclose(bars.T, written[['person', 'scanner', 'rest']], rtol=1e-5)
  assert '36 people on several of 2 scanners' in write.summary(found)
  text, references = methods.paragraph(found)
  assert 'Henderson' in text and any('Biometrics' in one for one in references)
