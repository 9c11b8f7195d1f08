"""A saved probe applied to tables by the command: the run's own numbers, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas
import pytest

from anatcl_jax import predict, probe
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import fitted, identity, saved
from anatcl_jax.evaluation.combat import PASS, ComBat
from anatcl_jax.evaluation.derived import with_sites
from anatcl_jax.evaluation.harmonization import Coding
from anatcl_jax.frozen import table as feature_table
from configs.probe import get_config

pytestmark = pytest.mark.usefixtures('coarse')
PEOPLE = 120
SITES = np.resize(['x', 'y', 'x', 'y', 'y'], PEOPLE)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A probe of SYNTHETIC tables whose probes were saved; `ours.json` says which encoder it was."""
  directory = tmp_path_factory.mktemp('saved')
  rng = np.random.default_rng(0)
  names = [f'sub-{row:03d}' for row in range(PEOPLE)]
  group = np.where(np.arange(PEOPLE) % 3 == 0, 'AD', 'CN')
  age = rng.uniform(50, 80, PEOPLE).round(1)
  pandas.DataFrame({'participant_id': names, 'age': age, 'sex': rng.choice(['M', 'F'], PEOPLE),
                    'diagnosis': group, 'arm': rng.choice(['a', 'b', 'c'], PEOPLE),
                    'site': SITES}).to_csv(directory / 'participants.tsv', sep='\t', index=False)
  x = ((age + 5 * (group == 'AD'))[:, None] - 65) / 10 + rng.normal(0, 0.5, (PEOPLE, 21))
  x += 2 * (SITES == 'y')[:, None]
  feature_table.write_table(directory / 'ours.tsv', pandas.DataFrame(
      {'participant_id': names, 'session': ''}), x.astype(np.float32))
  (directory / 'ours.json').write_text(json.dumps(
      {'weights_sha256': 'aa' * 32, 'pool': 'mean', 'axes': 'RAS', 'precision': 'float32',
       'weights': 'runs/mine', 'synthetic': True}))
  config = get_config()
  config.update({'learning_curve': 'none', 'leave_one_site_out': False, 'jobs': 1, 'folds': 3,
                 'inner_folds': 2, 'fewest': 5, 'save': True, 'out': f'{directory}/out',
                 'harmonize': 'site', 'estimators': 'linear,svm', 'sections': 'labels',
                 'tasks': 'brain_age,arm:b/a,age',
                 'features': f'{directory}/ours.tsv',
                 'participants': f'{directory}/participants.tsv'})
  (directory / 'out' / 'probes').mkdir(parents=True)
  stale = directory / 'out' / 'probes' / 'of-a-run-before.json'
  stale.write_text('{"made_by": "made by anatcl_jax 0.1"}')
  return directory, probe.probe(config), config


def _predict(place, name, *options, features='ours.tsv', out='new.tsv'):
  (place / out).unlink(missing_ok=True)
  (place / out).with_suffix('.json').unlink(missing_ok=True)
  predict.main(['--probe', str(place / 'out' / 'probes' / name), '--features',
                str(place / features), '--out', str(place / out), *options])
  return pandas.read_csv(place / out, sep='\t')


def _beside(directory, one, **changes):
  """Features, and what harmonisation needs where a probe wants it."""
  x = feature_table.read_table(directory / 'ours.tsv')[1]
  if one.coding is None:
    return x
  people = pandas.read_csv(directory / 'participants.tsv', sep='\t').assign(**changes)
  return with_sites(x, one.coding.numbers(people)[0])


@pytest.mark.parametrize('features, estimator', [('ours', 'linear'), ('ours', 'svm'),
                                                 ('ours, harmonised', 'linear')])
def test_a_saved_probe_predicts_bit_for_bit_what_the_run_did(place, features, estimator):
  """Of patients, whom no fold holds, by the folds' mean; of the healthy, by their fold's probe."""
  directory, evaluation, _ = place
  one = saved.read(directory / 'out' / 'probes' / saved.name_of('brain_age', features, estimator))
  table, _ = predict.predict(one, directory / 'ours.tsv', directory / 'participants.tsv')
  run = evaluation.gaps[evaluation.gaps['estimator'] == estimator].set_index('participant_id')
  run = run[run['features'] == features]
  table = table.set_index('participant_id')
  names = ['age', 'predicted_age', 'gap', 'gap_corrected']
  ill = run.index[run['group'] == 'AD']
  assert len(ill) == 40 and (table.loc[ill, names] == run.loc[ill, names]).all().all()
  x = _beside(directory, one)
  for fold, fitted_probe in enumerate(one.probes):
    own = run[run['fold'] == fold]
    rows = [int(name[4:]) for name in own.index]
    assert (fitted_probe.predict(x[rows]) == own['predicted_age']).all()


