"""Writes a cohort as a shard set: atomic, resumable, one shard at a time, on several cores."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import datetime
import errno
import glob
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

import anatcl_jax
from anatcl_jax import lock, paths
from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts import cohort as cohorts
from anatcl_jax.cohorts import volume_files, write_tables
from anatcl_jax.cohorts.cohort import Cohort, Problem, Scan
from anatcl_jax.cohorts.morphometry import MEASURES
from anatcl_jax.cohorts.volumes import Grid, read_volume
from anatcl_jax.data import digests, intensity, shards
from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.progress import progress_bar

_SCANS_A_SHARD = 64
_RECORD_VERSION = 1   # changes with what the bytes of a shard mean


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What decides the bytes of the volumes."""

  grid: Grid
  dtype: str = 'float32'


@dataclasses.dataclass(frozen=True)
class Part:
  """One of several runs that share the shards of a cohort among them: `index` from 1 to `count`."""

  index: int
  count: int

  @classmethod
  def parse(cls, text: str) -> Part:
    """Reads `3/8`; a UserError for anything else."""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
      raise UserError(f'--part {text!r} is not one such as 3/8')
    return cls(int(match[1]), int(match[2]))


def write_shards(cohort: Cohort, recipe: Recipe, out: pathlib.Path, *, workers: int = 1,
                 leave_out_bad: bool = False,
                 part: Part | None = None) -> shards.ShardSet | None:
  """Writes `cohort` to `out`; shards that are there already, whole and up to date, are kept.

  Everything is made in `<out>.partial` and renamed at the end. A run that was interrupted goes on
  where it was; corrected labels rewrite no volume; an error of the user leaves nothing behind but
  shards that were finished before this run. A `part` writes its own shards only and returns None:
  the last run, without a part, verifies them, writes what is missing and puts the set together.

  Raises:
    UserError: `out` is something else, or scans can't be read and `leave_out_bad` is not set.
    RunFailure: the disk does not take the shards.
  """
  out = out.resolve()
  if not out.name:
    raise UserError(f'--out {out} has no name; give a folder of its own')
  with _alone(out, part):
    return _write(cohort, recipe, out, workers, leave_out_bad, part)


@contextlib.contextmanager
def _alone(out: pathlib.Path, part: Part | None) -> Iterator[None]:
  """Holds `out`, or a part's share of it; the last run waits for no part that is still at work."""
  share = f'{out.name}.part-'
  with contextlib.ExitStack() as stack:
    if part is None:
      stack.enter_context(lock.alone_with(out, 'choose another --out'))
      for path in out.parent.glob(f'.{glob.escape(share)}*{lock.LOCK_FILE}'):
        stack.enter_context(lock.alone_with(out.with_name(path.name[1:-len(lock.LOCK_FILE)])))
    else:
      stack.enter_context(lock.alone_with(out.with_name(f'{share}{part.index}-of-{part.count}')))
    yield


def _write(cohort: Cohort, recipe: Recipe, out: pathlib.Path, workers: int, leave_out_bad: bool,
           part: Part | None) -> shards.ShardSet | None:
  staging = out.with_name(out.name + '.partial')
  previous = _previous_shards(out, recipe)
  fresh = not staging.exists()
  try:
    staging.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'can\'t write {staging} ({error.strerror})') from None
  blocks = [cohort.scans[i:i + _SCANS_A_SHARD] for i in range(0, len(cohort.scans), _SCANS_A_SHARD)]
  mine = range(len(blocks)) if part is None else range(part.index - 1, len(blocks), part.count)
  made = []
  with contextlib.ExitStack() as stack:
    pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context('spawn'))) if workers > 1 else None
    bar = stack.enter_context(progress_bar(sum(len(blocks[i]) for i in mine), 'volumes', 'volumes'))
    for i in mine:
      path = staging / f'volumes-{i:05d}-of-{len(blocks):05d}.array_record'
      kept = _kept_shard(path, blocks[i], recipe, previous, out)
      made.append(kept or _write_shard(path, blocks[i], recipe, pool, bar))
      if kept:
        bar.update(len(blocks[i]))
  try:
    unreadable = [Problem(*problem) for shard in made for problem in shard['left_out']]
    bad = cohorts.settle(unreadable, sum(len(blocks[i]) for i in mine), leave_out_bad)
    if part is None:
      cohort = cohort.select(lambda scan: scan.label not in bad)
  except UserError:
    if fresh and part is None:   # the work of other parts, or of an earlier run, stays
      shutil.rmtree(staging)
    raise
  if part is not None:
    print(f'part {part.index} of {part.count}: {len(made)} of {len(blocks)} shards are in '
          f'{staging}; after all parts, run the same command without --part')
    return None
  try:
    _write_labels(staging, cohort, recipe, [shard for shard in made if shard['records']])
    _swap(staging, out)
  except OSError as error:
    raise _not_written(staging, error) from None
  return shards.open_shards(out)


