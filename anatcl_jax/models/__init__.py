"""Encoders by name, and the projection heads that pretraining puts on top of them."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from anatcl_jax.errors import UserError, check_name
from anatcl_jax.models.alexnet3d import AlexNet3D
from anatcl_jax.models.densenet3d import DenseNet3D
from anatcl_jax.models.heads import HEADS, ProjectionHead, get_head
from anatcl_jax.models.resnet3d import BasicBlock, Bottleneck, ResNet3D

__all__ = ['HEADS', 'REMATS', 'ProjectionHead', 'ResNet3D', 'encoder_names', 'get_encoder',
           'get_head']

REMATS = ('none', 'blocks')

# Each takes width, small_input, dtype, axis_name, repeats and remat, and maps
# (x[N, X, Y, Z, 1], train) to [N, F] in float32.
_ENCODERS = {
    'resnet18': functools.partial(ResNet3D, (2, 2, 2, 2), BasicBlock),
    'resnet34': functools.partial(ResNet3D, (3, 4, 6, 3), BasicBlock),
    'resnet50': functools.partial(ResNet3D, (3, 4, 6, 3), Bottleneck),
    'resnet101': functools.partial(ResNet3D, (3, 4, 23, 3), Bottleneck),
    'densenet121': functools.partial(DenseNet3D, (6, 12, 24, 16)),
    'alexnet': AlexNet3D,
    # For tests and CPU, on grids of 4 mm and coarser; not a published architecture.
    'tiny': functools.partial(ResNet3D, (1, 1, 1), BasicBlock, width=16, stem_kernel=3),
}


def encoder_names() -> tuple[str, ...]:
  """Names that get_encoder knows."""
  return tuple(_ENCODERS)


def get_encoder(name: str, *, width: int = 0, small_input: bool = False, dtype: Any = jnp.float32,
                axis_name: str | tuple[str, ...] | None = None, repeats: int = 1,
                remat: str = 'none') -> nn.Module:
  """Encoder by its name in a config, without parameters: `init` and `apply` are pure functions.

  Args:
    name: one of encoder_names().
    width: channels of the stem, on which those of all layers depend; 0 for the encoder's own.
    small_input: a 3^3 stem of stride 1 without early pooling, for coarse grids.
    dtype: what it computes in; parameters, statistics and features are float32 in any case.
    axis_name: mapped axis over whose devices training synchronises BatchNorm's statistics.
    repeats: identical views that each row of a training batch stands for: BatchNorm counts them.
    remat: `blocks` keeps only what goes into the stem and each block for the gradient and
      computes the rest again: the same numbers, in less memory and more time.

  Returns:
    Module; `apply({'params', 'batch_stats'}, x[N, X, Y, Z, 1], train)` gives features [N, F].

  Raises UserError for an unknown name or an impossible width.
  """
  check_name(name, _ENCODERS, 'encoder')
  check_name(remat, REMATS, 'remat')
  if not isinstance(width, int) or width < 0:
    raise UserError(f'encoder width {width!r}: give a number of channels, or 0 for its own')
  own = {'width': width} if width else {}
  return _ENCODERS[name](**own, small_input=small_input, dtype=dtype, axis_name=axis_name,
                         repeats=repeats, remat=remat)
