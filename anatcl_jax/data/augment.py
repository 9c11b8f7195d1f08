"""Random views of volumes, made on the device inside the compiled step from explicit keys.

Every augmentation keeps the grid's size, so that what is evaluated, which is never augmented, has
the shape of what is trained on. Parameters are the published ones of two predecessors:

- Barbano et al., ISBI 2023, github.com/EIDOSLAB/contrastive-brain-age-prediction,
  `src/main_mse.py`: random window of 121x128x121 voxels, a cube of 32^3 voxels set to 0;
- y-Aware, Dufumier et al., MICCAI 2021, github.com/Duplums/yAwareContrastiveLearning, `dataset.py`
  and `augmentations.py`: on volumes of mean 0 and SD 1, each with probability 0.5.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from anatcl_jax.errors import UserError, check_name

# (key, volume [X, Y, Z], mean and SD of the volume before any augmentation) -> volume [X, Y, Z]
Apply = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

_STREAM = 1 << 20   # keeps these keys apart from those that the parameters are drawn from


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """How often, and what: `summary` is for people."""

  probability: float
  apply: Apply
  summary: str


def crop(key: jax.Array, volume: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """A window at a random place along the second axis, amid zeros.

  It keeps 128 of 145 voxels of that axis and all of the others: 121x128x121 of 121x145x121.
  """
  del mean, deviation
  sizes = (volume.shape[0], round(volume.shape[1] * 128 / 145), volume.shape[2])
  spare = [n - size for n, size in zip(volume.shape, sizes)]
  return jnp.pad(_random_window(key, volume, sizes), [(n // 2, n - n // 2) for n in spare])


def zoom(key: jax.Array, volume: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """A window of three quarters of each axis at a random place, linearly resized to the grid."""
  del mean, deviation
  sizes = tuple(math.ceil(0.75 * n) for n in volume.shape)
  return jax.image.resize(_random_window(key, volume, sizes), volume.shape, 'linear')


def cutout(key: jax.Array, volume: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """A cube inside the volume becomes 0; its edge is 32 of 121 voxels of the shortest axis."""
  del mean, deviation
  return _cut_out(key, volume, (max(1, round(min(volume.shape) * 32 / 121)),) * 3, 0)


def mean_cutout(key: jax.Array, volume: jax.Array, mean: jax.Array,
                deviation: jax.Array) -> jax.Array:
  """A box inside the volume, a quarter of each axis, takes the volume's mean."""
  del deviation
  return _cut_out(key, volume, tuple(math.ceil(n / 4) for n in volume.shape), mean)


