"""Whole runs on a small SYNTHETIC cohort: what they write, resume, and refuse."""

from __future__ import annotations

import json
import math
import re
import shutil

import jax
import numpy as np
import pandas
import pytest
import tensorboardX.proto.event_pb2
from matplotlib import image

from anatcl_jax.data import digests, pipeline
from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.training import checkpoint, curves, tracking, train
from anatcl_jax.weights import stored
from configs.pretrain import get_config


def _config(training_set, arguments='encoder=tiny', **changes):
  config = get_config(arguments)
  config.update({'data_dir': str(training_set.directory), 'epochs': 4, 'batch_size': 8,
                 'precision': 'float32', 'encoder_width': 4, 'learning_rate': 1e-3,
                 'log_every_steps': 1, **changes})
  return config


@pytest.fixture(scope='module')
def finished(training_set, tmp_path_factory):
  """Two epochs, then the same workdir to four; and four epochs in one go."""
  workdir = tmp_path_factory.mktemp('runs')
  train.train(_config(training_set, epochs=2), workdir / 'resumed')
  train.train(_config(training_set), workdir / 'resumed')
  train.train(_config(training_set), workdir / 'whole')
  return workdir


def test_resumed_run_equals_one_that_was_never_stopped(finished):
  resumed, whole = (tracking.read_metrics(finished / name) for name in ('resumed', 'whole'))
  assert [row['step'] for row in resumed] == list(range(1, 17))    # no step twice
  for a, b in zip(resumed, whole):
    for name in ('loss', 'loss/age', 'loss/anatomy', 'gradient_norm', 'learning_rate'):
      assert a[name] == b[name], (a['step'], name)
  assert resumed[-1]['heldout/loss'] == whole[-1]['heldout/loss']


def test_metrics_rows_are_complete(finished):
  lines = (finished / 'whole' / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row['epoch'] for row in rows] == [1 + step // 4 for step in range(16)]
  for row in rows:
    assert row['loss'] == pytest.approx(row['loss/age'] + row['loss/anatomy'], rel=1e-5)
    assert 0 <= row['effective_positives/age'] <= 7 and row['subjects_per_second'] > 0
  for row in rows[3::4]:
    assert {'heldout/loss', 'heldout/loss/age', 'heldout/effective_positives/anatomy'} <= set(row)


def test_workdir_holds_events_config_and_picture(finished):
  events, = (finished / 'whole' / 'tensorboard').iterdir()
  # TFRecord framing: length (8 bytes), its checksum (4), the event, its checksum (4).
  data, scalars, position = events.read_bytes(), {}, 0
  while position < len(data):
    length = int.from_bytes(data[position:position + 8], 'little')
    event = tensorboardX.proto.event_pb2.Event.FromString(
        data[position + 12:position + 12 + length])
    scalars |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    position += 16 + length
  last = tracking.read_metrics(finished / 'whole')[-1]
  assert scalars['loss', 16] == pytest.approx(last['loss'])
  assert scalars['heldout/loss', 16] == pytest.approx(last['heldout/loss'])
  config = json.loads((finished / 'whole' / 'config.json').read_text())
  assert config['loss']['terms']['age'] == {
      'attribute': 'age', 'weight': 1.0, 'kernel': 'rbf', 'sigma': 2.0,
      'effective_positives': 0.0}
  picture = image.imread(finished / 'whole' / 'curves.png')
  assert picture.shape[0] > 400 and picture[..., :3].std() > 0.05


def test_checkpoint_holds_state_and_statistics_of_training_subjects(finished, training_set):
  train_records, _ = pipeline.split_by_participant(
      training_set.table['participant_id'].to_numpy(), 0, 5, 0)
  config = _config(training_set)
  program = train.compile_program(config, jax.make_mesh((1,), ('batch',)), 2)
  like = program.init(jax.random.key(1), training_set.grid.shape)
  assert stored.steps(finished / 'whole')[0] == 16
  state, statistics = checkpoint.restore(finished / 'whole', like)
  measures = training_set.select_measures(('thickness', 'volume', 'area'))[train_records]
  np.testing.assert_allclose(statistics['anatomy']['offset'], measures.min(0))
  np.testing.assert_allclose(statistics['anatomy']['scale'], measures.max(0) - measures.min(0),
                             rtol=1e-5)
  assert int(state.step) == 16
  moved = [bool((a != b).any()) for a, b in zip(jax.tree.leaves(state.params),
                                               jax.tree.leaves(like.params))]
  assert all(moved)


def test_a_finished_run_again_only_says_so(finished, training_set, capsys):
  before = (finished / 'whole' / 'metrics.jsonl').read_text()
  train.train(_config(training_set), finished / 'whole')
  assert (finished / 'whole' / 'metrics.jsonl').read_text() == before
  assert 'nothing is left to do' in capsys.readouterr().err


def test_another_config_is_refused_with_the_difference(finished, training_set):
  with pytest.raises(UserError, match=r'learning_rate 0.001 -> 0.5.*another --workdir'):
    train.train(_config(training_set, learning_rate=0.5), finished / 'whole')


def test_other_subjects_are_refused(finished, training_set, tmp_path):
  """The same data elsewhere go on; another subject among them does not."""
  directory = tmp_path / 'data'
  shutil.copytree(training_set.directory, directory)
  train.train(_config(training_set, data_dir=str(directory)), finished / 'whole')
  table = training_set.table.replace('sub-0007', 'sub-9999')
  table.to_csv(directory / 'participants.tsv', sep='\t', index=False)
  (directory / 'dataset.json').write_text(json.dumps(
      digests.signed(training_set.info, directory, table)))
  with pytest.raises(UserError, match='data_identity.*another --workdir'):
    train.train(_config(training_set, data_dir=str(directory)), finished / 'whole')


def test_a_run_that_learns_nothing_stops(small_model, training_set, tmp_path):
  """With supcon, one view and no two subjects alike nothing attracts anything."""
  config = _config(training_set, views=1)
  config.loss.method = 'supcon'
  config.loss.terms.age.weight = 0.0
  with pytest.raises(RunFailure, match='the gradient is 0 at step 1: no subject'):
    train.train(config, tmp_path / 'run')


def test_damaged_workdirs(finished, training_set, tmp_path):
  damaged = tmp_path / 'run'
  shutil.copytree(finished / 'whole', damaged)
  (damaged / 'config.json').write_text('{"epochs": 4')
  with pytest.raises(UserError, match='config.json is damaged'):
    train.train(_config(training_set), damaged)
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='choose another --workdir'):
    train.train(_config(training_set), tmp_path / 'file')


