"""Augmentations against NumPy and SciPy, their random parameters, and views on any device."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from anatcl_jax.data import augment
from anatcl_jax.errors import UserError

SHAPE = (17, 29, 18)
VOLUME = np.random.default_rng(0).normal(2, 3, SHAPE).astype(np.float32)


@functools.cache
def _many(name, count=400, volume_of=None):
  """What an augmentation makes of one volume with many keys, [count, X, Y, Z]."""
  volume = VOLUME if volume_of is None else volume_of()
  apply = functools.partial(augment.AUGMENTATIONS[name].apply, volume=volume, mean=volume.mean(),
                            deviation=volume.std())
  keys = jax.random.split(jax.random.key(1), count)
  return np.asarray(jax.jit(lambda keys: jax.lax.map(apply, keys))(keys))


def _places(sizes, of=SHAPE):
  return itertools.product(*(range(n - size + 1) for n, size in zip(of, sizes)))


def _check_uniform(made, candidates):
  """Each result is one of the candidates, and all of those are equally frequent."""
  found = {np.asarray(volume, np.float32).tobytes(): 0 for volume in candidates}
  for volume in made:
    key = volume.tobytes()
    assert key in found
    found[key] += 1
  assert scipy.stats.chisquare(list(found.values())).pvalue > 1e-3


def test_crop_keeps_a_window_of_128_of_145_voxels_amid_zeros():
  def candidate(start):     # round(29 * 128 / 145) = 25.6 -> 26 of 29, one zero before, two after
    return np.pad(VOLUME[:, start:start + 26], ((0, 0), (1, 2), (0, 0)))
  _check_uniform(_many('crop'), map(candidate, range(4)))


def test_the_published_crop_and_cube():
  """121x128x121 of OpenBHB's 121x145x121, and 32^3; counted in a volume of ones."""
  ones = jnp.ones((121, 145, 121), jnp.float32)
  kept = augment.crop(jax.random.key(0), ones, 1.0, 0.0)
  assert kept.sum() == 121 * 128 * 121 and kept.shape == ones.shape
  assert (kept[:, 8:136] == 1).all()
  hole = 1 - augment.cutout(jax.random.key(0), ones, 1.0, 0.0)
  assert [int(hole.any(axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))] == [32, 32, 32]
  assert hole.sum() == 32 ** 3


@pytest.mark.parametrize('name, sizes, value', [
    ('cutout', (4, 4, 4), 0.0), ('mean_cutout', (5, 8, 5), VOLUME.mean())])
def test_cutouts(name, sizes, value):
  """Boxes of ceil(n / 4), or cubes of 32 / 121 of the shortest axis; places by their corner."""
  corners = []
  for made in _many(name):
    changed = np.argwhere(made != VOLUME)
    low, high = changed.min(0), changed.max(0) + 1
    assert tuple(high - low) == sizes
    expected = VOLUME.copy()
    expected[tuple(map(slice, low, high))] = value
    np.testing.assert_array_equal(made, expected)
    corners.append(low)
  for axis, (n, size) in enumerate(zip(SHAPE, sizes)):
    counts = np.bincount(np.array(corners)[:, axis], minlength=n - size + 1)
    assert len(counts) == n - size + 1 and scipy.stats.chisquare(counts).pvalue > 1e-3


def _linear(volume, size, axis):
  """`volume` resized along an axis: voxel centres of the new grid, ends repeated; float64."""
  at = (np.arange(size) + 0.5) * volume.shape[axis] / size - 0.5
  return np.apply_along_axis(lambda row: np.interp(at, np.arange(len(row)), row), axis, volume)


