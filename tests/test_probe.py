"""The command: a run's frozen features, tables made before, and wrong use; all SYNTHETIC."""

from __future__ import annotations

import json
import pathlib
import shlex

import numpy as np
import pandas
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anatcl_jax import command_line, config_files, predict, probe
from anatcl_jax.data import pipeline
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import saved, sources, splits
from anatcl_jax.frozen import extract, image_encoder
from anatcl_jax.frozen import table as feature_table
from anatcl_jax.training import train
from anatcl_jax.weights.load import load_weights
from configs.probe import get_config
from tests import small_run
from tests.evaluation.probing import target_of

ROOT = pathlib.Path(__file__).parents[1]


def _config(arguments=None, **changes):
  """Without the pictures of the report, whose section of learning curves has none here."""
  config = get_config(arguments)
  config.update({'learning_curve': 'none', 'leave_one_site_out': False, 'fewest': 3, 'jobs': 1,
                 'inner_folds': 2, 'untrained_seeds': 1, 'sections': 'labels', **changes})
  return config


@pytest.fixture(scope='module')
def run(training_set, tmp_path_factory):
  """A workdir after one epoch, probed."""
  directory = tmp_path_factory.mktemp('probed')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('anatcl_jax.models.get_encoder', small_run.get_encoder)
    train.train(small_run.small_config(training_set.directory, epochs=1), directory / 'run')
    probe.probe(_config(checkpoint=f'mine={directory / "run"}',
                        tasks='age,sex,thickness:lh_insula', save=True, sections='all'))
  return directory / 'run'


def test_results_have_the_rows_and_columns_that_others_rely_on(run, capsys):
  table = pandas.read_csv(run / 'probe' / 'results.tsv', sep='\t')
  assert list(table)[:9] == ['task', 'features', 'metric', 'mean', 'sd', 'low', 'high', 'n',
                               'folds']
  for task in ('age', 'sex', 'thickness:lh_insula'):
    assert list(dict.fromkeys(table[table['task'] == task]['features'])) == [
        'mine', 'covariates + mine', 'untrained', 'morphometry', 'covariates + morphometry',
        'covariates', 'mean']
  made = json.loads((run / 'probe' / 'made.json').read_text())
  assert made['synthetic'] and made['cards']['mine']['source'] == str(run)
  assert made['config']['tasks'] == 'age,sex,thickness:lh_insula'
  assert {'numpy', 'scikit-learn', 'jax'} <= set(made['versions'])
  assert any('trained on 32 of these 40 scans' in note for note in made['notes'])


def test_a_figure_is_the_one_written_out(run, training_set, monkeypatch):
  """Features by the encoder itself, fitted on people of the training, tested on those held out."""
  variables = load_weights_of(run, monkeypatch)
  volumes = np.stack([training_set.read_volume(record)[0] for record in range(40)])
  x = np.asarray(small_run.Patches().apply(variables, volumes[..., None], False), np.float64)
  age = training_set.table['age'].to_numpy(float)
  people = training_set.table['participant_id'].to_numpy()
  fit, test = pipeline.split_by_participant(people, 0, 5, 0)
  inner = splits.grouped_folds(target_of(age[fit], groups=people[fit]), 2, 0)
  search = GridSearchCV(make_pipeline(StandardScaler(), Ridge()),
                        {'ridge__alpha': [0.01, 0.1, 1, 10, 100]}, cv=inner, scoring='r2')
  expected = mean_absolute_error(age[test], search.fit(x[fit], age[fit]).predict(x[test]))
  table = pandas.read_csv(run / 'probe' / 'results.tsv', sep='\t')
  row = table[(table['task'] == 'age') & (table['features'] == 'mine') & (table['metric'] == 'mae')]
  assert row['mean'].iloc[0] == pytest.approx(expected, rel=1e-3) and row['n'].iloc[0] == 8
  predicted = pandas.read_csv(run / 'probe' / 'predictions.tsv', sep='\t')
  assert set(predicted['participant_id']) == set(people[test])     # and nobody trained on