def test_every_term_is_drawn(tmp_path):
  row = {'step': 1, 'epoch': 1, 'loss': 9.0}
  for name in ('age', 'anatomy', 'sex', 'site', 'diagnosis'):
    row |= {f'loss/{name}': 1.0, f'effective_positives/{name}': 2.0}
  (tmp_path / 'metrics.jsonl').write_text(json.dumps(row) + '\n')
  drawn = []
  original, curves._curve = curves._curve, lambda *arguments: drawn.append(arguments[2])
  try:
    curves.training_curves(tmp_path, True)
  finally:
    curves._curve = original
  assert {f'loss/{name}' for name in ('age', 'anatomy', 'sex', 'site', 'diagnosis')} < set(drawn)


def test_non_finite_numbers_name_step_and_subjects(small_model, training_set, tmp_path):
  config = _config(training_set, learning_rate=1e30)
  with pytest.raises(RunFailure, match=r'the [a-z ]+ is (nan|inf) at step \d') as failure:
    train.train(config, tmp_path / 'run')
  step = int(re.search(r'at step (\d+)', str(failure.value))[1])
  train_records, _ = pipeline.split_by_participant(
      training_set.table['participant_id'].to_numpy(), 0, 5, 0)
  for record in pipeline.records_of_step(train_records, 8, 0, step - 1):
    assert training_set.label(record) in str(failure.value)
  assert all(math.isfinite(row['loss']) for row in tracking.read_metrics(tmp_path / 'run'))
  # Nothing was saved, so that the same workdir may start again with another rate.
  train.train(_config(training_set, epochs=1), tmp_path / 'run')
  assert [row['step'] for row in tracking.read_metrics(tmp_path / 'run')] == [1, 2, 3, 4]


@pytest.mark.parametrize('arguments, changes, message', [
    ('encoder=tiny', {'batch_size': 64}, 'batch_size 64 is more than the 32 scans'),
    ('encoder=tiny', {'batch_size': 12}, 'does not divide over 8 devices'),
    ('encoder=tiny,measures=thickness+meancurv', {}, 'has no meancurv; its measures are thickness'),
    ('encoder=tiny,measures=thickness,variant=local', {}, 'local descriptor of one measure'),
    ('encoder=tiny,measures=thicknes', {}, "did you mean 'thickness'"),
    ('encoder=resnet19', {}, "did you mean 'resnet1"),
    ('encoder=tiny,atlas=destrieux', {}, 'has the desikan atlas'),
    ('encoder=tiny', {'micro_batch_size': 3}, 'choose one of 8, or 0 for the whole'),
    ('encoder=tiny', {'crop': '3,4'}, 'neither three sizes'),
    ('encoder=tiny', {'fold': 9}, 'fold 9 must lie between 0 and 4'),
    ('encoder=tiny', {'data_dir': 'nowhere'}, 'python -m anatcl_jax.prepare')])
