"""Brain age on SYNTHETIC numbers: planted gaps come back, and nothing is learned from patients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas
import pytest

from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import brain_age, contrasts, finished, healthy, measures, tasks
from anatcl_jax.evaluation.evaluate import Settings, choose_protocol, evaluate
from anatcl_jax.evaluation.harmonization import asked
from anatcl_jax.evaluation.run import Extent, run
from anatcl_jax.evaluation.target import read_target
from tests.evaluation.probing import cohort_of, target_of

pytestmark = pytest.mark.usefixtures('coarse')
TASKS, COHORTS = tasks.read_tasks('configs/tasks.py')
TASK = TASKS['brain_age']
QUICK = Settings(folds=3, inner_folds=3)
SHIFT = 6.0     # years that the patients' brains are older


def _cohort(people=240, seed=0, noise=0.5, **columns):
  """Patients a little older than controls, on two sites; features of the age that a brain has."""
  rng = np.random.default_rng(seed)
  group = np.where(np.arange(people) % 3 == 0, 'AD', 'CN')
  age = rng.uniform(50, 80, people) + 5 * (group == 'AD')
  cohort = cohort_of({'age': age, 'sex': rng.choice(['M', 'F'], people),
                      'site': rng.choice(['x', 'y'], people), 'diagnosis': group, **columns})
  brain = age + SHIFT * (group == 'AD') + rng.normal(0, 2, people)
  x = (brain[:, None] - 65) / 10 + rng.normal(0, noise, (people, 6))
  return dataclasses.replace(cohort, morphometry=None, measures=()), x.astype(np.float32)


def _run(cohort, x, settings=QUICK, task=TASK):
  return run(cohort, {'ours': (x,)}, {task.name: (task, True)}, settings, Extent('none', False), {},
             progress=False)


@pytest.fixture(scope='module')
def found():
  cohort, x = _cohort()
  return cohort, x, _run(cohort, x)


def _row(evaluation, value, group='AD', features='ours'):
  table = evaluation.gap_groups
  return table[(table['features'] == features) & (table['value'] == value)
               & (table['group'] == group)].iloc[0]


def test_the_planted_gap_comes_back(found):
  _, _, evaluation = found
  for value in (brain_age.GAP, brain_age.CORRECTED):
    row = _row(evaluation, value)
    assert row['low'] < SHIFT * row['slope'] < row['high'] and row['low'] > 0
    assert (row['n'], row['n_against'], row['adjusted_for']) == (80, 160, 'age+sex+site')
    assert row['high'] - row['low'] < 3 and 0.85 < row['slope'] < 1.05 and row['p'] < 1e-6
    # d by hand: the deviation within groups is what the planted 2 years and the noise leave.
    within = evaluation.gaps[evaluation.gaps['features'] == 'ours'].groupby('group')[
        'gap_corrected'].std().mean()
    assert row['d'] == pytest.approx(row['difference'] / within, rel=0.1)
    assert row['d_low'] < row['d'] < row['d_high']
  assert set(evaluation.gap_groups['value']) >= {brain_age.GAP, brain_age.CORRECTED}


@pytest.fixture(scope='module')
def weak():
  return _run(*_cohort(450, noise=6.0))


def test_weak_features_show_the_slope_s_share_of_it(weak):
  row = _row(weak, brain_age.CORRECTED)
  assert row['slope'] < 0.8 and row['low'] < SHIFT * row['slope'] < row['high'] < SHIFT + 1.5


def test_the_corrected_gap_is_without_age_and_the_raw_one_is_not(weak):
  table = weak.gaps
  own = table[(table['features'] == 'ours') & (table['group'] == 'CN')]
  raw, corrected = (np.polyfit(own['age'], own[name], 1)[0] for name in ('gap', 'gap_corrected'))
  assert raw < -0.2 and abs(corrected) < 0.08
  np.testing.assert_allclose(own['gap'], own['predicted_age'] - own['age'])


def test_patients_change_nothing_of_the_probe_nor_of_the_correction(found):
  """Whoever fits the probe, or the correction, on everybody, fails here."""
  cohort, x, evaluation = found
  ill = (cohort.table['diagnosis'] == 'AD').to_numpy()
  spoilt = np.where(ill[:, None], x * -7 + 100, x).astype(np.float32)
  again = _run(cohort, spoilt).gaps
  names = ['predicted_age', 'gap', 'gap_corrected']
  of_controls = [one[(one['features'] == 'ours') & (one['group'] == 'CN')][names].to_numpy()
                 for one in (evaluation.gaps, again)]
  assert (of_controls[0] == of_controls[1]).all()
  assert (again['fold'][again['group'] == 'AD'] == -1).all()
  assert (again['fold'][again['group'] == 'CN'] >= 0).all()


def test_the_correction_of_a_fold_never_saw_it(found):
  """The line of each fold, by hand from its fitted side alone; a fold's own ages change nothing."""
  cohort, x, evaluation = found
  target = read_target(TASK, cohort.table, 10)
  protocol = choose_protocol(target, cohort.seen, QUICK)
  own = x[target.rows]
  scored, = evaluate(protocol, {'ours': (own,)}, QUICK)
  table = evaluation.gaps[(evaluation.gaps['features'] == 'ours') & (evaluation.gaps['fold'] == 0)]
  line = (table['predicted_age'] - table['gap_corrected']).to_numpy()
  np.testing.assert_allclose(
      line, np.polyval(scored.probes[0].correction, table['age']), rtol=1e-12)
  _, test = protocol.splits[0]
  moved = target.values.copy()
  moved[test] += np.linspace(0, 40, len(test))        # the fold's own ages
  other = dataclasses.replace(protocol, target=dataclasses.replace(target, values=moved),
                              splits=protocol.splits[:1])
  again, = evaluate(other, {'ours': (own,)}, QUICK)
  assert again.probes[0].correction == scored.probes[0].correction
  assert scored.probes[1].correction != scored.probes[0].correction


