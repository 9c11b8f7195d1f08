"""Ways to spoil a cohort on disk, and the words that the error about each must have."""

from __future__ import annotations

import gzip
import os
import shutil

import nibabel
import numpy as np
import pandas

from anatcl_jax.cohorts.atlas import ATLASES


def arguments(directory, out, *more):
  return ['bids', '--volumes', f'{directory}/sub-*/anat/*.nii.gz', '--participants',
          f'{directory}/participants.tsv', '--morphometry',
          *map(str, sorted((directory / 'freesurfer').glob('*.tsv'))), '--out', str(out), *more]


def check_one_line(stop, errors, expected):
  """The error is the user's: exit code 2, one line `error: ...` that holds all of `expected`."""
  lines = [line for line in errors.splitlines() if line.startswith('error:')]
  assert stop.value.code == 2 and len(lines) == 1 and 'Traceback' not in errors
  for text in expected:
    assert text in lines[0]


def edit_table(path, change):
  table = pandas.read_csv(path, sep='\t', dtype=str, keep_default_na=False)
  table = change(table)
  table.to_csv(path, sep='\t', index=False)


def set_cell(path, row, column, value):
  def change(table):
    table.loc[row, column] = value
    return table
  edit_table(path, change)


def _volume(directory, participant='sub-0002'):
  path, = (directory / participant / 'anat').glob('*.nii.gz')
  return path


def _save(path, values, affine):
  nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)


def _spoil_volume(change):
  def spoil(directory):
    image = nibabel.load(_volume(directory))
    values = image.get_fdata(dtype=np.float32)
    _save(_volume(directory), *change(values, image.affine))
  return spoil


def _nan(values, affine):
  values[5, 5, 5] = np.nan
  return values, affine


def _table(directory, measure, hemisphere='lh'):
  path, = (directory / 'freesurfer').glob(f'*measure-{measure}_hemi-{hemisphere}.tsv')
  return path


def _truncate(directory):
  _volume(directory).write_bytes(_volume(directory).read_bytes()[:-1500])


def _months(table):
  return table.assign(age=[f'{float(age) * 12:g}' for age in table['age']])


def _thickness_for_volume(directory):
  text = _table(directory, 'thickness').read_text()
  _table(directory, 'volume').write_text(text.replace('_thickness', '_volume').replace(
      'aparc.thickness', 'aparc.volume'))


def _scale_table(measure, factor):
  def spoil(directory):
    for hemisphere in ('lh', 'rh'):
      path = _table(directory, measure, hemisphere)
      table = pandas.read_csv(path, sep='\t', index_col=0) * factor
      table.to_csv(path, sep='\t')
  return spoil


def _swap_measures(first, second):
  def spoil(directory):
    for hemisphere in ('lh', 'rh'):
      a, b = _table(directory, first, hemisphere), _table(directory, second, hemisphere)
      text_a, text_b = a.read_text(), b.read_text()
      a.write_text(text_b.replace(f'_{second}', f'_{first}').replace(f'.{second}', f'.{first}'))
      b.write_text(text_a.replace(f'_{first}', f'_{second}').replace(f'.{first}', f'.{second}'))
  return spoil


def _rewrite(path_of, change):
  """Spoils the text of a file: `change` from bytes to bytes."""
  return lambda directory: path_of(directory).write_bytes(change(path_of(directory).read_bytes()))


def _participants(directory):
  return directory / 'participants.tsv'


def _thickness(directory):
  return _table(directory, 'thickness')


def _replace_by_folder(path_of):
  def spoil(directory):
    path = path_of(directory)
    path.unlink()
    path.mkdir()
  return spoil


def _unoriented(directory):
  image = nibabel.load(_volume(directory))
  plain = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), None)
  plain.header['sform_code'] = plain.header['qform_code'] = 0
  nibabel.save(plain, _volume(directory))


def _destrieux_table(directory):
  header = ['lh.aparc.a2009s.thickness', *(f'lh_{r}_thickness' for r in ATLASES['destrieux'])]
  rows = [['sub-0001', *['2.5'] * 74]]
  pandas.DataFrame(rows, columns=header).to_csv(_thickness(directory), sep='\t', index=False)


