"""3-D AlexNet: five convolutions, for comparison with the deeper encoders.

The feature extractor of Abrol et al. 2021 (Nature Communications 12:353, code at
doi.org/10.5281/zenodo.4309677), ended by a global maximum as in the published system's predecessor
(github.com/EIDOSLAB/contrastive-brain-age-prediction, src/models/alexnet3d.py). The dropout of
Abrol's classifier lies behind the features and is not part of it. Convolutions have no bias, since
BatchNorm follows each.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from anatcl_jax.models.convolution import Conv3d, he_normal_fan_in
from anatcl_jax.models.normalization import BatchNorm
from anatcl_jax.models.pooling import global_max, max_pool3d
from anatcl_jax.models.sizes import check_size

_CHANNELS = (1, 2, 3, 3, 2)      # of each convolution, in multiples of the width


class AlexNet3D(nn.Module):
  """Encoder of volumes x[N, X, Y, Z, 1] to float32 features [N, 2 width], 128 by default.

  The first convolution, of 5^3 voxels and stride 2, and the second are not padded, and a max-pool
  of 3^3 follows each. With `small_input` the first is of 3^3, stride 1, padded, without a pool.
  Parameters and statistics are float32; `dtype`, `axis_name`, `repeats` and `remat` are as in
  ResNet3D, a block being one convolution with what follows it.

  Raises UserError where fewer than 33 voxels (5 with `small_input`) lie along an axis.
  """

  width: int = 64
  small_input: bool = False
  dtype: Any = jnp.float32
  axis_name: str | tuple[str, ...] | None = None
  repeats: int = 1
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    small = self.small_input
    check_size('AlexNet', x, 5 if small else 33, small)
    first = (3, 1, 1) if small else (5, 2, 0)      # kernel, stride, padding
    layers = (first, (3, 1, 0), *[(3, 1, 1)] * 3)

    def block(self, x, index):
      conv = Conv3d(_CHANNELS[index] * self.width, *layers[index], he_normal_fan_in, self.dtype,
                    name=f'conv{index + 1}')
      norm = BatchNorm(dtype=self.dtype, axis_name=self.axis_name, repeats=self.repeats, relu=True,
                       name=f'bn{index + 1}')
      x = norm(x, train, conv)
      pool = index == 1 or (index == 0 and not small)
      return max_pool3d(x, window=3, stride=3, padding=0) if pool else x

    if self.remat == 'blocks':   # argument 2, after self and x, is the index
      block = nn.remat(block, static_argnums=(2,))
    for index in range(len(layers)):
      x = block(self, x, index)
      self.sow('intermediates', f'stage{index + 1}', x)   # for models.feature_pooling
    return global_max(x).astype(jnp.float32)