def test_a_probe_of_harmonised_features_holds_what_its_fold_learned_of_the_healthy(place):
  """ComBat fitted here on each fold's healthy people gives the same features."""
  directory, evaluation, _ = place
  one = saved.read(directory / 'out' / 'probes' / 'brain_age-ours+harmonised.json')
  assert one.coding == Coding('site', ('x', 'y'), (('sex', ('F', 'M')),))     # age is predicted
  run = evaluation.gaps[(evaluation.gaps['features'] == 'ours, harmonised')
                        & (evaluation.gaps['estimator'] == 'linear')]
  x = _beside(directory, one)
  x[:, -2] = np.arange(PEOPLE)
  for fold, probe_of_fold in enumerate(one.probes):
    healthy = run[(run['fold'] >= 0) & (run['fold'] != fold)]['participant_id']
    rows = np.sort([int(name[4:]) for name in healthy])
    np.testing.assert_allclose(probe_of_fold.harmonizer.transform(x),
                               ComBat(1).fit(x[rows]).transform(x), rtol=1e-6)
  plain = saved.read(directory / 'out' / 'probes' / 'brain_age-ours')
  site = SITES == 'y'
  gap = [np.subtract(*(values[which].mean() for which in (site, ~site))) for values in (
      plain.harmonised(feature_table.read_table(directory / 'ours.tsv')[1]), one.harmonised(x))]
  assert gap[0] > 1.5 and abs(gap[1]) < 0.3


def test_sites_of_new_people(place, tmp_path, capsys):
  directory, *_ = place
  own = 'brain_age-ours+harmonised'
  people = pandas.read_csv(directory / 'participants.tsv', sep='\t')
  whole = _predict(directory, own, '--participants', str(directory / 'participants.tsv'))
  # A few of them, in another order and with other columns, are predicted as before.
  some = people.iloc[[80, 7, 30]].drop(columns=['diagnosis', 'arm'])
  for name, table in (('some', some),
                      ('strange', some.assign(site=['x', 'q', None])),
                      ('no-site', some.drop(columns='site')), ('other-sex', some.assign(sex='O'))):
    table.to_csv(tmp_path / f'{name}.tsv', sep='\t', index=False)
  pandas.read_csv(directory / 'ours.tsv', sep='\t').iloc[[7, 30, 80]].to_csv(
      tmp_path / 'ours.tsv', sep='\t', index=False)
  capsys.readouterr()
  found = _predict(directory, own, '--participants', f'{tmp_path}/some.tsv',
                   features=tmp_path / 'ours.tsv')
  assert (found['gap'].to_numpy() == whole['gap'][[7, 30, 80]].to_numpy()).all()
  one = saved.read(directory / 'out' / 'probes' / own)
  for participants, message in (
      ('strange', 'ours.tsv: 2 scans, such as sub-007, are of site q, unknown, which the probe was '
                  'not fitted on; its features were harmonised over x, y. Leave them out'),
      ('no-site', 'harmonised over site, and there is no column site of these scans; give --part')):
    with pytest.raises(UserError, match=message):
      predict.predict(one, tmp_path / 'ours.tsv', tmp_path / f'{participants}.tsv')
  with pytest.raises(UserError, match='there is no column site, sex of these'):
    predict.predict(one, tmp_path / 'ours.tsv')
  _, notes = predict.predict(one, tmp_path / 'ours.tsv', tmp_path / 'other-sex.tsv')
  assert any(note.startswith('3 scans whose sex is not known, or is none of') for note in notes)
  for probe_of_fold in one.probes:
    probe_of_fold.harmonizer.unseen = PASS
  table, notes = predict.predict(one, tmp_path / 'ours.tsv', tmp_path / 'strange.tsv')
  assert any('the probe was not fitted on: they are not harmonised' in note for note in notes)
  assert table['predicted_age'].notna().all()
  # A probe of features as they are asks for no site.
  plain = saved.read(directory / 'out' / 'probes' / 'brain_age-ours')
  assert plain.coding is None and plain.record['format'] == 1 and one.record['format'] == 2
  predict.predict(plain, tmp_path / 'ours.tsv', tmp_path / 'no-site.tsv')


