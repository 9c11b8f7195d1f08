"""How alike two subjects are: age kernels, anatomical descriptors and their normalisations.

Shapes: A and B subjects, R regions, M measures.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from anatcl_jax.errors import check_name

AGE_KERNELS = ('rbf', 'gaussian', 'cauchy')
DESCRIPTORS = ('local', 'global')
NORMALIZATIONS = ('none', 'minmax_subject', 'minmax_measure', 'minmax_region', 'zscore')


def age_kernel(name: str, a: jax.Array, b: jax.Array, sigma: float) -> jax.Array:
  """Similarity of ages a[A] and b[B], in the unit of sigma (years), as [A, B].

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


def local_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean over regions of the cosine between a region's measures in a[A, R, M] and b[B, R, M].

  AnatCL's local descriptor (arXiv 2408.07079). Returns [A, B] in [-1, 1]; the cosine with a zero
  vector is 0.
  """
  return jnp.einsum('arm,brm->ab', _unit(a, -1), _unit(b, -1)) / a.shape[1]


def global_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean over measures of the cosine between a measure's regions in a[A, R, M] and b[B, R, M].

  AnatCL's global descriptor (arXiv 2408.07079). Returns [A, B] in [-1, 1]; the cosine with a zero
  vector is 0.
  """
  return jnp.einsum('arm,brm->ab', _unit(a, -2), _unit(b, -2)) / a.shape[2]


def anatomical_kernel(descriptor: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """Degree of positiveness in [0, 1] from morphometry, [A, B]: negative similarity counts as 0.

  Raises:
    UserError: no such descriptor.
  """
  check_name(descriptor, DESCRIPTORS, 'anatomical descriptor')
  similarity = local_similarity if descriptor == 'local' else global_similarity
  return jnp.clip(similarity(a, b), 0, 1)


def fit_morphometry(x: np.ndarray, how: str) -> dict[str, np.ndarray]:
  """Statistics that `normalize_morphometry` needs, from the training subjects x[N, R, M].

  Returns `offset` and `scale`, each [1 or R, M]; empty for the normalisations without any.

  Raises:
    UserError: no such normalisation.
  """
  check_name(how, NORMALIZATIONS, 'normalisation of morphometry')
  x = np.asarray(x, np.float64)
  if how == 'zscore':
    offset, scale = x.mean(0), x.std(0)
  elif how in ('minmax_measure', 'minmax_region'):
    axes = (0, 1) if how == 'minmax_measure' else 0
    offset = np.atleast_2d(x.min(axes))
    scale = np.atleast_2d(x.max(axes)) - offset
  else:
    return {}
  return {'offset': offset.astype(np.float32), 'scale': scale.astype(np.float32)}


def normalize_morphometry(x: np.ndarray, how: str,
                          stats: dict[str, np.ndarray] | None = None) -> np.ndarray:
  """Brings the measures of x[N, R, M] to one scale: g of AnatCL, of which only [0, 1] is published.

  `none`; minimum and maximum taken over the regions of each subject (`minmax_subject`), over all
  subjects and regions (`minmax_measure`) or over all subjects (`minmax_region`); or mean and
  standard deviation over all subjects of each region and measure (`zscore`). `stats` are those of
  `fit_morphometry` on the training subjects, fitted on x itself if None; subjects outside their
  range are clipped to [0, 1]. A constant measure becomes 0.

  Raises:
    UserError: no such normalisation.
  """
  stats = fit_morphometry(x, how) if stats is None else stats
  x = np.asarray(x, np.float32)
  if how == 'none':
    return x
  if how == 'minmax_subject':
    offset = x.min(1, keepdims=True)
    scale = x.max(1, keepdims=True) - offset
  else:
    offset, scale = np.asarray(stats['offset']), np.asarray(stats['scale'])
  normalized = np.where(scale > 0, (x - offset) / np.where(scale > 0, scale, 1), 0)
  return normalized if how == 'zscore' else np.clip(normalized, 0, 1)


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


def _unit(x: jax.Array, axis: int) -> jax.Array:
  norm = jnp.linalg.norm(x, axis=axis, keepdims=True)
  return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)
