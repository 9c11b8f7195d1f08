"""An encoder that takes images: each is put on the grid and into the axes that its card says."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import numbers
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from nibabel.spatialimages import SpatialImage
from sklearn.base import BaseEstimator, TransformerMixin

from anatcl_jax import models
from anatcl_jax.cohorts.volumes import (
  NAMED_GRIDS,
  Grid,
  ImageInMemory,
  NiftiFile,
  VolumeSource,
  read_grid,
  read_volume,
  resized,
)
from anatcl_jax.config import check_seed
from anatcl_jax.data.arrange import Arrangement
from anatcl_jax.errors import UserError, check_name
from anatcl_jax.frozen import extract
from anatcl_jax.models import feature_pooling
from anatcl_jax.models.feature_pooling import MEAN
from anatcl_jax.weights import stored
from anatcl_jax.weights.load import Weights, encoder_options, fresh, load_weights

CARD, NATIVE = 'card', 'native'
GRIDS = (CARD, NATIVE, *NAMED_GRIDS)
UNTRAINED = 'untrained:'
_THREADS = 4     # that read ahead

Label = TypeVar('Label')


@dataclasses.dataclass(eq=False)   # frozen by __setattr__
class Encoder(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
  """A frozen encoder of images: `encoder(image)` is its features, float32 [F].

  An image is one of nibabel, or the path of a NIfTI file; a list of them gives [N, F]. It is a
  transformer of scikit-learn, for a Pipeline that begins with paths, and has nothing to fit.
  """

  weights: Weights
  arrangement: Arrangement
  grid: Grid | None                 # None: the one that each volume is on
  spacing: float | None = None      # mm, where another than the grid's is wanted
  precision: str = 'float32'
  pool: str = MEAN

  def __call__(self, images: SpatialImage | str | pathlib.Path | list | tuple) -> np.ndarray:
    several = isinstance(images, (list, tuple))
    if several and not images:
      raise UserError('an empty list of images has no features')
    sources = [_source(image) for image in (images if several else [images])]
    volumes = ((None, volume) for volume in extract.read_ahead(
        self.read, sources, _THREADS, 2 * _THREADS))
    rows = np.concatenate([self.encode(batch)
                           for _, batch in batches(volumes, jax.device_count())])
    return rows if several else rows[0]

  def __repr__(self) -> str:
    grid = f'{self.grid}' if self.grid else 'that of each volume'
    return '\n'.join([
        f'Encoder of images, {self.weights.encoder}',
        f'  weights    {self.weights.card.get("source")}',
        f'  grid       {grid}' + (f', at {self.spacing:g} mm' if self.spacing else ''),
        f'  axes       {self.arrangement.axes}', f'  crop       {self.arrangement.crop}',
        f'  pad        {self.arrangement.pad}', f'  precision  {self.precision}',
        f'  pool       {self.pool}', f'  computed   by {self.engine}'])

  def __setattr__(self, name: str, value: Any) -> None:
    # scikit-learn leaves notes of its own, with an underscore, on what stands in a Pipeline.
    if name in vars(self) and not name.startswith('_'):
      raise dataclasses.FrozenInstanceError(f'{name}: an encoder stays as it was loaded')
    super().__setattr__(name, value)

  def fit(self, images: Any = None, y: Any = None) -> Encoder:
    """Does nothing, as scikit-learn's way wants it."""
    return self

  def transform(self, images: Any) -> np.ndarray:
    """Features, float32 [N, F], of a list, an array or a column of images or paths."""
    return self(_as_list(images))

  def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
    """The names of the columns, f0, f1, ..., as in a table."""
    count = sum(part.columns for part in self.layout())
    return np.array([f'f{i}' for i in range(count)], object)

  def set_params(self, **params: Any) -> Encoder:
    """Of scikit-learn; a frozen encoder has nothing to be set."""
    if params:
      raise UserError(f'{", ".join(params)}: an encoder stays as it was loaded; load another one')
    return self

  def __sklearn_clone__(self) -> Encoder:
    return self     # nothing is fitted, and what is compiled serves every fold

  def __sklearn_is_fitted__(self) -> bool:
    return True

  def __sklearn_tags__(self) -> Any:
    tags = super().__sklearn_tags__()
    tags.requires_fit = tags.input_tags.two_d_array = False
    tags.input_tags.string = True
    return tags

  def __getstate__(self) -> dict[str, Any]:
    """Without what was compiled, which is compiled again where this is read."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  @functools.cached_property
  def encode(self) -> Callable[[np.ndarray], np.ndarray]:
    """Features [N, F] of arranged volumes [N, X, Y, Z]; compiled once a shape."""
    return extract.frozen(self.weights, precision=self.precision, pool=self.pool)

  @functools.cached_property
  def engine(self) -> str:
    """What computes them, and its version: JAX or OpenVINO, see extract.engine."""
    return extract.engine(self.weights, self.precision)

  def read(self, source: VolumeSource) -> np.ndarray:
    """A volume as the encoder sees it, float32 [X, Y, Z].

    Raises:
      UserError: it can't be read, has no orientation, is not finite or is empty.
    """
    grid = self.grid or read_grid(source)
    return self.arrangement(read_volume(source, resized(grid, self.spacing) if self.spacing
                                        else grid)).astype(np.float32)

  def settings(self) -> dict[str, Any]:
    """What features depend on besides the image, as JSON."""
    grid = self.grid and {'shape': list(self.grid.shape),
                          'affine': [list(row) for row in self.grid.affine]}
    return {'weights_sha256': digest(self.weights), 'encoder': self.weights.encoder,
            'axes': self.arrangement.axes, 'crop': _listed(self.arrangement.crop),
            'pad': _listed(self.arrangement.pad), 'grid': grid or NATIVE, 'spacing': self.spacing,
            'precision': self.precision, 'pool': self.pool}

  def layout(self) -> list[feature_pooling.Part]:
    """Which of the features are what."""
    return feature_pooling.layout(models.get_encoder(
        self.weights.encoder, **encoder_options(self.weights.card)), self.pool)

  def description(self) -> dict[str, Any]:
    """The settings, the card, and which columns are what, as JSON."""
    card = {name: value for name, value in self.weights.card.items() if name != 'features_range'}
    columns = [dataclasses.asdict(part) for part in self.layout()] if self.pool != MEAN else []
    return self.settings() | {'engine': self.engine, 'card': card} | (
        {'columns': columns} if columns else {})

  def checked_card(self) -> dict[str, Any]:
    """The card for checks of features: ranges of the last stage's mean are of nothing else."""
    return {name: value for name, value in self.weights.card.items()
            if name != 'features_range' or self.pool == MEAN}


