"""The 3-D convolution of every encoder: the one place that decides how it is computed.

Decided where a program is lowered, by the platform it is lowered for: the same code and parameters
run XLA's own convolutions on GPU and TPU, with a stem that moves space to channels, and the matrix
products of `convolution_cpu.py` and `stem_cpu.py` on CPUs. docs/speed.md has what each brings.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from anatcl_jax.models import convolution_cpu, stem_cpu

# Normal and not truncated, as torch's kaiming_normal_(mode='fan_out').
he_normal_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# Keeps the scale of activations through layers of very different numbers of channels.
he_normal_fan_in = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv3d(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
  """3-D convolution (cross-correlation) with the same zero padding on both sides of every axis.

  Args:
    x: [N, X, Y, Z, C].
    kernel: [K, K, K, C, F], of the dtype of x.

  Returns:
    [N, X', Y', Z', F] with X' = floor((X + 2 padding - K) / stride) + 1. A framework's 'SAME'
    would pad even sizes on one side only.

  It has gradients, but no forward-mode derivative (jax.jvp).
  """
  own = functools.partial(_xla, stride=stride, padding=padding)
  path = cpu_path(x.shape, kernel.shape, stride, padding)
  if path is None:
    return own(x, kernel)
  return lax.platform_dependent(
      x, kernel, default=own,
      cpu=_in_float32(functools.partial(_CPU_FORWARD[path], stride=stride)))


def _conv3d_forward(x, kernel, stride, padding):
  return conv3d(x, kernel, stride, padding), (x, kernel)


def _conv3d_gradients(stride, padding, saved, g):
  x, kernel = saved

  def own(x, kernel, g):
    return jax.vjp(functools.partial(_xla, stride=stride, padding=padding), x, kernel)[1](g)

  path = cpu_path(x.shape, kernel.shape, stride, padding)
  if path is None:
    return own(x, kernel, g)

  def cpu(x, kernel, g):
    return _CPU_GRADIENTS[path](x, kernel, g, stride=stride)

  return lax.platform_dependent(x, kernel, g, default=own, cpu=_in_float32(cpu))


conv3d.defvjp(_conv3d_forward, _conv3d_gradients)


# ---- CPU -----------------------------------------------------------------------------------------


def cpu_path(x: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: int) -> str | None:
  """How a CPU computes a convolution of these shapes; None for XLA's own.

  - 1^3: 'pointwise'
  - a small one, or none of a ResNet's: XLA's own, which compiles faster
  - few channels with stride 2, the stem: 'stem'
  - 3^3 with stride 1 where a plane has enough rows for its channels: 'winograd'
  - other 3^3: 'patches'
  """
  size, channels = kernel[0], kernel[-2]
  outputs = math.prod(-(-n // stride) for n in x[1:4])
  if size % 2 == 0 or padding != size // 2 or stride not in (1, 2):
    return None
  if size == 1:
    return 'pointwise'
  if outputs * math.prod(kernel) < _SMALL:
    return None
  if stride == 2 and channels <= 4 and size <= 7:
    return 'stem'
  if size == 3 and stride == 1 and x[2] * x[3] >= max(64, channels):
    return 'winograd'
  return 'patches' if size == 3 else None


_SMALL = 2**20        # products of one volume


def _stem_gradients(x, kernel, g, stride):
  # The input of a stem is the volume: its gradient is asked for by saliency maps only.
  own = functools.partial(_xla, stride=stride, padding=kernel.shape[0] // 2)
  return (jax.vjp(lambda x: own(x, kernel), x)[1](g)[0],
          stem_cpu.kernel_gradient(x, kernel, g))


_CPU_FORWARD = {
    'stem': lambda x, kernel, stride: stem_cpu.convolved(x, kernel),
    'winograd': lambda x, kernel, stride: convolution_cpu.winograd(x, kernel),
    'patches': convolution_cpu.patches,
    'pointwise': convolution_cpu.pointwise,
}
_CPU_GRADIENTS = {
    'stem': _stem_gradients,
    'winograd': lambda x, kernel, g, stride: convolution_cpu.winograd_gradients(x, kernel, g),
    'patches': lambda x, kernel, g, stride: convolution_cpu.patches_gradients(x, kernel, stride, g),
    'pointwise':
        lambda x, kernel, g, stride: convolution_cpu.pointwise_gradients(x, kernel, stride, g),
}


def _in_float32(function):
  """The function computed in float32 at least: a CPU has no fast arithmetic below it."""
  def computed(x, *others):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    results = function(*(array.astype(wide) for array in (x, *others)))
    return jax.tree.map(lambda result: result.astype(x.dtype), results)
  return computed


# ---- GPU, TPU, and whatever is small -------------------------------------------------------------


def compiler_options(precision: str) -> dict[str, bool]:
  """What XLA is told of programs with convolutions, on the default backend.

  On GPUs it keeps channels first in 3-D convolutions, and cuDNN turns every tensor around before
  and after its bfloat16 kernels: a fifth of a training step (docs/accelerators.md).
  """
  wanted = {'xla_gpu_force_conv_nhwc': True}
  return wanted if (jax.default_backend(), precision) == ('gpu', 'bfloat16') and _known(
      *wanted) else {}


@functools.cache
def _known(*options: str) -> bool:
  """Whether this XLA has such options: their names are no part of what it promises."""
  try:
    jax.jit(lambda: 0, compiler_options=dict.fromkeys(options, True)).lower().compile()
  except Exception:
    return False
  return True


def _xla(x, kernel, stride, padding):
  if stride == 2 and kernel.shape[3] <= 4 and kernel.shape[0] > 3:
    return space_to_depth_conv(x, kernel, padding)
  return _xla_conv(x, kernel, stride, ((padding, padding),) * 3)


def _xla_conv(x, kernel, stride, padding):
  return lax.conv_general_dilated(x, kernel, (stride,) * 3, padding,
                                  dimension_numbers=('NXYZC', 'XYZIO', 'NXYZC'))


def space_to_depth_conv(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
  """Convolution with stride 2 of few channels as a 2-D one with stride 1 of many.

  Matrix units want many channels, and a stem has one: cubes of 2^3 voxels become channels, and so
  do the taps along X.
  """
  size, channels, features = kernel.shape[0], *kernel.shape[-2:]
  counts = [(n + 2 * padding - size) // 2 + 1 for n in x.shape[1:4]]
  taps = (size + 1) // 2
  kernel = jnp.pad(kernel, ((0, 2 * taps - size),) * 3 + ((0, 0),) * 2)
  x = lax.pad(x, jnp.zeros((), x.dtype),
              [(0, 0, 0), *((padding, 2 * (count + taps - 1) - n - padding, 0)
                            for n, count in zip(x.shape[1:4], counts, strict=True)), (0, 0, 0)])
  split = [part for n in x.shape[1:4] for part in (n // 2, 2)]
  x = x.reshape(x.shape[0], *split, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
  x = x.reshape(*x.shape[:4], 8 * channels)
  x = jnp.concatenate([x[:, tap:tap + counts[0]] for tap in range(taps)], -1)
  kernel = kernel.reshape(taps, 2, taps, 2, taps, 2, channels, features)
  kernel = kernel.transpose(2, 4, 0, 1, 3, 5, 6, 7).reshape(taps, taps, -1, features)
  y = lax.conv_general_dilated(x.reshape(-1, *x.shape[2:]), kernel, (1, 1), 'VALID',
                               dimension_numbers=('NYZC', 'YZIO', 'NYZC'))
  return y.reshape(-1, *counts, features)


# ---- The layer -----------------------------------------------------------------------------------


class Conv3d(nn.Module):
  """Convolution without bias; x[N,X,Y,Z,C] to F channels.

  Without `padding` it is padded so that stride 1 keeps the size. The parameter `kernel`
  [K, K, K, C, F] is float32, whatever `dtype` it is computed in; He-normal initialisation (He et
  al. 2015), over the fan-out by default.
  """

  features: int
  kernel_size: int  # odd
  stride: int = 1
  padding: int | None = None
  kernel_init: nn.initializers.Initializer = he_normal_fan_out
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, gain: jax.Array | None = None) -> jax.Array:
    """The convolution; with gain[F], its features times that."""
    shape = (self.kernel_size,) * 3 + (x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    kernel = kernel if gain is None else kernel * gain
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    padding = self.kernel_size // 2 if self.padding is None else self.padding
    return conv3d(x, kernel, self.stride, padding)
