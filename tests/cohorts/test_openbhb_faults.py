"""OpenBHB that is incomplete, damaged or in another order: a line names what and who."""

from __future__ import annotations

import itertools
import pathlib
import shutil

import nibabel
import numpy as np
import pandas
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import atlas
from anatcl_jax.cohorts.morphometry import Morphometry, plausible
from anatcl_jax.data import shards
from anatcl_jax.errors import UserError
from tests.cohorts.spoiling import check_one_line

_DS000174 = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'ds000174-morphometry'
_FIRST = 'sub-100053248969'


def _run(root, out, *more):
  prepare.main(['openbhb', '--root', str(root), '--out', str(out), '--workers', '1',
                *map(str, more)])
  return shards.open_shards(out)


def _roi(root, subject=_FIRST):
  return root / 'data' / f'{subject}_preproc-freesurfer_desc-desikan_ROI.npy'


def _volume(root):
  return root / 'data' / f'{_FIRST}_preproc-cat12vbm_desc-gm_T1w.npy'


def _change(path, change):
  np.save(path, change(np.load(path)))


def _swap(first, second, paths):
  order = np.arange(7)
  order[[first, second]] = second, first
  return [_change(path, lambda rois: rois[order]) for path in paths]


def _set(path, index, value):
  array = np.load(path, mmap_mode='r+')
  array[index] = value
  array.flush()


def _edit(path, change, separator='\t'):
  change(pandas.read_csv(path, sep=separator, dtype=str)).to_csv(path, sep=separator, index=False)


def _truncate(path):
  with path.open('r+b') as file:
    file.truncate(path.stat().st_size - 4000)


def _csv(root, split='train'):
  return root / split / 'derivatives' / 'freesurfer_roi' / 'desikan_roi_features.csv'


def _freesurfer_order(table):
  """Area and thickness of every region exchanged, under the names of the release."""
  columns = np.arange(2, 478).reshape(7, 68)[[2, 1, 0, 3, 4, 5, 6]].ravel()
  table.iloc[:, 2:] = table.iloc[:, columns].to_numpy()
  return table


