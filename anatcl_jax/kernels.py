"""How alike two subjects are: kernels of attributes and of anatomy, and what they are fitted on.

Shapes: A and B subjects, R regions, M measures.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anatcl_jax.errors import UserError, check_name

AGE_KERNELS = ('rbf', 'gaussian', 'cauchy')
ATTRIBUTE_KERNELS = (*AGE_KERNELS, 'equality')
DESCRIPTORS = ('local', 'global', 'rbf', 'whitened')
NORMALIZATIONS = ('none', 'minmax_subject', 'minmax_measure', 'minmax_region', 'zscore')

# The median distance is taken over the pairs of at most so many subjects.
_MOST_FOR_MEDIAN = 4096


def age_kernel(name: str, a: jax.Array, b: jax.Array, sigma: float) -> jax.Array:
  """Similarity of ages a[A] and b[B], or of any number, in the unit of sigma, as [A, B].

  With d = a - b: `rbf` exp(-d^2 / 2 sigma^2), `gaussian` the same over sqrt(2 pi) sigma, `cauchy`
  1 / (sigma d^2 + 1), as in the released code of Barbano et al., "Contrastive learning for
  regression in multi-site brain age prediction", ISBI 2023.

  Raises:
    UserError: no such kernel.
  """
  check_name(name, AGE_KERNELS, 'age kernel')
  squared = jnp.square(a[:, None] - b[None, :])
  if name == 'cauchy':
    return 1 / (sigma * squared + 1)
  rbf = jnp.exp(-squared / (2 * sigma**2))
  return rbf if name == 'rbf' else rbf / (math.sqrt(2 * math.pi) * sigma)


def attribute_kernel(name: str, a: jax.Array, b: jax.Array, sigma: float = 1.0) -> jax.Array:
  """Similarity of a column's values a[A] and b[B]: `age_kernel`, or 1 where equal and else 0.

  For `equality` a and b are the codes of categories, integers from 0 on. Returns [A, B].

  Raises:
    UserError: no such kernel.
  """
  check_name(name, ATTRIBUTE_KERNELS, 'kernel')
  if name == 'equality':
    return (a[:, None] == b[None, :]).astype(jnp.float32)
  return age_kernel(name, a, b, sigma)


def present(x: jax.Array) -> jax.Array:
  """True for the subjects of x[N, ...] whose every value is known, [N].

  A number is missing where it is not finite, the code of a category where it is negative.
  """
  known = x >= 0 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.isfinite(x)
  return known.reshape(x.shape[0], -1).all(-1)


def kernel(term: Any, a: jax.Array, b: jax.Array) -> jax.Array:
  """Degree of positiveness by a term of the config, [A, B]: of columns a[A], or anatomy a[A, R, M].

  Raises:
    UserError: the term names a kernel that its attribute does not have.
  """
  if a.ndim == 3:
    return anatomical_kernel(term.kernel, a, b)
  return attribute_kernel(term.kernel, a, b, term.get('sigma', 1.0))


def log_kernel(term: Any, a: jax.Array, b: jax.Array) -> jax.Array:
  """log of `kernel`, [A, B], up to a constant; -inf for a weight of 0.

  As exact as differences between subjects are, where weights differ in their last digits only (the
  published normalisations) or are too small for a float (an rbf of many sigma).

  Raises:
    UserError: the term names a kernel that its attribute does not have.
  """
  if a.ndim == 3:
    return _log_anatomical(term.kernel, a, b)
  check_name(term.kernel, ATTRIBUTE_KERNELS, 'kernel')
  if term.kernel == 'equality':
    return jnp.log(attribute_kernel('equality', a, b))
  squared = jnp.square(a[:, None] - b[None, :])
  if term.kernel == 'cauchy':
    return -jnp.log1p(term.sigma * squared)
  return -squared / (2 * term.sigma**2)


def local_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean over regions of the cosine between a region's measures in a[A, R, M] and b[B, R, M].

  AnatCL's local descriptor (arXiv 2408.07079). Returns [A, B] in [-1, 1]; the cosine with a zero
  vector is 0.
  """
  return _product(_unit(a, -1), _unit(b, -1)) / a.shape[1]