def test_harmonised_features_have_gaps_without_the_site_s_part(found):
  """Patients of a site without healthy people have none, unless such scans are to be passed."""
  cohort, x, _ = found
  site = cohort.table['site'].where(np.arange(240) % 30 != 0, 'q').to_numpy()     # of patients only
  cohort = dataclasses.replace(cohort, table=cohort.table.assign(site=site))
  x = x + 1.5 * (site == 'y')[:, None].astype(np.float32)
  gaps, notes = {}, {}
  for unseen in ('refuse', 'pass'):
    settings = dataclasses.replace(QUICK, harmonization=asked('site', 'auto', unseen))
    evaluation = _run(cohort, x, settings)
    gaps[unseen] = evaluation.gaps.set_index(['features', 'participant_id'])['gap']
    notes[unseen] = ' '.join(evaluation.notes)
  people = cohort.table['participant_id'].to_numpy()
  assert set(gaps['refuse'].loc['ours, harmonised'].index) == set(people[site != 'q'])
  assert '8 scans of a site without healthy people have no gap of harm' in notes['refuse']
  assert '8 scans of a site without healthy people are not harmonised' in notes['pass']
  assert set(gaps['pass'].loc['ours, harmonised'].index) == set(people)
  assert set(gaps['refuse'].loc['ours'].index) == set(people)
  for row, least, most in (('ours', 6, 20), ('ours, harmonised', -2, 2)):
    own = gaps['refuse'].loc[row].reindex(people).to_numpy()
    ill = (cohort.table['diagnosis'] == 'AD').to_numpy()
    apart = np.nanmean(own[ill & (site == 'y')]) - np.nanmean(own[ill & (site == 'x')])
    assert least < apart < most
  # The planted gap of patients is there without the site's part.
  row = _row(evaluation, brain_age.CORRECTED, features='ours, harmonised')
  assert row['low'] < SHIFT * row['slope'] < row['high'] and row['low'] > 0
  assert 'covariates + ours' not in gaps['pass'].index


