"""The stem of an encoder on a CPU: few channels, stride 2, 4 planes of outputs at a time.

With stride 2 a filter along X is one of the even planes and one of the odd. Winograd's
F(4, (K + 1) / 2) makes 4 planes of outputs of their sum from products that both share, half as many
as taps. What it combines are whole planes; taps along Y and Z are the columns of patches. Takes and
supposes what `convolution_cpu.py` does, with K up to 7.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anatcl_jax.models.convolution_cpu import combined

_POINTS = (0, 1, -1, 2, -2, 0.5)


def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution with stride 2 of few channels."""
  size, features = kernel.shape[0], kernel.shape[-1]
  output, _, filters = _toom_cook((size + 1) // 2)
  planes, counts, tiles = _phases(x, size)
  taps = _by_phase(kernel, filters)

  def tile(index, y):
    volume, plane = index // tiles, jnp.minimum(index % tiles * 4, max(counts[0] - 4, 0))
    rows = _combined_planes(planes, volume, plane, size).transpose(0, 2, 3, 1)
    rows = jnp.concatenate(_strided(rows, 2, size, counts[2]), -1)
    rows = jnp.concatenate(_strided(rows, 1, size, counts[1]), -1)
    products = jnp.einsum('tmk,tkf->tmf', rows.reshape(len(taps), -1, taps.shape[1]), taps)
    done = jnp.stack(combined(output, products.reshape(-1, *counts[1:], features)))
    return lax.dynamic_update_slice(y, done[None], (volume, plane, 0, 0, 0))

  y = jnp.zeros((len(x), max(counts[0], 4), *counts[1:], features), x.dtype)
  return lax.fori_loop(0, len(x) * tiles, tile, y)[:, :counts[0]]


def kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
  """Gradient of the kernel of `convolved` from the gradient g of its result."""
  size, features = kernel.shape[0], kernel.shape[-1]
  output, _, filters = _toom_cook((size + 1) // 2)
  planes, counts, tiles = _phases(x, size)
  g = jnp.pad(g, ((0, 0), (0, 4 * tiles - counts[0]), *((0, 0),) * 3))
  g = g.reshape(len(x) * tiles, 4, -1)

  def tile(sums, index_and_g):
    index, g = index_and_g
    rows = _combined_planes(planes, index // tiles, index % tiles * 4, size)
    rows = jnp.stack(_strided(rows, 3, size, counts[2]), 1)
    rows = jnp.stack(_strided(rows, 3, size, counts[1]), 1)
    # A product, since XLA stacks sums of slices slowly.
    g = jnp.dot(output.T.astype(g.dtype), g, precision='highest')
    return sums + jnp.einsum('tkm,tmf->tkf', rows.reshape(*sums.shape[:2], -1),
                             g.reshape(len(sums), -1, features)), None

  taps, pullback = jax.vjp(lambda kernel: _by_phase(kernel, filters), kernel)
  return pullback(lax.scan(tile, jnp.zeros_like(taps), (jnp.arange(len(g)), g))[0])[0]


def _phases(x: jax.Array, size: int) -> tuple[jax.Array, list[int], int]:
  """x with its padding, by even and odd planes [N, X', 2 C, Y, Z], sizes of outputs and tiles."""
  pad, counts = size // 2, [(n + 1) // 2 for n in x.shape[1:4]]
  tiles = -(-counts[0] // 4)
  sizes = [8 * tiles + size - 1, *(2 * n + size - 2 for n in counts[1:])]
  x = jnp.pad(x, ((0, 0), *((pad, n - m - pad) for n, m in zip(sizes, x.shape[1:4])), (0, 0)))
  x = x.reshape(len(x), -1, 2, *x.shape[2:]).transpose(0, 1, 2, 5, 3, 4)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:]), counts, tiles


def _combined_planes(planes: jax.Array, volume: jax.Array, plane: jax.Array, size: int
                     ) -> jax.Array:
  """[T, 2 C, Y, Z] for the 4 planes of outputs from `plane` on."""
  _, inputs, _ = _toom_cook((size + 1) // 2)
  x = lax.dynamic_slice(planes, (volume, plane, 0, 0, 0), (1, len(inputs), *planes.shape[2:]))[0]
  return jnp.stack(combined(inputs, x))


def _strided(x: jax.Array, axis: int, size: int, count: int) -> list[jax.Array]:
  """What each tap of a window with stride 2 sees along an axis."""
  return [lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(size)]


def _by_phase(kernel: jax.Array, filters: np.ndarray) -> jax.Array:
  """Filters [T, K^2 2 C, F] of the patches of even and odd planes."""
  kernel = jnp.pad(kernel, ((0, 1), *((0, 0),) * 4))
  kernel = kernel.reshape(-1, 2, *kernel.shape[1:])
  taps = jnp.einsum('tj,jpyzcf->tyzpcf', filters.astype(kernel.dtype), kernel, precision='highest')
  return taps.reshape(len(filters), -1, kernel.shape[-1])


@functools.cache
def _toom_cook(taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Matrices of outputs, inputs and filters of Winograd's F(4, taps), for up to 4 taps.

  Those of the product of two polynomials from its values at points and at infinity, transposed.
  """
  points = np.array(_POINTS[:taps + 2])

  def values(size):
    return np.vstack([points[:, None]**np.arange(size), np.eye(size)[-1:]])

  inverse = np.linalg.inv(values(taps + 3))
  inverse[np.abs(inverse) < 1e-12] = 0      # what is none costs none
  return values(4).T, inverse.T, values(taps)
