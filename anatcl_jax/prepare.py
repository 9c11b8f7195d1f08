"""Makes a shard set, the input of training, from a cohort on disk.

`bids` reads NIfTI files in any orientation, ages and sexes of a BIDS participants.tsv or a public
cohort's table, and cortical measures of FreeSurfer's folders or aparcstats2table; `openbhb` reads
OpenBHB as it is released. Everything is matched by identifier and by region name. What does not
match is reported by name and stops the run, unless --leave-out-bad.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from anatcl_jax import command_line, errors, paths
from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts.t1 import command as t1

if TYPE_CHECKING:
  from anatcl_jax.cohorts.cohort import Cohort
  from anatcl_jax.cohorts.participants import Reading
  from anatcl_jax.data.shards import ShardSet

# What these names mean is known to the rooms, which are imported when a command runs: --help need
# not wait for them. A test compares.
PRESETS = ('bids', 'adni', 'oasis3', 'schizconnect', 'abide1')
GRIDS = ('mni1.5',)
DTYPES = ('float32', 'float16', 'uint8')
STREAMS = ('longitudinal', 'cross-sectional', 'either')
LAYOUTS = ('subjects', 'hub', 'matrix')
MODALITIES = ('vbm', 'quasiraw')
ATLASES = tuple(atlases.ATLASES)
PHANTOM = {'subjects': 100, 'seed': 0, 'sites': 3, 'sessions': 1, 'patients': 0.0, 'spacing': 5.0,
           'population': 'simple', 'subtypes': 1, 'confounded': '', 'held_out_sites': 0,
           'second_scanner': False, 'site_bias': 0.0}
AGES = {'simple': (6.0, 90.0), 'ixi': (20.0, 86.0)}     # of the populations, years

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
for both hemispheres, and for as many of thickness, volume and area as you have. docs/cohorts.md has
an example for CAT12, fMRIPrep, SUBJECTS_DIR, ADNI, OASIS-3, SchizConnect and ABIDE.
"""

_OPENBHB_EXAMPLE = """\
worked example: the gray-matter maps and Desikan measures of a download of the hub release

  python -m anatcl_jax.prepare openbhb --root openBHB --dtype float16 --out data/openbhb

The same of the challenge's train.npy, train.tsv, test.npy and test.tsv, and the quasi-raw volumes
of per-subject files at 2 mm:

  python -m anatcl_jax.prepare openbhb --root challenge/data --out data/challenge \\
      --mask resource/cat12vbm_space-MNI152_desc-gm_TPM.nii.gz
  python -m anatcl_jax.prepare openbhb --root openBHB --modality quasiraw --spacing 2 --out data/raw

--root holds one of
  subjects  participants.tsv and data/sub-<id>_preproc-cat12vbm_desc-gm_T1w.npy, ..._ROI.npy
  hub       participants.tsv, {train,val}/derivatives/sub-<id>/ses-1/*_T1w.npy and
            {train,val}/derivatives/freesurfer_roi/desikan_roi_features.csv
  matrix    train.npy and test.npy with a .tsv each, in it or in its data/

The arrays hold no orientation, and the release states none. The templates that masked them do: they
have the same axes. --mask names one; without it the one under --root/resource is taken. Where there
is neither, LAS is assumed (the first axis runs to the left), as SPM's template of CAT12's grid and
the challenge's quasi-raw template are stored; --axes RAS says otherwise.
"""

_PHANTOM_EXAMPLE = """\
worked example: 100 synthetic subjects at 5 mm, and the cohort they came from (NIfTI, tables, truth)

  python -m anatcl_jax.prepare phantom --subjects 100 --seed 0 --out data/phantom \\
      --keep-cohort data/phantom-cohort

as real people vary, with patients of four kinds, two of five sites for tests alone, two scanners:

  python -m anatcl_jax.prepare phantom --population ixi --subjects 400 --patients 0.3 \\
      --subtypes 4 --confounded age+site --sites 5 --held-out-sites 2 --site-bias 1 \\
      --sessions 2 --second-scanner --out data/study
"""


def main(arguments: list[str] | None = None, prog: str = 'python -m anatcl_jax.prepare') -> None:
  """The command line; user errors end it with one line and exit code 2."""
  with errors.reported():
    chosen = command_line_parser(prog).parse_args(arguments)
    chosen.run(chosen)


