"""Which objective makes features that know anatomy and disease? SYNTHETIC people, known truth.

  python -m anatcl_jax.studies objectives --config=study --out=DIR
  python -m anatcl_jax.studies objectives --config=study:demo --out=DIR

Draws the people, trains an encoder for each objective and seed of the config, and asks each frozen
encoder what it knows of people who took no part in training: DIR/results.jsonl has a line a run.
Runs stand for themselves: the same command goes on where it was interrupted, several processes
share the work, --only and --seeds choose, in any order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import pathlib
import shlex
import shutil
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any

from anatcl_jax import command_line, config_files, errors, lock, outputs
from anatcl_jax.errors import UserError

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  from collections.abc import Iterator, Mapping

  import ml_collections
  import numpy as np

  from anatcl_jax.data.shards import ShardSet
  from anatcl_jax.studies.study_data import Asked

RESULTS = 'results.jsonl'
UNTRAINED = 'untrained'
BASELINES = ('morphometry', 'covariates')     # rows without an encoder


@dataclasses.dataclass(frozen=True)
class Run:
  """An objective, or a baseline, and a seed."""

  objective: str
  seed: int

  @property
  def name(self) -> str:
    """Of its folder."""
    return f'{self.objective}-seed{self.seed}'


def planned(config: ml_collections.ConfigDict, only: list[str] | None = None,
            seeds: list[int] | None = None) -> list[Run]:
  """The runs of a study: seed 0 of all objectives first, so that a table is soon there.

  Raises:
    UserError: a name that is no objective of the config.
  """
  names = [*BASELINES, *config.objectives]
  matter = [name for name in config.matter.split(',') if name]
  for name in [*matter, *(only or [])]:
    errors.check_name(name, names, 'objective')
  runs = [Run(name, seed) for name in names for seed in range(
      1 if name in BASELINES else config.more_seeds if name in matter else config.seeds)]
  chosen = [run for run in runs if (not only or run.objective in only)
            and (not seeds or run.seed in seeds)]
  return sorted(chosen, key=lambda run: run.seed)


def config_of(objective: str, line: str, training: str) -> ml_collections.ConfigDict:
  """The config of pretraining that an objective's line and the study's own keys say.

  Raises:
    UserError: a line that pretraining would not understand either.
  """
  name, *own = shlex.split(line)
  config = config_files.load(name, 'pretrain')
  for keys in (shlex.split(training), own):
    changes, unknown = config_files.split(keys, config)
    if unknown:
      raise UserError(f'objective {objective}: {unknown[0]!r} is no key of pretraining')
    config = config_files.override(config, changes)
  return config


def read_results(path: pathlib.Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """What a study's runs share, and their rows, of .jsonl or .gz; nothing where no file is.

  Raises:
    UserError: it is damaged.
  """
  if not path.is_file():
    return {}, []
  try:
    content = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    first, *rows = map(json.loads, content.splitlines())
    return first['study'], rows
  except (ValueError, KeyError, TypeError, EOFError, zlib.error, gzip.BadGzipFile):
    raise UserError(f'{path}: is no results file of this study, or damaged; move it away') from None


def append(path: pathlib.Path, study: dict[str, Any], row: dict[str, Any]) -> None:
  """Adds a row to the results, whole or not at all; another process's rows stay.

  Raises:
    UserError: the file is of another study.
  """
  with _held(path):
    there, rows = read_results(path)
    check_same(path, there, study)
    key = row['objective'], row['seed']
    rows = [old for old in rows if (old['objective'], old['seed']) != key]
    head = {'made_by': outputs.MADE_BY, 'synthetic': True, 'study': study}
    temporary = path.with_suffix('.writing')
    outputs.write_page(temporary,
                       ''.join(json.dumps(line) + '\n' for line in (head, *rows, row)))
    temporary.replace(path)


def check_same(path: pathlib.Path, there: dict[str, Any], study: dict[str, Any]) -> None:
  """Raises UserError where the results are of a study with other people, steps or questions."""
  other = [name for name in study if there and there.get(name) != study[name]]
  if other:
    raise UserError(f'{path} is of a study with another {", ".join(other)}; choose another --out')


@contextlib.contextmanager
def _held(path: pathlib.Path) -> Iterator[None]:
  """The lock of the results, which another process has for a moment only."""
  with contextlib.ExitStack() as stack:
    for left in reversed(range(60)):
      try:
        stack.enter_context(lock.alone_with(path))
        break
      except lock.InUse:
        if not left:
          raise
        time.sleep(0.5)
    yield


def carry_out(config: ml_collections.ConfigDict, lines: Mapping[str, ml_collections.ConfigDict],
              runs: list[Run], out: pathlib.Path, keep_runs: bool = False) -> None:
  """Draws the people, and makes the rows of all runs that have none yet.

  Args:
    lines: the config of pretraining of each objective.

  Raises:
    UserError: `out` holds another study, or an objective of this name with another line.
    Stopped: a signal; the training under way is saved.
  """
  from anatcl_jax.cohorts.phantom.cohort import PhantomSettings
  from anatcl_jax.studies import study_data
  path, study = out / RESULTS, study_data.described(config)
  check_same(path, read_results(path)[0], study)
  settings = PhantomSettings(**config.phantom)
  with lock.alone_in(out / 'drawing', 'choose another --out'):
    study_data.make(settings, config.pretraining, out)
  data, people = study_data.read_asked(out)
  for number, run in enumerate(runs, 1):
    workdir, line = out / 'runs' / run.name, config.objectives.get(run.objective, '')
    try:
      with lock.alone_in(workdir):
        if _is_done(path, run, line):
          continue
        print(f'run {number} of {len(runs)}: {run.name}', file=sys.stderr)
        row = make_row(config, lines.get(run.objective), run, data, people, out, workdir)
        append(path, study, row | {'line': line})
        if not keep_runs:
          shutil.rmtree(workdir, ignore_errors=True)
    except lock.InUse:
      print(f'note: another process is at {run.name}', file=sys.stderr)
  print(table(read_results(path)[1]))


def _is_done(path: pathlib.Path, run: Run, line: str) -> bool:
  """Whether the results have a run; a UserError where they have it by another line."""
  for row in read_results(path)[1]:
    if (row['objective'], row['seed']) == (run.objective, run.seed):
      if row['line'] != line:
        raise UserError(f'{path} has objective {run.objective} by another line: {row["line"]}; '
                        'give this one another name, or choose another --out')
      return True
  return False


def make_row(config: ml_collections.ConfigDict, own: ml_collections.ConfigDict | None, run: Run,
             data: ShardSet, people: Asked, out: pathlib.Path, workdir: pathlib.Path
             ) -> dict[str, Any]:
  """Trains as `own` says, goes on if need be, and asks: a row of the results."""
  import sklearn
  import threadpoolctl

  from anatcl_jax.devices import machine
  from anatcl_jax.studies import questions
  began, spent = time.monotonic(), time.process_time()
  if run.objective in BASELINES:
    first, again = ((people.morphometry, people.morphometry_again)
                    if run.objective == 'morphometry' else (None, None))
    last = {}
  else:
    features, last = _features(config, own, run, data, out, workdir)
    first, again = features[people.first], features[people.second]
  # BLAS's threads cost more than they gain on matrices of this size, as do checks of each fit.
  with (threadpoolctl.threadpool_limits(1),
        sklearn.config_context(assume_finite=True, skip_parameter_validation=True)):
    scores = questions.answers(
        first, again, people, config.folds, _numbers(config.labels, 'config.labels'),
        config.replicates, known=('age', 'sex') if run.objective == 'covariates' else ())
  return {'objective': run.objective, 'seed': run.seed,
          'minutes': round((time.monotonic() - began) / 60, 2),
          'cpu_minutes': round((time.process_time() - spent) / 60, 2),
          'machine': machine.accelerator(),
          'versions': machine.versions('jax', 'flax', 'numpy', 'scikit-learn'), 'training': last,
          'scores': {name: [float(f'{value:.4g}') for value in values]
                     for name, values in scores.items()}}


def _features(config: ml_collections.ConfigDict, own: ml_collections.ConfigDict, run: Run,
              data: ShardSet, out: pathlib.Path, workdir: pathlib.Path
              ) -> tuple[np.ndarray, dict[str, float]]:
  """Frozen features of every record, and what the last row of metrics.jsonl says."""
  from anatcl_jax.config import crop_sizes
  from anatcl_jax.frozen import extract
  from anatcl_jax.studies import study_data
  from anatcl_jax.training import train
  from anatcl_jax.weights import load
  last = {}
  if run.objective == UNTRAINED:
    weights = load.fresh(own.encoder, run.seed)
  else:
    own = own.copy_and_resolve_references()
    own.data_dir, own.seed = str(out / study_data.PRETRAINING), run.seed
    train.train(own, workdir)
    weights = load.load_weights(workdir)
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    last = {name: value for row in rows for name, value in row.items()
            if name.startswith(('loss', 'effective_positives')) or name == 'step'}
  return extract.features_of_shards(weights, data, crop=crop_sizes(own.crop), show=False), last


def table(rows: list[dict[str, Any]]) -> str:
  """A line an objective: the mean over seeds of every score."""
  names = list(dict.fromkeys(name for row in rows for name in row['scores']))
  lines = ['SYNTHETIC people; mean over seeds', '\t'.join(['objective', 'seeds', *names])]
  for objective in dict.fromkeys(row['objective'] for row in rows):
    own = [row['scores'] for row in rows if row['objective'] == objective]
    means = [[scores[name][0] for scores in own if name in scores] for name in names]
    lines.append('\t'.join([objective, str(len(own)),
                            *(f'{sum(of) / len(of):.3f}' if of else '' for of in means)]))
  return '\n'.join(lines)


def _numbers(text: str, option: str) -> list[int]:
  """Whole numbers, joined by commas."""
  try:
    return [int(part) for part in text.split(',') if part]
  except ValueError:
    raise UserError(f'{option}={text}: must be whole numbers joined by commas') from None


def main(arguments: list[str], prog: str) -> None:
  """The command line."""
  parser = command_line.ConfigParser(prog=prog, description=__doc__, config='study')
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='DIR',
                      help=f'people, runs and {RESULTS}')
  parser.add_argument('--only', metavar='NAMES', help='objectives, joined by commas')
  parser.add_argument('--seeds', metavar='NUMBERS', help='joined by commas')
  parser.add_argument('--keep-runs', action='store_true',
                      help='keep the trained encoders (default: deleted once they are asked)')
  with errors.reported():
    options, config = parser.parse(arguments)
    seeds = _numbers(options.seeds, '--seeds') if options.seeds else None
    runs = planned(config, options.only.split(',') if options.only else None, seeds)
    lines = {name: config_of(name, line, config.training)
             for name, line in config.objectives.items()}
  from absl import logging

  from anatcl_jax.devices import compilation, signals
  logging.set_verbosity(logging.FATAL)      # Orbax writes a dozen lines a checkpoint
  with errors.reported():
    signals.stop_at_once()
    compilation.use_cache('auto')
    carry_out(config, lines, runs, options.out, options.keep_runs)
