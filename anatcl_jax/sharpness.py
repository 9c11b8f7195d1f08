"""A stated sharpness for any kernel: how many subjects an anchor is drawn to.

A row of weights is raised to the power that makes its effective positives a stated share of the
others in the batch, as the perplexity of t-SNE does (van der Maaten and Hinton, JMLR 9, 2008): for
rbf kernels that is a bandwidth a row. A row is whole on the device that has its anchor, so that the
power is the same on any number of devices, without statistics that a cohort would have to lend; a
bandwidth of all training subjects would leave the number of positives to the draw of the batch, and
those at the ends of the age range nearly without any.

Shapes: A anchors, B subjects of the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Powers are sought from 2^-24, where all weights are alike, to 2^40, where only ties are left, in
# units of one over the row's mean logarithm below its largest weight. Halving these 64 octaves so
# often leaves less than the rounding of float32.
_OCTAVES = (-24.0, 40.0)
_HALVINGS = 32


def solve_power(log_weights: jax.Array, others: jax.Array, share: float) -> jax.Array:
  """The power of each row at which its effective positives are `share` of its others, [A].

  At the nearest that can be where none reaches it: no fewer positives than one, or than share the
  largest weight, and no more than have a weight above 0.

  Args:
    log_weights: [A, B], logarithms of degrees of positiveness, -inf for none.
    others: [A, B], False for the anchor itself and subjects that lack the attribute.
    share: of the others, above 0 and up to 1.
  """
  below, positive = _below_largest(log_weights, others)
  target = jnp.log(jnp.maximum(share * others.sum(-1), 1))
  mean = below.sum(-1) / jnp.maximum(positive.sum(-1), 1)
  unit = 1 / jnp.where(mean > 0, mean, 1)

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) / 2
    power = jnp.exp2(middle) * unit
    weights = jnp.where(positive, jnp.exp(-power[:, None] * below), 0)
    total = jnp.maximum(weights.sum(-1), 1)     # the largest weight is 1
    entropy = jnp.log(total) + power * (weights * below).sum(-1) / total
    flat = entropy > target
    return jnp.where(flat, middle, low), jnp.where(flat, high, middle)

  bounds = tuple(jnp.full_like(unit, octaves) for octaves in _OCTAVES)
  low, high = jax.lax.fori_loop(0, _HALVINGS, halve, bounds)
  return jnp.exp2((low + high) / 2) * unit


def sharpened(log_weights: jax.Array, others: jax.Array, itself: jax.Array, power: jax.Array
              ) -> jax.Array:
  """(w_ij / the largest w_ik of the others)^power of each row, [A, B]; `itself` weighs 1.

  So does the nearest other: an anchor's own views never outweigh those that it is drawn to. Who is
  neither weighs 0.

  Args:
    log_weights: and `others` as of `solve_power`.
    itself: [A, B], True for the anchor.
    power: [A].
  """
  below, positive = _below_largest(log_weights, others)
  weights = jnp.where(positive, jnp.exp(-power[:, None] * below), 0)
  return jnp.where(itself, 1, weights)


def _below_largest(log_weights: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
  """How far each weight is below its row's largest, 0 where there is none, and where there is."""
  positive = others & (log_weights > -jnp.inf)
  largest = jnp.max(log_weights, -1, where=positive, initial=-jnp.inf, keepdims=True)
  return jnp.where(positive, largest - log_weights, 0), positive
