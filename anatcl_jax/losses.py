"""Weakly contrastive losses: pure functions of features and of how alike the subjects are.

Shapes: N subjects, V views of each, D feature dimension. With `axis_name`, N is this device's share
of the subjects; contrasts are gathered from all devices, and the value returned is the same on each
of them and the same as on one device with the whole batch. The mathematics: docs/losses.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from anatcl_jax import kernels, sharpness, supervision
from anatcl_jax.errors import check_name

METHODS = ('yaware', 'supcon', 'expw', 'threshold')
DELTA_REDUCTIONS = ('sum', 'mean')

# [N, N over all devices], or the row of one of this device's subjects, by its index, as a function.
Weights = jax.Array | Callable[[jax.Array], jax.Array]

# Arrays of the size of the logits that are alive at once in loss and gradient.
_COPIES = 8


def weakly_contrastive_loss(features: jax.Array, weights: Weights, *, method: str = 'yaware',
                            temperature: float = 0.1, base_temperature: float = 0.07,
                            delta_reduction: str = 'sum', axis_name: str | None = None,
                            present: jax.Array | None = None,
                            memory_budget: int | None = None) -> jax.Array:
  """Pulls views together by the weights of their subjects, in float32.

  With unit features z of all N V views, s_ij = z_i . z_j / temperature, and sums without i itself:
  l_i = sum_k w_ik (log D_i - s_ik) / sum_k w_ik, times temperature / base_temperature, averaged
  over the views that have a positive and a denominator:

    yaware      D_i = sum_j e^{s_ij}                      Dufumier et al., MICCAI 2021
    supcon      yaware with w_ij = 1 where w_ij >= 1 or i and j are one subject, else 0
                                                          Khosla et al., NeurIPS 2020
    expw        D_i = sum_j e^{(s_ij - m_i) (1 - w_ij)}, and s_ik - m_i for s_ik;
                m_i = max_j s_ij, i included
    threshold   D_i = sum_j c_ij e^{s_ij}, c_ij = #{k: w_jk < w_ji} over all N V views k; with
                delta_reduction `mean` over N V           both Barbano et al., ISBI 2023

  as in the released code of the last. An anchor of `threshold` whose every c_ij is 0 has no
  denominator and does not count in the mean.

  Args:
    features: [N, V, D], normalised here.
    weights: [N, N over all devices], the degree of positiveness in [0, 1] of this device's subjects
      (rows) with all subjects, the diagonal that of a subject's other views; or a function from the
      index of one of this device's subjects to its row, so that the rows are never all in memory.
    present: [N], False for subjects that lack the attribute behind the weights: the loss is that of
      the other subjects alone. Their weights may be NaN.
    memory_budget: bytes that pairs of this device's rows with the batch may take in loss and
      gradient. Rows are evaluated in blocks that fit and computed again for the gradient; None
      evaluates them at once. The counts of `threshold` come on top, 4 bytes a pair of subjects.

  Raises:
    UserError: no such method or reduction.
  """
  check_name(method, METHODS, 'loss method')
  check_name(delta_reduction, DELTA_REDUCTIONS, 'delta_reduction')
  subjects, views = features.shape[:2]
  present = jnp.ones(subjects, bool) if present is None else present
  anchors = _unit_rows(features.astype(jnp.float32))
  contrasts, contrasts_present = gather(anchors, axis_name), gather(present, axis_name)
  row_of = weights if callable(weights) else lambda row: weights[row]
  block = _block_rows(memory_budget, views * contrasts.shape[0] * views)
  rows, first = jnp.arange(subjects), first_subject(subjects, axis_name)
  counts = None
  if method == 'threshold':
    counts = _threshold_counts(row_of, rows, contrasts_present, views, block, axis_name)
    if delta_reduction == 'mean':
      counts /= jnp.maximum(contrasts_present.sum() * views, 1)

  def subject_losses(row, anchor, anchor_present, count):
    """Loss of the views of one subject, and whether they count: [V], [V]."""
    own = first + row == jnp.arange(contrasts.shape[0])
    # A view is itself where subject and view agree; its own subject's other views are positives.
    itself = own[None, :, None] & jnp.eye(views, dtype=bool)[:, None, :]
    known = contrasts_present[None, :, None]
    others = known & ~itself
    weight = row_of(row).astype(jnp.float32)
    if method == 'supcon':
      weight = jnp.where(own, 1, labels_equal(weight))
    weight = jnp.where(others & anchor_present, weight[None, :, None], 0)
    logits = jnp.einsum('vd,bwd->vbw', anchor, contrasts,
                        precision=jax.lax.Precision.HIGHEST) / temperature
    if method == 'expw':
      # Inside the weighted exponent the shift changes the value; the released code has it there.
      largest = jnp.max(logits, (1, 2), keepdims=True, where=known, initial=-1 / temperature)
      logits -= jax.lax.stop_gradient(largest)
      log_denominator, exists = _log_sum_exp(logits * (1 - weight), others)
    elif method == 'threshold':
      count = count[None, :, None]
      log_count = jnp.log(jnp.where(count > 0, count, 1))
      log_denominator, exists = _log_sum_exp(logits + log_count, others & (count > 0))
    else:
      log_denominator, exists = _log_sum_exp(logits, others)
    total = weight.sum((1, 2))
    pulled = jnp.sum(weight * (log_denominator[:, None, None] - logits), (1, 2))
    counted = exists & (total > 0)
    return jnp.where(counted, pulled / jnp.where(counted, total, 1), 0), counted

  row_losses, counted = map_rows(subject_losses, (rows, anchors, present, counts), block)
  summed, number = row_losses.sum(), counted.sum()
  if axis_name is not None:
    summed, number = jax.lax.psum((summed, number), axis_name)
  return summed / jnp.maximum(number, 1) * (temperature / base_temperature)


def combined_loss(features: jax.Array, attributes: dict[str, jax.Array], config: Any,
                  axis_name: str | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The weighted sum of a weakly contrastive loss a term, each by its own attribute and kernel.

  Of the method `supervised`, that of supervision.py.

  Args:
    features: [N, V, D].
    attributes: by the name of the term, [N] or [N, R, M], missing values as `kernels.present` says;
      a subject takes part in the terms whose attribute it has.
    config: `loss` of the run's config: `method`, `delta_reduction`, `temperature`,
      `base_temperature`, `memory_budget_mb`, and `terms`, each with `weight`, `kernel` and, for
      numbers, `sigma`; a term of weight 0 is left out. Where a term has `effective_positives`
      above 0, its rows are sharpened to that share of the others (sharpness.py).

  Returns:
    The loss, and metrics: `loss/<term>` and `effective_positives/<term>`, the mean over anchors of
    the effective number of other subjects in the batch that they are drawn to.
  """
  if config.method == supervision.METHOD:
    return supervision.supervised_loss(features, attributes, config.terms, axis_name)
  budget = int(config.memory_budget_mb * 2**20)
  loss, metrics = jnp.zeros(()), {}
  for name, term in config.terms.items():
    if not term.weight:
      continue
    attribute = jnp.asarray(attributes[name])
    weights = _weights_of_rows(term, attribute, config.method, axis_name, budget)
    present = kernels.present(attribute)
    metrics[f'loss/{name}'] = weakly_contrastive_loss(
        features, weights, method=config.method, temperature=config.temperature,
        base_temperature=config.base_temperature, delta_reduction=config.delta_reduction,
        axis_name=axis_name, present=present, memory_budget=budget)
    metrics[f'effective_positives/{name}'] = mean_effective_positives(weights, present, axis_name,
                                                                      budget)
    loss += term.weight * metrics[f'loss/{name}']
  return loss, metrics


