"""Time and memory of the losses on the machine at hand, value and gradient.

  python -m anatcl_jax.bench_loss [--json FILE]

Each case runs in a process of its own, so that its peak memory is its own: the whole process, with
Python and JAX, or the device's memory where the device reports it. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import re
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp

from anatcl_jax import errors, kernels, losses
from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.progress import progress_bar

_VIEWS, _DIMENSION, _SIGMA = 2, 128, 2.0


@dataclasses.dataclass(frozen=True)
class Case:
  """A loss with age weights of random ages; `budget` in MB, None to evaluate all rows at once."""

  method: str
  subjects: int
  budget: int | None


CASES = (Case('threshold', 256, None), Case('threshold', 1024, None), Case('threshold', 1024, 32),
         Case('expw', 1024, None), Case('yaware', 1024, None), Case('yaware', 8192, 256))


def run_case(case: Case, repeats: int) -> dict[str, float]:
  """Seconds to compile and to run (the best of `repeats`), and the peak memory in MB."""

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
  for _ in range(repeats):
    start = time.perf_counter()
    value, gradient = jax.block_until_ready(compiled(features, age))
    seconds.append(time.perf_counter() - start)
  if not (jnp.isfinite(value) and jnp.isfinite(gradient).all()):
    raise RunFailure(f'{case}: loss or gradient is not finite')
  return {'compile_s': compile_seconds, 'run_s': min(seconds), 'peak_mb': _peak_bytes() / 1e6}


def _peak_bytes() -> int:
  stats = jax.devices()[0].memory_stats()
  if stats:
    return stats['peak_bytes_in_use']
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _machine() -> str:
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return f'{jax.device_count()} x {device.device_kind}'
  try:
    model = re.search(r'model name\s*: (.*)', pathlib.Path('/proc/cpuinfo').read_text())[1]
  except (OSError, TypeError):
    model = platform.processor() or platform.machine()
  return f'{model}, {os.cpu_count()} cores'


def _in_own_process(index: int, repeats: int) -> dict[str, float]:
  command = [sys.executable, '-m', 'anatcl_jax.bench_loss', '--case', str(index), '--repeats',
             str(repeats)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ['no message'])[-1].removeprefix('error: ')
    raise RunFailure(f'{CASES[index]} ended with exit code {done.returncode}: {last}')
  return json.loads(done.stdout.splitlines()[-1])


def table(results: list[dict], machine: str) -> str:
  """The results, a case with its figures each, as a Markdown table."""
  lines = [f'{machine}; jax {jax.__version__}; {_VIEWS} views, D = {_DIMENSION}, float32, value '
           'and gradient.', '',
           '| method | subjects | budget | compile | run | peak memory |',
           '|---|---|---|---|---|---|']
  for r in results:
    budget = f'{r["budget"]} MB' if r['budget'] else 'none'
    lines.append(f'| {r["method"]} | {r["subjects"]:,} | {budget} | {r["compile_s"]:.1f} s | '
                 f'{r["run_s"]:.2f} s | {r["peak_mb"]:,.0f} MB |')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m anatcl_jax.bench_loss', description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='also write figures here')
  parser.add_argument('--repeats', type=int, default=3, help='runs, of which the best counts')
  parser.add_argument('--case', type=int, choices=range(len(CASES)), help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  with errors.reported():
    if arguments.repeats < 1:
      raise UserError(f'--repeats {arguments.repeats}: must be at least 1')
    if arguments.case is not None:
      print(json.dumps(run_case(CASES[arguments.case], arguments.repeats)))
      return
    results = []
    with progress_bar(len(CASES), 'losses', 'case') as progress:
      for index, case in enumerate(CASES):
        results.append(dataclasses.asdict(case) | _in_own_process(index, arguments.repeats))
        progress.update()
    machine = _machine()
    print(table(results, machine))
    if arguments.json:
      try:
        figures = {'machine': machine, 'jax': jax.__version__, 'cases': results}
        arguments.json.write_text(json.dumps(figures, indent=1) + '\n')
      except OSError as error:
        raise UserError(f'{arguments.json}: cannot be written ({error.strerror})') from None


if __name__ == '__main__':
  main()
