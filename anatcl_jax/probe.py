"""Says what frozen features of brain maps know, beside an untrained encoder and other baselines.

  python -m anatcl_jax.probe --config=configs/probe.py --config.checkpoint=runs/mine
  python -m anatcl_jax.probe --config=configs/probe.py:cohort=adni \\
      --config.data_dir=data/adni --config.checkpoint=global=runs/global,local=runs/local
  python -m anatcl_jax.probe --config=configs/probe.py --config.tasks=age,mmse \\
      --config.features=ours.tsv,theirs=other.tsv --config.participants=participants.tsv

Checkpoints are workdirs of `python -m anatcl_jax.main` or converted weights; tables of features
have a row a scan, participant_id and session, then the columns f0, f1, ... Each task is predicted
by scikit-learn from every representation in the same nested cross-validation by participant;
people whom an encoder was trained on are never predicted. The folder config.out then holds
report.html, one page with pictures, results.tsv (mean, sd and 95 % interval of each metric),
predictions, comparisons and how they were made. A task is the name of one in configs/tasks.py, or a
column of your participants.tsv: --config.tasks=group, or group:SCZ/HC for two of its values. A file
of your own adds to them (it is Python that is run); docs/probe.md says how each figure is made.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ml_collections

from anatcl_jax import __version__, command_line, config_files, errors, lock, outputs
from anatcl_jax.config import check_seed
from anatcl_jax.errors import UserError, check_name

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  import pandas

  from anatcl_jax.evaluation.evaluate import Settings
  from anatcl_jax.evaluation.results import Evaluation
  from anatcl_jax.evaluation.run import Extent
  from anatcl_jax.evaluation.saliency import Saliency
  from anatcl_jax.evaluation.sources import Sources
  from anatcl_jax.evaluation.tasks import Task
  from anatcl_jax.weights.load import Weights

_VERSIONS = ('jax', 'flax', 'numpy', 'scipy', 'scikit-learn', 'pandas')


def probe(config: ml_collections.ConfigDict,
          command: Sequence[str] = ()) -> Evaluation:
  """Evaluates as the config says, writes everything to config.out, and prints the table.

  Args:
    command: what was typed, for the record of how the results were made; else what would be.

  Raises:
    UserError: config, weights, tables and labels do not go together; the text says which.
  """
  settings, extent = _settings(config)
  known = _known_tasks(config)
  out = _out(config)
  with lock.alone_in(out, 'choose another --config.out'):
    return _probe(config, settings, extent, known, out, command)


def _probe(config: ml_collections.ConfigDict, settings: Settings, extent: Extent,
           known: tuple[dict[str, Task], dict[str, tuple[str, ...]]], out: pathlib.Path,
           command: Sequence[str]) -> Evaluation:
  from anatcl_jax import report
  from anatcl_jax.evaluation import (
    finished,
    given_splits,
    identity,
    run,
    saved,
    sources,
    write,
  )
  from anatcl_jax.training import curves, networks
  split_path = pathlib.Path(config.splits)
  split_table = given_splits.read(split_path) if config.splits else None
  found = sources.gather(
      checkpoint=config.checkpoint, tables=config.features, data_dir=config.data_dir,
      participants=config.participants, trained_on=config.trained_on,
      untrained_seeds=config.untrained_seeds, batch_size=config.batch_size,
      pool=config.pool, untrained_pool=config.untrained_pool, same_people=config.same_people,
      morphometry=config.morphometry,
      atlas=config.atlas, loose_names=config.loose_names,
      examine=lambda table: _chosen(config, known, table))
  chosen = _chosen(config, known, found.cohort.table)
  given = None
  if split_table is not None:
    given = given_splits.of_cohort(split_path, split_table, found.cohort)
  done = finished.Finished(out)
  record = made(config, found, command)
  evaluation = run.run(
      found.cohort, found.encoders, chosen, settings, extent, record,
      finished=done, written=lambda so_far, to_do: write.write_tables(so_far, out, to_do),
      save=saved.saver(out / saved.FOLDER, found.cohort, identity.of_sources(found, config.pool),
                       set(chosen), record) if config.save else None, given=given,
      networks=networks.rows(config, found))
  if config.benchmark:
    evaluation = _with_benchmark(evaluation, found, chosen, settings)
  names = write.write_tables(evaluation, out)
  done.clear()
  written = report.write(evaluation, out,
                         training=curves.pictures(found.workdirs, evaluation.trained_on_synthetic),
                         saliencies=_saliencies(config, found, evaluation),
                         names=config.sections)
  print(''.join(f'note: {note}\n' for note in evaluation.notes), end='', file=sys.stderr)
  print(write.summary(evaluation))
  kept = saved.keep_only(out / saved.FOLDER, evaluation.outcomes) if config.save else []
  print(f'results: {written} (beside it {", ".join([*names, *kept])}, figures/)')
  print(f'next: open {written} in a browser; docs/probe.md says how each figure is made')
  return evaluation


def _with_benchmark(evaluation: Evaluation, found: Sources, chosen: dict[str, tuple[Task, bool]],
                    settings: Settings) -> Evaluation:
  """The evaluation with the tables of BrainFMBench's protocol, on the same scans."""
  from anatcl_jax.evaluation import brainfmbench
  print(f'{brainfmbench.NAME}: {len(brainfmbench.SEEDS)} seeds, forests of '
        f'{brainfmbench.FOREST["n_estimators"]} trees; minutes for each task and encoder',
        file=sys.stderr)
  tables, notes = brainfmbench.run(found.cohort, found.encoders, chosen, settings.fewest,
                                   settings.jobs)
  return dataclasses.replace(evaluation, csv=tables, notes=(*evaluation.notes, *notes))


