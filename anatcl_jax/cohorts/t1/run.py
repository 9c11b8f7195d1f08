"""Many scans: side by side, resumed where a run was stopped, each refused scan named."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import re
import sys
from collections.abc import Iterator

import numpy as np

from anatcl_jax import lock, paths
from anatcl_jax.cohorts import find_scans
from anatcl_jax.cohorts.t1 import files, libraries, quality, sheet
from anatcl_jax.cohorts.t1.files import Target
from anatcl_jax.cohorts.t1.quality import Quality
from anatcl_jax.cohorts.t1.recipe import Made, Recipe
from anatcl_jax.cohorts.volumes import VolumeSource
from anatcl_jax.errors import RunFailure, UserError, listed
from anatcl_jax.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Job:
  """One scan, and where its map goes."""

  volume: VolumeSource
  target: Target


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The figures of one scan, or why it has none."""

  figures: Quality | None
  why: str = ''
  kept: bool = False       # was there already


def prepare(pattern: str, recipe: Recipe, out: pathlib.Path, *, id_pattern: str | None = None,
            geometry: str = 'agreed', nan_is_zero: bool = False, workers: int | None = None
            ) -> int:
  """Makes a map of every scan that a glob matches; returns how many were refused.

  Maps that are there already, from the same file by the same recipe, are kept.

  Raises:
    UserError: wrong use, or no scan could be used.
    RunFailure: a process was ended from outside.
  """
  libraries.check()
  if workers is not None and workers < 1:
    raise UserError(f'--workers {workers} must be at least 1')
  jobs = find(pattern, out, id_pattern, geometry, nan_is_zero)
  files.check_folder(out)
  for job in jobs:
    files.check(job.target, recipe)
  with lock.alone_in(out, 'choose another --out'):
    outcomes = dict(_all(jobs, recipe, min(workers or os.cpu_count() or 1, len(jobs))))
    used = [job for job in jobs if outcomes[job].figures]
    refused = [outcomes[job].why for job in jobs if not outcomes[job].figures]
    if not used:
      raise UserError(f'none of {len(jobs)} scans could be used: {listed(refused, 2)}'
                      if len(jobs) > 1 else refused[0])
    _tell(jobs, outcomes, recipe, out)
  for why in refused:
    print(f'left out: {why}', file=sys.stderr)
  return len(refused)


def find(pattern: str, out: pathlib.Path, id_pattern: str | None, geometry: str,
         nan_is_zero: bool) -> list[Job]:
  """The scans of a glob with their identifiers, which name the files.

  Raises:
    UserError: none matches, or two would have the same name.
  """
  jobs: dict[str, Job] = {}
  for key, volume in find_scans.named_by_file(find_scans.matching(pattern), id_pattern,
                                              geometry=geometry, nan_is_zero=nan_is_zero):
    participant, session = (re.sub('[^A-Za-z0-9+-]', '-', part) for part in key)
    target = Target(out, f'sub-{participant.removeprefix("sub-")}', session)
    if target.label in jobs:
      raise UserError(f'{target.label} has two scans, {jobs[target.label].volume.path} and '
                      f'{volume.path}; narrow --volumes to one a participant (and session), or '
                      'tell them apart with --id-pattern')
    jobs[target.label] = Job(volume, target)
  return list(jobs.values())


def _all(jobs: list[Job], recipe: Recipe, workers: int) -> Iterator[tuple[Job, Outcome]]:
  """Outcomes as they come."""
  with progress_bar(len(jobs), f't1 to {recipe.to}', 'scans') as bar:
    if workers == 1:
      for job in jobs:
        yield job, one(job, recipe)
        bar.update()
      return
    # Spawned, since the parent may hold threads that a fork would not.
    with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context('spawn')) as pool:
      waiting = {pool.submit(one, job, recipe): job for job in jobs}
      try:
        for done in concurrent.futures.as_completed(waiting):
          yield waiting[done], done.result()
          bar.update()
      except concurrent.futures.process.BrokenProcessPool:
        raise RunFailure('a process was ended from outside, most likely for want of memory; '
                         'finished maps stay, try again with fewer --workers') from None
      finally:
        pool.shutdown(wait=True, cancel_futures=True)


def one(job: Job, recipe: Recipe) -> Outcome:
  """Makes and writes the map of one scan, unless it is there; wrong input is an outcome."""
  try:
    sha256 = _digest(job.volume.path)
    if there := files.finished(job.target, recipe, sha256):
      return Outcome(there, kept=True)
    made = _made(job.volume, recipe)
    files.write(job.target, recipe, made, job.volume.path.absolute(), sha256)
    return Outcome(made.figures)
  except UserError as error:
    return Outcome(None, str(error))


def _made(volume: VolumeSource, recipe: Recipe) -> Made:
  import threadpoolctl
  with threadpoolctl.threadpool_limits(1):      # scans go side by side instead
    from anatcl_jax.cohorts.t1 import steps
    return steps.made(volume, recipe, _template())


@functools.cache
def _template():
  from anatcl_jax.cohorts.t1 import templates
  return templates.load()


def _digest(path: pathlib.Path) -> str:
  try:
    return paths.sha256(path)
  except OSError:
    return ''          # whoever reads it says what is wrong


def _tell(jobs: list[Job], outcomes: dict[Job, Outcome], recipe: Recipe, out: pathlib.Path) -> None:
  """The table, the contact sheet, the description, and what stands out."""
  used = [job for job in jobs if outcomes[job].figures]
  unusual = quality.outliers([outcomes[job].figures for job in used])
  rows = [{'participant_id': job.target.participant_id, 'session': job.target.session or np.nan,
           'file': str(job.target.map(recipe.to).relative_to(out))}
          | dataclasses.asdict(outcomes[job].figures) | {'outlier': why or 'n/a'}
          for job, why in zip(used, unusual)]
  try:
    files.write_description(out, recipe)
    files.write_quality(out, rows)
    sheet.draw([(job.target.label, job.volume, job.target.mask, why)
                for job, why in zip(used, unusual)], out / files.SHEET)
  except OSError as error:
    raise UserError(f'{out}: can\'t be written ({error.strerror})') from None
  for job, why in zip(used, unusual):
    if why:
      print(f'WARNING: {job.target.label} stands out: {why}', file=sys.stderr)
  kept = sum(outcomes[job].kept for job in used)
  dices = [outcomes[job].figures.dice_template for job in used]
  print(f'{len(used)} of {len(jobs)} scans{f", {kept} of them there already" if kept else ""}: '
        f'{files.WORDS[recipe.to]}, {recipe.grid} -> {out}\n'
        f'registered brains have a Dice of {min(dices):.3f} to {max(dices):.3f} with the '
        f'template\'s; look at {out / files.SHEET}, figures are in {out / files.QUALITY}')