def _fingerprint(block: tuple[Scan, ...], recipe: Recipe) -> str:
  """Changes when a volume of the shard or the way it is stored does."""
  try:
    files = [(*scan.key, repr(scan.volume), *volume_files.state(scan.volume.path))
             for scan in block]
  except OSError as error:
    raise UserError(f'{error.filename}: is not there any more ({error.strerror})') from None
  described = json.dumps([files, dataclasses.asdict(recipe), _RECORD_VERSION])
  return hashlib.sha256(described.encode()).hexdigest()


def _previous_shards(out: pathlib.Path, recipe: Recipe) -> dict[str, dict]:
  """Shards of an earlier run at `out`, by fingerprint."""
  if not out.exists():
    return {}
  if not out.is_dir() or (any(out.iterdir()) and not (out / 'dataset.json').is_file()):
    raise UserError(f'{out} exists and is no shard set; choose another --out')
  if not any(out.iterdir()):
    return {}
  info = shards.read_info(out)   # damaged volumes and labels are written again
  grid = Grid.of(info['grid']['shape'], info['grid']['affine'])
  if not grid.matches(recipe.grid) or info['dtype'] != recipe.dtype:
    raise UserError(f'{out} holds shards of {info["dtype"]} on {grid}, not of {recipe.dtype} on '
                    f'{recipe.grid}; choose another --out or remove it')
  return {shard.get('fingerprint'): shard for shard in info['shards']}


def _entry(path: pathlib.Path) -> dict:
  """What a finished shard says of itself; nothing where that is damaged: it is written again."""
  try:
    entry = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError):
    return {}
  return entry if isinstance(entry, dict) else {}


def _kept_shard(path: pathlib.Path, block: tuple[Scan, ...], recipe: Recipe, previous: dict,
                out: pathlib.Path) -> dict | None:
  """The entry of a shard that needs no writing: finished in an earlier run or part, or in `out`."""
  fingerprint = _fingerprint(block, recipe)
  entry_file = path.with_name(path.name + '.json')
  if entry_file.is_file():
    entry = _entry(entry_file)
    if (entry.get('fingerprint') == fingerprint and path.is_file()
        and paths.sha256(path) == entry.get('sha256')):
      return entry
  if fingerprint not in previous:
    return None
  source = out / previous[fingerprint]['file']
  if not source.is_file() or paths.sha256(source) != previous[fingerprint]['sha256']:
    return None
  path.unlink(missing_ok=True)
  try:
    os.link(source, path)
  except OSError:  # some network file systems have no hard links
    shutil.copyfile(source, path)
  return previous[fingerprint] | {'file': path.name}


