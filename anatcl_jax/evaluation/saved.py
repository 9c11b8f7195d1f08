"""Fitted probes on disk, NAME.safetensors and NAME.json, to be applied to new tables of features.

Nothing in them is code, and nobody is named in them. A probe is that of the folds together: each
predicts, and the mean counts, as for those whom no fold of the probe's own run held.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas
import safetensors
import safetensors.numpy

from anatcl_jax import __version__, outputs
from anatcl_jax.errors import UserError, listed
from anatcl_jax.evaluation import brain_age, fitted
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.combat import ComBat
from anatcl_jax.evaluation.derived import with_sites
from anatcl_jax.evaluation.evaluate import Scored
from anatcl_jax.evaluation.fitted import FittedProbe
from anatcl_jax.evaluation.harmonization import Coding
from anatcl_jax.evaluation.results import HARMONISED, Outcome, plain
from anatcl_jax.evaluation.tasks import BRAIN_AGE

FOLDER = 'probes'
_FORMAT, _HARMONISED_FORMAT = 1, 2     # who knows of no harmonisation must not read the second
_COMBAT = 'combat/'
_LEARNED = ('impute', 'sites', 'alpha', 'beta', 'sigma', 'gamma', 'delta')     # by ComBat.fit
_ENDINGS = ('.json', '.safetensors')
_NEEDED = ('format', 'task', 'features', 'estimator', 'encoders', 'softmax', 'probes', 'fitted',
           'score', 'synthetic', 'trained_on_synthetic', 'sha256')


@dataclasses.dataclass(frozen=True)
class SavedProbe:
  """The probes of all folds, and what is known of them, which is plain JSON.

  `record` has task {name, kind, column, unit, classes, healthy}, features, estimator, encoders (of
  the columns in their order: name, columns, and the settings of the encoder, as far as known),
  fitted {people, low, high of the number}, score {metric: [value, low, high] out of fold}, and
  what is SYNTHETIC; of harmonised features harmonization {column, sites, keep, unseen}.
  """

  record: dict[str, Any]
  probes: tuple[FittedProbe, ...]

  @property
  def is_brain_age(self) -> bool:
    return self.record['task']['kind'] == BRAIN_AGE

  @property
  def coding(self) -> Coding | None:
    """What harmonised features need of a table of labels; None of features as they are."""
    return self.probes[0].coding

  def harmonised(self, x: np.ndarray) -> np.ndarray:
    """Features [n, F] as the first fold's probe has them, of what `table` takes."""
    harmonizer = self.probes[0].harmonizer
    return x if harmonizer is None else harmonizer.transform(x)

  def table(self, x: np.ndarray, age: np.ndarray | None = None) -> pandas.DataFrame:
    """Predictions of features [n, F], with what `coding` needs: a number, or a class and rates.

    Of a brain age, with ages [n] (NaN where not known), also the gap raw and corrected.
    """
    if self.is_brain_age:
      predicted = brain_age.predicted(list(self.probes), x)
      if age is None:
        return pandas.DataFrame({'predicted_age': predicted})
      return pandas.DataFrame({
          'age': age, 'predicted_age': predicted, 'gap': predicted - age,
          'gap_corrected': brain_age.corrected(list(self.probes), age, predicted)})
    classes = self.record['task']['classes']
    if not classes:
      return pandas.DataFrame({'prediction': fitted.mean([one.predict(x) for one in self.probes])})
    rates = fitted.mean([one.probability(x, len(classes)) for one in self.probes])
    columns = {'predicted_class': np.array(classes)[rates.argmax(1)]}
    if len(classes) == 2:
      return pandas.DataFrame(columns | {'probability': rates[:, 1]})
    return pandas.DataFrame(columns | {f'probability:{name}': rates[:, place]
                                       for place, name in enumerate(classes)})


def name_of(task: str, features: str, estimator: str) -> str:
  """The name of a probe's files, without ending."""
  end = '+harmonised' * features.endswith(HARMONISED)     # a plus is in no other name
  return '-'.join(urllib.parse.quote(part.replace(':', '--'), safe='') for part in (
      task, plain(features))) + end + f'-{estimator}' * (estimator != 'linear')


def of_scored(one: Scored, encoders: list[dict[str, Any]], made: dict[str, Any]) -> SavedProbe:
  """What is kept of a task's probes.

  Args:
    encoders: of the features' columns, as in SavedProbe.
    made: what else is to be noted: synthetic, trained_on_synthetic, command, date.
  """
  outcome, target = one.outcome, one.protocol.target
  rows = np.unique(np.concatenate([fit for fit, _ in one.protocol.splits]))
  known = {} if outcome.classes else {'low': float(target.values[rows].min()),
                                      'high': float(target.values[rows].max())}
  task, coding = outcome.task, one.probes[0].coding
  return SavedProbe({
      'format': _FORMAT if coding is None else _HARMONISED_FORMAT,
      'task': {'name': task.name, 'kind': task.kind, 'column': task.column, 'unit': task.unit,
               'classes': list(outcome.classes), 'healthy_column': task.healthy_column,
               'healthy': list(task.healthy)},
      'features': outcome.features, 'estimator': outcome.estimator, 'encoders': encoders,
      'softmax': one.probes[0].softmax, 'probes': len(one.probes),
      'protocol': one.protocol.words,
      'fitted': {'people': len(set(target.groups[rows])), **known},
      'score': {metric: [_plain(value), *map(_plain, outcome.interval.get(metric, ()))]
                for metric, value in outcome.score.items()},
      **({} if coding is None else {'harmonization': {
          **dataclasses.asdict(coding), 'unseen': one.probes[0].harmonizer.unseen}}),
      **made}, one.probes)


