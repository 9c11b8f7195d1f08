"""A volume on another intensity scale than the others of its set is named, and no other."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from anatcl_jax import prepare
from anatcl_jax.data import intensity


def test_level_and_spread_by_hand():
  volume = np.zeros((10, 10, 4))
  volume[:, :, 1] = np.arange(1, 101).reshape(10, 10)
  level, spread = intensity.level_and_spread(volume)
  assert level == pytest.approx(99.01)      # 1 + 0.99 x 99
  assert spread == pytest.approx(np.sqrt((100**2 - 1) / 12))
  assert intensity.level_and_spread(np.zeros((2, 2, 2))) == (0, 0)


@pytest.mark.parametrize('factor', [255, 1000, 1 / 255, 2.5, 0])
def test_another_scale_is_found_and_its_factor_told(factor):
  figures = np.random.default_rng(0).uniform(0.9, 1.2, (50, 2))
  figures[7] *= factor
  found = intensity.on_another_scale(figures)
  assert np.flatnonzero(found != 1).tolist() == [7]
  if factor:
    assert found[7] == pytest.approx(factor, rel=0.35)


def test_healthy_variation_is_not():
  """Sites that differ by half, and raw images whose scale means nothing."""
  rng = np.random.default_rng(1)
  sites = rng.uniform(0.95, 1.05, (60, 2)) * np.repeat([0.7, 1.0, 1.3], 20)[:, None]
  raw = np.exp(rng.normal(5, 1, (60, 2)))
  for figures in (sites, raw, sites[:4] * [[1], [1], [1], [255]]):
    assert (intensity.on_another_scale(figures) == 1).all()


def test_prepare_and_inspect_name_it(tmp_path, capsys):
  rng = np.random.default_rng(2)
  rows = []
  for number in range(8):
    volume = np.zeros((12, 12, 12), np.float32)
    volume[3:9, 3:9, 3:9] = rng.uniform(0.1, 1.2, (6, 6, 6)) * (255 if number == 3 else 1)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([12, 12, 12, 1.0])),
                 tmp_path / f'sub-0{number}_map.nii')
    rows.append(f'sub-0{number}\t{20 + number}')
  (tmp_path / 'participants.tsv').write_text('participant_id\tage\n' + '\n'.join(rows) + '\n')
  prepare.main(['bids', '--volumes', str(tmp_path / '*.nii'), '--participants',
                str(tmp_path / 'participants.tsv'), '--out', str(tmp_path / 'set'),
                '--workers', '1'])
  said = capsys.readouterr().err
  assert 'WARNING: sub-03: its values are 2' in said and said.count('WARNING') == 1
  prepare.main(['inspect', str(tmp_path / 'set')])
  said = capsys.readouterr().out
  assert 'WARNING: sub-03: its values are 2' in said and said.count('its values are') == 1


def test_real_maps_and_scans_are_alike(aomic):
  """Ten AOMIC maps, and six raw T1 scans of IXI where they are there."""
  ixi = aomic.parent / 'ixi-t1'
  for paths in (sorted((aomic / 'vbm').glob('*.nii.gz')), sorted(ixi.glob('*_ds.nii.gz'))):
    figures = np.array([intensity.level_and_spread(np.asarray(nibabel.load(path).dataobj))
                        for path in paths])
    assert not len(paths) or (intensity.on_another_scale(figures) == 1).all()
