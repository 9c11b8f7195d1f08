"""What features are made of: released files, the grid of a card, and whose scan a file is."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil

import nibabel
import numpy as np
import pytest

from anatcl_jax import features
from anatcl_jax.cohorts.volumes import NAMED_GRIDS, NiftiFile, read_grid, read_volume, resized
from anatcl_jax.data.arrange import Arrangement
from anatcl_jax.errors import UserError
from anatcl_jax.frozen import extract
from anatcl_jax.frozen.table import read_table
from anatcl_jax.weights import write
from anatcl_jax.weights.load import load_weights
from tests.test_convert import named
from tests.test_features import compiled, folder, run, undrawn, volumes, weights  # noqa: F401
from tests.weights import torch_file

CLOSE = {'rtol': 2e-5, 'atol': 2e-6}
pytestmark = pytest.mark.usefixtures('undrawn')


@pytest.mark.parametrize('axes', ['RAS', 'predecessor'])
def test_a_released_file(axes, volumes, tmp_path, capsys):  # noqa: F811
  """Maps on CAT12's grid, here of 12 mm, in the axes asked for; the rest is in the JSON."""
  path = torch_file.save(tmp_path / 'resnet_global_fold2.pth', named('tiny'))
  assert run('--weights', path, '--volumes', *volumes[:2], '--spacing', 12, '--axes', axes,
             '--out', tmp_path / 'a.tsv') == 0
  assert 'In which order the released weights saw the axes is not known' in capsys.readouterr().err
  grid = resized(NAMED_GRIDS['mni1.5'], 12)
  arranged = [Arrangement(axes)(read_volume(NiftiFile(name), grid)) for name in volumes[:2]]
  expected = extract.frozen(load_weights(path))(np.stack(arranged))
  np.testing.assert_allclose(read_table(tmp_path / 'a.tsv')[1], expected, **CLOSE)
  described = json.loads((tmp_path / 'a.json').read_text())
  assert described['grid']['shape'] == [121, 145, 121] and described['axes'] == axes
  assert described['crop'] == [121, 128, 121]
  assert described['card']['sha256'] == load_weights(path).card['sha256']
  assert shlex.split(described['command'])[3:5] == ['--weights', str(path)]


def test_the_grid_of_the_card(weights, volumes, shard_set, tmp_path, capsys):  # noqa: F811
  """Volumes are put on it unless the command says otherwise; shards are warned of."""
  own = read_grid(NiftiFile(volumes[0]))
  grid = resized(own, 14)
  card = weights.card | {'crop': None, 'grid': {'shape': list(grid.shape),
                                                'affine': [list(row) for row in grid.affine]}}
  write.write_folder(dataclasses.replace(weights, card=card), tmp_path / 'weights')
  for options, target in (({}, grid), ({'grid': 'native'}, own), ({'spacing': 20},
                                                                  resized(grid, 20))):
    encoder = features.load(tmp_path / 'weights', **options)
    np.testing.assert_array_equal(encoder.read(NiftiFile(volumes[0])),
                                  read_volume(NiftiFile(volumes[0]), target))
  assert run('--weights', tmp_path / 'weights', '--data-dir', shard_set.directory, '--out',
             tmp_path / 'a.tsv') == 0
  assert 'WARNING: the encoder was trained on' in capsys.readouterr().err


def test_whose_scan_a_file_is(folder, volumes, tmp_path, capsys):  # noqa: F811
  """By BIDS, by CAT12, by a rule; the file's name where none applies; twice the same is said."""
  names = ['sub-07_ses-2_mod.nii.gz', 'mwp1x33_T1w.nii.gz', 'map_44.nii.gz',
           'sub-07_ses-2_run-2_mod.nii.gz']
  paths = [shutil.copy(volume, tmp_path / name) for volume, name in zip(volumes, names)]
  assert run('--weights', folder, '--volumes', f'{tmp_path}/*.nii.gz', paths[0], '--out',
             tmp_path / 'a.tsv') == 0
  text = capsys.readouterr().err
  assert 'no participant (sub-...) in the name of map_44.nii.gz: the file name' in text
  assert 'WARNING: sub-07_ses-2: more than one row' in text
  identifiers, _ = read_table(tmp_path / 'a.tsv')
  assert identifiers[['participant_id', 'session']].values.tolist() == [
      ['sub-map_44', ''], ['sub-x33', ''], ['sub-07', 'ses-2'], ['sub-07', 'ses-2']]
  run('--weights', folder, '--volumes', paths[2], '--id-pattern', r'_(?P<participant>\d+)',
      '--out', tmp_path / 'b.tsv')
  assert list(read_table(tmp_path / 'b.tsv')[0]['participant_id']) == ['sub-44']


