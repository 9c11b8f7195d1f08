"""Encoders by name, and the projection heads that pretraining puts on top of them."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from anatcl_jax.errors import check_name
from anatcl_jax.models.heads import HEADS, ProjectionHead, get_head
from anatcl_jax.models.resnet3d import BasicBlock, Bottleneck, ResNet3D

__all__ = ['HEADS', 'REMATS', 'ProjectionHead', 'ResNet3D', 'encoder_names', 'get_encoder',
           'get_head']

REMATS = ('none', 'blocks')

# Each takes dtype, axis_name, repeats and remat, and maps (x[N, X, Y, Z, 1], train) to [N, F] in
# float32.
_ENCODERS = {
    'resnet18': functools.partial(ResNet3D, (2, 2, 2, 2), BasicBlock),
    'resnet34': functools.partial(ResNet3D, (3, 4, 6, 3), BasicBlock),
    'resnet50': functools.partial(ResNet3D, (3, 4, 6, 3), Bottleneck),
    'resnet101': functools.partial(ResNet3D, (3, 4, 23, 3), Bottleneck),
    # For tests and CPU, on grids of 4 mm and coarser; not a published architecture.
    'tiny': functools.partial(ResNet3D, (1, 1, 1), BasicBlock, width=16, stem_kernel=3),
}


def encoder_names() -> tuple[str, ...]:
  """Names that get_encoder knows."""
  return tuple(_ENCODERS)


def get_encoder(name: str, *, dtype: Any = jnp.float32,
                axis_name: str | tuple[str, ...] | None = None, repeats: int = 1,
                remat: str = 'none') -> nn.Module:
  """Encoder by its name in a config, without parameters: `init` and `apply` are pure functions.

  Args:
    name: one of encoder_names().
    dtype: what it computes in; parameters, statistics and features are float32 in any case.
    axis_name: mapped axis over whose devices training synchronises BatchNorm's statistics.
    repeats: identical views that each row of a training batch stands for: BatchNorm counts them.
    remat: `blocks` keeps only what goes into the stem and each residual block for the gradient and
      computes the rest again: the same numbers, in less memory and more time.

  Returns:
    Module; `apply({'params', 'batch_stats'}, x[N, X, Y, Z, 1], train)` gives features [N, F].

  Raises UserError for an unknown name.
  """
  check_name(name, _ENCODERS, 'encoder')
  check_name(remat, REMATS, 'remat')
  return _ENCODERS[name](dtype=dtype, axis_name=axis_name, repeats=repeats, remat=remat)
