"""Tables of several weights and of more than the last stage, and what the probe makes of them."""

from __future__ import annotations

import json
import types

import numpy as np
import pandas
import pytest

from anatcl_jax import features, models, probe
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import sources
from anatcl_jax.frozen.table import read_encoders, read_table, write_table
from anatcl_jax.models.feature_pooling import layout
from anatcl_jax.report import beyond
from tests.test_features import compiled, folder, run, volumes, weights  # noqa: F401
from tests.test_probe import _config

CLOSE = {'rtol': 2e-5, 'atol': 2e-6}


def test_each_of_several_weights_has_columns_of_its_own(folder, volumes, tmp_path,  # noqa: F811
                                                        capsys):
  """They are those of each alone, never averaged; a scan that one can't use is in no row."""
  with open(volumes[2], 'r+b') as file:
    file.truncate(900)
  out = tmp_path / 'all.tsv'
  names = f'mine={folder},untrained:tiny:1'
  assert run('--weights', names, '--volumes', *volumes[:4], '--out', out) == 1
  told = capsys.readouterr()
  assert '3 SYNTHETIC scans, 128 features, 1 left out' in told.out
  assert told.err.count('left out: ') == 1
  identifiers, found = read_encoders(out)
  assert list(found) == ['mine', 'untrained-tiny-1']
  kept = [volumes[i] for i in (0, 1, 3)]
  assert list(identifiers['file']) == kept
  for name, path in (('mine', folder), ('untrained-tiny-1', 'untrained:tiny:1')):
    np.testing.assert_allclose(found[name], features.load(path)(kept), **CLOSE)
  assert list(pandas.read_csv(out, sep='\t', nrows=1))[3:5] == ['mine:f0', 'mine:f1']
  np.testing.assert_array_equal(read_table(out)[1], np.concatenate(list(found.values()), 1))
  described = json.loads(out.with_suffix('.json').read_text())
  assert described['features'] == 128 and described['encoders']['mine']['card']['crop']
  assert described['encoders']['untrained-tiny-1']['card']['seed'] == 1
  assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
      'all.json', 'all.png', 'all.tsv']
  last = told.out.splitlines()[-1]
  assert last.startswith('next, ') and f'--config.features={out}' in last


def test_a_stop_in_the_second_of_two_goes_on_there(folder, volumes, tmp_path,  # noqa: F811
                                                   monkeypatch, capsys):
  from anatcl_jax.frozen import image_encoder
  arguments = ['--weights', f'a={folder},b=untrained:tiny', '--volumes', *volumes[:2], '--out',
               tmp_path / 'x.tsv']
  encode = image_encoder.extract.frozen

  def stopping(weights, **more):  # noqa: F811
    if weights.card.get('untrained'):
      raise KeyboardInterrupt
    return encode(weights, **more)

  with monkeypatch.context() as patch:
    patch.setattr(image_encoder.extract, 'frozen', stopping)
    assert run(*arguments) == 130
  assert sorted(path.name for path in tmp_path.glob('x*')) == ['x.tsv.a.partial', 'x.tsv.b.partial']
  assert run(*arguments) == 0
  assert '2 of 4 rows are there from a stopped run' in capsys.readouterr().err
  assert read_table(tmp_path / 'x.tsv')[1].shape == (2, 128)


def test_wrong_lists_are_one_line(folder, volumes, tmp_path, capsys):  # noqa: F811
  for weights_, message in ((f'{folder},{folder}', "two are named 'tiny'"), (',', 'names none'),
                            (f'a b={folder}', "'a b' is no name"),
                            ('anatcl-global-9,untrained:tiny', 'unknown released weights'),
                            (f'{folder}', "unknown pool 'levles': did you mean 'levels'")):
    pool = ['--pool', 'levles'] if 'pool' in message else []
    assert run('--weights', weights_, '--volumes', volumes[0], '--out', tmp_path / 'a.tsv',
               *pool) == 2
    line, = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error:')]
    assert message in line
  assert not list(tmp_path.glob('a*'))


def test_pooled_features_are_the_encoders_stages_and_the_json_says_which(
    folder, volumes, tmp_path):  # noqa: F811
  """Batches, devices and the way there change nothing; the mean is the usual table's."""
  out = tmp_path / 'a.tsv'
  assert run('--weights', folder, '--volumes', *volumes[:3], '--pool', 'mean+levels', '--out',
             out) == 0
  _, found = read_table(out)
  encoder = features.load(folder, pool='mean+levels')
  np.testing.assert_allclose(found, encoder(volumes[:3]), **CLOSE)
  np.testing.assert_allclose(found[:, :64], features.load(folder)(volumes[:3]), **CLOSE)
  described = json.loads(out.with_suffix('.json').read_text())
  assert described['pool'] == 'mean+levels' and described['features'] == found.shape[1] == 960
  assert [(one['pool'], one['stage'], one['first'], one['columns'])
          for one in described['columns']] == [
      ('mean', None, 0, 64), ('levels', 1, 64, 128), ('levels', 2, 192, 256),
      ('levels', 3, 448, 512)]
  assert 'pool       mean+levels' in repr(encoder)


