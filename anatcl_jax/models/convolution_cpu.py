"""3-D convolution and pooling for CPUs, as matrix products of slices.

XLA's own convolutions reach a third of a CPU's matrix-product rate, and some of their gradients a
thirtieth. Each function here is exact up to rounding, takes x[N, X, Y, Z, C] and
kernel[K, K, K, C, F] with K odd, and supposes K // 2 zeros around the volume; `convolution.py`
chooses between them. Volumes of a batch go one after another, so that a plane stays in the cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Gradients = tuple[jax.Array, jax.Array]   # of x, of the kernel


# ---- 3^3 with stride 1: plane by plane, Winograd along Z -----------------------------------------
# Winograd's F(4, 3) (Lavin & Gray 2016) makes 4 outputs of a 3-tap filter from 6 products, not 12:
# outputs = OUTPUT ((FILTER w) * (INPUT x)). Either gradient is the transpose of that.
_INPUT = np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
                   [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])
_FILTER = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0],
                    [0, 1, -1, 8, -8, 1]])


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3^3 convolution with stride 1: a plane of X at a time, taps along Y in K and along X in N."""
  height, width, channels = x.shape[2:]
  features, tiles = kernel.shape[-1], -(-width // 4)
  taps = _filters(kernel).reshape(6, 3 * channels, 3 * features)

  def finish(sums):
    outputs = combined(_OUTPUT, sums)
    return jnp.stack(outputs, 1).reshape(height, 4 * tiles, features)[:, :width]

  def plane(sums, x):
    products = _product(_tile_patches(_INPUT, x), taps)
    return _next_plane(sums, products, finish)

  def volume(x):
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 4 * tiles + 1 - width), (0, 0)))
    zero = jnp.zeros((6, height * tiles, features), x.dtype)
    (last, _), planes = lax.scan(plane, (zero, zero), x)
    return jnp.concatenate([planes[1:], finish(last)[None]])

  return lax.map(volume, x)