def flip(key: jax.Array, volume: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """Mirrored along one of the axes, drawn at random: left and right may change places."""
  del mean, deviation
  mirrored = [lambda x, axis=axis: jnp.flip(x, axis) for axis in range(volume.ndim)]
  return jax.lax.switch(jax.random.randint(key, (), 0, volume.ndim), mirrored, volume)


def translation(key: jax.Array, volume: jax.Array, mean: jax.Array,
                deviation: jax.Array) -> jax.Array:
  """Moved by whole voxels, up to a sixteenth of each axis either way; zeros move in."""
  del mean, deviation
  most = [n // 16 for n in volume.shape]
  return _random_window(key, jnp.pad(volume, [(n, n) for n in most]), volume.shape)


def blur(key: jax.Array, volume: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """Gaussian of sigma U(0.1, 1) voxels."""
  del mean, deviation
  return gaussian_filter(volume, jax.random.uniform(key, (), minval=0.1, maxval=1))


def noise(key: jax.Array, volume: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """Gaussian, of sigma U(0.1, 1) times the volume's SD."""
  del mean
  sigma_key, noise_key = jax.random.split(key)
  sigma = deviation * jax.random.uniform(sigma_key, (), minval=0.1, maxval=1)
  return volume + sigma * jax.random.normal(noise_key, volume.shape, volume.dtype)


def intensity(key: jax.Array, volume: jax.Array, mean: jax.Array,
              deviation: jax.Array) -> jax.Array:
  """Gamma of the volume's range, log-uniform in 0.8 to 1.25, then scale U(0.9, 1.1) and shift
  U(-0.1, 0.1) of the SD."""
  del mean
  log_gamma, scale, shift = jax.random.uniform(key, (3,), minval=-1)
  least, extent = volume.min(), jnp.ptp(volume)
  positive = (volume - least) / jnp.where(extent, extent, 1)
  volume = least + extent * positive ** jnp.exp(math.log(1.25) * log_gamma)
  return volume * (1 + 0.1 * scale) + 0.1 * shift * deviation


AUGMENTATIONS = {
    'crop': Augmentation(1.0, crop, 'window of 128 of 145, amid zeros'),
    'cutout': Augmentation(0.5, cutout, 'cube of 32 of 121 becomes 0'),
    'zoom': Augmentation(0.5, zoom, 'window of 3/4, resized'),
    'mean_cutout': Augmentation(0.5, mean_cutout, 'box of 1/4 becomes the mean'),
    'blur': Augmentation(0.5, blur, 'sigma 0.1 to 1 voxels'),
    'noise': Augmentation(0.5, noise, 'sigma 0.1 to 1 SD'),
    'translation': Augmentation(0.5, translation, 'up to 1/16 of each axis'),
    'intensity': Augmentation(0.5, intensity, 'gamma, scale and shift'),
    'flip': Augmentation(0.5, flip, 'along a random axis'),
}
PRESETS = {'all': ('cutout', 'crop'), 'yaware': ('blur', 'noise', 'mean_cutout', 'zoom')}


def names_of(text: str) -> tuple[str, ...]:
  """The config's `augment`: `none`, or names of augmentations and presets joined by +, in order.

  Raises:
    UserError: an unknown name.
  """
  if text == 'none':
    return ()
  names = []
  for name in text.split('+'):
    if name == 'none':
      raise UserError(f'augment {text!r}: none stands alone')
    check_name(name, (*AUGMENTATIONS, *PRESETS, 'none'), 'augment')
    names += PRESETS.get(name, (name,))
  return tuple(names)


def augment(key: jax.Array, volume: jax.Array, names: tuple[str, ...]) -> jax.Array:
  """One view of a volume [X, Y, Z]: each augmentation in turn, with its probability."""
  mean, deviation = volume.mean(), volume.std()
  for number, name in enumerate(names):
    chance_key, apply_key = jax.random.split(jax.random.fold_in(key, number))
    chosen = AUGMENTATIONS[name]
    volume = jax.lax.cond(
        jax.random.bernoulli(chance_key, chosen.probability),
        lambda x, chosen=chosen, key=apply_key: chosen.apply(key, x, mean, deviation),
        lambda x: x, volume)
  return volume


def view_maker(text: str, views: int, seed: int
               ) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None:
  """step.MakeViews for the config's `augment`; None for `none`, where all views are the volume.

  A view is a function of seed, step, the subject's place in the global batch and the view's number:
  the same on any number of devices, processes and micro-batches, and in a run that goes on.
  """
  names = names_of(text)
  if not names:
    return None

  def make_views(step, index, volumes):
    """(step, index [N] in the global batch, volumes [N, X, Y, Z]) -> [N, views, X, Y, Z]."""
    of_step = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _STREAM), step)

    def one(row):
      subject, view = row
      key = jax.random.fold_in(jax.random.fold_in(of_step, index[subject]), view)
      return augment(key, volumes[subject], names)

    # One after the other: the memory of one view at work, and what is not drawn costs nothing.
    subjects = len(index)
    made = jax.lax.map(one, (jnp.repeat(jnp.arange(subjects), views),
                             jnp.tile(jnp.arange(views), subjects)))
    return made.reshape(subjects, views, *volumes.shape[1:])

  return make_views


def gaussian_filter(volume: jax.Array, sigma: jax.Array) -> jax.Array:
  """As scipy.ndimage.gaussian_filter with its defaults: 4 sigma far, reflected at the edges."""
  reach = jnp.floor(4 * sigma + 0.5)
  for axis, size in enumerate(volume.shape):
    to, of = jnp.arange(size)[:, None], jnp.arange(size)[None]
    # How far each voxel is from each: straight, over the first edge, over the last.
    weights = sum(jnp.where(abs(far) <= reach, jnp.exp(-0.5 * (far / sigma) ** 2), 0)
                  for far in (to - of, to + of + 1, to + of + 1 - 2 * size))
    weights = weights / weights.sum(1, keepdims=True)
    volume = jnp.moveaxis(jnp.tensordot(weights, volume, (1, axis),
                                        precision=jax.lax.Precision.HIGHEST), 0, axis)
  return volume


def _random_window(key: jax.Array, volume: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
  """A window of `sizes` voxels, every place inside the volume being equally likely."""
  return jax.lax.dynamic_slice(volume, _random_start(key, volume.shape, sizes), sizes)


def _random_start(key: jax.Array, shape: tuple[int, ...], sizes: tuple[int, ...]) -> jax.Array:
  return jax.random.randint(key, (len(shape),), 0, jnp.array(shape) - jnp.array(sizes) + 1)


def _cut_out(key: jax.Array, volume: jax.Array, sizes: tuple[int, ...],
             value: jax.Array | float) -> jax.Array:
  start = _random_start(key, volume.shape, sizes)
  box = jnp.full(sizes, value, volume.dtype)
  return jax.lax.dynamic_update_slice(volume, box, start)