def test_volumes_of_several_shapes(folder, volumes):  # noqa: F811
  """Each on its own grid, in the order in which they were given."""
  encoder = features.load(folder)
  images = [nibabel.load(path) for path in volumes[:3]]
  smaller = nibabel.Nifti1Image(np.asarray(images[1].dataobj)[2:-2, 3:-3, 2:-2], images[1].affine)
  rows = encoder([images[0], smaller, images[2]])
  np.testing.assert_allclose(rows, [encoder(images[0]), encoder(smaller), encoder(images[2])],
                             **CLOSE)
  assert np.abs(rows[1] - encoder(images[1])).max() > 1e-3


def test_images_that_can_not_be_used(folder, volumes, tmp_path):  # noqa: F811
  encoder = features.load(folder)
  image = nibabel.load(volumes[0])
  values = np.asarray(image.dataobj)
  nowhere = nibabel.Nifti1Image(values, None)
  nowhere.header.set_sform(None, 0)
  nowhere.header.set_qform(None, 0)
  for bad, message in ((nowhere, 'an image in memory: its header holds no orientation'),
                       (nibabel.Nifti1Image(values * np.nan, image.affine), 'NaN'),
                       (nibabel.Nifti1Image(np.stack([values] * 2, -1), image.affine),
                        'one 3-D volume a file'),
                       (tmp_path / 'no.nii', 'no such file'), ([], 'an empty list')):
    with pytest.raises(UserError, match=message):
      encoder(bad)


def test_several_grids_are_said_where_each_is_taken_as_it_is(folder, volumes, tmp_path,  # noqa: F811
                                                            capsys):
  image = nibabel.load(volumes[1])
  nibabel.save(image.slicer[1:], volumes[1])
  for more, said in (((), True), (('--grid', 'mni1.5', '--spacing', '18'), False)):
    out = tmp_path / f'{said}.tsv'
    assert run('--weights', folder, '--volumes', *volumes[:3], '--out', out, *more) == 0
    assert ('1 of 3 volumes are on another grid' in capsys.readouterr().err) == said
    warnings = json.loads(out.with_suffix('.json').read_text())['warnings']
    assert any('sub-0002 on' in line and '--grid mni1.5' in line for line in warnings) == said


def test_maps_of_another_kind_than_was_trained_on(volumes, tmp_path, capsys):  # noqa: F811
  """Released weights saw CAT12's maps, not smoothed; the JSON says what these are."""
  path = torch_file.save(tmp_path / 'resnet_global_fold2.pth', named('tiny'))
  names = [tmp_path / 'mri' / f'{prefix}sub-{i}.nii.gz'
           for i, prefix in enumerate(('s6mwp1', 's6mwp1', 'mwp1'))]
  names[0].parent.mkdir()
  for source, name in zip(volumes, names):
    shutil.copy(source, name)
  options = ('--weights', path, '--spacing', 12, '--out', tmp_path / 'a.tsv', '--volumes')
  assert run(*options, *names[:2]) == 0
  assert 'WARNING: the encoder was trained on maps of another kind' in capsys.readouterr().err
  described = json.loads((tmp_path / 'a.json').read_text())
  assert described['maps'] == {'tool': 'CAT12', 'values': 'modulated gray matter',
                               'smoothing': '6 mm', 'template': 'not known'}
  (tmp_path / 'a.tsv').unlink()
  for ending in ('.json', '.png'):
    (tmp_path / 'a').with_suffix(ending).unlink()
  assert run(*options, *names) == 2
  assert 'the maps are of 2 kinds' in capsys.readouterr().err
  assert not [*tmp_path.glob('a.*')]