def test_a_correction_that_saw_everybody_hides_the_gap(found):
  """What the rule is for: a line fitted on patients too takes a part of their gap away."""
  cohort, _, evaluation = found
  table = evaluation.gaps[evaluation.gaps['features'] == 'ours']
  leaky = table['predicted_age'] - np.polyval(
      np.polyfit(table['age'], table['predicted_age'], 1), table['age'])
  means = [values[table['group'] == 'AD'].mean() for values in (table['gap_corrected'], leaky)]
  assert means[0] > SHIFT * 0.9 - 1 and means[1] < 0.75 * means[0]


def test_who_is_healthy():
  table = pandas.DataFrame({
      'participant_id': ['a', 'b', 'c', 'c', 'd'], 'session': ['', '', '1', '2', ''],
      'age': [50.0] * 5, 'Group': ['hc', 'SCZ', 'HC', 'SCZ', None], 'arm': list('xyxxy')})
  one = healthy.find(TASK, table)
  assert one.fitted.tolist() == [True, False, False, False, False] and one.control == 'hc/HC'
  assert one.names.tolist() == ['hc/HC', 'SCZ', '', 'SCZ', '']
  assert '1 people who are that in some sessions only' in one.words
  named = dataclasses.replace(TASK, healthy_column='arm', healthy=('y',))
  assert healthy.find(named, table).fitted.tolist() == [False, True, False, False, True]
  assert healthy.find(dataclasses.replace(TASK, healthy=('all',)), table).fitted.all()
  for changes, message in (
      ({'healthy_column': 'armm'}, "no column 'armm', which is to say who is healthy"),
      ({'healthy_column': 'arm', 'healthy': ('z',)}, "nobody is 'z' in column arm, which holds x"),
      ({'healthy_column': 'arm'}, 'no value of column arm names the healthy .*healthy=arm:x')):
    with pytest.raises(UserError, match=message):
      healthy.find(dataclasses.replace(TASK, **changes), table)
  with pytest.raises(UserError, match='who is healthy.*--config.healthy=COLUMN:VALUE'):
    healthy.find(TASK, table.drop(columns='Group'))
  assert healthy.parse('group:HC/CN') == ('group', ('HC', 'CN'))
  assert healthy.parse('all') == ('', ('all',)) and healthy.parse('') == ('', ())
  with pytest.raises(UserError, match='must be a column and its values'):
    healthy.parse('group:')


def test_everybody_healthy_has_gaps_and_no_contrast():
  cohort, x = _cohort(90)
  evaluation = _run(cohort, x, task=dataclasses.replace(TASK, healthy=('all',)))
  assert set(evaluation.gap_groups['group']) == {'healthy'}
  assert evaluation.gap_groups['difference'].isna().all() and len(evaluation.gaps) == 90 * 2


def test_people_of_the_pretraining_have_no_gap():
  cohort, x = _cohort(120)
  seen = np.arange(120) % 2 == 0
  evaluation = _run(dataclasses.replace(cohort, seen=seen), x)
  assert set(evaluation.gaps['participant_id']) == set(cohort.table['participant_id'][~seen])
  assert any('20 scans seen in pretraining have no gap' in note for note in evaluation.notes)
  assert any(note == f'brain_age: {brain_age.OF_SEEN}' for note in evaluation.notes)


def test_an_interrupted_evaluation_goes_on_with_its_gaps(found, tmp_path):
  """They are read again to the last bit, unless a patient's features or a diagnosis changed."""
  cohort, x, _ = found
  kept = finished.Finished(tmp_path)

  def again(cohort=cohort, x=x):
    return run(cohort, {'ours': (x,)}, {TASK.name: (TASK, True)}, QUICK, Extent('none', False), {},
               progress=False, finished=kept)

  first = again()
  done = [again()]
  for name in ('gaps', 'gap_groups'):
    pandas.testing.assert_frame_equal(getattr(done[0], name), getattr(first, name),
                                      check_exact=True, check_dtype=False)
  ill = np.flatnonzero(cohort.table['diagnosis'] == 'AD')[0]
  other = x.copy()
  other[ill] += 1
  done += [again(x=other), again(cohort=dataclasses.replace(
      cohort, table=cohort.table.assign(diagnosis=cohort.table['diagnosis'].mask(
          cohort.table.index == ill, 'MCI'))))]
  assert [any('before the probe was interrupted: brain_age' in note for note in one.notes)
          for one in done] == [True, False, False]


