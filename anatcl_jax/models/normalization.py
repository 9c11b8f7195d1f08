"""Batch normalisation with the semantics of torch.nn.BatchNorm3d, over one device or many."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from anatcl_jax.errors import UserError
from anatcl_jax.models import pooling
from anatcl_jax.models.convolution import Conv3d


class BatchNorm(nn.Module):
  """Normalises each channel of x[..., C] by its mean and variance (Ioffe & Szegedy 2015).

  As in torch, and unlike flax.linen.BatchNorm, `momentum` is the weight of the new batch and the
  running variance is the unbiased one, n / (n - 1) times the one that normalises. Statistics are
  float32 whatever the compute dtype. With `axis_name` they are those of the whole batch over that
  mapped axis (n counts all devices), as in torch.nn.SyncBatchNorm. Each row stands for `repeats`
  identical ones, which n counts and nothing else tells apart.

  What follows it is computed with it, which saves passes over the largest tensors: with `relu`
  max(0, .), with `pool` max-pooling of 3^3 with stride 2 and padding 1 after that. Where it is
  called with a convolution, x is what goes into that: frozen, both are one convolution, whose
  kernel and bias hold the normalisation.

  Collections: params scale[C], bias[C]; batch_stats mean[C], var[C], which the caller makes mutable
  to train. Initialisation runs outside of a mapped axis and leaves the statistics at 0 and 1.

  Raises UserError where training sees a single value a channel, whose variance is undefined.
  """

  momentum: float = 0.1
  epsilon: float = 1e-5
  dtype: Any = jnp.float32
  axis_name: str | tuple[str, ...] | None = None
  repeats: int = 1
  relu: bool = False
  pool: bool = False      # with relu only

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, convolution: Conv3d | None = None
               ) -> jax.Array:
    channels = (convolution.features if convolution else x.shape[-1],)
    scale = self.param('scale', nn.initializers.ones, channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)

    if train and not self.is_initializing():
      x = convolution(x) if convolution else x
      count = self._count(x)
      fused = self.pool and pooling.is_large(x)
      y, mean, var = normalized(x, scale, bias, self.epsilon, self.dtype, self.axis_name,
                                self.relu, fused)
      unbiased = var * (count / (count - 1))
      # Not `+=`, which would write into the caller's statistics where they are NumPy arrays.
      running_mean.value = (1 - self.momentum) * running_mean.value + self.momentum * mean
      running_var.value = (1 - self.momentum) * running_var.value + self.momentum * unbiased
      return pooling.max_pool3d(y) if self.pool and not fused else y

    gain = lax.rsqrt(running_var.value + self.epsilon) * scale
    if convolution:
      y = convolution(x, gain).astype(jnp.float32) + (bias - running_mean.value * gain)
    else:
      y = (x.astype(jnp.float32) - running_mean.value) * gain + bias
    y = (nn.relu(y) if self.relu else y).astype(self.dtype)
    return pooling.max_pool3d(y) if self.pool else y

  def _count(self, x: jax.Array) -> int:
    """Values a channel in the whole batch."""
    count = x.size // x.shape[-1]
    if self.axis_name is not None:
      count *= lax.psum(1, self.axis_name)
    if count < 2:
      raise UserError('BatchNorm cannot train on one value a channel: '
                      'use a larger batch or larger volumes')
    return self.repeats * count


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6, 7))
def normalized(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: Any,
               axis_name: str | tuple[str, ...] | None, relu: bool, pool: bool
               ) -> tuple[jax.Array, jax.Array, jax.Array]:
  """x[..., C] normalised by its own statistics, in `dtype`, and these: mean[C] and variance[C].

  The maximum of a window is that of its normalised values (the minimum, where the scale is below
  0), so that with `pool` what is normalised is an eighth of x. The gradient reads x twice, and
  once with `pool`; none flows through the statistics that are returned.
  """
  return _normalized_forward(x, scale, bias, epsilon, dtype, axis_name, relu, pool)[0]


def _normalized_forward(x, scale, bias, epsilon, dtype, axis_name, relu, pool):
  mean, var = batch_statistics(x, axis_name)
  deviation = lax.rsqrt(var + epsilon)
  z, which = x, None
  if pool:
    sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)
    z, which = pooling.max_pool_with_index(x * sign)
    z = z * sign
  y = (z.astype(jnp.float32) - mean) * (deviation * scale) + bias
  y = (nn.relu(y) if relu else y).astype(dtype)
  return (y, mean, var), (x, z if pool else None, which, scale, bias, mean, deviation)


def _normalized_gradients(epsilon, dtype, axis_name, relu, pool, saved, gradients):
  x, z, which, scale, bias, mean, deviation = saved

  def unit(x):
    return (x.astype(jnp.float32) - mean) * deviation

  z_unit = unit(z if pool else x)
  g = gradients[0].astype(jnp.float32)
  if relu:
    g = jnp.where(z_unit * scale + bias > 0, g, 0)
  axes = tuple(range(x.ndim - 1))
  of_bias, of_scale = g.sum(axes), (g * z_unit).sum(axes)
  # Through the mean and the variance: those of all devices, as their collectives transpose.
  count = x.size // x.shape[-1]
  shares = of_bias / count, of_scale / count
  if axis_name is not None:
    shares = lax.pmean(shares, axis_name)
  if pool:
    g = pooling.max_pool_gradient(which, x.shape, g.astype(x.dtype)).astype(jnp.float32)
  of_x = (deviation * scale) * (g - shares[0] - unit(x) * shares[1])
  return of_x.astype(x.dtype), of_scale, of_bias


normalized.defvjp(_normalized_forward, _normalized_gradients)


def batch_statistics(x: jax.Array, axis_name: str | tuple[str, ...] | None = None
                     ) -> tuple[jax.Array, jax.Array]:
  """Mean[C] and biased variance[C] of x[N, ..., C], float32, over all devices of `axis_name`.

  In one pass: E[(x - s)^2] - E[x - s]^2, with s from the middle of each row. With s = 0 it would be
  noise where |mean| >> sd.
  """
  axes = tuple(range(x.ndim - 1))
  middle = (slice(None), *(size // 2 for size in x.shape[1:-1]))
  shift = x[middle].astype(jnp.float32).mean(0)
  x = x.astype(jnp.float32) - shift
  mean = x.mean(axes)
  var = jnp.maximum(jnp.square(x).mean(axes) - jnp.square(mean), 0)
  mean = mean + shift
  if axis_name is not None:
    own, mean = mean, lax.pmean(mean, axis_name)
    var = lax.pmean(var + jnp.square(own - mean), axis_name)   # Chan et al. 1983
  return mean, var
