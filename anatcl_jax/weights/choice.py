"""Which checkpoint of a run is meant: its newest, or `WORKDIR@best`, `WORKDIR@STEP`."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from anatcl_jax.errors import UserError, listed
from anatcl_jax.weights import stored

BEST = 'best'


def workdir_of(path: pathlib.Path) -> tuple[pathlib.Path, str]:
  """What holds the weights of a path, and which checkpoint of it is named: '', a step or `best`.

  `WORKDIR/checkpoints/STEP` is another name of `WORKDIR@STEP`. What is there under its whole name
  is meant as it is.
  """
  if path.exists():
    workdir = path.absolute().parent.parent
    if (path.absolute().parent.name == 'checkpoints' and stored.is_step(path.name)
        and (workdir / 'config.json').is_file()):
      return path.parent.parent if len(path.parts) > 2 else workdir, path.name
    return path, ''
  place, _, which = str(path).rpartition('@')
  if place and which and pathlib.Path(place).is_dir():
    return pathlib.Path(place), which
  return path, ''


def step_of(workdir: pathlib.Path, which: str, config: dict[str, Any]) -> int | None:
  """The step that `workdir_of` named; None for the newest.

  Args:
    config: of the run, whose keep_best_metric and keep_best_mode say what is best.

  Raises:
    UserError: there is no such checkpoint; those that are there are named.
  """
  if not which:
    return None
  known = stored.steps(workdir)
  there = (f'{workdir} has checkpoints of step {listed([str(step) for step in known[::-1]], 12)}'
           if known else f'{workdir} has no checkpoint yet')
  if which != BEST:
    if not stored.is_step(which):
      raise UserError(f'{workdir}@{which}: give a step, as in @{known[0] if known else 100}, or '
                      f'@{BEST}; {there}')
    if int(which) not in known:
      raise UserError(f'no checkpoint of step {which}: {there}; keep_every_epochs keeps more')
    return int(which)
  metric = config.get('keep_best_metric')
  if not metric:
    raise UserError(f'{workdir}@{BEST}: the run did not say what is best (keep_best_metric); name '
                    f'a step, as in {workdir}@STEP; {there}')
  values = metric_of_records(workdir, known, metric)
  if not values:
    raise UserError(f'{workdir}@{BEST}: no checkpoint has {metric}; name a step: {there}')
  return (max if config.get('keep_best_mode') == 'max' else min)(values, key=values.get)


def metric_of_records(workdir: pathlib.Path, steps: list[int], metric: str) -> dict[int, float]:
  """The value of a metric by step, of those checkpoints whose records have it."""
  values = {}
  for step in steps:
    try:
      measured = stored.read_record(workdir, step)['content']['metrics']
    except stored.Damaged as error:
      print(f'warning: checkpoint {step} is damaged and passed over ({error})', file=sys.stderr)
      continue
    if metric in measured:
      values[step] = measured[metric]
  return values
