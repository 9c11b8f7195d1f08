"""Turns a cohort into shards: settles what does not match, chooses the grid, writes, reports."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import sys
import tempfile
import time

from anatcl_jax.cohorts import bids, origins
from anatcl_jax.cohorts import cohort as cohorts
from anatcl_jax.cohorts.cohort import Cohort, Problem
from anatcl_jax.cohorts.origins import Origin
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.cohorts.volumes import NAMED_GRIDS, Grid, read_grid, resized
from anatcl_jax.data import intensity, shards
from anatcl_jax.data.write_shards import Part, Recipe, write_shards
from anatcl_jax.errors import UserError, listed

_SPACINGS = (0.1, 50.0)    # mm


def make_phantom_shards(settings: phantom.PhantomSettings, out: pathlib.Path, *,
                        keep_cohort: pathlib.Path | None = None, dtype: str = 'float32',
                        workers: int | None = None) -> shards.ShardSet:
  """Draws a synthetic cohort and makes shards of it, the way that a real cohort takes.

  Raises:
    UserError: settings that make no cohort, or folders that hold something else.
  """
  made = {'phantom': settings.as_record()}
  if (out / 'dataset.json').is_file():
    there = shards.open_shards(out)
    if there.info['sources'] == made and there.info['dtype'] == dtype and not keep_cohort:
      print(f'{out} holds these {len(there)} SYNTHETIC scans already', file=sys.stderr)
      return there
  workers = _workers(settings.subjects * settings.sessions) if workers is None else workers
  print(f'drawing {settings.subjects} SYNTHETIC subjects at {settings.spacing:g} mm',
        file=sys.stderr)
  with tempfile.TemporaryDirectory(prefix='anatcl-phantom-') as temporary:
    directory = keep_cohort or pathlib.Path(temporary) / 'cohort'
    paths = phantom.write_cohort(directory, settings, workers)
    cohort = bids.read_cohort(paths.volumes, paths.participants, list(paths.morphometry))
    cohort = dataclasses.replace(cohort, sources=made)
    return make_shards(cohort, out, dtype=dtype, workers=workers)


def make_shards(cohort: Cohort, out: pathlib.Path, *, grid: str = 'native',
                spacing: float | None = None, shape: list[int] | None = None,
                dtype: str = 'float32', leave_out_bad: bool = False,
                keep_incomplete: bool = False, part: Part | None = None,
                workers: int | None = None) -> shards.ShardSet | None:
  """Settles what does not match in a cohort, writes its shards, and says what came out.

  Returns None for a `part`, which writes only its share.

  Raises:
    UserError: scans that can't be used and `leave_out_bad` is not set; nothing is left behind then.
  """
  if spacing is not None and not _SPACINGS[0] <= spacing <= _SPACINGS[1]:
    raise UserError(f'--spacing {spacing:g} must lie between {_SPACINGS[0]} and {_SPACINGS[1]} mm')
  if shape and min(shape) < 2:
    raise UserError(f'--shape {shape} must have at least 2 voxels along each axis')
  if workers is not None and workers < 1:
    raise UserError(f'--workers {workers} must be at least 1')
  grids, unreadable = _read_grids(cohort)
  target, other_grid = _choose_grid(cohort, grids, grid, spacing, shape)
  cohort = _with_kind(cohort, grids, target)
  incomplete = {problem.subject for problem in cohort.problems if problem.missing}
  if keep_incomplete and incomplete:
    print(f'note: {len(incomplete)} scans without age or complete morphometry are kept: '
          f'{listed(sorted(incomplete))}', file=sys.stderr)
  problems = [*(problem for problem in cohort.problems
                if not (keep_incomplete and problem.missing)), *unreadable, *other_grid]
  bad = cohorts.settle(problems, len(cohort.scans), leave_out_bad)
  cohort = cohort.select(lambda scan: scan.label not in bad)
  started = time.monotonic()
  made = write_shards(cohort, Recipe(target, dtype), out, leave_out_bad=leave_out_bad, part=part,
                      workers=workers or _workers(len(cohort.scans)))
  if made:
    _say_result(made, time.monotonic() - started)
  return made


def _workers(scans: int) -> int:
  """A process a core, but none for so few scans that starting it takes longer."""
  return max(1, min(os.cpu_count() or 1, scans // 16))


def _read_grids(cohort: Cohort) -> tuple[dict[str, Grid], list[Problem]]:
  grids, problems = {}, []
  for scan in cohort.scans:
    try:
      grids[scan.label] = read_grid(scan.volume)
    except UserError as error:
      problems.append(Problem(scan.label, f'can\'t be read: {error}'))
  return grids, problems


def _with_kind(cohort: Cohort, grids: dict[str, Grid], target: Grid) -> Cohort:
  """The cohort with the kind of its maps, and what must be known of them said and noted."""
  maps = cohort.maps or origins.one_kind((scan.volume, grids.get(scan.label))
                                         for scan in cohort.scans)
  notes = origins.warnings(maps)
  boxes = {origins.box_note(maps, own, target) for own in set(grids.values())} - {None}
  for text in notes:
    print(f'WARNING: {text}', file=sys.stderr)
  for text in boxes:
    print(f'note: {text}', file=sys.stderr)
  return dataclasses.replace(cohort, maps=maps, notes=(*cohort.notes, *notes, *boxes))


def _choose_grid(cohort: Cohort, grids: dict[str, Grid], name: str, spacing: float | None,
                 shape: list[int] | None) -> tuple[Grid, list[Problem]]:
  """The grid of the shards, and the scans that would need resampling where none was asked for."""
  if not grids:
    return NAMED_GRIDS['mni1.5'], []
  usual = collections.Counter(grids.values()).most_common(1)[0][0]
  base = NAMED_GRIDS.get(name, usual)
  if spacing or shape:
    return resized(base, spacing, shape), []
  if name != 'native':
    return base, []
  return base, [Problem(scan.label, f'is on another grid ({grids[scan.label]}) than the others '
                                    f'({base}) in {scan.volume.path}; put all on theirs with '
                                    f'--spacing {min(base.spacing):g}, or, where all are in MNI '
                                    'space, on --grid mni1.5')
                for scan in cohort.scans
                if scan.label in grids and not grids[scan.label].matches(base)]


def _say_result(made: shards.ShardSet, seconds: float) -> None:
  info = made.info
  size = sum(shard['bytes'] for shard in info['shards'])
  ages = made.table['age'].astype(float)
  rows = [f'{len(made)} scans of {made.table["participant_id"].nunique()} '
          f'{"SYNTHETIC " if made.synthetic else ""}participants, ages {ages.min():.4g} to '
          f'{ages.max():.4g}',
          f'volumes: {made.grid}, RAS, {info["dtype"]}, values '
          f'{min(s["lowest"] for s in info["shards"]):.4g} to '
          f'{max(s["highest"] for s in info["shards"]):.4g}, '
          f'largest rounding error {max(s["largest_error"] for s in info["shards"]):.3g}',
          f'maps: {Origin.of_record(info["maps"]) or "of a kind that their names do not tell"}',
          f'morphometry: {" + ".join(made.measures) or "none"}, {len(info["regions"])} regions of '
          f'the {info["atlas"]} atlas' + (f', by {info["measured_by"]}' if made.measures else ''),
          f'shards: {len(info["shards"])} files, {size / 1e6:.1f} MB '
          f'({size / 1e6 / len(made):.2f} MB a volume), {len(made) / seconds:.1f} volumes/s -> '
          f'{made.directory}']
  print('\n'.join(rows))
  labels = [made.label(record) for record in range(len(made))]
  for warning in intensity.warnings(labels, intensity.of_set(made)):
    print(f'WARNING: {warning}', file=sys.stderr)
