"""Tables of features: whatever the way, the same numbers; stops, damage, wrong use."""

from __future__ import annotations

import dataclasses
import glob
import json
import shutil

import jax
import nibabel
import numpy as np
import pandas
import pytest

from anatcl_jax import features, figures, models
from anatcl_jax.data.arrange import Arrangement
from anatcl_jax.errors import UserError
from anatcl_jax.frozen import extract, image_encoder
from anatcl_jax.frozen.table import read_synthetic, read_table, write_table
from anatcl_jax.report import representation
from anatcl_jax.weights import write
from anatcl_jax.weights.load import Weights
from tests.models.test_models import random_variables
from tests.small_run import compilation_cache

CROP = (11, 14, 12)


@pytest.fixture(scope='module', autouse=True)
def compiled(tmp_path_factory):
  with compilation_cache(tmp_path_factory.getbasetemp() / 'compiled'):
    yield


@pytest.fixture
def undrawn(monkeypatch):
  """An empty picture beside each table, where nobody looks at it."""
  monkeypatch.setattr(representation, 'draw', lambda *_, **__: figures.Figure((1, 1)))


@pytest.fixture(scope='module')
def weights() -> Weights:
  variables = random_variables(models.get_encoder('tiny'), np.zeros((1, 12, 12, 12, 1)))
  card = {'encoder': 'tiny', 'head': None, 'grid': None, 'crop': list(CROP), 'axes': 'RAS',
          'synthetic': False, 'notes': []}
  return Weights('tiny', variables, None, card)


@pytest.fixture(scope='module')
def folder(weights, tmp_path_factory):
  write.write_folder(weights, path := tmp_path_factory.mktemp('weights') / 'tiny')
  return path


@pytest.fixture
def volumes(copy) -> list[str]:
  """Six of the SYNTHETIC subjects."""
  return sorted(glob.glob(f'{copy}/sub-*/anat/*_mod.nii.gz'))[:6]


def run(*arguments) -> int:
  """The exit code of the command."""
  try:
    features.main([str(argument) for argument in arguments])
  except SystemExit as stop:
    return stop.code
  return 0