def command_line_parser(prog: str = 'python -m anatcl_jax.prepare') -> command_line.Parser:
  """The parser of all its commands."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  commands = parser.add_subparsers(required=True, metavar='COMMAND')
  _add_bids(commands)
  _add_openbhb(commands)
  _add_phantom(commands)
  t1.add(commands)
  _add_inspect(commands)
  return parser


def _add_bids(commands) -> None:
  parser = commands.add_parser(
      'bids', help='a glob of NIfTI volumes, participants.tsv and FreeSurfer tables',
      description='NIfTI volumes, a BIDS participants.tsv and FreeSurfer tables to shards.',
      epilog=_BIDS_EXAMPLE)
  parser.add_argument('--volumes', required=True, type=paths.expanded, metavar='GLOB',
                      help='quoted pattern of .nii, .nii.gz, .mgz or .img files, ** for any '
                           'depth, or a folder of them; maps of one kind (docs/from-t1.md)')
  parser.add_argument('--id-pattern', metavar='REGEX',
                      help='regular expression that finds (?P<participant>...) and, if there are '
                           'any, (?P<session>...) in the path of a volume, and in names of '
                           'morphometry (default: by name, as BIDS, CAT12 and --phenotypes do)')
  command_line.add_reading(parser)
  parser.add_argument('--participants', required=True, type=pathlib.Path, metavar='TSV',
                      help='participants.tsv with participant_id and age (years), or the table of '
                           '--phenotypes; more is kept')
  parser.add_argument('--phenotypes', choices=PRESETS, default='bids',
                      help='whose columns and codes the table has (default: %(default)s)')
  parser.add_argument('--id-column', metavar='NAME',
                      help='column of the tables that holds participants, by its name or its '
                           'number from 1 (default: participant_id, subject, IXI_ID, ... but never '
                           'a row number)')
  parser.add_argument('--age-column', metavar='NAME',
                      help='column of --participants that holds ages (default: age, Age, '
                           'age_years, age_months, ...)')
  parser.add_argument('--top-coded-age', metavar='YEARS|missing',
                      help='what 89+, >89 and the like are read as: a number of years such as 89, '
                           'or missing (default: an error, where a scan has such an age)')
  parser.add_argument('--sex-codes', metavar='CODES',
                      help="what sexes that are no words mean, such as 1=M,2=F (default: the "
                           "sidecar's Levels; without them codes stay as they are)")
  parser.add_argument('--same-age', action='store_true',
                      help='the only age of a participant with several sessions is that of all')
  parser.add_argument('--morphometry', action='extend', nargs='+', default=[], type=pathlib.Path,
                      metavar='TABLE',
                      help='SUBJECTS_DIRs of FreeSurfer or FastSurfer, or tables: '
                           'aparcstats2table, ENIGMA, HCP, ABCD, UK Biobank, wide CSV; or '
                           'thickness of CAT12 or T1Prep: a folder, catROIs_*.xml, exported CSV. '
                           'Of one site or of many (default: none, no anatomical loss)')
  parser.add_argument('--stream', choices=STREAMS, default='longitudinal',
                      help="whose morphometry counts where FreeSurfer's longitudinal stream "
                           '(.long.) has made some; either: that, else the cross-sectional '
                           '(default: %(default)s)')
  parser.add_argument('--loose-names', action='store_true',
                      help='names in morphometry that differ only in punctuation are one, also '
                           'between digits: ds1_77 is ds177')
  _add_labels(parser)
  _add_output(parser)
  parser.set_defaults(run=_prepare_bids)


def _add_openbhb(commands) -> None:
  parser = commands.add_parser(
      'openbhb', help='OpenBHB: per-subject files, hub release or challenge matrix',
      description='OpenBHB in any of its layouts to shards.',
      epilog=_OPENBHB_EXAMPLE)
  parser.add_argument('--root', required=True, type=pathlib.Path, metavar='DIR',
                      help='the folder that holds it; see below')
  parser.add_argument('--layout', choices=['auto', *LAYOUTS], default='auto',
                      help='how it lies there (default: %(default)s)')
  parser.add_argument('--mask', type=pathlib.Path, metavar='NIFTI',
                      help='template that masked the volumes; the matrix needs it, other layouts '
                           'take their affine from it')
  parser.add_argument('--modality', choices=MODALITIES, default='vbm',
                      help="vbm: CAT12's gray matter at 1.5 mm; quasiraw: T1-weighted at 1 mm "
                           '(default: %(default)s)')
  parser.add_argument('--axes', choices=['LAS', 'RAS'], default='LAS',
                      help='how the arrays are stored, where no template is at hand '
                           '(default: %(default)s)')
  _add_labels(parser, of=('desikan', 'destrieux'))
  _add_output(parser)
  parser.set_defaults(run=_prepare_openbhb)


def _add_phantom(commands) -> None:
  parser = commands.add_parser(
      'phantom', help='a synthetic cohort of which the truth is known',
      description='Draws a SYNTHETIC digital cohort and makes shards of it as of a real one.',
      epilog=_PHANTOM_EXAMPLE)
  parser.add_argument('--subjects', type=int, default=PHANTOM['subjects'], metavar='N',
                      help='how many (default: %(default)s)')
  parser.add_argument('--seed', type=command_line.seed, default=PHANTOM['seed'], metavar='S',
                      help='subject i of a seed is always the same (default: %(default)s)')
  parser.add_argument('--sites', type=int, default=PHANTOM['sites'], metavar='N',
                      help='scanners, each with its own look (default: %(default)s)')
  parser.add_argument('--sessions', type=int, default=PHANTOM['sessions'], metavar='N',
                      help='scans a subject (default: %(default)s)')
  parser.add_argument('--patients', type=float, default=PHANTOM['patients'], metavar='SHARE',
                      help='share of subjects with disease (default: %(default)s)')
  parser.add_argument('--population', choices=list(AGES), default=PHANTOM['population'],
                      help='simple: figures in order of size; ixi: thickness of 68 regions as 551 '
                           'people of IXI vary, area as in other public cohorts (default: '
                           '%(default)s)')
  parser.add_argument('--ages', type=float, nargs=2, metavar=('YOUNGEST', 'OLDEST'),
                      help='years, evenly drawn (default: ' + ', '.join(
                          f'{low:g} {high:g} for {name}' for name, (low, high) in AGES.items())
                      + ')')
  parser.add_argument('--subtypes', type=int, default=PHANTOM['subtypes'], metavar='N',
                      help='patterns of atrophy of the patients: of temporal, parietal, frontal, '
                           'left the first N (default: %(default)s)')
  parser.add_argument('--confounded', default=PHANTOM['confounded'], metavar='age+site',
                      help='what disease goes with: age, site or both; the old fall ill more '
                           'often, patients go to some sites more often (default: neither)')
  parser.add_argument('--held-out-sites', type=int, default=PHANTOM['held_out_sites'], metavar='N',
                      help='the last N sites are for tests alone: column split is test there, else '
                           'train, and sessions of a person keep to it (default: %(default)s)')
  parser.add_argument('--second-scanner', action='store_true',
                      help="a person's next session is on another site")
  parser.add_argument('--site-bias', type=float, default=PHANTOM['site_bias'], metavar='FACTOR',
                      help='how far sites differ in measured morphometry, in location and scale of '
                           'each region; 1: as five OpenNeuro sites do (default: %(default)s)')
  parser.add_argument('--keep-cohort', type=pathlib.Path, metavar='DIR',
                      help='keep the NIfTI files, tables and truth there (default: deleted)')
  _add_output(parser, spacing=PHANTOM['spacing'])
  parser.set_defaults(run=_prepare_phantom)


def _add_labels(parser, of=ATLASES) -> None:
  parser.add_argument('--atlas', choices=of, default='desikan',
                      help='cortical atlas of the measures (default: %(default)s)')
  parser.add_argument('--keep-incomplete', action='store_true',
                      help='keep scans without age or morphometry: they take part in the terms of '
                           'the loss that they have')


def _add_inspect(commands) -> None:
  parser = commands.add_parser(
      'inspect', help='what a shard set holds, in figures and in one picture',
      description='Counts, ages, missing values, value ranges and checksums of a shard set, scans '
                  'that look unlike the others, and a picture of the middle slices of its scans.')
  parser.add_argument('data_dir', type=pathlib.Path, metavar='DIR', help='the shard set')
  parser.add_argument('--sheet', type=pathlib.Path, metavar='PNG',
                      help='the picture (default: DIR/contact-sheet.png)')
  parser.add_argument('--scans', type=int, default=120, metavar='N',
                      help='most scans on the picture, evenly chosen (default: %(default)s)')
  parser.set_defaults(run=_inspect)


def _add_output(parser, spacing: float | None = None) -> None:
  parser.add_argument('--out', required=True, type=pathlib.Path, metavar='DIR',
                      help='the shard set; a rerun keeps what is up to date there')
  if spacing is None:
    parser.add_argument('--grid', choices=['native', *GRIDS], default='native',
                        help="native: every volume's own, all alike; mni1.5: CAT12's 121x145x121 "
                             '(default: %(default)s)')
    parser.add_argument('--shape', type=int, nargs=3, metavar=('X', 'Y', 'Z'),
                        help='resample: voxels along each axis, about the centre of --grid')
  parser.add_argument('--spacing', type=float, metavar='MM', default=spacing,
                      help='voxel size' + (f' (default: {spacing:g})' if spacing else
                                           "; resamples --grid's field of view"))
  parser.add_argument('--dtype', choices=DTYPES, default='float32',
                      help='how voxels are stored (default: %(default)s)')
  parser.add_argument('--workers', type=int, metavar='N', help='processes (default: one a core)')
  if spacing is None:
    parser.add_argument('--leave-out-bad', action='store_true',
                        help='leave out subjects with missing or unusable data, and name them')
    parser.add_argument('--part', metavar='I/N',
                        help='write only the I-th of N shares of the shards, as one of N jobs on a '
                             'cluster; then run the same command once without it')


def _inspect(chosen: argparse.Namespace) -> None:
  from anatcl_jax.data import inspection
  inspection.inspect(chosen.data_dir, chosen.sheet or chosen.data_dir / 'contact-sheet.png',
                     chosen.scans)


def _prepare_bids(chosen: argparse.Namespace) -> None:
  from anatcl_jax.cohorts import bids
  cohort = bids.read_cohort(chosen.volumes, chosen.participants, chosen.morphometry, chosen.atlas,
                            phenotypes=chosen.phenotypes, id_pattern=chosen.id_pattern,
                            reading=_reading(chosen), same_age=chosen.same_age,
                            stream=chosen.stream, loose_names=chosen.loose_names)
  _write(chosen, cohort.with_volumes(geometry=chosen.geometry, nan_is_zero=chosen.nan == 'zero'))


def _reading(chosen: argparse.Namespace) -> Reading:
  from anatcl_jax.cohorts import ages
  from anatcl_jax.cohorts.participants import Reading, sex_codes
  top = chosen.top_coded_age
  return Reading(chosen.id_column, chosen.age_column,
                 None if top is None else ages.top_coded_age(top),
                 sex_codes(chosen.sex_codes) if chosen.sex_codes else {})


def _prepare_openbhb(chosen: argparse.Namespace) -> None:
  from anatcl_jax.cohorts import openbhb
  _write(chosen, openbhb.read_cohort(chosen.root, chosen.layout, chosen.mask, chosen.atlas,
                                     chosen.modality, chosen.axes))


def _write(chosen: argparse.Namespace, cohort: Cohort) -> None:
  from anatcl_jax.data.make_shards import make_shards
  from anatcl_jax.data.write_shards import Part
  _say_next(make_shards(
      cohort, chosen.out, grid=chosen.grid, spacing=chosen.spacing, shape=chosen.shape,
      dtype=chosen.dtype, leave_out_bad=chosen.leave_out_bad,
      keep_incomplete=chosen.keep_incomplete, workers=chosen.workers,
      part=Part.parse(chosen.part) if chosen.part else None))


def _say_next(made: ShardSet | None) -> None:
  """What to do with a set: pretrain on what it has, or where it has no anatomy, features."""
  if made is None:     # a part of one
    return
  out, usual = str(made.directory), {'thickness', 'volume', 'area'}
  if not made.measures:
    command_line.say_next('features by released weights', 'features', '--weights',
                          'anatcl-global-0', '--data-dir', out, '--out', 'features.tsv')
    return
  there = usual & set(made.measures) or set(made.measures)
  arguments = [f'measures={"+".join(sorted(there, key=made.measures.index))}'] * (there != usual)
  arguments += [f'atlas={made.info["atlas"]}'] * (made.info['atlas'] != 'desikan')
  config = ':'.join(['pretrain', *filter(None, [','.join(arguments)])])
  command_line.say_next('an encoder of its own', 'pretrain', f'--config={config}',
                        f'--config.data_dir={out}')


def _prepare_phantom(chosen: argparse.Namespace) -> None:
  from anatcl_jax.cohorts.phantom import cohort as phantom
  from anatcl_jax.data.make_shards import make_phantom_shards
  youngest, oldest = chosen.ages or AGES[chosen.population]
  settings = phantom.PhantomSettings(
      youngest=youngest, oldest=oldest, **{name: getattr(chosen, name) for name in PHANTOM})
  _say_next(make_phantom_shards(settings, chosen.out, keep_cohort=chosen.keep_cohort,
                                dtype=chosen.dtype, workers=chosen.workers))


if __name__ == '__main__':
  main()