# ---- The probe -----------------------------------------------------------------------------------


def _gathered(tmp_path, tables):
  names = [f'sub-{i:02d}' for i in range(6)]
  rng = np.random.default_rng(0)
  (tmp_path / 'participants.tsv').write_text(
      'participant_id\tage\n' + ''.join(f'{name}\t{20 + i}\n' for i, name in enumerate(names)))
  made = {}
  for table, parts in tables.items():
    made[table] = {part: rng.normal(size=(6, 3)).astype(np.float32) for part in parts}
    write_table(tmp_path / f'{table}.tsv',
                pandas.DataFrame({'participant_id': names, 'session': ''}), made[table])
  found = sources.gather(
      checkpoint='', tables=','.join(f'{tmp_path}/{table}.tsv' for table in tables), data_dir='',
      participants=str(tmp_path / 'participants.tsv'), trained_on='', untrained_seeds=1,
      batch_size=1)
  return found, made


def test_the_probe_takes_each_encoder_of_a_table_and_all_side_by_side(tmp_path):
  found, made = _gathered(tmp_path, {'folds': ['g-0', 'g-1'], 'plain': [''],
                                     'untrained': ['r-0', 'r-1', 'r-2']})
  assert list(found.encoders) == ['folds', 'folds:g-0', 'folds:g-1', 'plain', 'untrained']
  for name in ('g-0', 'g-1'):
    np.testing.assert_array_equal(found.encoders[f'folds:{name}'], [made['folds'][name]])
  np.testing.assert_array_equal(found.encoders['folds'],
                                [np.hstack([made['folds']['g-0'], made['folds']['g-1']])])
  np.testing.assert_array_equal(found.encoders['untrained'], list(made['untrained'].values()))
  evaluation = types.SimpleNamespace(
      table=found.cohort.table, outcomes=(), synthetic=False, trained_on_synthetic=(),
      features={name: values[0] for name, values in found.encoders.items()})
  assert [picture.name for picture in beyond.embedding(evaluation)] == [    # names of files
      'embedding-folds', 'embedding-folds--g-0', 'embedding-folds--g-1', 'embedding-plain']


def test_what_is_synthetic_is_read_back(tmp_path):
  """Scans and the training of encoders, each of them; old sidecars had one word for both."""
  drawn, real = {'card': {'synthetic': True}}, {'card': {'synthetic': False}}
  fresh = {'card': {'synthetic': True, 'untrained': True}}      # as cards of old had it
  tables = {'folds': ['g-0', 'g-1'], 'plain': [''], 'untrained': ['']}
  for scans in (False, True):
    for table, said in (('folds', {'encoders': {'g-0': real, 'g-1': drawn}}), ('plain', real),
                        ('untrained', fresh)):
      (tmp_path / f'{table}.json').write_text(json.dumps({'synthetic': scans} | said))
    found, _ = _gathered(tmp_path, tables)
    assert found.cohort.synthetic == scans
    assert found.cohort.trained_on_synthetic == ('folds', 'folds:g-1')
  for name in tables:
    (tmp_path / f'{name}.json').unlink()
  assert not _gathered(tmp_path, {'plain': ['']})[0].cohort.synthetic
  (tmp_path / 'dataset_description.json').write_text('{"Synthetic": true}')     # beside the labels
  assert _gathered(tmp_path, {'plain': ['']})[0].cohort.synthetic


def test_a_baseline_pooled_otherwise_is_said(tmp_path):
  tables = {'ours': [''], 'untrained': ['']}
  for table, pool in (('ours', 'levels'), ('untrained', 'mean')):
    (tmp_path / f'{table}.json').write_text(json.dumps({'pool': pool}))
  found, _ = _gathered(tmp_path, tables)
  assert any('untrained is pooled by mean, and ours (levels) otherwise' in note
             for note in found.cohort.notes)
  found, _ = _gathered(tmp_path, {'ours': ['']})
  assert any('untrained:ENCODER --pool levels' in note for note in found.cohort.notes)


@pytest.mark.slow
def test_the_probe_pools_a_checkpoint_and_fresh_encoders_alike(folder, shard_set,  # noqa: F811
                                                              tmp_path, monkeypatch):
  """Of what is given to the probes: features, and saliency through the same numbers."""
  out = tmp_path / 'out'
  evaluation = probe.probe(_config(
      checkpoint=f'mine={folder}', data_dir=str(shard_set.directory), tasks='age', folds=2,
      pool='levels', untrained_pool='covariance', saliency_scans=1, sections='saliency',
      out=str(out)))
  columns, covariances = (sum(part.columns for part in layout(models.get_encoder('tiny'), pool))
                          for pool in ('levels', 'covariance'))
  assert {name: values.shape[1] for name, values in evaluation.features.items()} == {
      'mine': columns, 'untrained': columns, 'untrained (covariance)': covariances}
  assert list((out / 'figures').glob('*saliency*'))
  with pytest.raises(UserError, match='unknown pool'):
    probe.probe(_config(checkpoint=f'mine={folder}', pool='level', out=str(out)))