# What is spoilt, and what the one line on stderr must say.
FAULTS = {
    'missing age': (lambda d: set_cell(d / 'participants.tsv', 2, 'age', 'n/a'),
                    ['sub-0003', 'no age', 'participants.tsv']),
    'age 250': (lambda d: set_cell(d / 'participants.tsv', 2, 'age', '250'),
                ['sub-0003', 'age 250', '0 to 120 years']),
    'ages in months': (lambda d: edit_table(d / 'participants.tsv', _months),
                       ['months', 'divide by 12', 'sub-000']),
    'age as text': (lambda d: set_cell(d / 'participants.tsv', 2, 'age', 'thirty'),
                    ['sub-0003', 'age thirty', 'participants.tsv', 'not a number']),
    'decimal comma': (lambda d: set_cell(d / 'participants.tsv', 2, 'age', '30,5'),
                      ['sub-0003', 'age 30,5', 'decimals with a point']),
    'metres in the sidecar': (lambda d: (d / 'participants.json').write_text(
        '{"age": {"Units": "metres"}}'), ['participants.json', 'metres']),
    'no age column': (lambda d: edit_table(d / 'participants.tsv', lambda t: t.drop(columns='age')),
                      ['no column age', 'participants.tsv']),
    'no region': (lambda d: edit_table(
        _table(d, 'area'), lambda t: t.drop(columns='lh_insula_area')),
        ['lh_insula', 'area', 'hemi-lh']),
    'a hemisphere is missing': (lambda d: _table(d, 'volume', 'rh').unlink(),
                                ['volume', 'rh_bankssts', 'both hemispheres']),
    'thickness in the volume table': (_thickness_for_volume,
                                      ['measure-volume_hemi-lh', 'outside 20 to', 'mm^3']),
    'one outlying cell': (lambda d: set_cell(_table(d, 'thickness'), 1, 'lh_cuneus_thickness', '0'),
                          ['sub-0002', 'lh_cuneus_thickness 0', 'outside 0.5 to 6 mm']),
    'an empty cell': (lambda d: set_cell(_table(d, 'thickness'), 1, 'lh_cuneus_thickness', ''),
                      ['sub-0002', 'no thickness of lh_cuneus']),
    'no morphometry row': (lambda d: [edit_table(p, lambda t: t.drop(index=1))
                                      for p in (d / 'freesurfer').glob('*.tsv')],
                           ['sub-0002', 'no row in']),
    'duplicate participant': (lambda d: edit_table(
        d / 'participants.tsv', lambda t: pandas.concat([t, t.iloc[[3]].assign(age='33')])),
        ['sub-0004', 'more than once', 'participants.tsv']),
    'duplicate morphometry row': (lambda d: edit_table(_table(d, 'area'), lambda t: pandas.concat(
        [t, t.iloc[[3]].assign(lh_cuneus_area='1234')])),
        ['sub-0004', 'more than one', 'lh_cuneus_area', '1234']),
    'participant not in the table': (lambda d: edit_table(
        d / 'participants.tsv', lambda t: t.drop(index=5)), ['sub-0006', 'no row in']),
    'two volumes of one': (lambda d: shutil.copy(
        _volume(d), _volume(d).with_name('sub-0002_run-2_mod.nii.gz')),
                          ['sub-0002', 'two volumes']),
    'NaN volume': (_spoil_volume(_nan), ['sub-0002', 'NaN']),
    'zero volume': (_spoil_volume(lambda v, a: (v * 0, a)), ['sub-0002', 'every voxel is zero']),
    'another grid': (_spoil_volume(lambda v, a: (v[:-1], a)),
                     ['sub-0002', 'another grid', '--spacing 12', '--grid mni1.5']),
    'shifted grid': (_spoil_volume(lambda v, a: (v, a + 4 * np.eye(4, k=3))),
                     ['sub-0002', 'another grid']),
    'truncated volume': (_truncate, ['sub-0002', 'truncated']),
    'empty table': (lambda d: (d / 'participants.tsv').write_text(''),
                    ['participants.tsv', 'no rows']),
    'Latin-1 table': (lambda d: (d / 'participants.tsv').write_bytes(
        'participant_id\tage\nsub-0001\té\n'.encode('latin-1')), ['participants.tsv', 'UTF-8']),
    'negative age': (lambda d: set_cell(_participants(d), 2, 'age', '-4'), ['sub-0003', 'age -4']),
    'infinite age': (lambda d: set_cell(_participants(d), 2, 'age', 'inf'),
                     ['sub-0003', 'age inf']),
    'header only': (_rewrite(_participants, lambda b: b.splitlines()[0]), ['holds no rows']),
    'ragged row': (_rewrite(_participants, lambda b: b + b'sub-0099\t1\t2\t3\t4\t5\t6\t7\n'),
                   ['participants.tsv']),
    'a cell too many in the first row': (_rewrite(_thickness, lambda b: b.replace(
        b'sub-0001\t', b'sub-0001\t2.5\t')), ['hemi-lh', 'sub-0001 (38)', '37 columns']),
    'a cell too few': (_rewrite(_participants, lambda b: b.replace(b'sub-0002\t', b'sub-0002')),
                       ['participants.tsv', '5 columns']),
    'zero bytes in a table': (
        _rewrite(_participants, lambda b: b.replace(b'sub-0003', b'sub-\0\0')),
        ['participants.tsv']),
    'column twice': (_rewrite(_participants, lambda b: b.replace(b'sex', b'age', 1)),
                     ['participants.tsv', 'age', 'twice']),
    'no participants table': (lambda d: _participants(d).unlink(), ['participants.tsv', 'no such']),
    'folder for the participants table': (_replace_by_folder(_participants),
                                          ['participants.tsv', 'directory']),
    'folder for a region table': (_replace_by_folder(_thickness), ['hemi-lh']),
    'folder for a volume': (_replace_by_folder(_volume), ['sub-0002']),
    'hemispheres swapped in one file': (lambda d: shutil.copy(
        _table(d, 'area', 'rh'), _table(d, 'area', 'lh')), ['rh_bankssts area', 'too']),
    'text in a region table': (lambda d: set_cell(
        _thickness(d), 3, 'lh_cuneus_thickness', 'thin'), ['hemi-lh', 'sub-0004 (thin)']),
    'comma decimals in a region table': (_rewrite(
        lambda d: _table(d, 'thickness', 'rh'), lambda b: b.replace(b'.', b',')), ['hemi-rh']),
    'thickness in centimetres': (_scale_table('thickness', 0.1),
                                 ['thickness', 'outside 0.5 to 6 mm']),
    'volume in millilitres': (_scale_table('volume', 1e-3), ['volume', 'outside 20 to']),
    'area and volume swapped': (_swap_measures('area', 'volume'), ['swapped']),
    'a table of another atlas': (_destrieux_table, ['hemi-lh', 'desikan']),
    'a table without regions': (_rewrite(_thickness, lambda b: b'id\tage\nsub-0001\t3\n'),
                                ['hemi-lh', 'no column is a region']),
    'empty volume': (_rewrite(_volume, lambda b: b''), ['sub-0002', 'not a readable']),
    'text for a volume': (_rewrite(_volume, lambda b: b'hello'), ['sub-0002', 'not a readable']),
    'zipped text for a volume': (_rewrite(_volume, lambda b: gzip.compress(b'hello' * 500)),
                                 ['sub-0002', 'not a readable']),
    'flipped bytes in a volume': (_rewrite(_volume, lambda b: b[:900] + bytes(200) + b[1100:]),
                                  ['sub-0002']),
    'two volumes in a file': (_spoil_volume(lambda v, a: (np.stack([v, v], -1), a)),
                              ['sub-0002', 'one 3-D volume a file']),
    'a slice for a volume': (_spoil_volume(lambda v, a: (v[:, :, 0], a)), ['sub-0002', '3-D']),
    'volume without orientation': (_unoriented, ['sub-0002', 'no orientation']),
    'infinite voxels': (_spoil_volume(lambda v, a: (np.where(v > 0, np.inf, v), a)),
                        ['sub-0002', 'infinite']),
    'dangling link': (lambda d: (_volume(d).rename(d / 'away'), os.symlink(
        d / 'gone', d / 'sub-0002' / 'anat' / 'sub-0002_mod.nii.gz')),
                      ['sub-0002', 'no such file']),
    'volume without a subject in its path': (
        lambda d: (d / 'sub-' / 'anat').mkdir(parents=True) or
        shutil.copy(_volume(d), d / 'sub-' / 'anat' / 'x.nii.gz'), ['sub-', 'participant']),
}

# What looks odd and is read all the same.
HARMLESS = {
    'Windows line ends in participants.tsv': _rewrite(
        _participants, lambda b: b.replace(b'\n', b'\r\n')),
    'Windows line ends in a region table': _rewrite(
        _thickness, lambda b: b.replace(b'\n', b'\r\n')),
    'byte order mark': _rewrite(_participants, lambda b: b'\xef\xbb\xbf' + b),
    'participants as CSV': _rewrite(_participants, lambda b: b.replace(b'\t', b',')),
    'region table as CSV': _rewrite(_thickness, lambda b: b.replace(b'\t', b',')),
    'bare identifiers in participants.tsv': _rewrite(
        _participants, lambda b: b.replace(b'sub-', b'')),
    'bare identifiers in a region table': _rewrite(_thickness, lambda b: b.replace(b'sub-', b'')),
    'spaces around values': _rewrite(_participants, lambda b: b.replace(b'\t', b' \t ')),
    'no line end at the end': _rewrite(_participants, lambda b: b.rstrip(b'\n')),
    'a blank line at the end': _rewrite(_participants, lambda b: b + b'\n'),
}
