"""`prepare inspect`: its figures, its warnings, and what the contact sheet shows where."""

from __future__ import annotations

import shutil

import numpy as np
import pandas
import pytest
from matplotlib import image

from anatcl_jax import prepare
from anatcl_jax.data import inspection, shards
from anatcl_jax.data.make_shards import make_shards


def test_figures(shard_set, tmp_path, capsys):
  assert shard_set.measured_by == 'the digital cohort'     # of its tables, read as a real cohort's
  prepare.main(['inspect', str(shard_set.directory), '--sheet', str(tmp_path / 'a.png')])
  text = capsys.readouterr().out
  ages = shard_set.table['age']
  assert 'SYNTHETIC, 20 scans of 20 participants' in text and 'checksums right' in text
  assert f'all: ages {ages.min():.4g} to {ages.max():.4g}, mean {ages.mean():.1f}' in text
  for sex, group in shard_set.table.groupby('sex'):
    assert f'sex {sex}: {len(group)} scans, ages {group["age"].min():.4g}' in text
  thickness = shard_set.select_measures(('thickness',))
  assert f'thickness: {thickness.min():.4g} to {thickness.max():.4g} mm' in text
  assert 'missing: nothing' in text and 'WARNING' not in text


def test_missing_values_are_counted(shard_set, tmp_path, capsys):
  directory = tmp_path / 'set'
  shutil.copytree(shard_set.directory, directory)
  table = pandas.read_csv(directory / 'participants.tsv', sep='\t', dtype=str)
  table.loc[:2, 'age'] = 'n/a'
  table.loc[4, 'site'] = 'n/a'
  table.to_csv(directory / 'participants.tsv', sep='\t', index=False)
  morphometry = shard_set.morphometry.copy()
  morphometry[3, 5, shard_set.measures.index('area')] = np.nan
  np.save(directory / 'morphometry.npy', morphometry)
  prepare.main(['inspect', str(directory)])
  assert 'missing: age 3, site 1, area 1' in capsys.readouterr().out


def _flipped_and_shifted(data, tmp_path):
  """The set with its second scan mirrored and its third shifted, and with a shared asymmetry."""
  volumes = [data.read_volume(i)[0].copy() for i in range(len(data))]
  for volume in volumes:
    volume[:6, 3:9] *= 2        # synthetic brains are symmetric on average; real ones are not
  volumes[1] = volumes[1][::-1]
  volumes[2] = np.roll(volumes[2], (0, 5, 3), (0, 1, 2))

  class Changed(shards.ShardSet):
    def read_volume(self, record):
      return volumes[record], 1.0

  return Changed(data.directory, data.info, data.table, data.morphometry)


def test_mirrored_and_shifted_scans_are_named(shard_set, tmp_path):
  lines = inspection._describe_volumes(_flipped_and_shifted(shard_set, tmp_path))
  mirrored, = [line for line in lines if 'mirrored' in line]
  unlike, = [line for line in lines if 'unlike the others' in line]
  assert '1 scans' in mirrored and 'sub-0002' in mirrored
  assert '1 scans' in unlike and 'sub-0003' in unlike


def test_slices_are_radiological():
  """A bright block in the patient's right, anterior, upper corner."""
  volume = np.zeros((10, 12, 8), np.float32)
  volume[7:, 9:, 6:] = 1
  _, coronal, axial = inspection.radiological_slices(np.maximum(volume, 0))
  volume[5:, 6:, 4:] = 1
  _, coronal, axial = inspection.radiological_slices(volume)
  assert coronal[0, 0] == 1 and coronal[0, -1] == 0 and coronal[-1, 0] == 0   # right, up
  assert axial[0, 0] == 1 and axial[0, -1] == 0 and axial[-1, 0] == 0         # right, anterior
  volume[:] = 0
  volume[:, 9:, 6:] = 1
  sagittal = inspection.radiological_slices(volume)[0]
  assert sagittal[0, 0] == 1 and sagittal[0, -1] == 0 and sagittal[-1, 0] == 0  # anterior, up


def test_sheet_is_drawn(shard_set, tmp_path):
  inspection.contact_sheet(shard_set, tmp_path / 'sheet.png', 6)
  picture = image.imread(tmp_path / 'sheet.png')[..., :3]
  assert picture.std() > 0.1
  orange = (picture[..., 0] > 0.8) & (picture[..., 2] < 0.2)    # the letters L, R, A, P
  assert orange.sum() > 100


def test_damage_is_reported(shard_set, tmp_path, capsys):
  directory = tmp_path / 'set'
  shutil.copytree(shard_set.directory, directory)
  path = directory / shard_set.info['shards'][0]['file']
  path.write_bytes(path.read_bytes()[:-1] + b'!')
  with pytest.raises(SystemExit) as stop:
    prepare.main(['inspect', str(directory)])
  assert stop.value.code == 1 and 'is damaged' in capsys.readouterr().err
  with pytest.raises(SystemExit) as stop:
    prepare.main(['inspect', str(tmp_path / 'nothing')])
  assert stop.value.code == 2


def test_real_brains_share_their_asymmetry(aomic, tmp_path):
  """AOMIC's maps are told from their mirror images."""
  from anatcl_jax.cohorts import bids
  read = bids.read_cohort(f'{aomic}/vbm/*.nii.gz', aomic / 'participants.tsv', [])
  data = make_shards(read, tmp_path / 'aomic', spacing=4)
  alike, asymmetry = inspection.resemblance(data)
  assert alike.min() > 0.8 and asymmetry.min() > inspection._SHARED_ASYMMETRY
