"""Time and memory of the losses on the machine at hand, value and gradient.

  python -m anatcl_jax.bench loss [--json FILE]

Each case runs in a process of its own, so that its peak memory is its own: the whole process, with
Python and JAX, or the device's memory where the device reports it. Prints a Markdown table.
"""

from __future__ import annotations

import dataclasses
import time

from anatcl_jax.bench.command import Figures, peak_memory, run_command
from anatcl_jax.devices.machine import accelerator
from anatcl_jax.errors import RunFailure

_VIEWS, _DIMENSION, _SIGMA = 2, 128, 2.0


@dataclasses.dataclass(frozen=True)
class Case:
  """A loss with age weights of random ages; `budget` in MB, None to evaluate all rows at once."""

  method: str
  subjects: int
  budget: int | None


CASES = (Case('threshold', 256, None), Case('threshold', 1024, None), Case('threshold', 1024, 32),
         Case('expw', 1024, None), Case('yaware', 1024, None), Case('yaware', 8192, 256))


def run_case(case: Case) -> Figures:
  """Seconds to compile and to run (the best of three), and the peak memory in MB."""
  import jax  # here, since --help need not wait for it
  import jax.numpy as jnp

  from anatcl_jax import kernels, losses

  def loss(features, age):
    # Rows of weights are made when they are needed: all of them would be 268 MB at 8,192.
    row = lambda i: kernels.age_kernel('rbf', age[i][None], age, _SIGMA)[0]
    return losses.weakly_contrastive_loss(
        features, row, method=case.method,
        memory_budget=case.budget and case.budget * 2**20)

  for_features, for_age = jax.random.split(jax.random.key(0))
  features = jax.random.normal(for_features, (case.subjects, _VIEWS, _DIMENSION))
  age = jax.random.uniform(for_age, (case.subjects,), minval=6, maxval=90)
  start = time.perf_counter()
  compiled = jax.jit(jax.value_and_grad(loss)).lower(features, age).compile()
  compile_seconds = time.perf_counter() - start
  seconds = []
  for _ in range(3):
    start = time.perf_counter()
    value, gradient = jax.block_until_ready(compiled(features, age))
    seconds.append(time.perf_counter() - start)
  if not (jnp.isfinite(value) and jnp.isfinite(gradient).all()):
    raise RunFailure(f'{case}: loss or gradient is not finite')
  return {'compile_s': compile_seconds, 'run_s': min(seconds), 'peak_mb': _peak_memory()}


def _peak_memory() -> float:
  import jax
  stats = jax.devices()[0].memory_stats()
  return stats['peak_bytes_in_use'] / 1e6 if stats else peak_memory()


def _machine() -> str:
  import jax
  return f'{accelerator()}; jax {jax.__version__}'


def table(results: list[dict], machine: str) -> str:
  """The results, a case with its figures each, as a Markdown table."""
  lines = [f'{machine}; {_VIEWS} views, D = {_DIMENSION}, float32, value '
           'and gradient.', '',
           '| method | subjects | budget | compile | run | peak memory |',
           '|---|---|---|---|---|---|']
  for r in results:
    budget = f'{r["budget"]} MB' if r['budget'] else 'none'
    lines.append(f'| {r["method"]} | {r["subjects"]:,} | {budget} | {r["compile_s"]:.1f} s | '
                 f'{r["run_s"]:.2f} s | {r["peak_mb"]:,.0f} MB |')
  return '\n'.join(lines)


def main(arguments: list[str], prog: str) -> None:
  """Runs the cases."""
  run_command('loss', arguments, prog, __doc__, CASES, run_case, table, _machine)