def test_impossible_runs_leave_no_workdir(training_set, tmp_path, arguments, changes, message):
  with pytest.raises(UserError, match=message):
    train.train(_config(training_set, arguments, **changes), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_any_method_with_more_terms_and_missing_values(small_model, training_set, tmp_path):
  """Threshold, whitened anatomy, sex and site; a quarter of the ages and morphometry missing."""
  directory = tmp_path / 'data'
  shutil.copytree(training_set.directory, directory)
  table = pandas.read_csv(directory / 'participants.tsv', sep='\t', dtype=str)
  table.loc[::4, 'age'] = 'n/a'
  table.to_csv(directory / 'participants.tsv', sep='\t', index=False)
  morphometry = training_set.morphometry.copy()
  morphometry[1::4] = np.nan
  np.save(directory / 'morphometry.npy', morphometry)
  config = _config(training_set, 'encoder=tiny,also=sex+site', epochs=1, data_dir=str(directory))
  config.loss.method = 'threshold'
  config.loss.terms.anatomy.update({'kernel': 'whitened', 'normalization': 'zscore'})
  config.loss.terms.sex.weight = 0.5
  train.train(config, tmp_path / 'run')
  for row in tracking.read_metrics(tmp_path / 'run'):
    terms = {name: row[f'loss/{name}'] for name in ('age', 'anatomy', 'sex', 'site')}
    assert all(map(math.isfinite, terms.values())) and min(terms.values()) > 0
    weighted = terms['age'] + terms['anatomy'] + 0.5 * terms['sex'] + terms['site']
    assert row['loss'] == pytest.approx(weighted, rel=1e-5)
    assert 0 < row['effective_positives/sex'] <= 7


def test_a_stated_sharpness_without_site_and_age(small_model, training_set, tmp_path, capsys):
  """Statistics with the sites' names go through the checkpoint; a small site is told and stays."""
  directory = tmp_path / 'data'
  shutil.copytree(training_set.directory, directory)
  table = pandas.read_csv(directory / 'participants.tsv', sep='\t', dtype=str)
  table['site'] = ['1', '2'] * 18 + ['3', '3', '3', 'n/a']
  table.to_csv(directory / 'participants.tsv', sep='\t', index=False)
  arguments = 'encoder=tiny,effective_positives=0.4,without=site+age,keeping=sex'
  config = _config(training_set, arguments, epochs=1, data_dir=str(directory))
  train.train(config, tmp_path / 'run')
  said = capsys.readouterr().err
  assert 'anatomy: site 3 (3 scans) had too few scans to train on' in said
  assert 'by global without site+age, drawn to 0.4 of the batch, 1 scans lack it' in said
  config.epochs = 2
  train.train(config, tmp_path / 'run')
  rows = tracking.read_metrics(tmp_path / 'run')
  for row in rows:
    assert row['effective_positives/anatomy'] == pytest.approx(0.4 * 7, abs=0.5)   # 0.4 * 6 of one
    assert math.isfinite(row['loss/anatomy']) and row['gradient_norm'] > 0
  assert [row['step'] for row in rows] == list(range(1, 9))
  program = train.compile_program(config, jax.make_mesh((1,), ('batch',)), 2)
  like = program.init(jax.random.key(1), training_set.grid.shape)
  _, statistics = checkpoint.restore(tmp_path / 'run', like)
  assert statistics['anatomy']['sites'].tolist() == ['site=1', 'site=2']
  assert statistics['anatomy']['kept'].tolist() == ['sex=F', 'sex=M']


def test_a_supervised_run_goes_on_with_its_statistics(small_model, training_set, tmp_path):
  table = training_set.table
  rows = []
  for workdir, epochs in (('resumed', 1), ('resumed', 2), ('whole', 2)):
    config = _config(training_set, 'encoder=tiny,regress=age,classify=sex', epochs=epochs)
    train.train(config, tmp_path / workdir)
    rows = [tracking.read_metrics(tmp_path / name)[-1] for name in {'resumed', workdir}]
  assert rows[0]['loss'] == rows[1]['loss'] and rows[0]['step'] == 8
  records, _ = pipeline.split_by_participant(table['participant_id'].to_numpy(), 0, 5, 0)
  age = table['age'].to_numpy(float)[records]
  statistics = stored.read(tmp_path / 'whole', 8)[1]['statistics']
  np.testing.assert_allclose([statistics['age']['mean'], statistics['age']['deviation']],
                             [age.mean(), age.std()], rtol=1e-6)


def test_runs_from_before_a_key_was_there_go_on(small_model, training_set, tmp_path):
  config = _config(training_set, epochs=1)
  train.train(config, tmp_path / 'run')
  path = tmp_path / 'run' / 'config.json'
  written = json.loads(path.read_text())
  for term in written['loss']['terms'].values():
    for key in ('effective_positives', 'without', 'keeping'):
      term.pop(key, None)
  path.write_text(json.dumps(written))
  config.epochs, config.loss.terms.age.effective_positives = 2, 0.5
  with pytest.raises(UserError, match='age.effective_positives 0.0 -> 0.5'):
    train.train(config, tmp_path / 'run')
  config.loss.terms.age.effective_positives = 0.0
  train.train(config, tmp_path / 'run')
  assert tracking.read_metrics(tmp_path / 'run')[-1]['step'] == 8


def test_rows_cut_off_by_a_crash_are_passed_over(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "epoch": 1}\n{"step": 2, "epo')
  assert tracking.read_metrics(tmp_path) == [{'step': 1, 'epoch': 1}]


def test_curves_of_one_row(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(
      '{"step": 1, "epoch": 1, "loss": 2.0, "loss/age": 2.0, "effective_positives/age": 3.0}\n')
  assert curves.training_curves(tmp_path, True).is_file()
