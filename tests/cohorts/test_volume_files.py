"""No file gives a traceback: each is read, or named in one line, by `prepare` and by `features`."""

from __future__ import annotations

import gzip
import os
import pickle

import nibabel
import numpy as np
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import find_scans
from anatcl_jax.cohorts.volumes import NiftiFile, read_grid, read_volume
from anatcl_jax.data import shards
from anatcl_jax.errors import UserError

AFFINE = np.array([[-4., 0, 0, 40], [0, 4, 0, -50], [0, 0, 4, -36], [0, 0, 0, 1]])
VALUES = np.zeros((21, 25, 19), np.float32)
VALUES[5:-5, 6:-6, 4:-4] = np.random.default_rng(0).uniform(.1, 1.2, (11, 13, 11))


def _image(values=VALUES, kind=nibabel.Nifti1Image):
  image = kind(values, AFFINE)
  if kind is not nibabel.MGHImage:
    image.header.set_xyzt_units('mm')
  return image


def _save(path, values=VALUES, kind=nibabel.Nifti1Image):
  nibabel.save(_image(values, kind), path)


def _of_header(**fields):
  """A .nii whose header claims what the file does not hold."""
  def write(path):
    header = _image().header.copy()
    for name, value in fields.items():
      header[name] = value
    path.write_bytes(header.binaryblock + bytes(4 + VALUES.nbytes))
  return write


def _gifti(path):
  array = nibabel.gifti.GiftiDataArray(VALUES[10], datatype='NIFTI_TYPE_FLOAT32')
  nibabel.GiftiImage(darrays=[array]).to_filename(path.with_suffix('.gii'))
  os.replace(path.with_suffix('.gii'), path)


def _cifti(path, axis=None):
  from nibabel import cifti2
  brain = cifti2.BrainModelAxis.from_mask(np.ones(50, bool), name='CIFTI_STRUCTURE_CORTEX_LEFT')
  first = axis or cifti2.ScalarAxis(['thickness'])
  image = cifti2.Cifti2Image(np.full((1, 50), 2, np.float32), header=(first, brain))
  image.to_filename(path.with_name('x.dscalar.nii'))
  os.replace(path.with_name('x.dscalar.nii'), path)


def _labels(path):
  from nibabel import cifti2
  _cifti(path, cifti2.LabelAxis(['areas'], {0: ('?', (0, 0, 0, 0)), 2: ('V1', (1, 0, 0, 1))}))


