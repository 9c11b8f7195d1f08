"""Measured cases, each in a process of its own: what the benchmark commands have in common."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anatcl_jax import command_line, errors, outputs
from anatcl_jax.errors import RunFailure

Figures = dict[str, float]


def run_command(name: str, arguments: list[str], prog: str, description: str, cases: Sequence[Any],
                run_case: Callable[[Any], Figures],
                table: Callable[[list[dict], str], str], machine: Callable[[], str]) -> None:
  """The command line of a benchmark: runs every case, prints a Markdown table, writes JSON.

  Args:
    name: what `python -m anatcl_jax.bench` calls it.
    cases: frozen dataclasses.
    run_case: what a case's own process does; its figures.
    table: from the cases with their figures, and the machine.
  """
  with errors.reported():
    parser = command_line.Parser(prog=prog, description=description)
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='also write figures here')
    parser.add_argument('--case', type=int, choices=range(len(cases)), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case is not None:
      print(json.dumps(run_case(cases[options.case])))
      return
    if options.json:
      outputs.check_file(options.json, '--json')
    from anatcl_jax.progress import progress_bar
    results = []
    with progress_bar(len(cases), name, 'cases') as progress:
      for index, case in enumerate(cases):
        results.append(dataclasses.asdict(case) | in_own_process(
            [sys.executable, '-m', 'anatcl_jax.bench', name, '--case', str(index)], str(case)))
        progress.update()
    print(table(results, machine()))
    if options.json:
      outputs.write_json(options.json, {'machine': machine(), 'cases': results})


def peak_memory() -> float:
  """Most memory that this process, or the largest of its children, has had, in MB."""
  unit = 1e-6 if sys.platform == 'darwin' else 1.024e-3
  return unit * max(resource.getrusage(who).ru_maxrss
                    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def in_own_process(command: Sequence[str], case: str,
                   environment: Mapping[str, str] | None = None) -> Figures:
  """Figures that a command prints as JSON in its last line.

  Raises:
    RunFailure: it failed; the text has the name of the case and the last line of its errors.
  """
  done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
  if done.returncode:
    lines = done.stderr.strip().splitlines() or ['no message']
    last = next((line for line in reversed(lines) if re.match(r'(error|[\w.]+Error): ', line)),
                lines[-1]).removeprefix('error: ')
    raise RunFailure(f'{case} ended with exit code {done.returncode}: {last}')
  return json.loads(done.stdout.splitlines()[-1])
