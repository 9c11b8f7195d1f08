"""Projection heads between features and loss, thrown away after pretraining."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from anatcl_jax.errors import check_name

HEADS = ('mlp', 'linear', 'none')


def _linear(fan_in: int, features: int, dtype: Any, name: str) -> nn.Dense:
  """Dense layer whose kernel and bias both start from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
  def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -fan_in**-0.5, fan_in**-0.5)
  return nn.Dense(features, dtype=dtype, kernel_init=init, bias_init=init, name=name)


class ProjectionHead(nn.Module):
  """Maps features [N, F] to float32 embeddings [N, dim], which are not normalised: the loss does.

  Kind 'mlp' is Linear(F, F), ReLU, Linear(F, dim) as published, 'linear' is Linear(F, dim), both
  initialised as torch.nn.Linear is (released code). 'none' returns the features and has no
  parameters, hence no collection `params`.
  """

  kind: str = 'mlp'
  dim: int = 128
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    x, width = features, features.shape[-1]
    if self.kind == 'mlp':
      x = nn.relu(_linear(width, width, self.dtype, 'hidden')(x))
    if self.kind != 'none':
      x = _linear(width, self.dim, self.dtype, 'output')(x)
    return x.astype(jnp.float32)


def get_head(name: str, dim: int = 128, *, dtype: Any = jnp.float32) -> ProjectionHead:
  """Head by its name in a config; UserError for an unknown one."""
  check_name(name, HEADS, 'projection head')
  return ProjectionHead(name, dim, dtype)
