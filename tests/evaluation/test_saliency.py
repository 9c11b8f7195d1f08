"""Saliency maps of encoders whose answer is known, on SYNTHETIC volumes; left stays left."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from anatcl_jax import models
from anatcl_jax.data.arrange import Arrangement
from anatcl_jax.evaluation import saliency
from anatcl_jax.report import saliency_figure
from anatcl_jax.weights.load import Weights
from tests.evaluation.probing import target_of


class Linear(nn.Module):
  """Features are sums of voxels with given weights: [F, X, Y, Z]."""

  weights: tuple

  @nn.compact
  def __call__(self, x, train):
    return jnp.einsum('nxyz,fxyz->nf', x[..., 0], jnp.array(self.weights))


@pytest.fixture
def linear(shard_set, monkeypatch):
  """A linear encoder on the central 8 x 10 x 8 voxels; its voxel weights [2, 8, 10, 8]."""
  voxels = np.random.default_rng(0).normal(size=(2, 8, 10, 8)).astype(np.float32)
  frozen = tuple(map(tuple, voxels.reshape(2, -1).tolist()))
  nested = np.array(frozen).reshape(voxels.shape).tolist()
  as_tuple = lambda x: tuple(map(as_tuple, x)) if isinstance(x, list) else x
  monkeypatch.setattr(models, 'get_encoder', lambda *_, **__: Linear(as_tuple(nested)))
  card = {'crop': [8, 10, 8], 'axes': 'RAS', 'grid': None}
  return Weights('linear', {'params': {}}, None, card), voxels


def test_gradient_of_a_linear_encoder_is_its_weights(linear, shard_set):
  weights, voxels = linear
  found, background = saliency.gradient(weights, np.array([2.0, -1.0]), shard_set,
                                        np.array([0, 3]), show=False)
  cut = [slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(found.shape, (8, 10, 8))]
  np.testing.assert_allclose(found[tuple(cut)], np.abs(2 * voxels[0] - voxels[1]), rtol=1e-5)
  assert found.sum() == pytest.approx(found[tuple(cut)].sum())       # and nothing outside
  volumes = [shard_set.read_volume(record)[0].astype(float) for record in (0, 3)]
  np.testing.assert_allclose(background, np.mean(volumes, 0), rtol=1e-5)


def test_occlusion_is_what_the_cube_held(linear, shard_set):
  weights, voxels = linear
  found, _ = saliency.occlusion(weights, np.array([1.0, 0.0]), shard_set, np.array([2]), cube=4,
                                batch_size=3, show=False)
  volume = Arrangement.of(weights.card)(shard_set.read_volume(2)[0]).astype(float)
  cut = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(found.shape, (8, 10, 8)))
  own = found[cut]
  for x, y, z in ((0, 0, 0), (4, 4, 4), (4, 8, 0)):
    part = np.s_[x:x + 4, y:y + 4, z:z + 4]
    held = abs((volume[part] * voxels[0][part]).sum())
    np.testing.assert_allclose(own[part], held, rtol=1e-3, atol=1e-4)


def test_coefficients_undo_the_standardisation():
  rng = np.random.default_rng(1)
  x = rng.normal(3, [1, 10, 0.1], (50, 3))
  values = x @ [2.0, 0.3, -5.0] + rng.normal(size=50)
  z = (x - x.mean(0)) / x.std(0)
  expected = Ridge().fit(z, values).coef_ / x.std(0)
  np.testing.assert_allclose(saliency.probe_coefficients(x, target_of(values)), expected)


@pytest.mark.parametrize('axes', ['RAS', 'LPI', 'SRA', 'predecessor'])
def test_maps_are_put_back_where_they_came_from(axes):
  """A voxel on the patient's left of a grid is found there again, whatever the encoder's axes."""
  volume = np.zeros((7, 9, 6), np.float32)
  volume[1, 6, 2] = 5
  arrangement = Arrangement(axes=axes)
  back = saliency.put_back(arrangement(volume), arrangement, volume.shape)
  np.testing.assert_array_equal(back, volume)


def test_the_brain_is_what_is_bright_and_what_that_encloses():
  """A shell that opens downwards as white matter does, and faint voxels outside."""
  background = np.full((9, 9, 9), 0.05)
  background[2:7, 2:7, 2:7] = 1
  background[3:6, 3:6, 2:6] = 0      # hollow, and open at its bottom, z = 2
  brain = saliency.brain_of(background)
  expected = np.zeros((9, 9, 9), bool)
  expected[2:7, 2:7, 2:7] = True
  np.testing.assert_array_equal(brain, expected)


def test_smoothing_stays_inside_the_brain():
  brain = np.zeros((12, 12, 12), bool)
  brain[3:9, 3:9, 3:9] = True
  found = saliency.smoothed(np.where(brain, 2.0, 100.0), brain, 1.0)
  np.testing.assert_allclose(found[brain], 2, rtol=1e-5)
  assert not found[~brain].any()


def test_one_is_the_mean_over_the_brain_in_the_unit_of_the_task(linear, shard_set):
  weights, voxels = linear
  features = np.random.default_rng(0).normal(size=(6, 2))
  ages = features @ [3.0, -1.0]
  target = target_of(ages)
  target = dataclasses.replace(target, task=dataclasses.replace(target.task, unit='years'))
  one = saliency.of_task('x', weights, features, target, np.arange(6), shard_set, most=2,
                         show=False)
  assert one.map[one.brain].mean() == pytest.approx(1) and not one.map[~one.brain].any()
  assert one.unit == 'years for each 1 that a voxel\'s value changes' and one.scans == 2
  found, _ = saliency.gradient(weights, saliency.probe_coefficients(features, target), shard_set,
                               np.arange(2), show=False)
  inside = saliency.smoothed(found, one.brain, 1.0)
  assert one.level == pytest.approx(inside[one.brain].mean())
  text = saliency_figure.picture(dataclasses.replace(one, untrained=one))
  labels = [axes.get_ylabel() for axes in text.figure.axes]
  assert labels.count('x') == 4 and 'saliency (1: its mean over the brain)' in labels
  assert f'in {one.unit}: x {one.level:.3g}; x {one.level:.3g}.' in text.caption


def test_right_is_drawn_on_the_left():
  """A spot at small x, the patient's left in RAS, lies in the right half beside the letter L."""
  spot = np.zeros((11, 13, 12), np.float32)
  spot[2, 6, 9] = 1
  one = saliency.Saliency('age', 'x', 'gradient', spot, 1.0, '', np.ones(spot.shape, bool),
                          np.ones_like(spot), np.eye(4), 1, True)
  axes = matplotlib.figure.Figure().add_subplot()
  saliency_figure.draw_slice(axes, one, 1, 6, 1.0)
  drawn = np.asarray(axes.images[0].get_array())
  row, column = np.unravel_index(drawn.argmax(), drawn.shape)
  assert (row, column) == (9, 11 - 1 - 2) and axes.images[0].origin == 'lower'    # superior is up
  sides = {text.get_text(): text.get_position()[0] for text in axes.texts}
  assert sides['R'] < 0.5 < sides['L']
  axes = matplotlib.figure.Figure().add_subplot()
  saliency_figure.draw_slice(axes, one, 0, 2, 1.0)
  assert np.asarray(axes.images[0].get_array())[9, 13 - 1 - 6] == 1     # sagittal: y = 6
  assert [text.get_text() for text in axes.texts] == ['A', 'P']