def test_the_rows_beside_it_change_no_prediction(place):
  directory, *_ = place
  rng = np.random.default_rng(0)
  for name in ('brain_age-ours', 'arm--b%2Fa-ours', 'brain_age-ours-svm',
               'arm--b%2Fa-ours+harmonised'):
    one = saved.read(directory / 'out' / 'probes' / name)
    x = _beside(directory, one)
    whole = one.table(x)
    for count in (1, 2, 7, 50):
      rows = rng.choice(PEOPLE, count, replace=False)
      pandas.testing.assert_frame_equal(one.table(x[rows]), whole.iloc[rows].reset_index(drop=True),
                                        check_exact=True)


def test_the_command_writes_what_the_run_wrote(place, capsys):
  directory, *_ = place
  table = _predict(directory, 'brain_age-ours.json', '--participants',
                   str(directory / 'participants.tsv')).set_index('participant_id')
  written = pandas.read_csv(directory / 'out' / 'brain_age.tsv', sep='\t')
  written = written[(written['features'] == 'ours') & (written['estimator'] == 'linear')
                    & (written['group'] == 'AD')].set_index('participant_id')
  names = ['age', 'predicted_age', 'gap', 'gap_corrected']
  assert (table.loc[written.index, names] == written[names]).all().all()
  said = capsys.readouterr()
  assert 'fitted on 80 SYNTHETIC people, 5' in said.out and 'SYNTHETIC scans' in said.out
  made = json.loads((directory / 'new.json').read_text())
  assert made['synthetic'] and made['probe_sha256'] and 'mae there' in made['fitted_on']
  bare = _predict(directory, 'brain_age-ours')
  assert bare['gap'].isna().all() and bare['predicted_age'].notna().all()
  assert 'ages are predicted, and there is no gap' in capsys.readouterr().err


def test_classes_and_numbers(place):
  directory, evaluation, _ = place
  table = _predict(directory, 'arm--b%2Fa-ours')
  assert set(table['predicted_class']) == {'a', 'b'}
  assert ((table['probability'] > 0.5) == (table['predicted_class'] == 'b')).all()
  assert list(_predict(directory, 'age-ours.safetensors')) == [
      'participant_id', 'session', 'prediction']
  # Out of the run's folds a saved probe is as good as the run says, and it is of all folds.
  age = saved.read(directory / 'out' / 'probes' / 'age-ours')
  assert age.record['fitted']['people'] == PEOPLE and len(age.probes) == 3
  probes = {path.name for path in (directory / 'out' / 'probes').glob('*.json')}
  assert probes == {f'{task}-ours{kind}{estimator}.json'
                    for task in ('brain_age', 'arm--b%2Fa', 'age') for kind in ('', '+harmonised')
                    for estimator in ('', '-svm')}     # no baseline, and none of a run before
  text = (directory / 'out' / 'probes' / 'age-ours.json').read_text()
  assert 'sub-0' not in text                          # nobody is named


def _spoilt(directory, path, change, described=None):
  table = pandas.read_csv(directory / 'ours.tsv', sep='\t')
  change(table).to_csv(path, sep='\t', index=False)
  own = json.loads((directory / 'ours.json').read_text())
  path.with_suffix('.json').write_text(json.dumps(own | (described or {})))


@pytest.mark.parametrize('change, described, message', [
    (lambda t: t, {'weights_sha256': 'bb' * 32}, 'made by another encoder: weights runs/mine '
                                                 r'\(bbbbbbbbbbbb\), and the probe was fitted on'),
    (lambda t: t, {'pool': 'levels'}, 'made with pool levels, and the probe was fitted on those '
                                      'with pool mean'),
    (lambda t: t, {'axes': 'SRA'}, 'made with axes SRA'),
    (lambda t: t.drop(columns='f20'), None, 'has 20 columns of features, and the probe was fitted '
                                            'on 21'),
    (lambda t: t.rename(columns={'f3': 'f21'}), None, 'lacks the columns f3, which'),
    (lambda t: t.assign(f3=t['f3'].where(t.index != 5)), None, 'not finite for 1 scans, such as '
                                                               'sub-005'),
    (lambda t: t.assign(f3=t['f3'].astype(object).where(t.index != 5, 'x')), None,
     r'column f3 is not a number for sub-005 \(x\)'),
    (lambda t: t.rename(columns=lambda name: name.replace('f', 'a:f') if name[0] == 'f' else name
                        ).assign(**{'b:f0': 0}), None, "features of a, b, and the probe"),
])
def test_a_table_that_is_not_of_the_encoder_is_refused(place, tmp_path, change, described, message):
  directory, *_ = place
  _spoilt(directory, tmp_path / 'x.tsv', change, described)
  one = saved.read(directory / 'out' / 'probes' / 'brain_age-ours')
  with pytest.raises(UserError, match=message):
    predict.predict(one, tmp_path / 'x.tsv')


