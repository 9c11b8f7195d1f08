"""The 3-D convolution and pooling of every encoder: the one place that decides how they compute."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Normal and not truncated, as torch's kaiming_normal_(mode='fan_out').
he_normal_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def conv3d(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
  """3-D convolution (cross-correlation) with the same zero padding on both sides of every axis.

  Args:
    x: [N, X, Y, Z, C].
    kernel: [K, K, K, C, F], of the dtype of x.

  Returns:
    [N, X', Y', Z', F] with X' = floor((X + 2 padding - K) / stride) + 1. A framework's 'SAME'
    would pad even sizes on one side only.
  """
  return lax.conv_general_dilated(
      x, kernel, (stride,) * 3, ((padding, padding),) * 3,
      dimension_numbers=('NXYZC', 'XYZIO', 'NXYZC'))


def max_pool3d(x: jax.Array, window: int = 3, stride: int = 2, padding: int = 1) -> jax.Array:
  """Maximum over cubes of x[N, X, Y, Z, C]; what lies in the padding is never the maximum."""
  return nn.max_pool(x, (window,) * 3, (stride,) * 3, ((padding, padding),) * 3)


class Conv3d(nn.Module):
  """Convolution without bias, padded so that stride 1 keeps the size; x[N,X,Y,Z,C] to F channels.

  The parameter `kernel` [K, K, K, C, F] is float32, whatever `dtype` it is computed in; He-normal
  initialisation over the fan-out (He et al. 2015).
  """

  features: int
  kernel_size: int  # odd
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size,) * 3 + (x.shape[-1], self.features)
    kernel = self.param('kernel', he_normal_fan_out, shape, jnp.float32)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    return conv3d(x, kernel, self.stride, padding=self.kernel_size // 2)