def test_the_saved_probe_knows_its_encoder(run, training_set, monkeypatch, tmp_path):
  """By the digest of its weights; it predicts what stands in the run's predictions."""
  monkeypatch.setattr('anatcl_jax.models.get_encoder', small_run.get_encoder)
  weights = load_weights(run)
  x = extract.features_of_shards(weights, training_set, batch_size=32, pool='mean', show=False)
  one = saved.read(run / 'probe' / 'probes' / 'age-mine')
  part, = one.record['encoders']
  assert (part['weights_sha256'], part['pool'], part['columns']) == (
      image_encoder.digest(weights), 'mean', x.shape[1])
  people = training_set.table['participant_id']
  feature_table.write_table(tmp_path / 'x.tsv', training_set.table[['participant_id', 'session']],
                            x)
  encoder = image_encoder.load(run)
  feature_table.write_description(tmp_path / 'x.tsv', encoder.description())
  table, notes = predict.predict(one, tmp_path / 'x.tsv')
  written = pandas.read_csv(run / 'probe' / 'predictions.tsv', sep='\t')
  written = written[(written['task'] == 'age') & (written['features'] == 'mine')]
  rows = [list(people).index(name) for name in written['participant_id']]
  np.testing.assert_allclose(table['prediction'].to_numpy()[rows], written['prediction'], rtol=1e-5)
  assert not notes                              # and the table is known to be of that encoder


def load_weights_of(run, monkeypatch):
  monkeypatch.setattr('anatcl_jax.models.get_encoder', small_run.get_encoder)
  return load_weights(run).variables


def _write_tables(directory, people=40):
  rng = np.random.default_rng(0)
  names = [f'sub-{row:02d}' for row in range(people)]
  age = rng.uniform(20, 80, people)
  labels = {'participant_id': names, 'age': age, 'mmse': rng.integers(10, 30, people)}
  pandas.DataFrame(labels).to_csv(directory / 'participants.tsv', sep='\t', index=False)
  for name, strength in (('ours', 3), ('theirs', 1), ('fresh', 0)):
    x = rng.normal(size=(people, 4))
    x[:, 0] += strength * (age - 50) / 15
    pandas.DataFrame({'participant_id': names, 'session': '',
                      **{f'f{column}': x[:, column] for column in range(4)}}).sample(
        frac=1, random_state=1).to_csv(directory / f'{name}.tsv', sep='\t', index=False)


def test_tables_of_features_are_compared(tmp_path, capsys):
  _write_tables(tmp_path)
  config = _config(
      features=f'{tmp_path}/ours.tsv,other={tmp_path}/theirs.tsv,untrained={tmp_path}/fresh.tsv',
      participants=f'{tmp_path}/participants.tsv', tasks='age,mmse', folds=2,
      out=f'{tmp_path}/out')
  probe.probe(config)
  # The command of the record, in the shell, asks for the same.
  command = shlex.split(json.loads((tmp_path / 'out' / 'made.json').read_text())['command'])
  _, again = command_line.ConfigParser(prog='', description='', config='probe').parse(command[3:])
  assert command[:3] == ['python', '-m', 'anatcl_jax.probe']
  assert again.to_dict() == config.to_dict()
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {
      'comparisons.tsv', 'figures', 'made.json', 'predictions.tsv', 'report.html', 'results.tsv'}
  table = pandas.read_csv(tmp_path / 'out' / 'results.tsv', sep='\t')
  age = table[(table['task'] == 'age') & (table['metric'] == 'mae')].set_index('features')['mean']
  assert list(age.index) == ['ours', 'other', 'untrained', 'mean']
  assert age['ours'] < age['other'] < age['untrained']
  compared = pandas.read_csv(tmp_path / 'out' / 'comparisons.tsv', sep='\t')
  assert {('ours', 'other'), ('ours', 'untrained'), ('other', 'untrained')} <= set(
      compared[['features', 'against']].itertuples(index=False, name=None))
  said = capsys.readouterr()
  assert 'ours: better than untrained, by ' in said.out
  *_, results, then = said.out.splitlines()
  assert then.startswith(f'next: open {tmp_path}/out/report.html')
  assert results.startswith(
      f'results: {tmp_path}/out/report.html (beside it results.tsv')
  assert 'whether ours, other saw these people in training is not known' in said.err