def global_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean over measures of the cosine between a measure's regions in a[A, R, M] and b[B, R, M].

  AnatCL's global descriptor (arXiv 2408.07079). Returns [A, B] in [-1, 1]; the cosine with a zero
  vector is 0.
  """
  return _product(_unit(a, -2), _unit(b, -2)) / a.shape[2]


def rbf_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """exp(-|a - b|^2) over all regions and measures of a[A, R, M] and b[B, R, M], as [A, B].

  The bandwidth is in the unit of a and b: `fit_morphometry` for `rbf` makes half the median squared
  distance of two training subjects 1 (2 sigma^2 in the usual writing).
  """
  return jnp.exp(-_squared_distance(a, b))


def whole_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Cosine between all regions and measures of a[A, R, M] and b[B, R, M], [A, B] in [-1, 1].

  Of morphometry that `fit_morphometry` for `whitened` has whitened, where it is the cosine in
  Mahalanobis's metric: what the regions have in common, head size above all, counts once.
  """
  return _product(_unit(a, (1, 2)), _unit(b, (1, 2)))


SIMILARITIES = {'local': local_similarity, 'global': global_similarity, 'rbf': rbf_similarity,
                'whitened': whole_similarity}


def anatomical_kernel(descriptor: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """Degree of positiveness in [0, 1] from morphometry, [A, B]: negative similarity counts as 0.

  Raises:
    UserError: no such descriptor.
  """
  check_name(descriptor, DESCRIPTORS, 'anatomical descriptor')
  return jnp.clip(SIMILARITIES[descriptor](a, b), 0, 1)


def _log_anatomical(descriptor: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """log of `anatomical_kernel`: of a mean cosine of unit vectors u, v by |u - v|^2 / 2 = 1 - u.v.

  A zero vector has no length: where they are a share f of the vectors, 1 is 1 - f.
  """
  check_name(descriptor, DESCRIPTORS, 'anatomical descriptor')
  if descriptor == 'rbf':
    return -_squared_distance(a, b)
  axis = {'local': -1, 'global': -2, 'whitened': (1, 2)}[descriptor]
  units, zeros = [], []
  for x in (a, b):
    unit = _unit(x, axis)
    length = jnp.sum(jnp.square(unit), axis).reshape(len(x), -1)
    units.append(unit / math.sqrt(length.shape[1]))
    zeros.append(jnp.mean(length == 0, 1))
  gap = (_squared_distance(*units) + zeros[0][:, None] + zeros[1][None]) / 2
  return jnp.log1p(-jnp.minimum(gap, 1))


def _squared_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """|a - b|^2 over regions and measures, [A, B], rounded by the subjects' spread about their mean.

  By the binomial formula, without the differences of all pairs in memory.
  """
  mean = jnp.nanmean(b, 0)
  a, b = a - mean, b - mean
  squared = jnp.sum(a**2, (1, 2))[:, None] + jnp.sum(b**2, (1, 2))[None, :] - 2 * _product(a, b)
  return jnp.maximum(squared, 0)


def fit_morphometry(x: np.ndarray, how: str, descriptor: str = 'global') -> dict[str, np.ndarray]:
  """Statistics that `normalize_morphometry` needs, from the training subjects x[N, R, M].

  Subjects with a missing value (NaN) are passed over. Returns `offset` and `scale`, each
  [1 or R, M], where the normalisation has any; `bandwidth` [], half the median squared distance,
  for the descriptor `rbf`; `center` [R M] and `whitening` [R M, R M], from a covariance shrunk
  after Ledoit and Wolf (J. Multivariate Analysis 88, 2004), for `whitened`.

  Raises:
    UserError: no such normalisation or descriptor, or fewer than two complete subjects.
  """
  check_name(how, NORMALIZATIONS, 'normalisation of morphometry')
  check_name(descriptor, DESCRIPTORS, 'anatomical descriptor')
  x = np.asarray(x, np.float64)
  x = x[_complete(x)]
  stats = {}
  if how in ('zscore', 'minmax_measure', 'minmax_region') or descriptor in ('rbf', 'whitened'):
    if len(x) < 2:
      raise UserError(f'{len(x)} of the training subjects have complete morphometry; statistics of '
                      'it need two')
  if how == 'zscore':
    stats = {'offset': x.mean(0), 'scale': x.std(0)}
  elif how in ('minmax_measure', 'minmax_region'):
    axes = (0, 1) if how == 'minmax_measure' else 0
    offset = np.atleast_2d(x.min(axes))
    stats = {'offset': offset, 'scale': np.atleast_2d(x.max(axes)) - offset}
  if descriptor in ('rbf', 'whitened'):
    flat = normalize_morphometry(x, how, stats).reshape(len(x), -1).astype(np.float64)
    stats |= _fit_bandwidth(flat) if descriptor == 'rbf' else _fit_whitening(flat)
  return {name: np.asarray(value, np.float32) for name, value in stats.items()}


def normalize_morphometry(x: np.ndarray, how: str, stats: dict[str, np.ndarray] | None = None,
                          clip: bool = True) -> np.ndarray:
  """Brings the measures of x[N, R, M] to one scale: g of AnatCL, of which only [0, 1] is published.

  `none`; minimum and maximum taken over the regions of each subject (`minmax_subject`), over all
  subjects and regions (`minmax_measure`) or over all subjects (`minmax_region`); or mean and
  standard deviation over all subjects of each region and measure (`zscore`). `stats` are those of
  `fit_morphometry` on the training subjects, fitted on x itself if None; those of a descriptor put
  the result into the unit of its bandwidth, or whiten it. Subjects outside the range of a minimum
  and maximum are clipped to [0, 1] unless `clip` is False. A constant measure becomes 0; of a
  subject with a missing value all are NaN.

  Raises:
    UserError: no such normalisation.
  """
  stats = fit_morphometry(x, how) if stats is None else stats
  x = np.asarray(x, np.float32)
  if how == 'none':
    normalized = x.copy()
  else:
    if how == 'minmax_subject':
      offset = x.min(1, keepdims=True)
      scale = x.max(1, keepdims=True) - offset
    else:
      offset, scale = np.asarray(stats['offset']), np.asarray(stats['scale'])
    normalized = np.where(scale > 0, (x - offset) / np.where(scale > 0, scale, 1), 0)
    if how != 'zscore' and clip:
      normalized = np.clip(normalized, 0, 1)
  if 'bandwidth' in stats:
    normalized /= np.sqrt(stats['bandwidth'])
  if 'whitening' in stats:
    flat = normalized.reshape(len(x), -1) - stats['center']
    normalized = (flat @ stats['whitening']).reshape(x.shape)
  normalized[~_complete(x)] = np.nan
  return normalized


def effective_positives(weights: jax.Array, others: jax.Array) -> jax.Array:
  """exp(entropy) of each row of weights[A, B] over the pairs where others[A, B] is true, [A].

  How many subjects an anchor is drawn to: 1 if one weight dominates, B - 1 if all are alike, 0 for
  a row without weight.
  """
  weights = jnp.where(others, weights, 0)
  total = weights.sum(-1, keepdims=True)
  share = weights / jnp.where(total > 0, total, 1)
  entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0), -1)
  return jnp.where(total[:, 0] > 0, jnp.exp(entropy), 0)


