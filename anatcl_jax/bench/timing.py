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


def queued(function: Callable[[], object], seconds: float) -> float:
  """Seconds of a function whose calls queue up on a device, the median of three rows of calls.

  Args:
    seconds: that all calls take together, about; each row has one at least.
  """
  return statistics.median(in_turn({'': function}, 3, seconds / 3)[''])


def in_turn(functions: Mapping[str, Callable[[], object]], rounds: int, seconds: float
            ) -> dict[str, list[float]]:
  """Seconds a call of each function in each of some rounds, in which calls of one queue up.

  Args:
    seconds: that the calls of one function in one round take, about.
  """
  counts, found = {}, {name: [] for name in functions}
  for name, function in functions.items():
    for _ in range(2):                     # the first compiles
      start = time.perf_counter()
      _wait(function())
    counts[name] = max(1, round(seconds / (time.perf_counter() - start)))
  for _ in range(rounds):
    for name, function in functions.items():
      start = time.perf_counter()
      for _ in range(counts[name]):
        result = function()
      _wait(result)
      found[name].append((time.perf_counter() - start) / counts[name])
  return found


def _wait(result: object) -> None:
  """Until it is there, whether JAX's or PyTorch's: a number of the latter's is fetched."""
  if hasattr(result, 'item') and not isinstance(result, jax.Array):
    result.item()
  else:
    jax.block_until_ready(result)


def product_rate(dtype: str = 'float32', size: int = 2048) -> float:
  """Floating-point operations a second of a product of two square matrices of normal numbers."""
  a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
  product = jax.jit(lambda a: a @ a)
  return 2 * size**3 / min(in_turn({'': lambda: product(a)}, 5, 0.1)[''])


def copy_rate(values: int) -> float:
  """Bytes a second, read and written, of adding 1 to so many 2-byte numbers."""
  a = jax.random.normal(jax.random.key(0), (values,)).astype(jnp.bfloat16)
  add = jax.jit(lambda a: a + 1)
  return 4 * values / min(in_turn({'': lambda: add(a)}, 5, 0.1)[''])


def summary(seconds: list[float]) -> float:
  """The median."""
  return statistics.median(seconds)
