"""Weakly contrastive losses: pure functions of features and of how alike the subjects are.

Shapes: N subjects, V views of each, D feature dimension. With `axis_name`, N is this device's share
of the subjects; contrasts are gathered from all devices, and the value returned is the same on each
of them and the same as on one device with the whole batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from anatcl_jax import kernels
from anatcl_jax.errors import check_name

METHODS = ('yaware',)


def weakly_contrastive_loss(features: jax.Array, weights: jax.Array, *, method: str = 'yaware',
                            temperature: float = 0.1, base_temperature: float = 0.07,
                            axis_name: str | None = None) -> jax.Array:
  """Pulls views together by the weights of their subjects, in float32.

  With unit features z of all N V views, s_ij = z_i . z_j / temperature, and sums without i itself:
  l_i = - sum_k w_ik (s_ik - log sum_j e^{s_ij}) / sum_k w_ik, times temperature / base_temperature,
  averaged over the views that have a positive. `yaware` of Dufumier et al., MICCAI 2021, as in the
  released code of Barbano et al., ISBI 2023.

  Args:
    features: [N, V, D], normalised here.
    weights: [N, N over all devices], the degree of positiveness in [0, 1] of this device's subjects
      (rows) with all subjects; the diagonal weighs the other views of a subject.

  Raises:
    UserError: no such method.
  """
  check_name(method, METHODS, 'loss method')
  anchors = _unit_rows(features.astype(jnp.float32))
  contrasts = gather(anchors, axis_name)
  subjects, views = features.shape[:2]
  logits = jnp.einsum('avd,bwd->avbw', anchors, contrasts,
                      precision=jax.lax.Precision.HIGHEST) / temperature
  # A view is itself where subject and view agree; its own subject's other views are positives.
  itself = (own_subjects(subjects, contrasts.shape[0], axis_name)[:, None, :, None]
            & jnp.eye(views, dtype=bool)[None, :, None, :])
  log_denominator = jax.nn.logsumexp(logits, axis=(2, 3), keepdims=True, where=~itself)
  pair_weights = jnp.where(itself, 0, weights.astype(jnp.float32)[:, None, :, None])
  total = pair_weights.sum((2, 3))
  pulled = jnp.sum(pair_weights * (log_denominator - logits), (2, 3))
  rows = jnp.where(total > 0, pulled / jnp.where(total > 0, total, 1), 0)
  summed, counted = rows.sum(), jnp.sum(total > 0)
  if axis_name is not None:
    summed, counted = jax.lax.psum((summed, counted), axis_name)
  return summed / jnp.maximum(counted, 1) * (temperature / base_temperature)


def anatcl_loss(features: jax.Array, age: jax.Array, morphometry: jax.Array, config: Any,
                axis_name: str | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
  """AnatCL's objective: the weighted sum of a weakly contrastive loss by age and one by anatomy.

  L = lambda_anat L_anat + lambda_age L_age (arXiv 2408.07079).

  Args:
    features: [N, V, D].
    age: [N], years.
    morphometry: [N, R, M], normalised (`kernels.normalize_morphometry`).
    config: `loss` of the run's config: `method`, `temperature`, `base_temperature`, and `terms`
      with `age` (weight, kernel, sigma) and `anatomy` (weight, descriptor); a term of weight 0 is
      left out.

  Returns:
    The loss, and metrics: `loss/<term>` and `effective_positives/<term>`, the mean over anchors of
    the effective number of other subjects in the batch that they are drawn to.
  """
  all_age, all_morphometry = gather(age, axis_name), gather(morphometry, axis_name)
  age_term, anatomy_term = config.terms.age, config.terms.anatomy
  weights = {}
  if anatomy_term.weight:
    weights['anatomy'] = kernels.anatomical_kernel(anatomy_term.descriptor, morphometry,
                                                   all_morphometry)
  if age_term.weight:
    weights['age'] = kernels.age_kernel(age_term.kernel, age, all_age, age_term.sigma)
  others = ~own_subjects(age.shape[0], all_age.shape[0], axis_name)
  loss, metrics = jnp.zeros(()), {}
  for name, term_weights in weights.items():
    metrics[f'loss/{name}'] = weakly_contrastive_loss(
        features, term_weights, method=config.method, temperature=config.temperature,
        base_temperature=config.base_temperature, axis_name=axis_name)
    positives = kernels.effective_positives(term_weights, others).mean()
    metrics[f'effective_positives/{name}'] = (
        positives if axis_name is None else jax.lax.pmean(positives, axis_name))
    loss += config.terms[name].weight * metrics[f'loss/{name}']
  return loss, metrics


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Rows of all devices, in their order; x itself without an axis."""
  return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def own_subjects(rows: int, columns: int, axis_name: str | None) -> jax.Array:
  """True where a local row and a gathered column are the same subject, [rows, columns]."""
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows
  return first + jnp.arange(rows)[:, None] == jnp.arange(columns)[None, :]


def _unit_rows(x: jax.Array) -> jax.Array:
  """x over its norm along the last axis; the epsilon is torch.nn.functional.normalize's."""
  squared = jnp.sum(jnp.square(x), -1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