def load(weights: str | pathlib.Path, *, grid: str = CARD, spacing: float | None = None,
         precision: str = 'float32', pool: str = MEAN,
         weights_cache: pathlib.Path | None = None, **arrangement: Any) -> Encoder:
  """The frozen encoder of some weights, to be called on images.

  Args:
    weights: a name such as anatcl-global-0, a workdir, a folder that convert wrote, a .safetensors,
      a released .pth, or `untrained:ENCODER` or `untrained:ENCODER:SEED`, as in untrained:resnet18.
    grid: `card` (that of the weights; of each volume where they know none), `native` (of each
      volume) or a name such as mni1.5.
    spacing: voxel size in mm, about the grid's centre.
    precision: what the encoder computes in, float32 or bfloat16.
    pool: `mean`, `levels`, `covariance`, or several joined by `+`; see models.feature_pooling.
    weights_cache: where released weights are kept; by default in the user's cache folder.
    arrangement: axes, crop and pad where they are others than the card's; see Arrangement.

  Raises:
    UserError: no such weights, grid, precision, pool or axes.
  """
  check_name(grid, GRIDS, 'grid')
  check_name(precision, extract.PRECISIONS, 'precision')
  feature_pooling.checked(pool)
  for name in arrangement:
    check_name(name, [field.name for field in dataclasses.fields(Arrangement)], 'option')
  if spacing is not None and not (isinstance(spacing, numbers.Real) and 0.1 <= spacing <= 50):
    raise UserError(f'spacing {spacing!r} must be a number from 0.1 to 50 mm')
  found = weights_of(weights, weights_cache)
  own = found.card.get('grid') if grid == CARD else None
  target = Grid.of(own['shape'], own['affine']) if own else NAMED_GRIDS.get(grid)
  return Encoder(found, Arrangement.of(found.card, **arrangement), target, spacing, precision, pool)


def weights_of(text: str | pathlib.Path, cache: pathlib.Path | None = None) -> Weights:
  """Weights by path or name, or drawn: `untrained:ENCODER[:SEED]`.

  Raises:
    UserError: there are none of the kind.
  """
  if not str(text).startswith(UNTRAINED):
    return load_weights(text, cache)
  encoder, _, seed = str(text).removeprefix(UNTRAINED).partition(':')
  if seed and not re.fullmatch('[0-9]{1,20}', seed):
    raise UserError(f'{text}: the seed {seed!r} is no whole number, as in {UNTRAINED}resnet18:1')
  return fresh(encoder, check_seed(int(seed or 0), f'the seed of {text}'))


def batches(volumes: Iterable[tuple[Label, np.ndarray]], size: int
            ) -> Iterator[tuple[list[Label], np.ndarray]]:
  """Labels and volumes [n, X, Y, Z] of up to `size` that follow each other in one shape."""
  labels, batch = [], []
  for label, volume in volumes:
    if batch and (len(batch) == size or volume.shape != batch[0].shape):
      yield labels, np.stack(batch)
      labels, batch = [], []
    labels.append(label)
    batch.append(volume)
  if batch:
    yield labels, np.stack(batch)


def digest(weights: Weights) -> str:
  """sha256 of an encoder's arrays, their names and shapes."""
  found = hashlib.sha256()
  for name, array in sorted(stored.by_name(weights.variables).items()):
    found.update(f'{name} {array.shape}\n'.encode())
    found.update(np.ascontiguousarray(array, '<f4').tobytes())
  return found.hexdigest()


def _as_list(images: Any) -> list:
  """Images in a list; of a table or an array [N, 1] its only column."""
  if not isinstance(images, (list, tuple)):
    if isinstance(images, (str, pathlib.Path, SpatialImage)) or not hasattr(images, '__len__'):
      raise UserError(f'{str(images)[:100]!r}: transform takes a list of images or paths')
    array = np.asarray(images, object)
    if array.ndim == 2 and array.shape[1] == 1:
      array = array[:, 0]
    if array.ndim != 1:
      raise UserError(f'images of shape {array.shape}: give one column of paths')
    images = list(array)
  return [image[0] if isinstance(image, (list, tuple)) and len(image) == 1 else image
          for image in images]


def _source(image: SpatialImage | str | pathlib.Path) -> VolumeSource:
  if isinstance(image, (str, pathlib.Path)):
    return NiftiFile(pathlib.Path(image))
  if not isinstance(image, SpatialImage):
    raise UserError(f'{type(image).__name__} is no image of nibabel and no path; an array has no '
                    'orientation: nibabel.Nifti1Image(array, affine) gives it one')
  return ImageInMemory(image, pathlib.Path(image.get_filename() or 'an image in memory'))


def _listed(sizes: tuple[int, ...] | None) -> list[int] | None:
  return list(sizes) if sizes else None