# By fault: layout, what is spoilt, and what the one line on stderr must say.
FAULTS = {
    'area and thickness swapped': (
        'subjects', lambda d: _swap(0, 2, (d / 'data').glob('*desikan_ROI.npy')),
        ['thickness has a median', '1 to 5 mm', 'thickness under area', 'area under thickness']),
    'area and volume swapped': (
        'subjects', lambda d: _swap(0, 1, (d / 'data').glob('*desikan_ROI.npy')),
        ['area x thickness', 'area under volume', 'volume under area']),
    'thickness and its deviation swapped': (
        'subjects', lambda d: _swap(2, 3, (d / 'data').glob('*desikan_ROI.npy')),
        ['thickness has a median', 'thickness under thicknessstd']),
    'thickness and curvature swapped': (
        'subjects', lambda d: _swap(2, 6, (d / 'data').glob('*desikan_ROI.npy')),
        ['thickness under curvind']),
    'one subject in another order': (
        'subjects', lambda d: _swap(0, 1, [_roi(d)]), [_FIRST, 'times area x thickness']),
    'negative area': ('subjects', lambda d: _set(_roi(d), (0, 3), -5),
                      [_FIRST, 'lh_cuneus_area -5', 'outside 10 to']),
    'NaN measure': ('subjects', lambda d: _set(_roi(d), (2, 35), np.nan),
                    [_FIRST, 'no thickness of rh_caudalanteriorcingulate']),
    'no ROI file': ('subjects', lambda d: _roi(d).unlink(), [_FIRST, 'has no', 'desikan_ROI.npy']),
    'Destrieux under the name of Desikan': (
        'subjects', lambda d: np.save(_roi(d), np.ones((7, 148))), [_FIRST, '(7, 148)', '(7, 68)']),
    'measures last': ('subjects', lambda d: _change(_roi(d), np.transpose), [_FIRST, '(68, 7)']),
    'volume of another shape': (
        'subjects', lambda d: _change(_volume(d), lambda v: v.transpose(0, 1, 3, 2)),
        [_FIRST, '(1, 121, 121, 145)', '(121, 145, 121)']),
    'truncated volume': ('subjects', lambda d: _truncate(_volume(d)),
                         [_FIRST, 'not a readable .npy']),
    'empty volume file': ('subjects', lambda d: _volume(d).write_bytes(b''),
                          [_FIRST, 'not a readable .npy']),
    'volume of text': ('subjects', lambda d: np.save(_volume(d), np.array(['a'])),
                       [_FIRST, 'no array of numbers']),
    'NaN voxel': ('subjects', lambda d: _set(_volume(d), (0, 60, 60, 60), np.nan),
                  [_FIRST, '1 voxels are NaN']),
    'missing age': ('subjects', lambda d: _edit(
        d / 'participants.tsv', lambda t: t.assign(age=['n/a', *t['age'][1:]])),
        [_FIRST, 'no age', 'participants.tsv']),
    'no row': ('subjects', lambda d: _edit(d / 'participants.tsv', lambda t: t.iloc[1:]),
               [_FIRST, 'no row in', 'participants.tsv']),
    'no participants': ('subjects', lambda d: (d / 'participants.tsv').unlink(),
                        ['participants.tsv', 'no such file']),
    'no volumes': ('subjects', lambda d: [p.unlink() for p in (d / 'data').glob('*T1w.npy')],
                   ['cat12vbm_desc-gm_T1w.npy', '--modality']),
    'no such layout': ('subjects', lambda d: shutil.rmtree(d / 'data'),
                       ['data/sub-*_preproc-*.npy', '{train,val}/derivatives', 'train.npy']),
    'two layouts': ('subjects',
                    lambda d: (d / 'train' / 'derivatives' / 'sub-1').mkdir(parents=True),
                    ['--layout subjects|hub']),
    'permuted ROI table': ('hub', lambda d: [_edit(_csv(d, split), _freesurfer_order, ',')
                                             for split in ('train', 'val')],
                           ['desikan_roi_features.csv', 'thickness under area']),
    'ROI table without a column': (
        'hub', lambda d: _edit(_csv(d), lambda t: t.iloc[:, :-1], ','),
        ['desikan_roi_features.csv', '475', '7 x 68 = 476']),
    'ROI table without sessions': (
        'hub', lambda d: _edit(_csv(d), lambda t: t.drop(columns='session'), ','),
        ['desikan_roi_features.csv', 'session']),
    'ROI table with a row twice': (
        'hub', lambda d: _edit(_csv(d), lambda t: pandas.concat([t, t]), ','),
        [_FIRST, 'more than one row']),
    'NaN in the ROI table': (
        'hub', lambda d: _edit(_csv(d), lambda t: t.assign(**{t.columns[2]: 'nan'}), ','),
        [_FIRST, 'no area of lh_bankssts', 'desikan_roi_features.csv']),
    'no ROI table of a split': ('hub', lambda d: _csv(d).unlink(),
                                [_FIRST, 'has no', 'train/derivatives/freesurfer_roi']),
    'no row in the ROI table': ('hub', lambda d: _edit(_csv(d, 'val'), lambda t: t.iloc[1:], ','),
                                ['sub-100053256888', 'no row in', 'desikan_roi_features.csv']),
    'test scan among the training scans': (
        'hub', lambda d: _edit(d / 'participants.tsv',
                               lambda t: t.assign(split=['external_test', *t['split'][1:]])),
        [_FIRST, 'lies in train/', 'external_test']),
    'damaged template': (
        'hub', lambda d: next((d / 'resource').iterdir()).write_text('no template'),
        ['gm_TPM.nii.gz', 'not a readable NIfTI']),
    'no mask': ('matrix', lambda d: (d.parent / 'template.nii.gz').rename(d / 'other.nii.gz'),
                ['template.nii.gz', 'no such file']),
    'mask with a voxel less': (
        'matrix', lambda d: _save_template(d, lambda v: np.where(v == v.max(), 0, v)),
        ['template.nii.gz', '519944 voxels above 0.05', '519945 columns']),
    'mask of another grid': ('matrix', lambda d: _save_template(d, lambda v: v[1:]),
                             ['template.nii.gz', '(120, 145, 121)']),
    'narrow matrix': ('matrix', lambda d: np.save(d / 'train.npy', np.zeros((1, 99), np.float32)),
                      ['train.npy', '99 columns', '3659572']),
    'flat matrix': ('matrix', lambda d: np.save(d / 'train.npy', np.zeros(5, np.float32)),
                    ['train.npy', '(5,)']),
    'truncated matrix': ('matrix', lambda d: _truncate(d / 'train.npy'),
                         ['train.npy', 'not a readable .npy']),
    'no labels': ('matrix', lambda d: (d / 'test.tsv').unlink(), ['test.tsv', 'no such file']),
    'a label less': ('matrix', lambda d: _edit(d / 'test.tsv', lambda t: t.iloc[1:]),
                     ['test.tsv', '1 rows', '2 scans']),
    'a scan in both matrices': (
        'matrix', lambda d: _edit(d / 'test.tsv', lambda t: t.assign(
            participant_id=[_FIRST, t['participant_id'][1]])), [_FIRST, 'in more than one of']),
    'NaN in the matrix': ('matrix', lambda d: _set(d / 'train.npy', (1, 3658060 + 2 * 68), np.nan),
                          [_FIRST, 'no thickness of lh_bankssts']),
    'zero row': ('matrix', lambda d: _set(d / 'train.npy', (1, slice(0, 519945)), 0),
                 [_FIRST, 'every voxel is zero']),
}


