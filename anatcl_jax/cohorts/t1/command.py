"""`prepare t1`: its options, and the run they ask for."""

from __future__ import annotations

import argparse
import pathlib
import sys

from anatcl_jax import command_line, paths
from anatcl_jax.errors import RunFailure, UserError

KINDS = ('quasiraw', 'gm')       # as templates.GRIDS; a test compares
_SPACINGS = (0.5, 8.0)           # mm

_EXAMPLE = """\
worked example: quasi-raw images at 2 mm of T1-weighted scans in a BIDS folder

  python -m anatcl_jax.prepare t1 --volumes 'bids/sub-*/**/*_T1w.nii.gz' --to quasiraw \\
      --spacing 2 --out derivatives/quasiraw
  python -m anatcl_jax.prepare bids --volumes 'derivatives/quasiraw/**/*quasiraw_T1w.nii.gz' \\
      --participants bids/participants.tsv --out data/quasiraw

It needs the extra `t1`: pip install 'anatcl_jax[t1]'. Look at contact-sheet.png and quality.tsv
before you go on. docs/t1.md has the steps and what they reach, docs/from-t1.md other ways.
"""


def add(commands) -> None:
  """Adds the command to those of prepare."""
  parser = commands.add_parser(
      't1', help='raw T1-weighted scans to maps in MNI space',
      description='T1-weighted scans of whole heads to maps in MNI space, with a table of quality '
                  'and a contact sheet. A scan that can\'t be used is reported and left out, and '
                  'the exit code is 1. A rerun keeps finished maps.', epilog=_EXAMPLE)
  parser.add_argument('--volumes', required=True, type=paths.expanded, metavar='GLOB',
                      help='quoted pattern of T1-weighted scans with skull, ** for any depth, or a '
                           'folder of them')
  parser.add_argument('--to', required=True, choices=KINDS,
                      help='quasiraw: bias-corrected, without skull, affinely registered (9 '
                           'degrees of freedom), 182x218x182 at 1 mm; gm: modulated gray matter on '
                           'CAT12\'s grid, 121x145x121 at 1.5 mm, which is NOT what CAT12 makes')
  parser.add_argument('--out', required=True, type=pathlib.Path, metavar='DIR',
                      help='the BIDS derivative that is written; one kind of map a folder')
  parser.add_argument('--spacing', type=float, metavar='MM',
                      help='another voxel size, about the centre of that grid')
  parser.add_argument('--skull-stripped', action='store_true',
                      help='the scans have no skull any more: what is not background is brain')
  command_line.add_id_pattern(parser)
  command_line.add_reading(parser)
  parser.add_argument('--workers', type=int, metavar='N',
                      help='processes, about 1.5 GB each (default: one a core)')
  parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
  """Makes the maps; exit code 1 where some scans were left out."""
  if chosen.spacing is not None and not _SPACINGS[0] <= chosen.spacing <= _SPACINGS[1]:
    raise UserError(f'--spacing {chosen.spacing:g} must lie between {_SPACINGS[0]} and '
                    f'{_SPACINGS[1]} mm')
  from anatcl_jax.cohorts.t1 import libraries
  libraries.check()
  from anatcl_jax.cohorts.t1 import run as runs
  from anatcl_jax.cohorts.t1 import templates
  from anatcl_jax.cohorts.t1.recipe import Recipe
  from anatcl_jax.cohorts.volumes import resized
  grid = templates.GRIDS[chosen.to]
  if chosen.spacing:
    grid = resized(grid, chosen.spacing)
  if runs.prepare(chosen.volumes, Recipe(chosen.to, grid, chosen.skull_stripped), chosen.out,
                  id_pattern=chosen.id_pattern, geometry=chosen.geometry,
                  nan_is_zero=chosen.nan == 'zero', workers=chosen.workers):
    sys.exit(RunFailure.exit_code)