def _write_shard(path: pathlib.Path, block: tuple[Scan, ...], recipe: Recipe, pool, bar) -> dict:
  """Writes one shard under a temporary name, then its entry, and returns the entry."""
  temporary = path.with_name(path.name + '.writing')
  left_out, statistics = [], []
  encoded = (pool.map if pool else map)(_encode, block, [recipe] * len(block))
  try:
    # Groups of one record: any record is read without decompressing its neighbours. zstd's level 1
    # writes faster than its default, and gray-matter maps are as small.
    writer = ArrayRecordWriter(str(temporary), 'group_size:1,zstd:1')
    for scan, (record, figures, why) in zip(block, encoded):
      if why:
        left_out.append((scan.label, why))
      else:
        writer.write(record)
        statistics.append(figures)
      bar.update()
    writer.close()
    digest = paths.sha256(temporary)
    os.replace(temporary, path)
  except concurrent.futures.process.BrokenProcessPool:
    raise RunFailure('a process that reads volumes was killed, perhaps for lack of memory; run the '
                     'same command again with fewer --workers, it goes on from here') from None
  except (OSError, RuntimeError) as error:
    raise _not_written(path, error) from None
  low, high, error, *level_and_spread = (
      np.array(statistics).T if statistics else ((0,), (0,), (0,), (), ()))
  entry = {'file': path.name, 'records': len(statistics), 'sha256': digest,
           'bytes': path.stat().st_size, 'lowest': float(min(low)), 'highest': float(max(high)),
           'largest_error': float(max(error)), 'left_out': left_out,
           'level_and_spread': np.transpose(level_and_spread).tolist(),
           'fingerprint': _fingerprint(block, recipe)}
  try:
    path.with_name(path.name + '.json').write_text(json.dumps(entry))
  except OSError as error:
    raise _not_written(path, error) from None
  return entry


def _not_written(path: pathlib.Path, error: Exception) -> RunFailure:
  return RunFailure(f'could not write {path} ({str(error)[:200]}); make room and run the same '
                    'command again, it goes on from here')


def _encode(scan: Scan, recipe: Recipe) -> tuple[bytes, tuple[float, ...], str | None]:
  """A record, (lowest, highest, rounding error, level, spread), and why there is none."""
  try:
    volume = read_volume(scan.volume, recipe.grid)
    record = shards.encode_record(*scan.key, volume, recipe.dtype)
  except UserError as error:
    return b'', (), f'can\'t be read: {error}'
  _, _, stored, scale = shards.decode_record(record)
  error = np.abs(stored.astype(np.float32) * np.float32(scale) - volume).max()
  return record, (float(volume.min()), float(volume.max()), float(error),
                  *intensity.level_and_spread(volume)), None


def _write_labels(staging: pathlib.Path, cohort: Cohort, recipe: Recipe, made: list[dict]) -> None:
  info = {
      'schema_version': shards.SCHEMA_VERSION,
      'synthetic': cohort.synthetic,
      'grid': dataclasses.asdict(recipe.grid) | {'axes': 'RAS'},
      'dtype': recipe.dtype,
      'atlas': cohort.atlas,
      'regions': atlases.regions(cohort.atlas),
      'measures': [{'name': m, 'unit': MEASURES[m].unit} for m in cohort.measures],
      'shards': made,
      'sources': cohort.sources,
      'maps': dataclasses.asdict(cohort.maps) if cohort.maps else None,
      'measured_by': cohort.measured_by,
      'notes': list(cohort.notes),
      'made_by': {'program': 'anatcl_jax', 'version': anatcl_jax.__version__,
                  'command': shlex.join(sys.orig_argv), 'folder': str(pathlib.Path.cwd()),
                  'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')},
  }
  (staging / 'participants.tsv').write_text(write_tables.as_tsv(cohort.table, na_rep='n/a'),
                                            encoding='utf-8')
  np.save(staging / 'morphometry.npy', cohort.morphometry)
  info = digests.signed(info, staging, cohort.table)
  (staging / 'dataset.json').write_text(json.dumps(info, indent=1) + '\n')


def _swap(staging: pathlib.Path, out: pathlib.Path) -> None:
  """Puts the finished set in place of `out`, whose other files (a user's notes) come along."""
  info = json.loads((staging / 'dataset.json').read_text())
  wanted = {'dataset.json', 'participants.tsv', 'morphometry.npy',
            *(shard['file'] for shard in info['shards'])}
  for path in staging.iterdir():
    if path.name not in wanted:
      path.unlink()     # of an abandoned plan
  old = out.with_name(out.name + '.old')
  if out.exists():
    if old.exists():
      raise OSError(errno.EEXIST, f'{old} of an earlier run is in the way; look at it and '
                                  'remove it')
    for path in out.iterdir():
      # The contact sheet may show scans that are there no longer.
      if path.name not in wanted and not re.match(r'volumes-|contact-sheet.png', path.name):
        os.replace(path, staging / path.name)
    os.replace(out, old)
  os.replace(staging, out)
  shutil.rmtree(old, ignore_errors=True)