def check(config: ml_collections.ConfigDict, data_dir: str = '') -> None:
  """Raises UserError for what is wrong with a config, as far as it is seen without features.

  Args:
    data_dir: shards whose columns may be tasks, where they are there already.
  """
  from anatcl_jax.data import shards
  _settings(config)
  prepared = data_dir and (pathlib.Path(data_dir) / 'dataset.json').is_file()
  table = shards.open_shards(pathlib.Path(data_dir)).table if prepared else None
  _chosen(config, _known_tasks(config), table)


def _known_tasks(config: ml_collections.ConfigDict
                 ) -> tuple[dict[str, Task], dict[str, tuple[str, ...]]]:
  """Tasks and cohorts by name: those that come with the program, and the user's own."""
  from anatcl_jax.evaluation import healthy, tasks
  column, values = healthy.parse(config.healthy)
  known, cohorts = tasks.read_tasks(config_files.FOLDER / 'tasks.py',
                                    *filter(None, [config.task_file]))
  return {name: dataclasses.replace(task, healthy_column=column, healthy=values)
          if task.kind == tasks.BRAIN_AGE and not (task.healthy_column or task.healthy) else task
          for name, task in known.items()}, cohorts


def _chosen(config: ml_collections.ConfigDict,
            known: tuple[dict[str, Task], dict[str, tuple[str, ...]]],
            table: pandas.DataFrame | None) -> dict[str, tuple[Task, bool]]:
  """The tasks that the config names; raises UserError where `healthy` would do nothing."""
  from anatcl_jax.evaluation import tasks
  chosen = tasks.choose_tasks(config.tasks, *known, table)
  if config.healthy and not any(task.kind == tasks.BRAIN_AGE for task, _ in chosen.values()):
    raise UserError('config.healthy says whom brain_age is fitted on, and changes no other task; '
                    'add it to --config.tasks')
  return chosen


def probe_run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """The same for the run of a workdir that has just ended; its row is named `trained`."""
  import jax

  from anatcl_jax.devices import processes
  if jax.process_count() > 1:
    if processes.is_first():
      print(f'note: several processes ran; `python -m anatcl_jax.probe --config=probe '
            f'--config.checkpoint={workdir}` makes the report', file=sys.stderr)
    return
  config.checkpoint = f'trained={workdir}'
  probe(config)


def command_of(config: ml_collections.ConfigDict) -> list[str]:
  """The command that does what a config says."""
  usual = config_files.load('probe').to_dict()
  return ['python', '-m', 'anatcl_jax.probe', '--config=probe',
          *(f'--config.{key}={value}' for key, value in config.to_dict().items()
            if value != usual.get(key))]


def made(config: ml_collections.ConfigDict, found: Sources,
         command: Sequence[str]) -> dict[str, Any]:
  """How an evaluation was made, as plain JSON: command, versions, config, data, seeds, cards."""
  data = {'labels': found.cohort.source, 'scans': len(found.cohort.table),
          'participants': found.cohort.table['participant_id'].nunique(),
          'tables': {name: str(path) for name, path in found.tables.items()}}
  if found.data:
    data |= {'identity': found.data.identity(), 'grid': found.data.info['grid'],
             'atlas': found.data.info['atlas'], 'measures': list(found.data.measures),
             'maps': found.data.info.get('maps'), 'measured_by': found.data.measured_by}
  if found.measured:
    data |= {'morphometry': found.measured.source, 'atlas': found.measured.atlas,
             'measures': list(found.measured.measures), 'measured_by': found.measured.measured_by}
  return {
      'command': shlex.join(command or command_of(config)), 'folder': str(pathlib.Path.cwd()),
      'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
      'versions': {'anatcl_jax': __version__, 'python': platform.python_version()}
                  | {name: importlib.metadata.version(name) for name in _VERSIONS},
      'config': config.to_dict(), 'data': data,
      'seeds': {'folds': config.seed,
                'untrained': list(range(config.untrained_seeds))},
      'cards': {name: one.card for name, one in found.weights.items()}}


