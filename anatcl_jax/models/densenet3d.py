"""3-D DenseNet-BC: every layer of a block sees the outputs of all layers before it.

Huang et al. 2017, in the form of torchvision's, as MONAI has it in 3-D: BatchNorm and ReLU stand
before each convolution, and once more before the global mean. There is no dropout.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from anatcl_jax.errors import UserError
from anatcl_jax.models.convolution import Conv3d, he_normal_fan_in
from anatcl_jax.models.normalization import BatchNorm
from anatcl_jax.models.sizes import check_size

_BOTTLENECK = 4      # channels of a layer's 1^3 convolution, in multiples of the growth


class DenseNet3D(nn.Module):
  """Encoder of volumes x[N, X, Y, Z, 1] to float32 features [N, F]; F is 1,024 for DenseNet-121.

  `width` is the number of channels of the stem; each layer adds width / 2. The stem is a 7^3
  convolution of stride 2 and a max-pool of stride 2; with `small_input` a 3^3 convolution of stride
  1 alone. Between two blocks a transition halves the channels and, by averages, the grid.
  Parameters and statistics are float32; `dtype`, `axis_name`, `repeats` and `remat` are as in
  ResNet3D, a block being one dense layer.

  Raises UserError for an odd width, or where fewer than 29 voxels (8 with `small_input`) lie along
  an axis.
  """

  block_sizes: tuple[int, ...] = (6, 12, 24, 16)
  width: int = 64
  small_input: bool = False
  dtype: Any = jnp.float32
  axis_name: str | tuple[str, ...] | None = None
  repeats: int = 1
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    if self.width % 2:
      raise UserError(f'a DenseNet of width {self.width}: the width must be even')
    after_stem = 2**(len(self.block_sizes) - 1)      # halved by each transition, to one voxel
    check_size('DenseNet', x, after_stem if self.small_input else 4 * after_stem - 3,
               self.small_input)
    conv = functools.partial(Conv3d, kernel_init=he_normal_fan_in, dtype=self.dtype)
    norm = functools.partial(BatchNorm, dtype=self.dtype, axis_name=self.axis_name,
                             repeats=self.repeats, relu=True)
    small = self.small_input
    stem = conv(self.width, 3 if small else 7, 1 if small else 2, name='conv0')
    x = norm(pool=not small, name='norm0')(x, train, stem)
    growth = self.width // 2

    def dense_layer(self, x, name):
      y = norm(name=f'{name}_norm1')(x, train)
      narrow = conv(_BOTTLENECK * growth, 1, name=f'{name}_conv1')
      y = norm(name=f'{name}_norm2')(y, train, narrow)
      return conv(growth, 3, name=f'{name}_conv2')(y)

    if self.remat == 'blocks':
      dense_layer = nn.remat(dense_layer, static_argnums=(2,))   # the name, after self and x
    for block, size in enumerate(self.block_sizes, start=1):
      for layer in range(1, size + 1):
        new = dense_layer(self, x, f'denseblock{block}_denselayer{layer}')
        x = jnp.concatenate([x, new], -1)
      if block < len(self.block_sizes):
        x = norm(name=f'transition{block}_norm')(x, train)
        x = conv(x.shape[-1] // 2, 1, name=f'transition{block}_conv')(x)
        self.sow('intermediates', f'stage{block}', x)   # for models.feature_pooling
        x = nn.avg_pool(x, (2, 2, 2), (2, 2, 2))
    x = norm(name='norm5')(x, train)
    self.sow('intermediates', f'stage{len(self.block_sizes)}', x)
    return x.mean((1, 2, 3), dtype=jnp.float32)
