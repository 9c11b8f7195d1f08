"""Max-pooling of every encoder, computed as the platform likes it."""

from __future__ import annotations

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anatcl_jax.models import convolution_cpu

_SMALL = 2**14   # values of one volume, below which XLA's own does, which compiles faster


def is_large(x: jax.Array) -> bool:
  """Whether volumes x[N, X, Y, Z, C] are worth a pooling of this project's own."""
  return math.prod(x.shape[1:]) >= _SMALL


def max_pool3d(x: jax.Array, window: int = 3, stride: int = 2, padding: int = 1) -> jax.Array:
  """Maximum over cubes of x[N, X, Y, Z, C]; what lies in the padding is never the maximum.

  Of equal values the first one has the gradient.
  """
  if (window, stride, padding) == (3, 2, 1) and is_large(x):
    return _max_pool(x)
  return nn.max_pool(x, (window,) * 3, (stride,) * 3, ((padding, padding),) * 3)


def global_max(x: jax.Array) -> jax.Array:
  """Maximum [N, C] over the voxels of x[N, X, Y, Z, C]; of equal values the first has the gradient.

  By its place: the gradient of `x.max` compares x with the maximum and divides by how many are
  equal: none, and NaN, where a compiler computes x twice with other rounding.
  """
  values = x.reshape(len(x), -1, x.shape[-1])
  return jnp.take_along_axis(values, values.argmax(1, keepdims=True), 1)[:, 0]


@jax.custom_vjp
def _max_pool(x):
  return max_pool_with_index(x)[0]


def _max_pool_forward(x):
  y, which = max_pool_with_index(x)
  return y, (x, which)   # x for its shape; what is not read is not kept


_max_pool.defvjp(_max_pool_forward,
                 lambda saved, g: (max_pool_gradient(saved[1], saved[0].shape, g),))


def max_pool_with_index(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maximum over 3^3 with stride 2 and padding 1, and which of the 27 it was, the first of equals.

  The index, int8, counts 9 along X, 3 along Y and 1 along Z.
  """
  return lax.platform_dependent(x, cpu=convolution_cpu.max_pool, default=largest_of_slices)


def max_pool_gradient(which: jax.Array, shape: tuple[int, ...], g: jax.Array) -> jax.Array:
  """Gradient of the input, of that shape, from that of the result, g, and its index."""
  def of(function):
    return lambda which, g: function(which, shape, g)
  return lax.platform_dependent(which, g, cpu=of(convolution_cpu.max_pool_gradient),
                                default=of(gathered_gradient))


# ---- GPU and TPU ---------------------------------------------------------------------------------
# XLA's own is a loop over windows, and its gradient scatters with atomic additions. These are
# elementwise, so that each is a kernel or two that reads what it needs once.


def largest_of_slices(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`max_pool_with_index` as the largest of 9 slices over Y and Z, and of 3 over X."""
  which = jnp.zeros((), jnp.int8)
  for axes, weights in (((2, 3), (3, 1)), ((1,), (9,))):
    counts = [(x.shape[axis] + 1) // 2 for axis in axes]
    padding = [(0, 0, 0)] * 5
    for axis, count in zip(axes, counts, strict=True):
      padding[axis] = (1, 2 * count - x.shape[axis], 0)
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)
    inner = lax.pad(which, jnp.int8(0), padding) if which.ndim else None
    x = None
    for taps in itertools.product(range(3), repeat=len(axes)):
      here = [slice(None)] * 5
      for axis, tap, count in zip(axes, taps, counts, strict=True):
        here[axis] = slice(tap, tap + 2 * count - 1, 2)
      value = padded[tuple(here)]
      index = jnp.int8(sum(weight * tap for weight, tap in zip(weights, taps, strict=True)))
      if inner is not None:
        index = inner[tuple(here)] + index
      if x is None:
        x, which = value, jnp.broadcast_to(index, value.shape)
      else:
        x, which = jnp.maximum(x, value), jnp.where(value > x, index, which)
  return x, which


def gathered_gradient(which: jax.Array, shape: tuple[int, ...], g: jax.Array) -> jax.Array:
  """`max_pool_gradient`, each voxel from the windows that it lies in: one along an axis where its
  place is even, two where it is odd."""
  counts, ahead = g.shape[1:4], ((0, 0), *((0, 1),) * 3, (0, 0))
  which, g = jnp.pad(which, ahead, constant_values=-1), jnp.pad(g, ahead)

  classes = {}
  for odd in itertools.product(range(2), repeat=3):
    total = 0
    for met in itertools.product(*(((2, 0), (0, 1)) if o else ((1, 0),) for o in odd)):
      tap = np.int8(sum(weight * tap for weight, (tap, _) in zip((9, 3, 1), met, strict=True)))
      here = (slice(None), *(slice(shift, shift + count)
                             for (_, shift), count in zip(met, counts, strict=True)))
      total += jnp.where(which[here] == tap, g[here], 0)
    classes[odd] = total
  # One kernel for the sums, and one that puts them in their places: XLA would compute them anew
  # for each voxel, behind a branch.
  classes = lax.optimization_barrier(classes)

  def voxels(*odd):
    if len(odd) == 3:
      return classes[odd]
    # Those at even and at odd places along the next axis, in turn.
    both = jnp.stack([voxels(*odd, 0), voxels(*odd, 1)], len(odd) + 2)
    return both.reshape(*both.shape[:len(odd) + 1], -1, *both.shape[len(odd) + 3:])

  return voxels()[:, :shape[1], :shape[2], :shape[3]]
