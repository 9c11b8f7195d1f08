"""A frozen encoder's numbers of a volume: its own features, means over blocks, covariances.

`mean` is what the encoder gives, the mean of its last stage (AlexNet: the maximum). `levels` are
the means of every stage over 2 x 2 x 2 blocks of its grid, so that they know where in the head
something is. `covariance` is the upper triangle of the covariance of a stage's channels over its
voxels, of the deepest stage that has at most 128 channels (of the first, where all have more): what
occurs together, wherever it is. A `+` puts several beside each other.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anatcl_jax.errors import UserError, check_name
from anatcl_jax.models.variables import ANY_VOLUME

MEAN = 'mean'
POOLS = (MEAN, 'levels', 'covariance')
_BLOCKS = 2              # along each axis
_MOST_CHANNELS = 128     # 8,256 covariances; 256 channels have 32,896
_STAGES = 'intermediates'   # where encoders sow what a stage ends with, as stage1, stage2, ...


@dataclasses.dataclass(frozen=True)
class Part:
  """Columns that follow each other in what is pooled."""

  pool: str
  stage: int | None        # from 1; None for the encoder's own features
  channels: int
  first: int               # of its columns
  columns: int


def checked(pool: str) -> tuple[str, ...]:
  """The names in `levels+covariance`; UserError for others, or one given twice."""
  names = tuple(pool.split('+')) if isinstance(pool, str) else (pool,)
  for name in names:
    check_name(name, POOLS, 'pool')
  if len(set(names)) < len(names):
    raise UserError(f'pool {pool!r} has a name twice')
  return names


def pooled(encoder: nn.Module, variables: dict[str, Any], x: jax.Array, pool: str = MEAN
           ) -> jax.Array:
  """What an encoder knows of volumes x[N, X, Y, Z, 1], float32 [N, F].

  Args:
    pool: names of POOLS, joined by `+`.

  Raises UserError for an unknown name, or an encoder that shows no stages.
  """
  names = checked(pool)
  if names == (MEAN,):
    return encoder.apply(variables, x, False)
  return of_stages(*_with_stages(encoder, variables, x), pool)


def of_stages(own: jax.Array, stages: list[jax.Array], pool: str) -> jax.Array:
  """The same from an encoder's own features and what its stages end with."""
  values = {MEAN: lambda: own,
            'levels': lambda: jnp.concatenate([block_means(stage) for stage in stages], 1),
            'covariance': lambda: covariances(stages[_of_covariance(stages)])}
  return jnp.concatenate([values[name]() for name in checked(pool)], 1)


def layout(encoder: nn.Module, pool: str) -> list[Part]:
  """Which columns are what, without computing any; they do not depend on the volume's size."""
  names = checked(pool)

  def shown(key):
    variables = encoder.init(key, ANY_VOLUME, False)
    if names == (MEAN,):     # any encoder has it
      return encoder.apply(variables, ANY_VOLUME, False), []
    return _with_stages(encoder, variables, ANY_VOLUME)

  own, stages = jax.eval_shape(shown, jax.random.key(0))
  channels = [stage.shape[-1] for stage in stages]
  found, first = [], 0
  for name in names:
    if name == MEAN:
      parts = [(None, own.shape[-1], own.shape[-1])]
    elif name == 'levels':
      parts = [(i + 1, count, _BLOCKS**3 * count) for i, count in enumerate(channels)]
    else:
      i = _of_covariance(stages)
      parts = [(i + 1, channels[i], channels[i] * (channels[i] + 1) // 2)]
    for stage, count, columns in parts:
      found.append(Part(name, stage, count, first, columns))
      first += columns
  return found


def block_means(x: jax.Array) -> jax.Array:
  """Means of x[N, X, Y, Z, C] over 2 x 2 x 2 blocks, float32 [N, 8 C].

  Blocks are in the order of X, Y and Z, the last the fastest, channels within each. Along an axis
  of n voxels block i has those from floor(i n / 2) to ceil((i + 1) n / 2), as in PyTorch's
  AdaptiveAvgPool3d: the middle one of an odd number is in both.
  """
  spans = [[slice(i * n // _BLOCKS, -(-(i + 1) * n // _BLOCKS)) for i in range(_BLOCKS)]
           for n in x.shape[1:4]]
  means = [x[(slice(None), *block)].mean((1, 2, 3), dtype=jnp.float32)
           for block in itertools.product(*spans)]
  return jnp.concatenate(means, 1)


def covariances(x: jax.Array) -> jax.Array:
  """Covariances of the channels of x[N, X, Y, Z, C] over voxels, float32 [N, C (C + 1) / 2].

  The upper triangle by rows, the diagonal with it; sums are divided by the number of voxels.
  """
  x = x.reshape(len(x), -1, x.shape[-1]).astype(jnp.float32)
  centred = x - x.mean(1, keepdims=True)
  products = jnp.einsum('nvc,nvd->ncd', centred, centred, precision=jax.lax.Precision.HIGHEST)
  return (products / x.shape[1])[:, *np.triu_indices(x.shape[-1])]


def _with_stages(encoder: nn.Module, variables: dict[str, Any], x: jax.Array
                 ) -> tuple[jax.Array, list[jax.Array]]:
  own, state = encoder.apply(variables, x, False, mutable=[_STAGES])
  seen = state.get(_STAGES, {})
  if not seen:
    raise UserError(f'{type(encoder).__name__} shows no stages: only pool={MEAN} is possible')
  return own, [seen[f'stage{i + 1}'][0] for i in range(len(seen))]


def _of_covariance(stages: list[jax.Array]) -> int:
  narrow = [i for i, stage in enumerate(stages) if stage.shape[-1] <= _MOST_CHANNELS]
  return narrow[-1] if narrow else 0
