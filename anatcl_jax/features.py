"""Features of images, by a frozen encoder: one row a scan.

  python -m anatcl_jax.features --weights model.pth --volumes 'derivatives/**/mwp1*.nii.gz' \\
      --out features.tsv
  python -m anatcl_jax.features --weights runs/mine --data-dir data/adni --out adni.parquet
  python -m anatcl_jax.features --weights anatcl-global-0,anatcl-global-1 --volumes maps \\
      --out two.tsv

anatcl-{global,local}-{0..4} and anatcl-old-{global,local}-{0..4} are the released weights by
descriptor and fold, downloaded the first time. Several weights make columns of their own, which are
never averaged: features of separate trainings are not aligned.

A volume is turned to RAS by its header, put on the grid that the card of the weights names, and cut
and padded as it says. TABLE has participant_id, session, file (of --volumes) and f0, f1, ... (of
several weights anatcl-global-0:f0, ...); TABLE's name with .json says how it was made, with .png
shows whether the features tell scans apart. A volume that can't be used is reported and left out,
and the exit code is 1. A stopped run goes on where it was when the same command is given again:
finished rows are in TABLE.partial until then.

In Python, the same numbers:

  from anatcl_jax.features import load
  encoder = load('model.pth')
  vector = encoder(nibabel.load('x.nii.gz'))     # float32 [F]; a list of images gives [N, F]

docs/python.md has it in a Pipeline of scikit-learn.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING

from anatcl_jax import command_line, errors, lock, outputs, paths
from anatcl_jax.config import PRECISIONS, crop_sizes
from anatcl_jax.errors import RunFailure, UserError, listed

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  from anatcl_jax.frozen.image_encoder import Encoder, load
  from anatcl_jax.frozen.rows import Input

__all__ = ['Encoder', 'load', 'main']

CARD = 'card'   # as in image_encoder, like the names of grids and axes; a test compares
GRIDS = (CARD, 'native', 'mni1.5')
PREDECESSOR = 'predecessor'

_AXES_HELP = f"""\
where the axes of the array point to that the encoder sees: RAS, LAS, SRA, ... or `{PREDECESSOR}`
(default: what the card says; RAS for released weights). It is an option because nobody outside
knows what the released weights saw: the public loader of their predecessor transposes its volumes
and reshapes them to a shape that they may already have, which permutes the axes; `{PREDECESSOR}`
does the same. Which setting of a released checkpoint predicts age best says what it saw"""


def __getattr__(name: str):
  """`Encoder` and `load`, for Python's users."""
  if name not in ('Encoder', 'load'):
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from anatcl_jax.frozen import image_encoder
  return getattr(image_encoder, name)


def main(arguments: list[str] | None = None, prog: str = 'python -m anatcl_jax.features') -> None:
  """Makes a table as the arguments say."""
  arguments = sys.argv[1:] if arguments is None else arguments
  with errors.reported():
    options = command_line_parser(prog).parse_args(arguments)
    from absl import logging

    from anatcl_jax.devices import presence
    from anatcl_jax.frozen import extract, image_encoder
    from anatcl_jax.weights import choice
    logging.set_verbosity(logging.ERROR)    # Orbax warns of what is no fault
    _check(options)
    changes = {name: value for name in ('axes', 'crop', 'pad')
               if (value := getattr(options, name)) != CARD}
    for name in ('crop', 'pad'):
      if name in changes:
        changes[name] = crop_sizes(changes[name])
    encoders = {name: image_encoder.load(
        path, grid=options.grid, spacing=options.spacing, precision=options.precision,
        pool=options.pool, weights_cache=options.weights_cache, **changes)
                for name, path in choice.named_paths(options.weights, '--weights').items()}
    if not encoders:
      raise UserError(f'--weights {options.weights!r} names none')
    for note in dict.fromkeys(note for encoder in encoders.values()
                              for note in encoder.weights.card['notes']):
      print(f'note: {note}', file=sys.stderr)
    if options.volumes:
      inputs, synthetic = _files(options)
    else:
      inputs, synthetic = _records(options.data_dir)
    presence.warn_of_unused_gpu()
    for note in dict.fromkeys(extract.engine_note(encoder.weights, options.precision)
                              for encoder in encoders.values()):
      print(f'note: {note}', file=sys.stderr)
    with lock.alone_with(options.out, 'choose another --out'):
      left_out = _make(encoders, inputs, options, synthetic, [*prog.split(), *arguments])
  if left_out:
    sys.exit(RunFailure.exit_code)


