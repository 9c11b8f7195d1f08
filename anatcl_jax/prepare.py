"""Makes a shard set, the input of training, from a cohort on disk.

The volumes are NIfTI files in any orientation; ages and sexes come from a BIDS participants.tsv,
cortical measures from FreeSurfer's aparcstats2table. Everything is matched by identifier and by
region name. What does not match is reported by name and stops the run, unless --leave-out-bad.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import pathlib
import sys
import tempfile

from anatcl_jax import errors
from anatcl_jax.data import atlas as atlases
from anatcl_jax.data import bids, cohort as cohorts, phantom, shards
from anatcl_jax.data.cohort import Cohort, Problem
from anatcl_jax.data.volumes import NAMED_GRIDS, Grid, read_grid, resized
from anatcl_jax.data.write_shards import Recipe, write_shards
from anatcl_jax.errors import UserError, listed

_BIDS_EXAMPLE = """\
worked example: AOMIC gray-matter maps with cortical thickness, resampled to 4 mm

  python -m anatcl_jax.prepare bids \\
      --volumes 'aomic-piop2/vbm/*.nii.gz' \\
      --participants aomic-piop2/participants.tsv \\
      --morphometry aomic-piop2/freesurfer/*thickness*.tsv \\
      --spacing 4 --out data/aomic

--volumes is quoted (the program expands it), --morphometry is not (the shell does). Each volume's
name holds its participant, sub-0001, and perhaps its session, ses-1. The tables are those of
  aparcstats2table --hemi lh --meas thickness --subjects sub-0001 ... --tablefile lh.thickness.tsv
for both hemispheres, and for as many of thickness, volume and area as you have.
"""

_PHANTOM_EXAMPLE = """\
worked example: 100 synthetic subjects at 5 mm, and the cohort they came from (NIfTI, tables, truth)

  python -m anatcl_jax.prepare phantom --subjects 100 --seed 0 --out data/phantom \\
      --keep-cohort data/phantom-cohort
"""


def main(arguments: list[str] | None = None) -> None:
  """The command line; user errors end it with one line and exit code 2."""
  with errors.reported():
    chosen = command_line().parse_args(arguments)
    chosen.run(chosen)


def command_line() -> argparse.ArgumentParser:
  """The parser of all its commands."""
  parser = errors.Parser(prog='python -m anatcl_jax.prepare', description=__doc__,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(required=True, metavar='COMMAND')
  _add_bids(commands)
  _add_phantom(commands)
  return parser


def _add_bids(commands) -> None:
  parser = commands.add_parser(
      'bids', help='a glob of NIfTI volumes, participants.tsv and FreeSurfer tables',
      description='NIfTI volumes, a BIDS participants.tsv and FreeSurfer tables to shards.',
      epilog=_BIDS_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--volumes', required=True, metavar='GLOB',
                      help='quoted pattern of .nii or .nii.gz files, ** for any depth')
  parser.add_argument('--participants', required=True, type=pathlib.Path, metavar='TSV',
                      help='participants.tsv with participant_id and age (years); more is kept')
  parser.add_argument('--morphometry', nargs='+', default=[], type=pathlib.Path, metavar='TABLE',
                      help='aparcstats2table outputs, tab or comma; none: no anatomical loss')
  parser.add_argument('--atlas', choices=sorted(atlases.ATLASES), default='desikan',
                      help='cortical atlas of the tables (default: %(default)s)')
  parser.add_argument('--keep-incomplete', action='store_true',
                      help='keep scans without age or morphometry: they take part in the terms of '
                           'the loss that they have')
  _add_output(parser)
  parser.set_defaults(run=_prepare_bids)


def _add_phantom(commands) -> None:
  defaults = phantom.PhantomSettings()
  parser = commands.add_parser(
      'phantom', help='a synthetic cohort of which the truth is known',
      description='Draws a SYNTHETIC digital cohort and makes shards of it as of a real one.',
      epilog=_PHANTOM_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--subjects', type=int, default=defaults.subjects, metavar='N',
                      help='how many (default: %(default)s)')
  parser.add_argument('--seed', type=int, default=defaults.seed, metavar='S',
                      help='subject i of a seed is always the same (default: %(default)s)')
  parser.add_argument('--sites', type=int, default=defaults.sites, metavar='N',
                      help='scanners, each with its own look (default: %(default)s)')
  parser.add_argument('--sessions', type=int, default=defaults.sessions, metavar='N',
                      help='scans a subject (default: %(default)s)')
  parser.add_argument('--patients', type=float, default=defaults.patients, metavar='SHARE',
                      help='share of subjects with disease (default: %(default)s)')
  parser.add_argument('--keep-cohort', type=pathlib.Path, metavar='DIR',
                      help='keep the NIfTI files, tables and truth there (default: deleted)')
  _add_output(parser, spacing=defaults.spacing)
  parser.set_defaults(run=_prepare_phantom)


def _add_output(parser, spacing: float | None = None) -> None:
  parser.add_argument('--out', required=True, type=pathlib.Path, metavar='DIR',
                      help='the shard set; a rerun keeps what is up to date there')
  if spacing is None:
    parser.add_argument('--grid', choices=['native', *NAMED_GRIDS], default='native',
                        help="native: every volume's own, all alike; mni1.5: CAT12's 121x145x121 "
                             '(default: %(default)s)')
    parser.add_argument('--shape', type=int, nargs=3, metavar=('X', 'Y', 'Z'),
                        help='resample: voxels along each axis, about the centre of --grid')
  parser.add_argument('--spacing', type=float, metavar='MM', default=spacing,
                      help='voxel size' + (f' (default: {spacing:g})' if spacing else
                                           "; resamples --grid's field of view"))
  parser.add_argument('--dtype', choices=shards.DTYPES, default='float32',
                      help='how voxels are stored (default: %(default)s)')
  parser.add_argument('--leave-out-bad', action='store_true',
                      help='leave out subjects with missing or unusable data, and name them')
  parser.add_argument('--workers', type=int, metavar='N', help='processes (default: one a core)')


def _prepare_bids(chosen: argparse.Namespace) -> None:
  cohort = bids.read_cohort(chosen.volumes, chosen.participants, chosen.morphometry, chosen.atlas)
  make_shards(cohort, chosen.out, grid=chosen.grid, spacing=chosen.spacing, shape=chosen.shape,
              dtype=chosen.dtype, leave_out_bad=chosen.leave_out_bad,
              keep_incomplete=chosen.keep_incomplete, workers=chosen.workers)


def _prepare_phantom(chosen: argparse.Namespace) -> None:
  settings = phantom.PhantomSettings(
      subjects=chosen.subjects, seed=chosen.seed, spacing=chosen.spacing, sites=chosen.sites,
      sessions=chosen.sessions, patients=chosen.patients)
  make_phantom_shards(settings, chosen.out, keep_cohort=chosen.keep_cohort, dtype=chosen.dtype,
                      workers=chosen.workers)


def make_phantom_shards(settings: phantom.PhantomSettings, out: pathlib.Path, *,
                        keep_cohort: pathlib.Path | None = None, dtype: str = 'float32',
                        workers: int | None = None) -> shards.ShardSet:
  """Draws a synthetic cohort and makes shards of it, the way that a real cohort takes.

  Raises:
    UserError: settings that make no cohort, or folders that hold something else.
  """
  workers = workers or _workers(settings.subjects * settings.sessions)
  print(f'drawing {settings.subjects} SYNTHETIC subjects at {settings.spacing:g} mm',
        file=sys.stderr)
  with tempfile.TemporaryDirectory(prefix='anatcl-phantom-') as temporary:
    directory = keep_cohort or pathlib.Path(temporary) / 'cohort'
    paths = phantom.write_cohort(directory, settings, workers)
    cohort = bids.read_cohort(paths.volumes, paths.participants, list(paths.morphometry))
    cohort = dataclasses.replace(cohort, sources={'phantom': dataclasses.asdict(settings)})
    return make_shards(cohort, out, dtype=dtype, workers=workers)


def make_shards(cohort: Cohort, out: pathlib.Path, *, grid: str = 'native',
                spacing: float | None = None, shape: list[int] | None = None,
                dtype: str = 'float32', leave_out_bad: bool = False,
                keep_incomplete: bool = False, workers: int | None = None) -> shards.ShardSet:
  """Settles what does not match in a cohort, writes its shards, and says what came out.

  Raises:
    UserError: scans that can't be used and `leave_out_bad` is not set; nothing is left behind then.
  """
  if (spacing is not None and spacing <= 0) or (shape and min(shape) < 1):
    raise UserError('--spacing and --shape take sizes above 0')
  grids, unreadable = _read_grids(cohort)
  target, other_grid = _choose_grid(cohort, grids, grid, spacing, shape)
  incomplete = {problem.subject for problem in cohort.problems if problem.missing}
  if keep_incomplete and incomplete:
    print(f'note: {len(incomplete)} scans without age or complete morphometry are kept: '
          f'{listed(sorted(incomplete))}', file=sys.stderr)
  problems = [*(problem for problem in cohort.problems
                if not (keep_incomplete and problem.missing)), *unreadable, *other_grid]
  bad = cohorts.settle(problems, len(cohort.scans), leave_out_bad)
  cohort = cohort.select(lambda scan: scan.label not in bad)
  made = write_shards(cohort, Recipe(target, dtype), out, leave_out_bad=leave_out_bad,
                      workers=workers or _workers(len(cohort.scans)))
  _say_result(made)
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
                                    f'({base}) in {scan.volume.path}; resample all with --grid mni1.5')
                for scan in cohort.scans
                if scan.label in grids and not grids[scan.label].matches(base)]


def _say_result(made: shards.ShardSet) -> None:
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
          f'morphometry: {" + ".join(made.measures) or "none"}, {len(info["regions"])} regions of '
          f'the {info["atlas"]} atlas',
          f'shards: {len(info["shards"])} files, {size / 1e6:.1f} MB -> {made.directory}']
  print('\n'.join(rows))


if __name__ == '__main__':
  main()