def test_paths_and_their_names():
  found = sources.named_paths('global=runs/a=1, runs/b.tsv', 'features')
  assert found == {'global': pathlib.Path('runs/a=1'), 'b': pathlib.Path('runs/b.tsv')}


@pytest.mark.parametrize('changes, message', [
    ({}, 'nothing to evaluate: give --config.checkpoint'),
    ({'features': 'mean=a.tsv'}, "'mean' is the name of a baseline"),
    ({'checkpoint': 'untrained=a'}, "'untrained' is the name of a baseline"),
    ({'features': 'a/x.tsv,b/x.tsv'}, "two are named 'x'"),
    ({'features': 'x=a.tsv', 'checkpoint': 'x=b'}, 'x names a checkpoint and a table'),
    ({'features': '=a.tsv'}, 'is not NAME=PATH'),
    ({'features': 'requirements.txt'}, r'whose scans\? give --config.data_dir'),
    ({'features': 'a.tsv'}, 'a.tsv: no such table of features'),
    ({'features': 'a.tsv', 'participants': 'p.tsv'}, 'a.tsv: no such table of features'),
    ({'checkpoint': 'tests/nowhere', 'features': 'requirements.txt'},
     r'tests/nowhere: no such weights \(seen from .*; tests holds __init__.py, .*bench, '),
    ({'checkpoint': 'nowhere@best'}, 'nowhere@best: no such weights'),
    ({'features': 'a.tsv', 'participants': 'p.tsv', 'data_dir': 'd'}, 'give labels once'),
    ({'checkpoint': 'nowhere', 'data_dir': 'DATA'}, 'nowhere: no such weights'),
    ({'checkpoint': 'a', 'participants': 'p.tsv'}, 'a checkpoint needs volumes'),
    ({'checkpoint': 'a', 'data_dir': 'DATA', 'tasks': 'agee'}, 'a: no such weights'),
    ({'checkpoint': 'a', 'folds': 1}, 'config.folds is 1, must be at least 2'),
    ({'checkpoint': 'a', 'estimators': 'forest'}, "unknown estimator 'forest'"),
    ({'checkpoint': 'a', 'protocol': 'heldout'}, "unknown protocol 'heldout'"),
    ({'checkpoint': 'a', 'learning_curve': 'some'}, 'neither numbers of people'),
    ({'checkpoint': 'a', 'task_file': 'none.py'}, 'none.py: no such file of tasks'),
    ({'checkpoint': 'a', 'out': 'README.md/probe'}, 'is or lies in a file')])
def test_wrong_use_is_said_before_anything_is_written(changes, message, training_set, tmp_path,
                                                      monkeypatch):
  changes = {key: value.replace('DATA', str(training_set.directory))
             if isinstance(value, str) else value for key, value in changes.items()}
  config = _config(**{'out': str(tmp_path / 'out'), **changes})
  monkeypatch.chdir(ROOT)
  with pytest.raises(UserError, match=message):
    probe.probe(config)
  assert not list(tmp_path.iterdir())


