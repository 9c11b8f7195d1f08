"""3-D residual networks, the encoders of the published AnatCL.

Parameters are named as in the released weights: `encoder.layer2.0.bn1.weight` there is
`layer2_0/bn1/scale` here, and `downsample.0` and `.1` are `downsample_conv` and `downsample_bn`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from anatcl_jax.models.convolution import Conv3d
from anatcl_jax.models.normalization import BatchNorm


def _shortcut(block: nn.Module, x: jax.Array, channels: int, train: bool) -> jax.Array:
  """The input of a block, projected where the block changes its size or number of channels."""
  if block.stride == 1 and x.shape[-1] == channels:
    return x
  conv = block.conv(channels, 1, block.stride, name='downsample_conv')
  return block.norm(name='downsample_bn')(x, train, conv)


class BasicBlock(nn.Module):
  """Two 3^3 convolutions around a shortcut (He et al. 2016); x[N,X,Y,Z,C] to `width` channels."""

  width: int
  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    conv, norm = self.conv, self.norm
    y = norm(relu=True, name='bn1')(x, train, conv(self.width, 3, self.stride, name='conv1'))
    y = norm(name='bn2')(y, train, conv(self.width, 3, name='conv2'))
    return nn.relu(y + _shortcut(self, x, self.width, train))


class Bottleneck(nn.Module):
  """1^3, 3^3 (which strides) and 1^3 convolutions around a shortcut; to 4 x `width` channels."""

  width: int
  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    conv, norm, channels = self.conv, self.norm, 4 * self.width
    y = norm(relu=True, name='bn1')(x, train, conv(self.width, 1, name='conv1'))
    y = norm(relu=True, name='bn2')(y, train, conv(self.width, 3, self.stride, name='conv2'))
    y = norm(name='bn3')(y, train, conv(channels, 1, name='conv3'))
    return nn.relu(y + _shortcut(self, x, channels, train))


class ResNet3D(nn.Module):
  """Residual encoder of volumes x[N, X, Y, Z, 1] to float32 features [N, F], as released.

  F is the last stage's width, doubled from stage to stage, times 4 with Bottleneck blocks. Any grid
  does; with `small_input` the stem is a 3^3 convolution of stride 1 without a max-pool, so that a
  coarse grid keeps its voxels (as He et al. 2016 do on CIFAR). In training the collection
  `batch_stats` is mutable and normalisation uses the batch, over the devices of `axis_name` if
  given; each row stands for `repeats` identical ones. Parameters and statistics are float32 and
  `dtype` is what convolutions compute in. With remat `blocks` the gradient keeps the input of the
  stem and of each residual block, and computes the rest again.
  """

  stage_sizes: tuple[int, ...]
  block: type[nn.Module] = BasicBlock
  width: int = 64
  stem_kernel: int = 7
  small_input: bool = False
  dtype: Any = jnp.float32
  axis_name: str | tuple[str, ...] | None = None
  repeats: int = 1
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    conv = functools.partial(Conv3d, dtype=self.dtype)
    norm = functools.partial(BatchNorm, dtype=self.dtype, axis_name=self.axis_name,
                             repeats=self.repeats)
    kernel, stride = (3, 1) if self.small_input else (self.stem_kernel, 2)

    def stem(self, x, train):
      return norm(relu=True, pool=not self.small_input, name='bn1')(
          x, train, conv(self.width, kernel, stride, name='conv1'))

    block = self.block
    if self.remat == 'blocks':   # argument 2, after self and x, is `train`
      stem, block = (nn.remat(part, static_argnums=(2,)) for part in (stem, block))
    x = stem(self, x, train)
    for stage, size in enumerate(self.stage_sizes):
      for index in range(size):
        stride = 2 if stage > 0 and index == 0 else 1
        x = block(self.width * 2**stage, stride, conv, norm,
                  name=f'layer{stage + 1}_{index}')(x, train)
      self.sow('intermediates', f'stage{stage + 1}', x)   # for models.feature_pooling
    return x.mean((1, 2, 3), dtype=jnp.float32)
