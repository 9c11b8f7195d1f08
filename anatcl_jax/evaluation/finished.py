"""Tasks that are finished, a file each, so that an interrupted evaluation goes on after them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pandas

from anatcl_jax import __version__
from anatcl_jax.errors import UserError, remedy
from anatcl_jax.evaluation.results import Outcome
from anatcl_jax.evaluation.tasks import Task

_FOLDER = '.unfinished'
_ARRAYS = ('participant_id', 'session', 'truth', 'prediction', 'probability', 'fold')
_TABLES = ('leakage', 'left_out', 'curve', 'gaps', 'gap_groups')


@dataclasses.dataclass(frozen=True)
class Part:
  """All that was found for one task."""

  outcomes: tuple[Outcome, ...]
  compared: tuple[dict, ...]           # of run.COMPARISONS, without p_holm and family
  leakage: pandas.DataFrame            # beyond.LEAKAGE
  left_out: pandas.DataFrame           # beyond.LEFT_OUT
  curve: pandas.DataFrame              # beyond.CURVES
  gaps: pandas.DataFrame               # brain_age.GAPS
  gap_groups: pandas.DataFrame         # brain_age.GROUPS
  notes: tuple[str, ...]


def key(*given: Any) -> str:
  """A name for all that a task's results hang on: any change gives another.

  Arrays count by their bytes, all else by its text; the version of this program counts too.
  """
  digest = hashlib.sha256(__version__.encode())
  for one in given:
    if isinstance(one, np.ndarray):
      one = one.astype(str) if one.dtype == object else one
      digest.update(f'{one.dtype}{one.shape}'.encode() + np.ascontiguousarray(one).tobytes())
    elif isinstance(one, dict):
      digest.update(key(*(part for pair in one.items() for part in pair)).encode())
    elif isinstance(one, (list, tuple)):
      digest.update(key(*one).encode())
    else:
      digest.update(f'{type(one).__name__} {one!r};'.encode())
  return digest.hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class Finished:
  """The folder of results, in which finished tasks stand until all are."""

  out: pathlib.Path

  def read(self, name: str, task: Task) -> Part | None:
    """The part of that key; None where it is not there, or not whole."""
    try:
      stored = json.loads((self.out / _FOLDER / f'{name}.json').read_text(encoding='utf-8'))
      return Part(tuple(_outcome(task, one) for one in stored['outcomes']),
                  tuple(stored['compared']),
                  *(pandas.DataFrame(stored[table]) for table in _TABLES), tuple(stored['notes']))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
      return None

  def write(self, name: str, part: Part) -> None:
    """Keeps a part, whole or not at all.

    Raises:
      UserError: the folder can't be written.
    """
    stored = {'outcomes': [_plain(one) for one in part.outcomes], 'compared': part.compared,
              'notes': part.notes} | {
                  table: getattr(part, table).to_dict('list') for table in _TABLES}
    folder = self.out / _FOLDER
    try:
      folder.mkdir(parents=True, exist_ok=True)
      temporary = folder / f'{name}.writing'
      temporary.write_text(json.dumps(stored, default=_number), encoding='utf-8')
      os.replace(temporary, folder / f'{name}.json')
    except OSError as error:
      raise UserError(f'{folder}: can\'t be written ({error.strerror}); '
                      f'{remedy(error) or "choose another --config.out"}') from None

  def clear(self) -> None:
    """Takes the parts away, once everything is written."""
    shutil.rmtree(self.out / _FOLDER, ignore_errors=True)


def _plain(outcome: Outcome) -> dict[str, Any]:
  """All of an outcome but its task, as JSON has it."""
  values = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)
            if field.name != 'task'}
  return values | {name: None if values[name] is None else values[name].tolist()
                   for name in _ARRAYS}


def _outcome(task: Task, values: dict[str, Any]) -> Outcome:
  arrays = {name: None if values[name] is None else np.array(values[name]) for name in _ARRAYS}
  return Outcome(**values | arrays | {
      'task': task, 'classes': tuple(values['classes']),
      'interval': {metric: tuple(pair) for metric, pair in values['interval'].items()}})


def _number(value: Any) -> float | int:
  return value.item()