def winograd_gradients(x: jax.Array, kernel: jax.Array, g: jax.Array) -> Gradients:
  """Gradients of `winograd` from the gradient g of its result."""
  height, width, channels = x.shape[2:]
  features, tiles = kernel.shape[-1], -(-width // 4)
  # What a plane of g gives to x runs against the taps along X and Y.
  taps = _filters(kernel[::-1, ::-1].swapaxes(3, 4)).reshape(6, 3 * features, 3 * channels)

  def finish(sums):
    parts = combined(_INPUT.T, sums.reshape(6, height, tiles, channels))
    # Tiles of x are 6 wide and overlap by 2.
    parts = [jnp.pad(part, ((0, 0), (0, 1), (0, 0))) for part in parts[:4]] + [
        jnp.pad(part, ((0, 0), (1, 0), (0, 0))) for part in parts[4:]]
    parts = [parts[0] + parts[4], parts[1] + parts[5], parts[2], parts[3]]
    return jnp.stack(parts, 2).reshape(height, 4 * tiles + 4, channels)[:, 1:width + 1]

  def transformed(x):
    return jnp.stack(combined(_INPUT, _tiles(x, 6))).reshape(6, height * tiles, channels)

  def plane(carry, x_and_g):
    sums, (before, here), kernel_sums = carry
    after = transformed(x_and_g[0])
    patches = _tile_patches(_OUTPUT.T, x_and_g[1])
    kernel_sums += jnp.einsum('tmk,tmn->tkn', patches,
                              jnp.concatenate([before, here, after], -1))
    sums, done = _next_plane(sums, _product(patches, taps), finish)
    return (sums, (here, after), kernel_sums), done

  def volume(kernel_sums, x_and_g):
    x, g = x_and_g
    right = 4 * tiles - width
    x = jnp.pad(x, ((0, 1), (0, 0), (1, right + 1), (0, 0)))
    g = jnp.pad(g, ((0, 0), (1, 1), (0, right), (0, 0)))
    zero = jnp.zeros((6, height * tiles, channels), x.dtype)
    carry = (zero, zero), (zero, transformed(x[0])), kernel_sums
    ((last, _), _, kernel_sums), planes = lax.scan(plane, carry, (x[1:], g))
    return kernel_sums, jnp.concatenate([planes[1:], finish(last)[None]])

  kernel_sums, x_gradient = lax.scan(volume, jnp.zeros_like(taps), (x, g))
  kernel_sums = kernel_sums.reshape(6, 3, features, 3, channels)
  kernel_gradient = jnp.einsum('tz,tyfxc->xyzcf', _FILTER.astype(x.dtype), kernel_sums,
                               precision='highest')
  return x_gradient, kernel_gradient[:, ::-1]


def _filters(kernel: jax.Array) -> jax.Array:
  return jnp.einsum('tz,xyzcf->tycxf', _FILTER.astype(kernel.dtype), kernel, precision='highest')


def _product(patches: jax.Array, taps: jax.Array) -> jax.Array:
  return jnp.einsum('tmk,tkn->tmn', patches, taps)


def _tiles(x: jax.Array, size: int) -> list[jax.Array]:
  """The values at each position of tiles along Z that are `size` wide and 4 apart."""
  count = (x.shape[-2] - size) // 4 + 1
  return [lax.slice_in_dim(x, i, i + 4 * count - 3, 4, x.ndim - 2) for i in range(size)]


def _tile_patches(matrix: np.ndarray, x: jax.Array) -> jax.Array:
  """A plane's transformed tiles with three rows as channels; [6, rows and tiles, 3 C]."""
  t = jnp.stack(combined(matrix, _tiles(x, matrix.shape[1])))
  height = x.shape[0] - 2
  t = jnp.concatenate([t[:, row:row + height] for row in range(3)], -1)
  return t.reshape(6, -1, t.shape[-1])


def _next_plane(sums: Sequence[jax.Array], products: jax.Array,
                finish: Callable[[jax.Array], jax.Array]) -> tuple:
  """Adds an input plane's products to the output planes after it, at it, and before it (done)."""
  after, at, before = jnp.split(products, 3, -1)
  return (sums[1] + at, after), finish(sums[0] + before)


def combined(matrix: np.ndarray, terms: Sequence[jax.Array]) -> list[jax.Array]:
  """matrix @ terms, without the products by 0 and 1."""
  return [sum((term if c == 1 else term * np.array(c, term.dtype)
               for c, term in zip(row[1:], terms[1:]) if c),
              start=terms[0] * np.array(row[0], terms[0].dtype) if row[0] else 0)
          for row in matrix]


# ---- 3^3 with stride 1 or 2: all patches of a volume, one product --------------------------------


def patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolution as the product of a volume's patches and the kernel."""
  size, channels, features = kernel.shape[0], *kernel.shape[-2:]

  def volume(x):
    rows = _patches(x[None], size, stride)[0]
    return jnp.dot(rows, kernel.reshape(size**3 * channels, features))

  return lax.map(volume, x)


def patches_gradients(x: jax.Array, kernel: jax.Array, stride: int, g: jax.Array) -> Gradients:
  """Gradients of `patches` from the gradient g of its result; kernel 3^3."""

  def volume(kernel_sums, x_and_g):
    x, g = x_and_g
    rows = _patches(x[None], kernel.shape[0], stride)[0]
    kernel_sums += jnp.einsum('xyzk,xyzf->kf', rows, g).reshape(kernel.shape)
    if kernel.size < rows.size:
      taps = jnp.einsum('xyzf,abdcf->xyzabdc', g, kernel)
    else:
      # The same, so that XLA transposes the result and not the larger kernel, which for 512
      # channels takes as long as the product.
      taps = lax.optimization_barrier(jnp.einsum('abdcf,xyzf->abdcxyz', kernel, g))
      taps = taps.transpose(4, 5, 6, 0, 1, 2, 3)
    return kernel_sums, _gathered_from_taps(taps[None], (1, *x.shape), stride)[0]

  kernel_gradient, x_gradient = lax.scan(volume, jnp.zeros_like(kernel), (x, g))
  return x_gradient, kernel_gradient


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
  """[N, X', Y', Z', K^3 C]."""
  pad = size // 2
  counts = [(n - 1) // stride + 1 for n in x.shape[1:4]]
  x = jnp.pad(x, ((0, 0), *((pad, pad),) * 3, (0, 0)))
  return jnp.concatenate(
      [lax.slice(x, (0, *offset, 0),
                 (x.shape[0], *(o + stride * (n - 1) + 1 for o, n in zip(offset, counts)),
                  x.shape[-1]), (1, stride, stride, stride, 1))
       for offset in np.ndindex(size, size, size)], -1)


def _gathered_from_taps(taps: jax.Array, shape: tuple[int, ...], stride: int) -> jax.Array:
  """Sums what each output [N, X', Y', Z', K, K, K, C] gives to the inputs that its taps meet."""
  counts = taps.shape[1:4]
  taps = jnp.pad(taps, ((0, 0), *((2 - stride, 1),) * 3, *((0, 0),) * 4))

  def sum_of(met):
    """Over (tap, shift) along each axis."""
    return sum(taps[:, a:a + counts[0], b:b + counts[1], c:c + counts[2], i, j, k]
               for (i, a), (j, b), (k, c) in itertools.product(*met))

  if stride == 1:
    return sum_of((((0, 2), (1, 1), (2, 0)),) * 3)
  classes = jnp.stack([sum_of([_MEETS[odd] for odd in odds]) for odds in np.ndindex(2, 2, 2)])
  return _interleaved(classes.reshape(2, 2, 2, *classes.shape[1:]), shape)


# What a window of 3 with stride 2 has of an axis: (tap, j's shift) for an even index 2 j, which
# meets tap 1 of output j, and for an odd one 2 j + 1, which meets tap 2 of output j and 0 of j + 1.
_MEETS = (((1, 0),), ((2, 0), (0, 1)))


def _interleaved(classes: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """[2, 2, 2, N, X', Y', Z', C], by parity along the axes, to an array of `shape`."""
  x = classes.transpose(3, 4, 0, 5, 1, 6, 2, 7)
  x = x.reshape(x.shape[0], *(2 * n for n in classes.shape[4:7]), shape[-1])
  return x[:, :shape[1], :shape[2], :shape[3]]


# ---- 1^3: a product of the whole batch -----------------------------------------------------------


def pointwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """1^3 convolution: every stride-th voxel times the kernel."""
  return jnp.dot(x[:, ::stride, ::stride, ::stride], kernel[0, 0, 0])


def pointwise_gradients(x: jax.Array, kernel: jax.Array, stride: int, g: jax.Array) -> Gradients:
  """Gradients of `pointwise` from the gradient g of its result."""
  kernel_gradient = jnp.einsum('nxyzc,nxyzf->cf', x[:, ::stride, ::stride, ::stride], g)
  spread = [(0, n - stride * (m - 1) - 1, stride - 1) for n, m in zip(x.shape[1:4], g.shape[1:4])]
  met = jnp.dot(g, kernel[0, 0, 0].T)
  return (lax.pad(met, jnp.zeros((), met.dtype), ((0, 0, 0), *spread, (0, 0, 0))),
          kernel_gradient.reshape(kernel.shape))


# ---- 3^3 maximum with stride 2: one axis after another -------------------------------------------


def max_pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maximum over 3^3 with stride 2 and padding 1, and which of the 27 it was, the first of equals.

  Along the last axis first, so that among equals the first plane wins in the end, and then the
  first row.
  """
  which = jnp.zeros(x.shape, jnp.int8)
  for axis, weight in ((3, 1), (2, 3), (1, 9)):
    count = (x.shape[axis] + 1) // 2
    pad = [(0, 0, 0)] * 5
    pad[axis] = (1, 2 * count - x.shape[axis], 0)
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), pad)
    which = lax.pad(which, jnp.int8(0), pad)
    values, indices = ([lax.slice_in_dim(array, i, i + 2 * count - 1, 2, axis) for i in range(3)]
                       for array in (x, which))
    larger = jnp.maximum(values[0], values[1])
    which = jnp.where(values[2] > larger, indices[2] + np.int8(2 * weight),
                      jnp.where(values[1] > values[0], indices[1] + np.int8(weight), indices[0]))
    x = jnp.maximum(larger, values[2])
  return x, which


def max_pool_gradient(which: jax.Array, shape: tuple[int, ...], g: jax.Array) -> jax.Array:
  """Gradient of the input, of that shape, of `max_pool` from the gradient g of its result."""
  counts, ahead = g.shape[1:4], ((0, 0), *((0, 1),) * 3, (0, 0))
  which, g = jnp.pad(which, ahead, constant_values=-1), jnp.pad(g, ahead)
  classes = []
  for odd in np.ndindex(2, 2, 2):
    parts = []
    for met in itertools.product(*(_MEETS[o] for o in odd)):
      tap = sum(weight * tap for weight, (tap, _) in zip((9, 3, 1), met))
      here = (slice(None), *(slice(shift, shift + n) for (_, shift), n in zip(met, counts)))
      parts.append(jnp.where(which[here] == tap, g[here], 0))
    classes.append(sum(parts))
  return _interleaved(jnp.stack(classes).reshape(2, 2, 2, *classes[0].shape), shape)
