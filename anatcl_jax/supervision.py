"""Losses of a network that is trained on a task: what it says of an attribute beside the truth.

Shapes: N subjects of this device, V views, O outputs of the head. With `axis_name`, a value is that
of the subjects of all devices, the same on each of them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

METHOD = 'supervised'                    # loss.method
NUMBER, CLASSES = 'l1', 'cross_entropy'  # kernels of its terms
KERNELS = (NUMBER, CLASSES)


def supervised_loss(outputs: jax.Array, attributes: dict[str, jax.Array], terms: Any,
                    axis_name: str | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The weighted sum of what each term's outputs miss, and `loss/<term>` of each.

  Args:
    outputs: [N, V, O]; each term has its `outputs` of them, in the order of the terms.
    attributes: by term, as `for_loss` makes them: l1 [N], cross_entropy [N, 2].
    terms: `loss.terms` of the config, each with `weight`, `kernel` and `outputs`.
  """
  loss, metrics, first = jnp.zeros(()), {}, 0
  for name, term in terms.items():
    if not term.weight:
      continue
    own = outputs[..., first:first + term.outputs].astype(jnp.float32)
    first += term.outputs
    truth = jnp.asarray(attributes[name])
    metrics[f'loss/{name}'] = (
        absolute_error(own[..., 0], truth, axis_name) if term.kernel == NUMBER else
        cross_entropy(own, truth[:, 0], truth[:, 1], axis_name))
    loss += term.weight * metrics[f'loss/{name}']
  return loss, metrics


def absolute_error(outputs: jax.Array, truth: jax.Array, axis_name: str | None = None) -> jax.Array:
  """Mean of |outputs[N, V] - truth[N]| over the subjects whose truth is finite; 0 of none."""
  known = jnp.isfinite(truth)
  missed = jnp.abs(outputs - jnp.where(known, truth, 0)[:, None]).mean(1)
  return _mean(missed, known.astype(jnp.float32), axis_name)


def cross_entropy(logits: jax.Array, codes: jax.Array, weights: jax.Array,
                  axis_name: str | None = None) -> jax.Array:
  """Weighted mean of -log softmax(logits[N, V, C])[code] over subjects with a code[N]; 0 of none.

  As torch.nn.CrossEntropyLoss with `weight` has it: divided by the sum of weights[N]. A code that
  is not finite is missing.
  """
  known = jnp.isfinite(codes)
  codes = jnp.where(known, codes, 0).astype(jnp.int32)
  missed = optax.softmax_cross_entropy_with_integer_labels(
      logits, jnp.broadcast_to(codes[:, None], logits.shape[:2])).mean(1)
  return _mean(missed, jnp.where(known, weights, 0), axis_name)


def fit(values: np.ndarray, kernel: str, classes: int) -> dict[str, np.ndarray]:
  """What `for_loss` needs, of the values [n] of those trained on, missing ones NaN.

  Of numbers the mean and the standard deviation; of codes a weight for each class, n / (C n_c):
  classes count alike, as in the probe. A class without anybody has 0.
  """
  known = values[np.isfinite(values)]
  if kernel == NUMBER:
    return {'mean': np.asarray(known.mean(), np.float32),
            'deviation': np.asarray(known.std(), np.float32)}
  counts = np.bincount(known.astype(int), minlength=classes)
  there = counts > 0
  weights = np.zeros(classes, np.float32)
  weights[there] = len(known) / (there.sum() * counts[there])
  return {'weights': weights}


def for_loss(values: np.ndarray, stats: dict[str, np.ndarray]) -> np.ndarray:
  """Values [n] as the loss takes them: in deviations from the mean [n], or codes with weights."""
  if 'mean' in stats:
    return ((values - stats['mean']) / stats['deviation']).astype(np.float32)
  known = np.isfinite(values)
  weights = stats['weights'][np.where(known, values, 0).astype(int)]
  return np.stack([values, np.where(known, weights, np.nan)], 1).astype(np.float32)


def _mean(values: jax.Array, weights: jax.Array, axis_name: str | None) -> jax.Array:
  summed, total = (values * weights).sum(), weights.sum()
  if axis_name is not None:
    summed, total = jax.lax.psum((summed, total), axis_name)
  return summed / jnp.where(total > 0, total, 1)
