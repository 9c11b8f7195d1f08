"""What an evaluation is fed: labels, and features of checkpoints or tables, of the same scans."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas

from anatcl_jax.cohorts import origins
from anatcl_jax.cohorts.morphometry import Morphometry
from anatcl_jax.cohorts.origins import Origin
from anatcl_jax.data import shards
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.errors import UserError, listed
from anatcl_jax.evaluation import cohort as cohorts
from anatcl_jax.evaluation import measured
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.representations import Variants
from anatcl_jax.evaluation.results import BASELINES, UNTRAINED, is_baseline
from anatcl_jax.frozen import extract
from anatcl_jax.frozen import table as feature_table
from anatcl_jax.models.feature_pooling import MEAN
from anatcl_jax.weights import published
from anatcl_jax.weights.choice import named_paths, workdir_of
from anatcl_jax.weights.load import Weights, encoder_options, load_weights, untrained

_SHARDS = 'the shards'       # no name that a table of features may have


@dataclasses.dataclass(frozen=True)
class Sources:
  """Labels and features of the same scans, and where they came from."""

  cohort: Cohort
  encoders: dict[str, Variants]            # by name, [scans of the cohort, F]; untrained among them
  weights: dict[str, Weights]              # of checkpoints, by name
  workdirs: dict[str, pathlib.Path]        # those of them that are workdirs of a run
  data: ShardSet | None                    # the shards, where there are some
  tables: dict[str, pathlib.Path]          # of features, by name
  measured: Morphometry | None = None      # of tables


def gather(*, checkpoint: str, tables: str, data_dir: str, participants: str, trained_on: str,
           untrained_seeds: int, batch_size: int, pool: str = MEAN, untrained_pool: str = '',
           show: bool = True, same_people: str = 'auto', morphometry: str = '',
           atlas: str = 'desikan', loose_names: bool = False,
           examine: Callable[[pandas.DataFrame], Any] = lambda table: None) -> Sources:
  """Reads labels, applies encoders, joins tables of features, and marks who was trained on.

  Args: as in configs/probe.py; `tables` is its `features`.
    examine: called with the labels before any encoder is applied, to raise what is wrong with them.

  Raises:
    UserError: they do not go together, or one of them can't be read.
    RunFailure: a record or a checkpoint is damaged.
  """
  paths = named_paths(checkpoint, 'config.checkpoint', BASELINES)
  table_paths = named_paths(
      tables, 'config.features', tuple(name for name in BASELINES if name != UNTRAINED))
  measures = measured.paths_of(morphometry, atlas)
  if not paths and not table_paths and not measures:
    raise UserError('nothing to evaluate: give --config.checkpoint=WORKDIR, '
                    '--config.features=TABLE or --config.morphometry=TABLE')
  if both := sorted(set(paths) & set(table_paths)):
    raise UserError(f'{listed(both)} names a checkpoint and a table of features; name one of them '
                    'otherwise, as in other=PATH')
  if data_dir and participants:
    raise UserError('give labels once: either --config.data_dir or --config.participants')
  runs = {path: cohorts.read_run(path) for path in paths.values()}
  if paths and participants:
    raise UserError('a checkpoint needs volumes: give --config.data_dir in place of '
                    '--config.participants')
  _check_there('weights', paths)
  _check_there('table of features', table_paths)
  weights = {name: load_weights(path) for name, path in paths.items()}
  if not data_dir and not participants:
    data_dir = _data_of_runs(runs)
  data = shards.open_shards(pathlib.Path(data_dir)) if data_dir else None
  read = {name: feature_table.read_encoders(path) for name, path in table_paths.items()}

  cohort = cohorts.of_shards(data) if data else cohorts.of_table(pathlib.Path(participants))
  examine(cohort.table)
  identifiers = {name: own for name, (own, _) in read.items()}
  if paths:
    identifiers[_SHARDS] = cohort.table[['participant_id', 'session']]
  if measures and cohort.morphometry is not None:
    raise UserError(f'{cohort.source} holds morphometry; give it once, without config.morphometry')
  cohort, rows = cohorts.join(cohort, identifiers) if identifiers else (cohort, {})
  found = None
  if measures:
    found = measured.read(measures, atlas, cohort, loose_names)
    if not identifiers and any(session for _, session in found.scans):
      cohort, _ = cohorts.join(cohort, {'morphometry': measured.scans(found)})
    cohort, kept = measured.joined(cohort, found)
    rows = {name: own[kept] for name, own in rows.items()}
  cohort = cohort.noted(*_kinds(weights, data, table_paths))
  cohort = _mark(cohort, {path: run for path, run in runs.items() if run},
                 named_paths(trained_on, 'config.trained_on'), same_people,
                 [name for name, path in paths.items() if runs[path] is None]
                 + [name for name in read if name != UNTRAINED])

  def apply(name: str, one: Weights, pool: str = pool) -> np.ndarray:
    if show:
      print(f'features of {name}', file=sys.stderr)
    values = extract.features_of_shards(one, data, batch_size=batch_size, pool=pool, show=show)
    return values[rows[_SHARDS]]

  encoders = {name: (apply(name, one),) for name, one in weights.items()}
  for name in sorted(read, key=lambda name: name == UNTRAINED):     # baselines last
    encoders |= _of_table(name, {part: values[rows[name]]
                                 for part, values in read[name][1].items()})
  if UNTRAINED not in read:
    encoders |= _untrained(weights, untrained_seeds, apply, untrained_pool)
  cohort = _with_synthetic(cohort, weights, table_paths, encoders)
  cohort = cohort.noted(*_notes_of_pools(table_paths))
  if table_paths and not any(map(is_baseline, encoders)):
    pools = sorted({feature_table.read_pool(path) or MEAN for path in table_paths.values()})
    cohort = cohort.noted(
        'there is no untrained encoder beside these features: its table (features --weights '
        f'untrained:ENCODER --pool {" or ".join(pools)}) would be given as '
        f'--config.features={UNTRAINED}=TABLE,...')
  return Sources(cohort, encoders, weights,
                 {name: workdir_of(path)[0] for name, path in paths.items() if runs[path]}, data,
                 table_paths, found)


def _check_there(kind: str, paths: dict[str, pathlib.Path]) -> None:
  """Raises UserError for a path where nothing is, before anything else is asked for."""
  for path in paths.values():
    place, _ = workdir_of(path)
    if not place.exists() and not (kind == 'weights' and published.named(str(path))):
      near = sorted(one.name for one in place.parent.iterdir() if not one.name.startswith('.')
                    ) if place.parent.is_dir() else []
      beside = (f'{place.parent} holds {listed(near)}' if near
                else f'{place.parent} is {"empty" if place.parent.is_dir() else "not there"}')
      raise UserError(f'{path}: no such {kind} (seen from {pathlib.Path.cwd()}; {beside})')


def _of_table(name: str, features: dict[str, np.ndarray]) -> dict[str, Variants]:
  """The representations in a table: that of its encoder; of several each, and all side by side.

  They are never averaged, since features of separate trainings are not aligned. Several untrained
  ones are draws of one.
  """
  if name == UNTRAINED or len(features) == 1:
    return {name: tuple(features.values())}
  return {name: (np.concatenate(list(features.values()), 1),)} | {
      f'{name}:{part}': (values,) for part, values in features.items()}


def _with_synthetic(cohort: Cohort, weights: dict[str, Weights], tables: dict[str, pathlib.Path],
                    encoders: dict[str, Variants]) -> Cohort:
  """The cohort with what cards and the JSON beside tables say is SYNTHETIC: scans, and training."""
  trained = {name for name, one in weights.items() if one.card.get('synthetic')}
  scans = cohort.synthetic
  for name, path in tables.items():
    of_scans, parts = feature_table.read_synthetic(path)
    scans |= of_scans
    trained |= {name, *(f'{name}:{part}' for part in parts)} if parts else set()
  return dataclasses.replace(cohort, synthetic=scans, trained_on_synthetic=tuple(
      name for name in encoders if name in trained and not is_baseline(name)))


def _notes_of_pools(tables: dict[str, pathlib.Path]) -> tuple[str, ...]:
  """Says where the table of the untrained encoder was pooled otherwise than the others."""
  pools = {name: pool for name, path in tables.items() if (pool := feature_table.read_pool(path))}
  fresh = pools.get(UNTRAINED)
  other = [f'{name} ({pool})' for name, pool in pools.items() if fresh and pool != fresh]
  return (f'{UNTRAINED} is pooled by {fresh}, and {listed(other)} otherwise: as a baseline it '
          'needs the same --pool',) if other else ()


def _kinds(weights: dict[str, Weights], data: ShardSet | None,
           table_paths: dict[str, pathlib.Path]) -> list[str]:
  """Where maps or morphometry are of other kinds than an encoder was trained on, or each other."""
  notes = []
  for name, one in weights.items():
    if why := origins.difference(Origin.of_record(one.card.get('maps')), data.maps):
      notes.append(f'{name}: {why}')
    trained = one.card.get('measured_by')
    if trained and data.measured_by and trained != data.measured_by:
      notes.append(f'{name}: trained with morphometry by {trained}; that of {data.directory} is by '
                   f'{data.measured_by}, which is not the same measure')
  given = {name: Origin.of_record(feature_table.read_description(path).get('maps'))
           for name, path in table_paths.items()}
  if weights:
    given[str(data.directory)] = data.maps
  kinds = {kind: name for name, kind in given.items() if kind}
  if len(kinds) > 1:
    notes.append('features are of maps of several kinds, so that differences between them may be '
                 f'the maps\': {listed([f"{name} ({kind})" for kind, name in kinds.items()])}')
  return notes


def _data_of_runs(runs: dict[pathlib.Path, dict[str, Any] | None]) -> str:
  """The shards that all runs were trained on."""
  found = {run['data_dir'] for run in runs.values() if run and 'data_dir' in run}
  if len(found) != 1 or None in runs.values():
    raise UserError('whose scans? give --config.data_dir=SHARDS, or --config.participants=TSV for '
                    'tables of features')
  directory, = found
  if not (pathlib.Path(directory) / 'dataset.json').is_file():
    raise UserError(f'{directory}, the shards that {listed([str(path) for path in runs])} was '
                    f'trained on, are not there (seen from {pathlib.Path.cwd()}); give where they '
                    'are: --config.data_dir=SHARDS')
  return directory


def _mark(cohort: Cohort, runs: dict[pathlib.Path, dict[str, Any]],
          trained_on: dict[str, pathlib.Path], same_people: str, unknown: list[str]) -> Cohort:
  """The cohort with the people marked whom runs were trained on; says what is not known."""
  for path in trained_on.values():
    _check_there('workdir', {'': path})
    run = cohorts.read_run(path)
    if run is None:
      raise UserError(f'config.trained_on: {path} is no workdir of anatcl_jax.main (config.json)')
    runs = runs | {path: run}
  pending = list(runs.items())
  for path, run in pending:   # and whom the runs saw whose weights they began with
    cohort = cohorts.mark_seen(cohort, run, path, same_people)
    if begun := run.get('init'):
      before = cohorts.read_run(pathlib.Path(begun))
      if before is None:
        cohort = cohort.noted(f'{path} began with the weights of {begun}: whether those saw these '
                              'people in training is not known')
      elif begun not in map(str, dict(pending)):
        pending.append((pathlib.Path(begun), before))
  if unknown and not trained_on:
    cohort = cohort.noted(f'whether {listed(unknown)} saw these people in training is not known '
                          'here; if so, name the workdir with --config.trained_on')
  return cohort


def _untrained(weights: dict[str, Weights], seeds: int,
               apply: Callable[..., np.ndarray], pool: str) -> dict[str, Variants]:
  """Each architecture there with fresh weights: `untrained`, and `untrained NAME` of others.

  With another `pool`, each also so pooled, by seed 0: `untrained (covariance)`.
  """
  found: dict[str, Variants] = {}
  for name, row in untrained_of(weights).items() if seeds else ():
    if row not in found:
      found[row] = tuple(apply(f'{row}, seed {seed}', untrained(weights[name], seed))
                         for seed in range(seeds))
      if pool:
        fresh = f'{row} ({pool})'
        found[fresh] = (apply(fresh, untrained(weights[name], 0), pool),)
  return found


def untrained_of(weights: dict[str, Weights]) -> dict[str, str]:
  """The row of each encoder's architecture with fresh weights, by the encoder's name."""
  kinds = {name: ' '.join([one.encoder, *(f'{key}={value}' for key, value
                                          in encoder_options(one.card).items())])
           for name, one in weights.items()}
  return {name: UNTRAINED if kind == next(iter(kinds.values())) else f'{UNTRAINED} {kind}'
          for name, kind in kinds.items()}