def _complete(x: np.ndarray) -> np.ndarray:
  return np.isfinite(x).all((1, 2))


def _fit_bandwidth(x: np.ndarray) -> dict[str, np.ndarray]:
  x = x[::-(-len(x) // _MOST_FOR_MEDIAN)]
  squared = np.sum(x**2, 1)
  distances = squared[:, None] + squared[None, :] - 2 * x @ x.T
  median = np.median(distances[np.triu_indices(len(x), 1)])
  return {'bandwidth': median / 2 if median > 0 else 1.0}


def _fit_whitening(x: np.ndarray) -> dict[str, np.ndarray]:
  from sklearn.covariance import ledoit_wolf  # slow to import, and only this kernel needs it
  values, vectors = np.linalg.eigh(ledoit_wolf(x)[0])
  inverse = np.where(values > 0, 1 / np.sqrt(np.where(values > 0, values, 1)), 0)
  return {'center': x.mean(0), 'whitening': (vectors * inverse) @ vectors.T}


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  """Inner product over regions and measures, [A, B]; in float32 on a TPU too."""
  return jnp.einsum('arm,brm->ab', a, b, precision=jax.lax.Precision.HIGHEST)


def _unit(x: jax.Array, axis: int | tuple[int, int]) -> jax.Array:
  norm = jnp.sqrt(jnp.sum(jnp.square(x), axis, keepdims=True))
  return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)