def test_columns_of_her_own_are_tasks(tmp_path, capsys):
  """By two values, by two of three, as a number; a file of tasks adds to those that are there."""
  _write_tables(tmp_path)
  people = pandas.read_csv(tmp_path / 'participants.tsv', sep='\t')
  group = np.resize(['HC', 'SCZ', 'BP'], 40)
  people.assign(Group=np.where(np.arange(40) % 2, 'SCZ', 'HC'), arm=group,
                score=np.linspace(0, 1, 40)).to_csv(tmp_path / 'participants.tsv', sep='\t',
                                                    index=False)
  (tmp_path / 'mine.py').write_text(
      'from anatcl_jax.evaluation.tasks import REGRESSION, Task\n'
      'TASKS = Task("memory", "mmse", REGRESSION, unit="points"),\n')
  options = {'features': f'{tmp_path}/ours.tsv', 'participants': f'{tmp_path}/participants.tsv',
             'out': f'{tmp_path}/out', 'folds': 2}
  with pytest.raises(UserError, match=r"unknown task or column 'groop': did you mean 'Group'"):
    probe.probe(_config(**options, tasks='groop'))
  with pytest.raises(UserError, match='config.healthy says whom brain_age is fitted on'):
    probe.probe(_config(**options, tasks='age', healthy='Group:HC'))
  with pytest.raises(UserError, match=r'column arm holds HC \(14 scans\), SCZ \(13 scans\), '
                                      r'BP \(13 scans\); say .*--config.tasks=arm:BP/HC'):
    probe.probe(_config(**options, tasks='arm'))
  done = probe.probe(_config(**options, tasks='Group,arm:scz/HC,score,memory,age',
                             task_file=str(tmp_path / 'mine.py')))
  found = {one.task.name: one for one in done.outcomes if one.features == 'ours'}
  assert found['Group'].classes == ('HC', 'SCZ') and len(found['Group'].truth) == 40
  assert found['arm:scz/HC'].classes == ('HC', 'scz')
  assert set(found['arm:scz/HC'].participant_id) == set(people['participant_id'][group != 'BP'])
  assert found['score'].task.kind == 'regression' and found['memory'].task.unit == 'points'
  table = pandas.read_csv(tmp_path / 'out' / 'predictions.tsv', sep='\t')
  assert table['truth'].dtype == table['prediction'].dtype == float
  age = table[(table['task'] == 'age') & (table['features'] == 'ours')].set_index('participant_id')
  assert age['truth'].to_dict() == pytest.approx(
      people.set_index('participant_id')['age'].to_dict(), rel=1e-5)
  own = table[table['task'] == 'Group']
  assert set(own['true_class']) == {'HC', 'SCZ'} and own['truth'].isna().all()
  assert age['true_class'].isna().all()


def test_one_line_and_a_help_that_teaches(monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  with pytest.raises(SystemExit) as stop:
    probe.main(['--config=configs/probe.py', '--config.task=age'])
  line, = capsys.readouterr().err.splitlines()
  assert stop.value.code == 2 and line.startswith('error:') and "did you mean 'tasks'" in line
  with pytest.raises(SystemExit) as stop:
    probe.main(['--help'])
  text = ' '.join(capsys.readouterr().out.split())
  assert not stop.value.code
  assert 'folds=5 by participant, stratified' in text
  assert '--config.checkpoint=runs/mine' in text and 'the others, cross_validation' in text


def test_a_config_by_its_text():
  assert config_files.load('configs/probe.py:cohort=adni').tasks == 'adni'
  with pytest.raises(UserError, match='none.py: no such config file'):
    config_files.load('none.py:demo')


@pytest.mark.parametrize('text, message', [
    ('participant_id\tage\nsub-1\t3\n', 'is no table of features'),
    ('f0\tf1\n1\t2\n', 'is no table of features'),
    ('participant_id\tf0\nsub-1\tx\n', r'column f0 is not a number for sub-1 \(x\)')])
def test_tables_that_hold_no_features(text, message, tmp_path):
  (tmp_path / 'a.tsv').write_text(text)
  with pytest.raises(UserError, match=message):
    feature_table.read_table(tmp_path / 'a.tsv')


def test_columns_of_a_table_are_in_their_order(tmp_path):
  (tmp_path / 'a.tsv').write_text(
      'participant_id\tf10\tf2\tsite\n01_ses-2\t10\t2\tx\nsub-02\t11\t\ty\n')
  identifiers, values = feature_table.read_table(tmp_path / 'a.tsv')
  assert identifiers[['participant_id', 'session', 'site']].values.tolist() == [
      ['sub-01', 'ses-2', 'x'], ['sub-02', '', 'y']]
  np.testing.assert_array_equal(values, np.float32([[2, 10], [np.nan, 11]]))