def _save_template(root, change):
  path = root.parent / 'template.nii.gz'
  image = nibabel.load(path)
  nibabel.save(nibabel.Nifti1Image(change(image.get_fdata(dtype=np.float32)), image.affine), path)


@pytest.fixture
def copy(disk, tmp_path):
  """A private copy of a layout, to be spoilt, with the template beside it."""
  def make(layout):
    shutil.copytree(disk / layout, tmp_path / layout)
    shutil.copy(disk / 'template.nii.gz', tmp_path)
    return tmp_path / layout
  return make


@pytest.mark.parametrize('fault', FAULTS)
def test_wrong_input_is_one_line_that_names_the_culprit(fault, copy, tmp_path, capsys):
  layout, spoil, expected = FAULTS[fault]
  root = copy(layout)
  spoil(root)
  before = sorted(tmp_path.iterdir())
  mask = ['--mask', tmp_path / 'template.nii.gz'] if layout == 'matrix' else []
  with pytest.raises(SystemExit) as stop:
    _run(root, tmp_path / 'out', '--spacing', 12, *mask)
  check_one_line(stop, capsys.readouterr().err, expected)
  assert sorted(tmp_path.iterdir()) == before      # nothing left behind


def test_the_matrix_asks_for_its_mask(disk, tmp_path, capsys):
  with pytest.raises(SystemExit):
    _run(disk / 'matrix', tmp_path / 'out')
  assert '--mask' in capsys.readouterr().err


def test_incomplete_scans_can_be_kept_or_left_out(copy, tmp_path, capsys):
  root = copy('subjects')
  FAULTS['no ROI file'][1](root)
  kept = _run(root, tmp_path / 'kept', '--spacing', 12, '--keep-incomplete')
  assert len(kept) == 3 and np.isnan(kept.morphometry[0]).all()
  left = _run(root, tmp_path / 'left', '--spacing', 12, '--leave-out-bad')
  assert len(left) == 2 and _FIRST not in set(left.table['participant_id'])
  assert f'left out: {_FIRST}' in capsys.readouterr().err


def _real_measures():
  if not _DS000174.is_dir():
    pytest.skip(f'{_DS000174} is not here')
  table = pandas.read_csv(_DS000174 / 'openneuro_baseline_dktatlas.csv')
  return {measure: table[[f'{region}_{measure}' for region in atlas.regions('desikan')]].to_numpy()
          for measure in ('thickness', 'area', 'volume', 'meancurv', 'gauscurv', 'curvind')}


@pytest.mark.parametrize('scans', [1, 42])
def test_swapped_measures_of_real_people_are_told_by_name(scans):
  real = {name: values[:scans] for name, values in _real_measures().items()}

  def judge(columns):
    return plausible(Morphometry('desikan', tuple(columns), tuple((f'sub-{i}', '') for i in range(
        scans)), np.stack(list(columns.values()), -1), 'table.tsv'))

  assert not judge(real).outliers
  for first, second in itertools.combinations(real, 2):
    swapped = real | {first: real[second], second: real[first]}
    if {first, second} <= {'meancurv', 'gauscurv', 'curvind'}:
      assert not judge(swapped).outliers      # nothing says which is which
    else:
      with pytest.raises(UserError, match=f'table.tsv: .*{first} under {second}'):
        judge(swapped)
