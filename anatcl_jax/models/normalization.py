"""Batch normalisation with the semantics of torch.nn.BatchNorm3d, over one device or many."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from anatcl_jax.errors import UserError


class BatchNorm(nn.Module):
  """Normalises each channel of x[..., C] by its mean and variance (Ioffe & Szegedy 2015).

  As in torch, and unlike flax.linen.BatchNorm, `momentum` is the weight of the new batch and the
  running variance is the unbiased one, n / (n - 1) times the one that normalises. Statistics are
  float32 whatever the compute dtype. With `axis_name` they are those of the whole batch over that
  mapped axis (n counts all devices), as in torch.nn.SyncBatchNorm. Each row stands for `repeats`
  identical ones, which n counts and nothing else tells apart.

  Collections: params scale[C], bias[C]; batch_stats mean[C], var[C], which the caller makes mutable
  to train. Initialisation runs outside of a mapped axis and leaves the statistics at 0 and 1.

  Raises UserError where training sees a single value a channel, whose variance is undefined.
  """

  momentum: float = 0.1
  epsilon: float = 1e-5
  dtype: Any = jnp.float32
  axis_name: str | tuple[str, ...] | None = None
  repeats: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    channels = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)

    x = x.astype(jnp.float32)
    if train and not self.is_initializing():
      mean, var, count = self._batch_statistics(x)
      unbiased = var * (count / (count - 1))
      # Not `+=`, which would write into the caller's statistics where they are NumPy arrays.
      running_mean.value = (1 - self.momentum) * running_mean.value + self.momentum * mean
      running_var.value = (1 - self.momentum) * running_var.value + self.momentum * unbiased
    else:
      mean, var = running_mean.value, running_var.value
    return ((x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)

  def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
    """Mean[C] and biased variance[C] of the whole batch, and its number of values a channel."""
    axes = tuple(range(x.ndim - 1))
    mean, count = x.mean(axes), x.size // x.shape[-1]
    if self.axis_name is not None:
      mean = lax.pmean(mean, self.axis_name)
      count *= lax.psum(1, self.axis_name)
    if count < 2:
      raise UserError('BatchNorm cannot train on one value a channel: '
                      'use a larger batch or larger volumes')
    # A second pass and not E[x^2] - E[x]^2, which in float32 is noise where |mean| >> sd.
    var = jnp.square(x - mean).mean(axes)
    if self.axis_name is not None:
      var = lax.pmean(var, self.axis_name)
    return mean, var, self.repeats * count