def test_zoom_is_a_window_of_three_quarters_resized():
  """Of a volume that grows along its axes: windows are found again by their corner."""
  sizes = (13, 22, 14)                                # ceil(0.75 * 17), of 29, of 18
  grid = np.indices(SHAPE).astype(np.float64)
  ramp = lambda: (grid[0] + 100 * grid[1] + 10_000 * grid[2]).astype(np.float32)
  starts = []
  for made in _many('zoom', 100, ramp):
    corner = int(round(float(made[0, 0, 0])))
    start = corner % 100, corner // 100 % 100, corner // 10_000
    window = ramp()[tuple(slice(a, a + n) for a, n in zip(start, sizes))].astype(np.float64)
    for axis, size in enumerate(SHAPE):
      window = _linear(window, size, axis)
    np.testing.assert_allclose(made, window, rtol=1e-5, atol=0.05)
    starts.append(start)
  for axis, (n, size) in enumerate(zip(SHAPE, sizes)):
    counts = np.bincount(np.array(starts)[:, axis], minlength=n - size + 1)
    assert len(counts) == n - size + 1 and scipy.stats.chisquare(counts).pvalue > 1e-3


def test_zoom_of_any_volume():
  key = jax.random.key(5)
  window = np.asarray(augment._random_window(key, jnp.asarray(VOLUME), (13, 22, 14)), np.float64)
  for axis, size in enumerate(SHAPE):
    window = _linear(window, size, axis)
  np.testing.assert_allclose(augment.zoom(key, jnp.asarray(VOLUME), 0.0, 1.0), window, atol=2e-5)


def test_flip_takes_each_axis():
  _check_uniform(_many('flip'), [np.flip(VOLUME, axis) for axis in range(3)])


def test_translation_moves_whole_voxels_and_zeros_move_in():
  def candidate(shift):
    moved = np.zeros(SHAPE, np.float32)
    to = tuple(slice(max(s, 0), n + min(s, 0)) for s, n in zip(shift, SHAPE))
    back = tuple(slice(max(-s, 0), n + min(-s, 0)) for s, n in zip(shift, SHAPE))
    moved[to] = VOLUME[back]
    return moved
  _check_uniform(_many('translation'), map(candidate, itertools.product(range(-1, 2), repeat=3)))


@pytest.mark.parametrize('sigma', [0.1, 0.12, 0.3, 0.37, 0.5, 0.77, 1.0])
def test_blur_is_scipys(sigma):
  expected = scipy.ndimage.gaussian_filter(VOLUME.astype(np.float64), np.float32(sigma))
  np.testing.assert_allclose(jax.jit(augment.gaussian_filter)(VOLUME, np.float32(sigma)), expected,
                             atol=1e-5)


def _uniform(values, low, high):
  assert low <= min(values) and max(values) <= high
  assert scipy.stats.kstest(values, 'uniform', (low, high - low)).pvalue > 1e-3


def _point():
  point = np.zeros((9, 9, 9), np.float32)
  point[4, 4, 4] = 1
  return point


def test_sigma_of_blur_is_uniform():
  """Read off what is left of a single bright voxel; below 0.2 nearly all of it is."""
  sigmas = np.linspace(0.1, 1, 500)
  left = [scipy.ndimage.gaussian_filter(_point().astype(np.float64), s)[4, 4, 4] for s in sigmas]
  made = np.interp(-_many('blur', 400, _point)[:, 4, 4, 4], -np.array(left), sigmas)
  _uniform(made[made > 0.25], 0.25, 1)
  assert scipy.stats.binomtest(int((made > 0.25).sum()), 400, 0.75 / 0.9).pvalue > 1e-3


def test_noise_is_gaussian_in_units_of_the_volumes_deviation():
  added = (_many('noise').astype(np.float64) - VOLUME) / VOLUME.std()
  sigma = added.std((1, 2, 3))
  # Read with a relative error of 1 / sqrt(2 * 8874) = 0.75 %, which the limits leave room for.
  assert 0.1 * 0.97 < sigma.min() and sigma.max() < 1.03
  assert scipy.stats.kstest(sigma, 'uniform', (0.1, 0.9)).pvalue > 1e-3
  whitened = (added / sigma[:, None, None, None])[:20].ravel()
  assert scipy.stats.kstest(whitened, 'norm').pvalue > 1e-3
  assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.05