def _make(encoders: dict[str, Encoder], inputs: list[Input], options: argparse.Namespace,
          synthetic: bool, command: list[str]) -> dict[int, str]:
  """Rows, checks, table and what describes it; returns what was left out and why."""
  import jax
  import numpy as np
  import pandas

  from anatcl_jax import figures
  from anatcl_jax.cohorts import tables
  from anatcl_jax.cohorts.volumes import read_grid
  from anatcl_jax.frozen import checks as feature_checks
  from anatcl_jax.frozen import kinds
  from anatcl_jax.frozen.rows import Finished, rows_of_all
  from anatcl_jax.frozen.table import write_description, write_table
  from anatcl_jax.report import representation, style
  out, several = options.out, len(encoders) > 1
  maps, notes = kinds.of_inputs(inputs, list(encoders.values()))
  try:
    finished = {name: Finished(out.with_name(f'{out.name}.{f"{name}." * several}partial'),
                               encoder.settings()) for name, encoder in encoders.items()}
  except OSError as error:
    raise UserError(f'{out}: can\'t be written ({error.strerror})') from None
  resumed = sum(one.identity() in rows.rows for one in inputs for rows in finished.values())
  if resumed:
    print(f'{resumed} of {len(inputs) * len(encoders)} rows are there from a stopped run',
          file=sys.stderr)
  kept, of_scans, left_out = rows_of_all(encoders, inputs, finished,
                                         batch_size=options.batch_size, threads=options.threads)
  if not kept:
    for one in finished.values():
      one.remove()
    raise UserError(f'none of {len(inputs)} volumes could be used: '
                    f'{listed(list(left_out.values()), 2)}')
  labels = [tables.joined_identifier(one.participant_id, one.session) for one in kept]
  warnings = list(notes)
  for name, rows in of_scans.items():
    card = encoders[name].checked_card()
    warnings += feature_checks.of_volumes(rows, labels, card)     # of several encoders said once
    warnings += [f'{name}: {one}' if several else one
                 for one in feature_checks.of_features(rows, labels, card)]
  warnings = [*dict.fromkeys(warnings), *_repeated(labels)]
  if options.volumes and not all(encoder.grid for encoder in encoders.values()):
    warnings += feature_checks.several_grids([read_grid(one.volume) for one in kept], labels)
  for warning in warnings:
    print(f'WARNING: {warning}', file=sys.stderr)
  identifiers = pandas.DataFrame({'participant_id': [one.participant_id for one in kept],
                                  'session': [one.session for one in kept]})
  if options.volumes:
    identifiers['file'] = [one.name for one in kept]
  trained_on_synthetic = [name for name, one in encoders.items()
                          if one.weights.card.get('synthetic')]
  features = {name: np.stack([row.features for row in rows]) for name, rows in of_scans.items()}
  whole = np.concatenate(list(features.values()), 1)
  described = {name: encoder.description() for name, encoder in encoders.items()}
  only = next(iter(encoders))
  write_description(out, ({'pool': options.pool, 'encoders': described} if several
                          else described[only]) | {
      'weights': options.weights, 'command': shlex.join(command), 'batch_size': options.batch_size,
      'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
      'maps': dataclasses.asdict(maps) if maps else None,
      'scans': len(kept), 'features': whole.shape[1], 'rows_of_a_stopped_run': resumed,
      'left_out': [{'input': inputs[i].name, 'why': why} for i, why in sorted(left_out.items())],
      'warnings': warnings, 'synthetic': synthetic, 'trained_on_synthetic': trained_on_synthetic})
  figure = representation.draw(whole, feature_checks.constant_channels(whole), labels,
                               [one.participant_id for one in kept],
                               options.weights, synthetic, bool(trained_on_synthetic))
  figures.save(figure, out.with_suffix('.png'), style.DPI)
  write_table(out, identifiers, features if several else features[only])
  for one in finished.values():
    one.remove()
  print(f'{len(kept)} {"SYNTHETIC " if synthetic else ""}scans, {whole.shape[1]} features'
        f'{", " + str(len(left_out)) + " left out" if left_out else ""}'
        f'{" (encoder trained on SYNTHETIC subjects)" if trained_on_synthetic else ""}: {out}')
  labels_of = f'data_dir={options.data_dir}' if options.data_dir else 'participants=LABELS.tsv'
  command_line.say_next('what they know of age, sex and more', 'probe', '--config=probe',
                        f'--config.features={out}', f'--config.{labels_of}')
  return left_out