def anatcl_loss(features: jax.Array, age: jax.Array, morphometry: jax.Array, config: Any,
                axis_name: str | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
  """AnatCL's objective, L = lambda_anat L_anat + lambda_age L_age (arXiv 2408.07079).

  `combined_loss` of the terms `age` by age[N], years, and `anatomy` by morphometry[N, R, M],
  normalised (`kernels.normalize_morphometry`).
  """
  return combined_loss(features, {'age': age, 'anatomy': morphometry}, config, axis_name)


def _weights_of_rows(term: Any, attribute: jax.Array, method: str, axis_name: str | None,
                     memory_budget: int) -> Weights:
  """The weights that the method uses: what it is drawn to is then what the metrics count."""
  everyone = gather(attribute, axis_name)
  if share := term.get('effective_positives', 0):
    return _sharpened_rows(term, attribute, everyone, share, axis_name, memory_budget)

  def row_of(row: jax.Array) -> jax.Array:
    weights = kernels.kernel(term, attribute[row][None], everyone)[0]
    return labels_equal(weights) if method == 'supcon' else weights

  return row_of


def _sharpened_rows(term: Any, attribute: jax.Array, everyone: jax.Array, share: float,
                    axis_name: str | None, memory_budget: int) -> Weights:
  """Rows of a stated sharpness, whose powers are solved once."""
  present, subjects = kernels.present(everyone), attribute.shape[0]
  first, index = first_subject(subjects, axis_name), jnp.arange(everyone.shape[0])

  def given(row):
    itself = (first + row == index)[None]
    return kernels.log_kernel(term, attribute[row][None], everyone), present & ~itself, itself

  def power_of(row):
    log_weights, others, _ = given(row)
    return sharpness.solve_power(log_weights, others, share)[0]

  powers = map_rows(power_of, (jnp.arange(subjects),), _block_rows(memory_budget, len(index)))

  def row_of(row: jax.Array) -> jax.Array:
    log_weights, others, itself = given(row)
    return sharpness.sharpened(log_weights, others, itself, powers[row][None])[0]

  return row_of


def labels_equal(weights: jax.Array) -> jax.Array:
  """Weights as `supcon` takes them: 1 where they are 1 or more, else 0."""
  return (weights >= 1).astype(jnp.float32)


def mean_effective_positives(weights: Weights, present: jax.Array, axis_name: str | None = None,
                             memory_budget: int | None = None) -> jax.Array:
  """Mean of `kernels.effective_positives` over the anchors that have the attribute, a scalar.

  Arguments as of `weakly_contrastive_loss`.
  """
  everyone, subjects = gather(present, axis_name), present.shape[0]
  first = first_subject(subjects, axis_name)
  row_of = weights if callable(weights) else lambda row: weights[row]

  def positives(row):
    others = everyone & (first + row != jnp.arange(everyone.shape[0]))
    return kernels.effective_positives(row_of(row)[None], others[None])[0]

  block = _block_rows(memory_budget, everyone.shape[0])
  summed = jnp.sum(map_rows(positives, (jnp.arange(subjects),), block), where=present)
  if axis_name is not None:
    summed = jax.lax.psum(summed, axis_name)
  return summed / jnp.maximum(everyone.sum(), 1)


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Rows of all devices, in their order; x itself without an axis."""
  return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def first_subject(subjects: int, axis_name: str | None) -> jax.Array | int:
  """Index among all devices' subjects of this device's first."""
  return 0 if axis_name is None else jax.lax.axis_index(axis_name) * subjects


def map_rows(function: Callable[..., Any], rows: tuple[jax.Array, ...], block: int | None) -> Any:
  """function(*row) of every row, stacked; `block` rows at a time, recomputed for the gradient."""
  if block is None or block >= rows[0].shape[0]:
    return jax.vmap(function)(*rows)
  recomputed = jax.checkpoint(lambda row: function(*row), prevent_cse=False)
  return jax.lax.map(recomputed, rows, batch_size=block)


def _block_rows(memory_budget: int | None, pairs: int) -> int | None:
  """Subjects whose `pairs` float32 logits each, with their copies, fit into the budget."""
  return None if memory_budget is None else max(1, memory_budget // (4 * _COPIES * pairs))


def _threshold_counts(row_of, rows, present, views, block, axis_name) -> jax.Array:
  """c_ij = #{k: w_jk < w_ji} over all views k, for this device's i and all j, [N, N of all]."""

  def ranks(row):
    # A missing subject is never below another.
    weight = jnp.where(present, row_of(row), jnp.inf)
    return jnp.searchsorted(jnp.sort(weight), weight)

  # Counted in row j, where j lives, then sent to the device where i does.
  counts = map_rows(ranks, (rows,), block)
  if axis_name is not None:
    counts = jax.lax.all_to_all(counts, axis_name, split_axis=1, concat_axis=0, tiled=True)
  return counts.T.astype(jnp.float32) * views


def _log_sum_exp(x: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
  """log of the sum of e^x of each row's chosen entries, and whether there is any: [V], [V].

  A row without any is summed whole, so that value and gradient are finite, and is not to be used.
  """
  exists = where.any((1, 2))
  return jax.nn.logsumexp(x, axis=(1, 2), where=where | ~exists[:, None, None]), exists


def _unit_rows(x: jax.Array) -> jax.Array:
  """x over its norm along the last axis; the epsilon is torch.nn.functional.normalize's."""
  squared = jnp.sum(jnp.square(x), -1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
