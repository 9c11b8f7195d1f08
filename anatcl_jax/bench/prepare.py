"""Speed and memory of `prepare`, and of reading shards back as training does, on this machine.

  python -m anatcl_jax.bench prepare [--json FILE]

Sixteen SYNTHETIC maps at 121x145x121 (1.5 mm, float32, .nii.gz) stand, by links, for as many scans
as a case has: memory must not grow with them. Each case runs in a process of its own, whose peak
memory, or that of its largest worker, is the last column. Prints a Markdown table; takes minutes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import multiprocessing
import os
import pathlib
import tempfile
import time
from typing import TYPE_CHECKING

from anatcl_jax.bench.command import Figures, peak_memory, run_command
from anatcl_jax.devices.machine import cpu

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  from anatcl_jax.data.shards import ShardSet

_DRAWN = 16


@dataclasses.dataclass(frozen=True)
class Case:
  """So many scans stored as `dtype` by so many processes."""

  scans: int
  dtype: str
  workers: int


CASES = (Case(64, 'float32', 1), Case(256, 'float32', 1), Case(256, 'float32', 2),
         Case(256, 'float16', 2), Case(256, 'uint8', 2), Case(1024, 'uint8', 2))


def linked_cohort(directory: pathlib.Path, scans: int, spacing: float = 1.5
                  ) -> tuple[str, pathlib.Path]:
  """A glob of so many maps, links to a few drawn ones, and their participants.tsv."""
  import numpy as np
  import pandas

  from anatcl_jax.cohorts.phantom import cohort as phantom
  settings = phantom.PhantomSettings(subjects=min(_DRAWN, scans), spacing=spacing)
  # Drawn by other processes: on Linux a process inherits the peak of the one that starts it.
  paths = phantom.write_cohort(directory / 'drawn', settings, workers=2, progress=False)
  drawn = sorted((directory / 'drawn').glob('sub-*/anat/*.nii.gz'))
  (directory / 'maps').mkdir()
  for scan in range(scans):
    os.link(drawn[scan % len(drawn)], directory / 'maps' / f'sub-{scan:05d}.nii.gz')
  ages = pandas.read_csv(paths.participants, sep='\t')['age']
  pandas.DataFrame({'participant_id': [f'sub-{scan:05d}' for scan in range(scans)],
                    'age': np.resize(ages, scans)}).to_csv(directory / 'participants.tsv', sep='\t',
                                                           index=False)
  return f'{directory}/maps/*.nii.gz', directory / 'participants.tsv'


def run_case(case: Case) -> Figures:
  """Volumes a second to prepare and to read back, MB a volume, largest error, peak memory in MB."""
  from anatcl_jax.data.shards import open_shards
  with tempfile.TemporaryDirectory(prefix='anatcl-bench-') as name:
    directory = pathlib.Path(name)
    volumes, participants = linked_cohort(directory, case.scans)
    # In a process that has drawn nothing: what it and its workers peak at is prepare's own.
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as own:
      prepared, peak = own.submit(_prepare, case, volumes, participants, directory).result()
    data = open_shards(directory / 'shards')
    shard_infos = data.info['shards']
    return {'prepare_per_s': case.scans / prepared, 'read_per_s': read_rate(data),
            'mb_a_volume': sum(s['bytes'] for s in shard_infos) / 1e6 / case.scans,
            'largest_error': max(s['largest_error'] for s in shard_infos), 'peak_mb': peak}


def _prepare(case: Case, volumes: str, participants: pathlib.Path,
             directory: pathlib.Path) -> tuple[float, float]:
  from anatcl_jax.cohorts import bids
  from anatcl_jax.data.make_shards import make_shards
  start = time.perf_counter()
  with contextlib.redirect_stdout(io.StringIO()):
    cohort = bids.read_cohort(volumes, participants, [])
    make_shards(cohort, directory / 'shards', dtype=case.dtype, workers=case.workers)
  return time.perf_counter() - start, peak_memory()


def read_rate(data: ShardSet, crop: tuple[int, ...] | None = (121, 128, 121), batch: int = 32,
              batches: int = 8, threads: int = 2) -> float:
  """Volumes a second that the input pipeline delivers once it runs."""
  import numpy as np

  from anatcl_jax.data import pipeline  # here, since JAX's memory would count as prepare's
  reader = pipeline.Reader(data, {}, crop)
  delivered = pipeline.train_batches(reader, np.arange(len(data)), batch, 0, range(batches + 1),
                                     threads)
  next(delivered)
  start = time.perf_counter()
  return sum(len(rows['volume']) for rows in delivered) / (time.perf_counter() - start)


def table(results: list[dict], machine: str) -> str:
  """The results, a case with its figures each, as a Markdown table."""
  lines = [f'{machine}; SYNTHETIC maps, 121x145x121; read back cropped to 121x128x121 by 2 '
           'threads.', '',
           '| scans | stored as | processes | prepare | read back | a volume | largest error | '
           'peak memory |', '|---|---|---|---|---|---|---|---|']
  lines += [f'| {r["scans"]:,} | {r["dtype"]} | {r["workers"]} | {r["prepare_per_s"]:.1f} /s | '
            f'{r["read_per_s"]:.0f} /s | {r["mb_a_volume"]:.2f} MB | {r["largest_error"]:.2g} | '
            f'{r["peak_mb"]:,.0f} MB |' for r in results]
  return '\n'.join(lines)


def main(arguments: list[str], prog: str) -> None:
  """Runs the cases."""
  run_command('prepare', arguments, prog, __doc__, CASES, run_case, table, cpu)