def test_the_columns_of_an_encoder_among_several(tmp_path):
  """They are taken by name, in the order that was fitted on; of one encoder whatever its name."""
  x = np.zeros((2, 3), np.float32)
  people = pandas.DataFrame({'participant_id': ['a', 'b'], 'session': ''})
  feature_table.write_table(tmp_path / 'two.tsv', people, {'g': x, 'l': x[:, :2]})
  feature_table.write_table(tmp_path / 'one.tsv', people, x)
  (tmp_path / 'two.json').write_text(json.dumps({'encoders': {
      'g': {'weights_sha256': 'aa', 'pool': 'mean'}, 'l': {'weights_sha256': 'bb'}}}))
  g, other = identity.of_table(tmp_path / 'two.tsv')
  assert (g['columns'], other['columns'], g['weights_sha256']) == (3, 2, 'aa')
  assert identity.matched(tmp_path / 'two.tsv', [other, g]) == (['l', 'g'], [])
  names, notes = identity.matched(tmp_path / 'one.tsv', [g])
  assert names == [''] and 'which encoder made' in notes[0]
  for wanted, message in (([{**g, 'name': 'h'}], 'has features of g, l, and the probe was fitted '
                                                 'on those of h'),
                          ([{**other, 'name': 'g'}], 'was made by another encoder')):
    with pytest.raises(UserError, match=message):
      identity.matched(tmp_path / 'two.tsv', wanted)


def test_what_is_not_known_or_unusual_is_said(place, tmp_path):
  directory, *_ = place
  one = saved.read(directory / 'out' / 'probes' / 'brain_age-ours')
  table = pandas.read_csv(directory / 'ours.tsv', sep='\t')
  features = [name for name in table if name[0] == 'f']
  table.assign(age=np.linspace(30, 90, PEOPLE), **{name: table[name] + 20 for name in features}
               ).to_csv(tmp_path / 'x.tsv', sep='\t', index=False)
  _, notes = predict.predict(one, tmp_path / 'x.tsv')
  assert 'which encoder made' in notes[0] and 'scans are of people outside the ages 5' in notes[1]
  assert 'standard deviations or more' in notes[2]
  _spoilt(directory, tmp_path / 'y.tsv', lambda t: t, {'precision': 'bfloat16'})
  _, notes = predict.predict(one, tmp_path / 'y.tsv')
  assert 'computed in bfloat16' in notes[0]


def test_damaged_probes_are_refused(place, tmp_path, capsys):
  directory, *_ = place
  own = directory / 'out' / 'probes'
  text = (own / 'brain_age-ours.json').read_text()
  for name, spoil, message in (
      ('a', lambda p: (p / 'brain_age-ours.safetensors').unlink(), 'no such file; a probe is'),
      ('b', lambda p: (p / 'brain_age-ours.json').write_text('{'), 'no saved probe'),
      ('c', lambda p: (p / 'brain_age-ours.json').write_text('{}'), 'not made by this program'),
      ('d', lambda p: (p / 'brain_age-ours.safetensors').write_bytes(
          (own / 'age-ours.safetensors').read_bytes()), 'is not the one that it was written with'),
      ('e', lambda p: (p / 'brain_age-ours.json').write_text(text.replace(
          '"format": 1', '"format": 9')), 'its format 9 is not that of')):
    shutil.copytree(own, tmp_path / name)
    spoil(tmp_path / name)
    with pytest.raises(UserError, match=message):
      saved.read(tmp_path / name / 'brain_age-ours')
  with pytest.raises(SystemExit) as stop:
    predict.main(['--probe', str(own / 'nothing'), '--features', 'x.tsv', '--out',
                  str(tmp_path / 'new.tsv')])
  assert stop.value.code == 2 and not list(tmp_path.glob('*new*'))
  said = capsys.readouterr().err
  assert 'probes holds age-ours' in said and 'age-ours-svm.json, age-ours.json, ' in said


def test_files_of_others_among_the_probes_are_kept(place, tmp_path):
  _, _, config = place
  (tmp_path / 'out' / 'probes').mkdir(parents=True)
  (tmp_path / 'out' / 'probes' / 'mine.json').write_text('{}')
  config = config.copy_and_resolve_references()
  config.out = f'{tmp_path}/out'
  with pytest.raises(UserError, match='mine.json would be replaced'):
    probe.probe(config)


def test_a_mean_is_summed_in_its_order():
  values = [np.array([0.1 * 3**k]) for k in range(9)]
  total = 0.0
  for value in values:
    total += value[0]
  assert fitted.mean(values)[0] == total / 9