def _saliencies(config: ml_collections.ConfigDict, found: Sources,
                evaluation: Evaluation) -> list[Saliency]:
  """Of each encoder whose weights are there, for the first task that is a number or two classes."""
  import numpy as np

  from anatcl_jax.evaluation import saliency, sources, tasks
  from anatcl_jax.evaluation.results import is_baseline
  from anatcl_jax.evaluation.target import read_target
  from anatcl_jax.report import sections
  from anatcl_jax.weights.load import untrained
  task = next((one.task for one in evaluation.outcomes if not one.refused
               and one.task.kind != tasks.CHALLENGE and len(one.classes) in (0, 2)), None)
  if (config.saliency == 'none' or 'saliency' not in sections.chosen(config.sections)
      or found.data is None or task is None):
    return []
  record_of = {key: row for row, key in enumerate(zip(found.data.table['participant_id'],
                                                      found.data.table['session']))}
  records = np.array([record_of[key] for key in found.cohort.keys()])
  target = read_target(task, evaluation.table, config.fewest)

  def of(name: str, weights: Weights) -> Saliency:
    return saliency.of_task(name, weights, evaluation.features[name], target, records, found.data,
                            method=config.saliency, most=config.saliency_scans, seed=config.seed,
                            pool=config.pool)

  fresh = {name: row for name, row in sources.untrained_of(found.weights).items()
           if row in evaluation.features and row not in found.tables}
  beside = {row: of(row, untrained(found.weights[name], 0)) for name, row in fresh.items()}
  return [dataclasses.replace(of(name, weights), untrained=beside.get(fresh.get(name)))
          for name, weights in found.weights.items() if not is_baseline(name)]


def _settings(config: ml_collections.ConfigDict) -> tuple[Settings, Extent]:
  """Raises UserError for values that no evaluation can have."""
  from anatcl_jax.evaluation import (
    beyond,
    estimators,
    harmonization,
    run,
    saliency,
    same_people,
  )
  from anatcl_jax.evaluation.evaluate import PROTOCOLS, Settings
  from anatcl_jax.models import feature_pooling
  from anatcl_jax.report import sections
  from anatcl_jax.training import networks
  for key, least in (('folds', 2), ('inner_folds', 2), ('fewest', 2),
                     ('network_epochs', 1),
                     ('network_batch_size', 2), ('untrained_seeds', 0), ('jobs', 0),
                     ('batch_size', 1), ('saliency_scans', 1)):
    if config[key] < least:
      raise UserError(f'config.{key} is {config[key]}, must be at least {least}')
  check_seed(config.seed, 'config.seed')
  if not 0 < config.network_learning_rate < float('inf'):
    raise UserError(f'config.network_learning_rate is {config.network_learning_rate}, must be a '
                    'number above 0')
  networks.chosen(config.networks)
  names = tuple(filter(None, (name.strip() for name in config.estimators.split(','))))
  for name in names or ('',):
    check_name(name, estimators.ESTIMATORS, 'estimator')
  check_name(config.protocol, PROTOCOLS, 'protocol')
  check_name(config.same_people, same_people.CHOICES, 'same_people')
  feature_pooling.checked(config.pool)
  if config.untrained_pool:
    feature_pooling.checked(config.untrained_pool)
  check_name(config.saliency, (*saliency.METHODS, 'none'), 'saliency')
  beyond.curve_sizes(config.learning_curve, 100)
  sections.chosen(config.sections)
  check_name(config.benchmark, ('', 'brainfmbench'), 'benchmark')
  return (Settings(config.folds, config.inner_folds, config.seed, tuple(dict.fromkeys(names)),
                   config.fewest, config.protocol,
                   config.jobs or os.cpu_count() or 1,
                   harmonization.asked(config.harmonize, config.keep, config.unseen_sites)),
          run.Extent(config.learning_curve, config.leave_one_site_out))


def _out(config: ml_collections.ConfigDict) -> pathlib.Path:
  """Where results go; raises UserError if they can't, before anything is computed."""
  from anatcl_jax.evaluation import saved, write
  from anatcl_jax.report import page
  from anatcl_jax.weights.choice import named_paths, workdir_of
  checkpoints = list(named_paths(config.checkpoint, 'config.checkpoint').values())
  alone = len(checkpoints) == 1 and not config.features
  workdir, which = workdir_of(checkpoints[0]) if alone else (pathlib.Path(), '')
  out = pathlib.Path(config.out or (
      workdir / '-'.join(['probe', *filter(None, [which])])
      if alone and (workdir / 'config.json').is_file() else 'runs/probe'))
  benchmarks = [path.name for path in out.glob('brainfmbench*.csv')]
  outputs.check_folder(out, (*write.TABLES, *benchmarks, outputs.RECORD, page.PAGE), page.FIGURES,
                       '--config.out')
  if config.save:
    probes = out / saved.FOLDER
    outputs.check_folder(probes, [path.name for path in probes.glob('*')], page.FIGURES,
                         '--config.out')
  return out


def main(arguments: list[str] | None = None, prog: str = 'python -m anatcl_jax.probe') -> None:
  """Evaluates as the arguments say."""
  arguments = sys.argv[1:] if arguments is None else arguments
  with errors.reported():
    _, config = command_line.ConfigParser(prog=prog, description=__doc__, config='probe'
                                          ).parse(arguments)
    from absl import logging

    from anatcl_jax.devices import presence
    logging.set_verbosity(logging.ERROR)    # Orbax warns of what is no fault
    presence.warn_of_unused_gpu()
    probe(config, [*prog.split(), *arguments])


if __name__ == '__main__':
  main()
