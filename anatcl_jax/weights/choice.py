"""Which weights a text means: several by name, and of a run its newest checkpoint or another."""

from __future__ import annotations

import pathlib
import re
import sys
from typing import Any

from anatcl_jax.errors import UserError, listed
from anatcl_jax.weights import stored

BEST = 'best'
NAME = r'[\w.+-]+'    # of what a text lists


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


def named_paths(text: str, option: str, reserved: tuple[str, ...] = ()) -> dict[str, pathlib.Path]:
  """`global=runs/a,runs/b.tsv` as {'global': runs/a, 'b': runs/b.tsv}; so are names of weights.

  Args:
    option: where the text was given, for errors.
    reserved: names that nothing may have.

  Raises:
    UserError: a name without path, one that stands there twice, or a reserved one.
  """
  found = {}
  for part in _parts(text):
    name, given, path = ('', '', part) if _is_there(part) or '=' not in part else (
        part.partition('='))
    path = pathlib.Path(path).expanduser()
    workdir, which = workdir_of(path)
    name = name.strip() if given else re.sub(r'[^\w.+-]+', '-', (
        workdir.resolve().name if workdir.is_dir() else path.stem) + (which and f'-{which}'))
    if not name or not str(path).strip('.'):
      raise UserError(f'{option}: {part!r} is not NAME=PATH')
    if not re.fullmatch(NAME, name):
      raise UserError(f'{option}: {name!r} is no name; use letters, digits and . _ + -')
    if name in reserved:
      raise UserError(f'{option}: {name!r} is the name of a baseline; give another, as in '
                      f'mine={path}')
    if name in found:
      raise UserError(f'{option}: two are named {name!r}; name them, as in a={found[name]},'
                      f'b={path}')
    found[name] = path
  return found


def _parts(text: str) -> list[str]:
  """What commas separate; not those in the name of a path that is there."""
  pieces, parts = text.split(','), []
  while pieces:
    size = next(size for size in range(len(pieces), 0, -1)
                if size == 1 or _is_given(','.join(pieces[:size])))
    part = ','.join(pieces[:size])
    parts.append(part if _is_there(part) else part.strip())
    pieces = pieces[size:]
  return [part for part in parts if part]


def _is_given(part: str) -> bool:
  name, _, path = part.partition('=')
  return _is_there(part) or re.fullmatch(NAME, name.strip()) is not None and _is_there(path)


def _is_there(path: str) -> bool:
  return bool(path) and workdir_of(pathlib.Path(path).expanduser())[0].exists()
