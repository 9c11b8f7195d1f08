"""Variables of encoders as shapes and trees, for whatever reads or writes them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from anatcl_jax import models

# Parameters do not depend on its size. NumPy: importing must not start JAX.
ANY_VOLUME = np.zeros((1, 64, 64, 64, 1), np.float32)


def encoder_shapes(name: str, **options: Any) -> dict[str, Any]:
  """Variables of an encoder, with options of get_encoder, as shapes, without computing any."""
  encoder = models.get_encoder(name, **options)
  return jax.eval_shape(lambda key: encoder.init(key, ANY_VOLUME, False), jax.random.key(0))


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
  """The tree whose leaves by their path, as in `params/layer1_0/conv1/kernel`, these are."""
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *parents, last = name.split('/')
    inner = tree
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[last] = leaf
  return tree