def _colours(path):
  values = np.zeros(VALUES.shape, [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
  _save(path, values)


def _analyze(path):
  nibabel.AnalyzeImage(VALUES, AFFINE).to_filename(path.with_suffix('.img'))
  os.replace(path.with_suffix('.hdr'), path)


def _unfinished(path):
  _save(path)
  path.write_bytes(path.read_bytes()[:-40])


def _no_orientation(path):
  _save(path, kind=nibabel.MGHImage)
  content = bytearray(path.read_bytes())
  content[28:30] = bytes(2)
  path.write_bytes(content)


def _random(seed):
  return lambda path: path.write_bytes(np.random.default_rng(seed).bytes(4096))


def _scrambled(seed):
  """A true file with 20 bytes of its header changed."""
  def write(path):
    _save(path)
    content, random = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for at in random.integers(0, 352, 20):
      content[at] = random.integers(256)
    path.write_bytes(content)
  return write


# Name of the file, what writes it, and what the line about it says.
ODD = {
    'CIFTI': ('.dscalar.nii', _cifti, 'no volume'),
    'labels on a surface': ('.dlabel.nii', _labels, 'no volume'),
    'GIFTI': ('.gii', _gifti, 'no volume'),
    'streamlines': ('.tck', lambda path: path.write_bytes(b'mrtrix tracks\nEND\n'),
                    'not a readable'),
    'colours': ('.nii', _colours, 'colours'),
    'complex': ('.nii.gz', lambda path: _save(path, VALUES.astype(np.complex64)), 'complex'),
    'Analyze': ('.hdr', _analyze, 'no orientation'),
    '30,000 a side': ('.nii', _of_header(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1],
                                         pixdim=[1, .01, .01, .01, 1, 1, 1, 1],
                                         sform_code=0, qform_code=1), 'more than the'),
    'more than the file': ('.nii', _of_header(dim=[3, 700, 700, 700, 1, 1, 1, 1],
                                              pixdim=[1, 1, 1, 1, 1, 1, 1, 1], sform_code=0,
                                              qform_code=1), 'truncated or damaged'),
    'negative sizes': ('.nii', _of_header(dim=[3, -5, 25, 19, 1, 1, 1, 1]), ''),
    'ninety dimensions': ('.nii', _of_header(dim=[90, 21, 25, 19, 1, 1, 1, 1]), ''),
    'an unknown type': ('.nii', _of_header(datatype=77), ''),
    'infinite slope': ('.nii', _of_header(scl_slope=np.inf), ''),
    'beyond its end': ('.nii', _of_header(vox_offset=1e9), ''),
    'infinite affine': ('.nii', _of_header(srow_x=[np.inf, 0, 0, 0]), ''),
    'a flat picture': ('.nii', lambda path: _save(path, VALUES[:, :, 0]), 'has shape'),
    'one slice': ('.nii', lambda path: _save(path, VALUES[:, :, :1]), 'no head'),
    'two volumes': ('.nii', lambda path: _save(path, np.stack([VALUES] * 2, -1)), 'one 3-D volume'),
    'empty': ('.nii.gz', lambda path: path.touch(), 'empty'),
    'empty gzip': ('.nii.gz', lambda path: path.write_bytes(gzip.compress(b'')), 'not a readable'),
    'nonsense, well compressed': ('.nii.gz', lambda path: path.write_bytes(
        gzip.compress(bytes(2_000_000))), 'not a readable'),
    'a folder': ('.nii.gz', lambda path: path.mkdir(), 'is a folder'),
    'a pipe': ('.nii.gz', os.mkfifo, 'no regular file'),
    'a link to itself': ('.nii', lambda path: os.symlink(path, path), "can't be read"),
    'git-annex, locked': ('.nii', lambda path: os.symlink('../.git/annex/objects/a/b/c', path),
                          'run `datalad get'),
    'git-annex, unlocked': ('.nii.gz', lambda path: path.write_text(
        '/annex/objects/MD5E-s3--d41d8.nii.gz\n'), 'run `datalad get'),
    'Git LFS': ('.nii.gz', lambda path: path.write_text(
        'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n'), 'git lfs pull'),
    'another broken link': ('.nii', lambda path: os.symlink('/nowhere/x.nii', path),
                            'no such file as /nowhere/x.nii'),
    'truncated': ('.nii.gz', _unfinished, 'truncated or damaged'),
    'MGH without orientation': ('.mgh', _no_orientation, 'no orientation'),
    'a pickle': ('.nii', lambda path: path.write_bytes(pickle.dumps([1] * 300)), 'not a readable'),
    'an array': ('.npy', lambda path: np.save(path, np.array([{}] * 9, object)), 'not a readable'),
    'text': ('.nii', lambda path: path.write_text('a\n' * 999), 'not a readable')}


@pytest.mark.parametrize('name', ODD)
def test_an_odd_file_is_one_line(tmp_path, name, capfd):
  ending, write, expected = ODD[name]
  path = tmp_path / f'sub-01_x{ending}'
  write(path)
  with pytest.raises(UserError) as error:
    read_volume(NiftiFile(path), read_grid(NiftiFile(path)))
  text = str(error.value)
  assert str(path) in text and expected in text and '\n' not in text and len(text) < 700
  assert capfd.readouterr().err == ''


@pytest.mark.parametrize('seed', range(40))
def test_damaged_headers_and_noise(tmp_path, seed, capfd):
  """Read as finite values of a head, or named: nothing else, and nothing on stderr."""
  path = tmp_path / 'sub-01.nii'
  (_random if seed % 4 == 0 else _scrambled)(seed)(path)
  try:
    values = read_volume(NiftiFile(path), read_grid(NiftiFile(path)))
    assert np.isfinite(values).all() and values.any()
  except UserError as error:
    assert str(path) in str(error) and '\n' not in str(error)
  assert capfd.readouterr().err == ''


@pytest.mark.parametrize('ending, values, kind', [
    ('.mgz', VALUES, nibabel.MGHImage), ('.mgh', VALUES, nibabel.MGHImage),
    ('.img', VALUES, nibabel.Nifti1Pair), ('.img.gz', VALUES, nibabel.Nifti1Pair),
    ('.nii', VALUES, nibabel.Nifti2Image),
    ('.nii.gz', VALUES[..., None, None], nibabel.Nifti1Image),
    ('.nii.bz2', VALUES, nibabel.Nifti1Image), ('.NII', VALUES, nibabel.Nifti1Image)])
def test_what_holds_a_volume_is_read_by_prepare(tmp_path, ending, values, kind):
  folder = tmp_path / 'maps'
  folder.mkdir()
  for name in ('sub-01', 'sub-02'):
    _save(folder / f'{name}{ending.lower()}', values, kind)
    os.rename(folder / f'{name}{ending.lower()}', folder / f'{name}{ending}')
  (tmp_path / 'participants.tsv').write_text('participant_id\tage\nsub-01\t40\nsub-02\t30\n')
  for volumes in (folder / '*', folder):
    prepare.main(['bids', '--volumes', str(volumes), '--participants',
                  str(tmp_path / 'participants.tsv'), '--out', str(tmp_path / 'out'),
                  '--workers', '1'])
    made = shards.open_shards(tmp_path / 'out')
    assert len(made) == 2
    np.testing.assert_array_equal(made.read_volume(1)[0], VALUES[::-1])


def test_prepare_leaves_out_what_is_no_volume(tmp_path, capsys):
  for i, name in enumerate(('CIFTI', 'GIFTI', 'a folder', 'git-annex, locked', 'an array')):
    ODD[name][1](tmp_path / f'sub-1{i}_map{ODD[name][0]}')
  _save(tmp_path / 'sub-01_map.nii.gz')
  _gifti(tmp_path / 'sub-01_surface.gii')
  (tmp_path / 'participants.tsv').write_text('participant_id\tage\nsub-01\t40\n' + ''.join(
      f'sub-1{i}\t30\n' for i in range(5)))
  arguments = ['bids', '--volumes', str(tmp_path / 'sub-*'), '--participants',
               str(tmp_path / 'participants.tsv'), '--out', str(tmp_path / 'out'), '--workers', '1']
  with pytest.raises(SystemExit) as stop:
    prepare.main(arguments)
  assert stop.value.code == 2 and '5 of 6 scans can\'t be used' in capsys.readouterr().err
  prepare.main([*arguments, '--leave-out-bad'])
  said = capsys.readouterr().err
  assert all(f'left out: sub-1{i} ' in said for i in range(5)) and 'datalad get' in said
  assert 'passed over: sub-01_surface.gii' in said
  assert list(shards.open_shards(tmp_path / 'out').table['participant_id']) == ['sub-01']


def test_a_folder_says_how_where_its_volumes_lie_deeper(tmp_path):
  (tmp_path / 'sub-01').mkdir()
  _save(tmp_path / 'sub-01' / 'a.nii')
  with pytest.raises(UserError, match=r'a folder without volumes .*/\*\*/\*.nii.gz'):
    find_scans.matching(str(tmp_path))
  assert find_scans.matching(str(tmp_path / 'sub-01')) == [tmp_path / 'sub-01' / 'a.nii']


def test_uint8_takes_what_it_would_round_to_0_anyway():
  values = VALUES.copy()
  values[0, 0, 0] = -1e-7
  stored, scale = shards.decode_record(shards.encode_record('sub-01', '', values, 'uint8'))[2:]
  assert stored[0, 0, 0] == 0 and np.abs(stored * scale - values).max() <= scale / 2 * 1.001
  values[0, 0, 0] = -0.01
  with pytest.raises(UserError, match='below 0'):
    shards.encode_record('sub-01', '', values, 'uint8')
