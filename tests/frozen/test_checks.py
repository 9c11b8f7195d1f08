"""Signs that features mean nothing are seen, and are not seen where there are none."""

from __future__ import annotations

import dataclasses
import json

import matplotlib.image
import nibabel
import numpy as np

from anatcl_jax.cohorts import origins
from anatcl_jax.frozen import checks as feature_checks
from anatcl_jax.frozen.rows import Row
from anatcl_jax.report import representation
from tests.test_features import compiled, folder, run, volumes, weights  # noqa: F401

RNG = np.random.default_rng(0)
LABELS = [f'sub-{i}' for i in range(6)]



def _warnings(rows, labels, card):
  return (feature_checks.of_volumes(rows, labels, card)
          + feature_checks.of_features(rows, labels, card))


def rows_of(features, nonzero=0.3, high=1.4):
  return [Row(row.astype(np.float32), nonzero, high) for row in features]


def test_nothing_is_said_of_sound_features():
  card = {'features_range': {'low': [-5] * 8, 'high': [5] * 8}}
  assert _warnings(rows_of(RNG.normal(size=(6, 8))), LABELS, card) == []


def test_an_encoder_of_quasi_raw_images_wants_t1():
  rows = rows_of(RNG.normal(size=(6, 8)), high=900)
  assert 'look like T1 images' in _warnings(rows, LABELS, {})[0]
  for kind, said in (('quasiraw', 0), ('vbm', 1)):
    card = {'maps': dataclasses.asdict(origins.OPENBHB[kind])}
    assert len(_warnings(rows, LABELS, card)) == said


def test_channels_that_never_change():
  """Exactly, or but for rounding; one scan alone says nothing."""
  features = RNG.normal(size=(6, 8))
  features[:, 2], features[:, 5] = 0, 7 + RNG.normal(size=6) * 1e-6
  features[:, 6] = 7 + RNG.normal(size=6) * 1e-2
  one, = _warnings(rows_of(features), LABELS, {})
  assert one == '2 of 8 channels are the same for all 6 scans (f2, f5)'
  assert not _warnings(rows_of(features[:1]), LABELS[:1], {})
  one, = _warnings(rows_of(np.tile(features[:1], (6, 1))), LABELS, {})
  assert one.startswith('all 8 channels are the same for all 6 scans')


def test_features_far_outside_the_training_range():
  """Far is further than the range is wide: [1, 3] reaches from -1 to 5."""
  card = {'features_range': {'low': [1, 1], 'high': [3, 3]}}
  features = np.array([[2, 2], [-0.9, 4.9], [2, 5.1], [2, -1.1], [3, 2], [1, 2.5]])
  one, = _warnings(rows_of(features), LABELS, card)
  assert one.startswith('1 of 2 channels are far outside') and '2 of 6 scans (sub-2, sub-3)' in one


def test_an_image_of_t1_is_seen(folder, volumes, tmp_path, capsys):  # noqa: F811
  """Two maps become T1-like: values in the hundreds, and a background that is not zero."""
  for number, scale, background in ((1, 800, 0), (2, 1, 0.01)):
    image = nibabel.load(volumes[number])
    values = np.asarray(image.dataobj) * scale + background
    nibabel.Nifti1Image(values, image.affine).to_filename(volumes[number])
  assert run('--weights', folder, '--volumes', *volumes, '--out', tmp_path / 'a.tsv') == 0
  warning, = [line for line in capsys.readouterr().err.splitlines() if 'T1' in line]
  assert 'WARNING: 2 of 6 volumes look like T1 images' in warning
  assert '(sub-0002, sub-0003; ' in warning and '100% of voxels not zero' in warning
  assert warning.removeprefix('WARNING: ') in json.loads(
      (tmp_path / 'a.json').read_text())['warnings']
  assert matplotlib.image.imread(tmp_path / 'a.png').std() > 0.05


def test_the_picture_says_how_many_channels_differ():
  features = RNG.normal(size=(6, 8)) * np.arange(1, 9)
  features[:, :3] = 1
  figure = representation.draw(features, feature_checks.constant_channels(features), LABELS,
                               LABELS, 'untrained:tiny', True)
  spread, scatter = figure.axes
  assert spread.get_title() == '5 of 8 channels differ between scans'
  np.testing.assert_allclose(spread.lines[0].get_ydata(), np.sort(features[:, 3:].std(0))[::-1])
  figure.draw_without_rendering()
  ticks = [tick.get_text() for tick in spread.get_yticklabels()]
  assert all(float(text) > 0 for text in ticks if text) and any(ticks)     # no raw formulas
  points = np.asarray(scatter.collections[0].get_offsets())
  values, vectors = np.linalg.eigh(np.cov(features.T))
  np.testing.assert_allclose(points.var(0, ddof=1), values[::-1][:2])
  expected = (features - features.mean(0)) @ vectors[:, ::-1][:, :2]
  np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-9)
  assert 'SYNTHETIC' in figure.get_suptitle() and 'n = 6 people' in figure.get_suptitle()