def command_line_parser(prog: str = 'python -m anatcl_jax.features') -> command_line.Parser:
  """The parser of the command's arguments."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  parser.add_argument('--weights', required=True, type=paths.expanded_list, metavar='WEIGHTS',
                      help='a name such as anatcl-global-0, a workdir of a run (its newest '
                           'checkpoint, or WORKDIR@best, WORKDIR@STEP), a folder that convert '
                           'wrote, a .safetensors, a .pth (read without running code in it), or '
                           'untrained:ENCODER[:SEED], such as untrained:resnet18; several are '
                           'separated by commas, each perhaps with the name of its columns before '
                           'an =')
  command_line.add_weights_cache(parser)
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument('--volumes', action='extend', nargs='+', type=paths.expanded, metavar='GLOB',
                     help='gray-matter maps (.nii, .nii.gz, .mgz, .img with its .hdr): files, '
                          'quoted patterns with ** for any depth, or folders of them')
  which.add_argument('--data-dir', type=paths.expanded, metavar='DIR',
                     help='a shard set of anatcl_jax.prepare')
  parser.add_argument('--out', required=True, type=pathlib.Path, metavar='TABLE',
                      help='a new .tsv, or .parquet with the extra of that name')
  command_line.add_id_pattern(parser)
  command_line.add_reading(parser)
  parser.add_argument('--grid', choices=GRIDS, default=CARD,
                      help='voxels that --volumes are put on: those of the card (where it knows '
                           'none: native), native (each as it is), or CAT12\'s 121x145x121 at 1.5 '
                           'mm (default: %(default)s)')
  parser.add_argument('--spacing', type=float, metavar='MM',
                      help='another voxel size, about the centre of that grid')
  parser.add_argument('--axes', default=CARD, help=_AXES_HELP)
  parser.add_argument('--crop', default=CARD, metavar='X,Y,Z',
                      help='most voxels along each axis, cut about the centre; none: no crop '
                           '(default: what the card says)')
  parser.add_argument('--pad', default=CARD, metavar='X,Y,Z',
                      help='fewest voxels along each axis, zeros around (default: what the card '
                           'says)')
  parser.add_argument('--precision', choices=PRECISIONS, default='float32',
                      help='what the encoder computes in (default: %(default)s); '
                           'docs/features.md has the difference')
  parser.add_argument('--pool', default='mean', metavar='POOL',
                      help='what is kept of the encoder: mean (its own features, the last stage\'s '
                           'mean), levels (means of every stage over 2x2x2 blocks of its grid), '
                           'covariance (of the channels of one stage, upper triangle), or several '
                           'as in mean+covariance; columns a scan of mean, levels and covariance: '
                           'resnet18 512, 7,680 and 8,256; resnet50 2,048, 30,720 and 32,896; '
                           'densenet121 1,024, 15,360 and 8,256 (default: %(default)s)')
  parser.add_argument('--batch-size', type=int, default=8, metavar='N',
                      help='volumes at a time on all devices together; no number depends on it '
                           '(default: %(default)s)')
  parser.add_argument('--threads', type=int, default=4, metavar='N',
                      help='that read ahead (default: %(default)s)')
  return parser


def _check(options: argparse.Namespace) -> None:
  """Raises UserError for options that can't be meant, before anything is read."""
  from anatcl_jax.frozen.table import ENDINGS
  if options.out.suffix not in ENDINGS:
    raise UserError(f'--out {options.out}: the ending says what is written; give '
                    f'{" or ".join(ENDINGS)}')
  if options.out.suffix == '.parquet' and not importlib.util.find_spec('pyarrow'):
    raise UserError(f'{options.out}: a .parquet needs pyarrow: pip install pyarrow, or give a .tsv')
  if options.out.exists():
    raise UserError(f'{options.out} is there already; choose another --out, or remove it')
  for ending in ('.json', '.png'):     # written beside it
    outputs.check_file(options.out.with_suffix(ending), '--out')
  for name in ('batch_size', 'threads'):
    if getattr(options, name) < 1:
      raise UserError(f'--{name.replace("_", "-")} {getattr(options, name)} must be at least 1')
  if options.spacing is not None and not 0.1 <= options.spacing <= 50:
    raise UserError(f'--spacing {options.spacing:g} must lie between 0.1 and 50 mm')
  if options.data_dir and (options.grid != CARD or options.spacing):
    raise UserError('--grid and --spacing are of --volumes; shards are used on the grid that they '
                    'were prepared on')
  if options.data_dir and options.id_pattern:
    raise UserError('--id-pattern is of --volumes; shards know their participants')


def _files(options: argparse.Namespace) -> tuple[list[Input], bool]:
  """Files of --volumes in the order of their paths, and whether their folder says SYNTHETIC."""
  from anatcl_jax.cohorts import cohort as cohorts
  from anatcl_jax.cohorts import find_scans
  from anatcl_jax.frozen.rows import File
  files = {path for pattern in options.volumes for path in find_scans.matching(pattern)}
  scans = find_scans.named_by_file(files, options.id_pattern, geometry=options.geometry,
                                   nan_is_zero=options.nan == 'zero')
  return [File(*key, volume) for key, volume in scans], cohorts.any_synthetic(files)


def _records(data_dir: str) -> tuple[list[Input], bool]:
  """Records of a shard set, and whether they are SYNTHETIC."""
  from anatcl_jax.data import shards
  from anatcl_jax.frozen.rows import Record
  data = shards.open_shards(data_dir)
  identity = data.identity()
  return [Record(data, identity, record) for record in range(len(data))], data.synthetic


def _repeated(labels: list[str]) -> list[str]:
  twice = sorted({label for label in labels if labels.count(label) > 1})
  return [f'{listed(twice, 3)}: more than one row; the column `file` tells them apart, '
          '--id-pattern could'] if twice else []


if __name__ == '__main__':
  main()