def test_an_adjusted_difference_is_the_one_of_least_squares():
  """By hand in float64, with HC3 written out; site alone with a group has no answer."""
  rng = np.random.default_rng(1)
  member = np.arange(60) < 25
  age = rng.uniform(20, 80, 60) + 10 * member
  y = 0.3 * age + 2 * member + rng.normal(0, 1 + member, 60)
  one = contrasts.contrast(y, member, age[:, None])
  design = np.stack([member, np.ones(60), age], 1).astype(float)
  bread = np.linalg.inv(design.T @ design)
  beta = bread @ design.T @ y
  residual = y - design @ beta
  hat = (design @ bread * design).sum(1)
  error = np.sqrt((bread @ (design.T * (residual / (1 - hat))**2) @ design @ bread)[0, 0])
  assert one.difference == pytest.approx(beta[0])
  assert one.high - one.low == pytest.approx(2 * 2.0024655 * error, rel=1e-6)     # t(57)
  assert one.d == pytest.approx(beta[0] / np.sqrt((residual**2).sum() / 57))
  assert np.isnan(contrasts.contrast(y, member, member[:, None].astype(float)).difference)
  assert 'tell the groups apart' in contrasts.contrast(y, member, member[:, None] * 1.0).note
  assert contrasts.contrast(y[24:], member[24:], age[24:, None]).note == 'too few people'
  told = contrasts.contrast(0.1 * age + 7.3, member, age[:, None])     # such as a gap by sex alone
  assert np.isnan([told.difference, told.d, told.p]).all() and 'tell the values' in told.note


def test_a_person_counts_once():
  people = np.array(['a', 'a', 'b'])
  table = pandas.DataFrame({'age': [50, 52, 60], 'site': ['1', '2', '2']})
  names, mean, columns = contrasts.by_person(people, table, np.array([1.0, 3, 7]), ('age', 'site'))
  assert names.tolist() == ['a', 'b'] and mean.tolist() == [2, 7]
  assert columns.tolist() == [[51, 0.5], [60, 1]]


def test_thickness_and_volume_of_regions_or_columns():
  cohort = cohort_of({'age': np.arange(30)})
  volumes = np.stack([cohort.morphometry[..., 0], np.full((30, 68), 500.0),
                      np.full((30, 68), 1000.0)], 2)
  volumes[:, 0, 1] = 1500
  own = dataclasses.replace(cohort, morphometry=volumes, measures=('thickness', 'area', 'volume'))
  thickness, volume = measures.of_cohort(own)
  first = volumes[0, :, 0]
  assert thickness.values[0] == pytest.approx((first.sum() + 2 * first[0]) / 70)
  assert volume.values[0] == 68000 and volume.name == 'cortical gray-matter volume'
  table = own.table.assign(TotalGrayVol=7e5, eTIV=1.5e6, lh_MeanThickness_thickness=2.0,
                           rh_MeanThickness_thickness=3.0)
  thickness, volume = measures.of_cohort(dataclasses.replace(own, table=table))
  assert thickness.values[0] == 2.5 and (volume.values[0], volume.unit) == (7e5, 'mm3')
  assert volume.adjusted == ('eTIV',)
  assert not measures.of_cohort(dataclasses.replace(cohort, morphometry=None, measures=()))


def test_a_task_says_what_a_brain_age_is():
  with pytest.raises(UserError, match='healthy and healthy_column are of a brain_age'):
    dataclasses.replace(TASKS['age'], healthy=('CN',))
  assert target_of(np.zeros(3)).task.healthy == ()