def test_the_same_numbers_by_every_way(weights, folder, volumes, shard_set, tmp_path, capsys):
  """Command in batches of 1 and 3 on 8 devices, shards, notebook, and the encoder by hand."""
  tables = {}
  for name, inputs in (('one', ['--volumes', *volumes, '--batch-size', 1]),
                       ('three', ['--volumes', *volumes, '--batch-size', 3]),
                       ('shards', ['--data-dir', shard_set.directory])):
    assert run('--weights', folder, *inputs, '--out', tmp_path / f'{name}.tsv') == 0
    tables[name] = read_table(tmp_path / f'{name}.tsv')
  assert '6 SYNTHETIC scans, 64 features: ' in capsys.readouterr().out
  encoder = features.load(folder)
  images = [nibabel.load(path) for path in volumes]
  apply = jax.jit(models.get_encoder('tiny').apply, static_argnums=2)
  by_hand = []
  for image in images:
    volume = np.asarray(nibabel.as_closest_canonical(image).dataobj, np.float32)
    start = [(n - m) // 2 for n, m in zip(volume.shape, CROP)]
    cut = volume[tuple(slice(s, s + m) for s, m in zip(start, CROP))]
    by_hand.append(apply(weights.variables, cut[None, ..., None], False)[0])
  identifiers, values = tables['one']
  assert list(identifiers['file']) == volumes
  assert np.std(by_hand, 0).max() > 0.01
  for other in (by_hand, encoder(images), encoder(volumes), [encoder(images[0]), *values[1:]],
                tables['three'][1], tables['shards'][1][:6]):
    np.testing.assert_allclose(values, other, rtol=2e-5, atol=2e-6)
  whole = tables['shards'][0]
  assert list(whole['participant_id']) == list(shard_set.table['participant_id'])
  assert list(whole['participant_id'][:6]) == list(identifiers['participant_id'])
  assert encoder(images[0]).shape == (64,) and encoder(images[0]).dtype == np.float32


def test_what_is_synthetic_is_said_of_scans_and_of_the_training(weights, volumes, tmp_path, capsys):
  """An encoder of SYNTHETIC subjects on scans of people, and the other way round."""
  drawn = dataclasses.replace(weights, card=weights.card | {'synthetic': True})
  write.write_folder(drawn, tmp_path / 'drawn')
  write.write_folder(weights, tmp_path / 'real')
  (tmp_path / 'people').mkdir()
  shutil.copy(volumes[0], tmp_path / 'people' / 'sub-1_mod.nii.gz')
  for name, scans, folder, trained in (('a', tmp_path / 'people', 'drawn', ['drawn']),
                                       ('b', volumes[0], 'real', [])):
    assert run('--weights', tmp_path / folder, '--volumes', scans, '--out',
               tmp_path / f'{name}.tsv') == 0
    described = json.loads((tmp_path / f'{name}.json').read_text())
    assert described['synthetic'] == (name == 'b') and described['trained_on_synthetic'] == trained
    said = capsys.readouterr().out
    assert ('1 SYNTHETIC scans' in said) == (name == 'b')
    assert ('(encoder trained on SYNTHETIC subjects)' in said) == (name == 'a')
  assert read_synthetic(tmp_path / 'a.tsv') == (False, {''})


def test_options_reach_the_encoder(weights, folder, volumes, tmp_path):
  """Axes, crop and padding are an Arrangement's; 24 mm voxels are read_volume's; JSON says so."""
  run('--weights', folder, '--volumes', volumes[0], '--axes', 'SRA', '--crop', '9,9,9', '--pad',
      '10,9,9', '--spacing', 11, '--out', tmp_path / 'a.tsv')
  encoder = image_encoder.load(folder, spacing=11, axes='SRA', crop=(9, 9, 9), pad=(10, 9, 9))
  volume = encoder.read(image_encoder.NiftiFile(volumes[0]))
  assert volume.shape == (10, 9, 9)
  _, values = read_table(tmp_path / 'a.tsv')
  expected = extract.frozen(weights)(volume[None])
  np.testing.assert_allclose(values, expected, rtol=2e-5, atol=2e-6)
  described = json.loads((tmp_path / 'a.json').read_text())
  assert {name: described[name] for name in ('axes', 'crop', 'pad', 'spacing', 'grid')} == {
      'axes': 'SRA', 'crop': [9, 9, 9], 'pad': [10, 9, 9], 'spacing': 11, 'grid': 'native'}
  assert described['weights_sha256'] == image_encoder.digest(weights)
  assert encoder.arrangement == Arrangement('SRA', (9, 9, 9), (10, 9, 9))


def test_a_stopped_run_goes_on(folder, volumes, tmp_path, monkeypatch, capsys):
  """The second batch is interrupted; then only what lacks is read, and other settings never mix."""
  out = tmp_path / 'a.tsv'
  arguments = ['--weights', folder, '--volumes', *volumes, '--batch-size', 1]
  monkeypatch.setattr(image_encoder.jax, 'device_count', lambda: 1)
  encode, calls = extract.frozen, []

  def interrupted(*settings, **more):
    inner = encode(*settings, **more)

    def features_of(batch):
      calls.append(len(batch))
      if len(calls) == 3:
        raise KeyboardInterrupt
      return inner(batch)
    return features_of

  monkeypatch.setattr(extract, 'frozen', interrupted)
  assert run(*arguments, '--out', out) == 130
  assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ['a.tsv.partial']
  with (tmp_path / 'a.tsv.partial').open('a') as file:
    file.write('["torn line, ')
  assert run(*arguments, '--precision', 'bfloat16', '--out', out) == 2
  assert 'other settings (precision)' in capsys.readouterr().err
  calls[:] = [0] * 3
  assert run(*arguments, '--out', out) == 0
  assert calls[3:] == [1] * 4
  assert json.loads((tmp_path / 'a.json').read_text())['rows_of_a_stopped_run'] == 2
  assert not (tmp_path / 'a.tsv.partial').exists()
  assert run(*arguments, '--out', tmp_path / 'b.tsv') == 0
  assert out.read_bytes() == (tmp_path / 'b.tsv').read_bytes()


def test_bad_volumes_are_left_out(folder, volumes, tmp_path, capsys):
  """Truncated, NaN, huge; the rest is what it would be without them."""
  arguments = ['--weights', folder, '--volumes', *volumes]
  assert run(*arguments, '--out', tmp_path / 'whole.tsv') == 0
  with open(volumes[1], 'r+b') as file:
    file.truncate(900)
  image = nibabel.load(volumes[3])
  for number, value in ((3, np.nan), (4, 3e38)):
    changed = np.asarray(image.dataobj).copy()
    changed[7, 9, 7] = value
    nibabel.Nifti1Image(changed, image.affine).to_filename(volumes[number])
  capsys.readouterr()
  assert run(*arguments, '--out', tmp_path / 'a.tsv') == 1
  text = capsys.readouterr()
  for number, why in ((1, 'truncated or damaged'), (3, '1 voxels are NaN'), (4, 'not finite')):
    assert f'left out: {volumes[number]}: ' in text.err and why in text.err
  assert '3 SYNTHETIC scans, 64 features, 3 left out' in text.out
  left = json.loads((tmp_path / 'a.json').read_text())['left_out']
  assert [entry['input'] for entry in left] == [volumes[i] for i in (1, 3, 4)]
  identifiers, values = read_table(tmp_path / 'a.tsv')
  np.testing.assert_allclose(values, read_table(tmp_path / 'whole.tsv')[1][[0, 2, 5]], rtol=2e-5,
                             atol=2e-6)
  assert list(identifiers['file']) == [volumes[i] for i in (0, 2, 5)]
  assert run('--weights', folder, '--volumes', volumes[1], volumes[3], '--out',
             tmp_path / 'b.tsv') == 2
  assert 'error: none of 2 volumes could be used' in capsys.readouterr().err
  assert not list(tmp_path.glob('b.*'))


def test_wrong_use_is_one_line(folder, volumes, shard_set, tmp_path, capsys):
  (tmp_path / 'there.tsv').write_text('')
  before = sorted(tmp_path.iterdir())
  for arguments, message in (
      (['--volumes', volumes[0], '--out', 'a.csv'], 'give .tsv or .parquet'),
      (['--volumes', volumes[0], '--out', tmp_path / 'there.tsv'], 'is there already'),
      (['--volumes', 'nowhere*.nii', '--out', 'a.tsv'], "no file matches --volumes 'nowhere"),
      (['--volumes', volumes[0], '--axes', 'XYZ', '--out', 'a.tsv'], "axes 'XYZ'"),
      (['--volumes', volumes[0], '--crop', '1,2', '--out', 'a.tsv'], "crop '1,2' is neither"),
      (['--volumes', volumes[0], '--batch-size', 0, '--out', 'a.tsv'], 'must be at least 1'),
      (['--volumes', volumes[0], '--id-pattern', 'x', '--out', 'a.tsv'], 'no group participant'),
      (['--volumes', volumes[0], '--id-pattern', '(?P<participant>qq)', '--out', 'a.tsv'],
       'does not match'),
      (['--data-dir', shard_set.directory, '--grid', 'mni1.5', '--out', 'a.tsv'], 'of --volumes'),
      (['--data-dir', tmp_path, '--out', 'a.tsv'], 'holds no shards'),
      (['--out', 'a.tsv'], 'one of the arguments --volumes --data-dir is required')):
    assert run('--weights', folder, *arguments) == 2, message
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and message in line
  for name, message in (('nowhere.pth', 'no such weights'), ('untrained:tinny', "mean 'tiny'"),
                        ('untrained:tiny:x', "the seed 'x'")):
    assert run('--weights', name, '--volumes', volumes[0], '--out', 'a.tsv') == 2
    assert message in capsys.readouterr().err
  assert sorted(tmp_path.iterdir()) == before
  with pytest.raises(UserError, match='ndarray is no image'):
    features.load(folder)(np.zeros((3, 3, 3)))


@pytest.mark.parametrize('ending', ['.tsv', '.parquet'])
def test_tables_round_trip_to_the_bit(tmp_path, ending):
  if ending == '.parquet':
    pytest.importorskip('pyarrow')
  rng = np.random.default_rng(0)
  bits = rng.integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)
  values = np.where(np.isfinite(bits), bits, np.float32(1) / 3).reshape(4, 1000)
  values[0, :4] = [-0.0, 1e-45, 3.4028235e38, 16777217]
  identifiers = pandas.DataFrame({'participant_id': ['sub-01', 'sub-01', 'sub-2', 'sub-03'],
                                  'session': ['ses-1', 'ses-2', '', '']})
  write_table(tmp_path / f'a{ending}', identifiers, values)
  read, found = read_table(tmp_path / f'a{ending}')
  assert found.tobytes() == values.tobytes()
  pandas.testing.assert_frame_equal(read, identifiers, check_dtype=False)