def write(saved: SavedProbe, folder: pathlib.Path) -> pathlib.Path:
  """Writes both files, the arrays first; returns the path of the JSON.

  Raises:
    UserError: the folder can't be written.
  """
  record = saved.record
  name = name_of(record['task']['name'], record['features'], record['estimator'])
  arrays = {f'{place}/{key}': np.ascontiguousarray(values)
            for place, one in enumerate(saved.probes) for key, values in _arrays(one).items()}
  content = safetensors.numpy.save(arrays, {'made_by': outputs.MADE_BY})
  text = json.dumps({'made_by': outputs.MADE_BY} | record
                    | {'sha256': hashlib.sha256(content).hexdigest()}, indent=1) + '\n'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    for ending, data in (('.safetensors', content), ('.json', text.encode())):
      temporary = folder / f'.{name}{ending}.writing'
      temporary.write_bytes(data)
      os.replace(temporary, folder / f'{name}{ending}')
  except OSError as error:
    raise UserError(f'{folder}: can\'t be written ({error.strerror}); choose another '
                    '--config.out') from None
  return folder / f'{name}.json'


def read(path: pathlib.Path) -> SavedProbe:
  """A probe by the path of one of its files, or of both without ending.

  Raises:
    UserError: no such files, or they are damaged, do not belong together or are of a newer version.
  """
  base = path.with_suffix('') if path.suffix in _ENDINGS else path
  paths = [base.with_name(base.name + ending) for ending in _ENDINGS]
  for one in paths:
    if not one.is_file():
      there = sorted(other.name for other in one.parent.glob('*.json'))
      raise UserError(f'{one}: no such file; a probe is a .json and a .safetensors that '
                      '`probe --config.save=True` wrote'
                      + (f'; {one.parent} holds {listed(there)}' if there else ''))
  try:
    record = json.loads(paths[0].read_text(encoding='utf-8'))
    content = paths[1].read_bytes()
    if not isinstance(record, dict) or outputs.MARK not in str(record.get('made_by')):
      raise ValueError('it was not made by this program')
    if record.get('format') not in (_FORMAT, _HARMONISED_FORMAT):
      raise ValueError(f'its format {record.get("format")!r} is not that of anatcl_jax '
                       f'{__version__}; {record["made_by"]}')
    if lacking := [name for name in _NEEDED if name not in record]:
      raise ValueError(f'it lacks {listed(lacking)}')
    if hashlib.sha256(content).hexdigest() != record['sha256']:
      raise ValueError(f'{paths[1].name} is not the one that it was written with')
    arrays = safetensors.numpy.load(content)
    if not all(np.isfinite(values).all() for values in arrays.values()):
      raise ValueError('it holds numbers that are not finite')
    probes = tuple(_probe(record, {
        name.partition('/')[2]: values for name, values in arrays.items()
        if name.partition('/')[0] == str(place)}) for place in range(record['probes']))
    saved = SavedProbe(record, probes)
    x = np.zeros((1, sum(one['columns'] for one in record['encoders'])))
    if saved.coding is not None:
      x = with_sites(x, np.zeros((1, 2 + saved.coding.kept)))
    saved.table(x, np.zeros(1))     # that all is there
  except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError,
          safetensors.SafetensorError) as error:
    why = error.strerror if isinstance(error, OSError) else f'{error}'
    raise UserError(f'{paths[0]}: is no saved probe that can be used ({why})') from None
  return saved


def _arrays(probe: FittedProbe) -> dict[str, np.ndarray]:
  if probe.harmonizer is None:
    return probe.arrays
  return probe.arrays | {f'{_COMBAT}{name}': getattr(probe.harmonizer, f'{name}_')
                         for name in _LEARNED}


def _probe(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> FittedProbe:
  """One fold's, of a record and its arrays."""
  own = {name: values for name, values in arrays.items() if not name.startswith(_COMBAT)}
  probe = FittedProbe(own, bool(record['softmax']))
  if record['format'] == _FORMAT:
    return probe
  said = record['harmonization']
  coding = Coding(said['column'], tuple(said['sites']),
                  tuple((name, tuple(levels)) for name, levels in said['keep']))
  combat = ComBat(coding.kept, said['unseen'])
  for name in _LEARNED:
    setattr(combat, f'{name}_', arrays[f'{_COMBAT}{name}'])
  return dataclasses.replace(probe, harmonizer=combat, coding=coding)


def saver(folder: pathlib.Path, cohort: Cohort, encoders: dict[str, list[dict[str, Any]]],
          tasks: set[str], made: dict[str, Any]) -> Callable[[list[Scored]], None]:
  """What writes the probes of `encoders` (identity.of_sources) for some tasks, as each is done."""
  def save(scored: list[Scored]) -> None:
    for one in scored:
      name = plain(one.outcome.features)
      if one.outcome.task.name in tasks and name in encoders and one.probes:
        write(of_scored(one, encoders[name], {
            'labels': cohort.source, 'synthetic': cohort.synthetic,
            'trained_on_synthetic': name in cohort.trained_on_synthetic,
            **{key: made[key] for key in ('command', 'date', 'versions')}}), folder)
  return save


def keep_only(folder: pathlib.Path, outcomes: Sequence[Outcome]) -> list[str]:
  """Takes away probes of runs before; returns the folder's name, if probes are there."""
  keep = {name_of(one.task.name, one.features, one.estimator) for one in outcomes}
  for path in folder.glob('*'):
    if path.suffix in _ENDINGS and path.stem not in keep and outputs.is_own(path):
      path.unlink()
  return [f'{folder.name}/'] if any(folder.glob('*.json')) else []


def _plain(value: float) -> float | None:
  return float(value) if np.isfinite(value) else None