def _three_values():
  volume = np.full((3, 3, 3), 3.0, np.float32)
  volume[0], volume[2, 2, 2] = 1, 5            # half of the range of 4 lies at 3
  return volume


def test_intensity_is_gamma_then_scale_and_shift():
  """1, 3 and 5 become least, middle and most: three equations in gamma, scale and shift."""
  made = _many('intensity', 400, _three_values).astype(np.float64)
  low, middle, high = made[:, 0, 0, 0], made[:, 1, 1, 1], made[:, 2, 2, 2]
  scale = (high - low) / 4
  shift = (low - scale) / _three_values().std()
  gamma = np.log((middle - low) / (high - low)) / np.log(0.5)
  margin = 1e-5
  _uniform(scale, 0.9 - margin, 1.1 + margin)
  _uniform(shift, -0.1 - margin, 0.1 + margin)
  _uniform(np.log(gamma), np.log(0.8) - margin, np.log(1.25) + margin)
  for a, b in itertools.combinations((scale, shift, gamma), 2):
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.2


def test_a_constant_volume_stays_finite():
  constant = np.full(SHAPE, 2.0, np.float32)
  made = jax.jit(lambda key: {name: augment.augment(key, constant, (name,))
                              for name in augment.AUGMENTATIONS})(jax.random.key(0))
  for name, volume in made.items():
    assert np.isfinite(volume).all(), name


@functools.cache
def _views(text, step=0, seed=0, volumes=1, views=300):
  make = jax.jit(augment.view_maker(text, views, seed))
  stack = np.stack([VOLUME] * volumes)
  return np.asarray(make(jnp.int32(step), jnp.arange(volumes), stack))


def test_probabilities():
  """Every augmentation is drawn half the time, independently; the crop always."""
  for name in ('cutout', 'noise', 'flip'):
    changed = int((_views(name)[0] != VOLUME).any((1, 2, 3)).sum())
    assert scipy.stats.binomtest(changed, 300, 0.5).pvalue > 1e-3, name
  assert all((view[:, :1] == 0).all() for view in _views('crop')[0])
  both = _views('cutout+flip')[0]
  untouched = int((both == VOLUME).all((1, 2, 3)).sum())
  assert scipy.stats.binomtest(untouched, 300, 0.25).pvalue > 1e-3


def test_yaware_on_a_normalised_volume_is_the_same_normalised():
  """Noise in units of the SD, cut-outs at the mean: as if volumes had mean 0 and SD 1."""
  names = augment.names_of('flip+yaware')
  assert names == ('flip', 'blur', 'noise', 'mean_cutout', 'zoom')
  normalised = (VOLUME - VOLUME.mean()) / VOLUME.std()
  make = jax.jit(lambda key, volume: augment.augment(key, volume, names))
  for number in range(8):
    np.testing.assert_allclose(
        make(jax.random.key(number), VOLUME),
        VOLUME.std() * make(jax.random.key(number), normalised) + VOLUME.mean(), atol=1e-4)


def test_views_differ_by_seed_step_subject_and_view():
  drawn = [_views('intensity+noise+blur+crop+translation', step, seed, 3, 2)
           for step in (0, 1) for seed in (0, 1)]
  assert len({view.tobytes() for views in drawn for view in views.reshape(-1, *SHAPE)}) == 24


def test_none_and_unknown_names():
  assert augment.view_maker('none', 2, 0) is None
  assert augment.names_of('all') == ('cutout', 'crop')
  for text, message in (('blurr', "did you mean 'blur'"), ('blur+', "unknown augment ''"),
                        ('none+blur', 'none stands alone')):
    with pytest.raises(UserError, match=message):
      augment.names_of(text)
