"""Seconds of functions that are run in turn, so that what else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int
                ) -> dict[str, list[float]]:
  """Seconds of each function in each of some rounds, after one that does not count.

  In a round each runs once, in the given order.
  """
  seconds = {name: [] for name in functions}
  for turn in range(rounds + 1):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      if turn:
        seconds[name].append(time.perf_counter() - start)
  return seconds


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
  """Median, least and largest of the ratios of the pairs that ran after one another."""
  ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
  return {'median': statistics.median(ratios), 'min': min(ratios), 'max': max(ratios)}


def product_rate(dtype: str = 'float32', size: int = 2048) -> float:
  """Floating-point operations a second of a product of two square matrices, the best of five."""
  a = jnp.ones((size, size), dtype)
  product = jax.jit(lambda a: a @ a)
  return 2 * size**3 / min(interleaved({'': lambda: product(a)}, 5)[''])


def summary(seconds: list[float]) -> float:
  """The median."""
  return statistics.median(seconds)
