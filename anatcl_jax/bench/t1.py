"""What `prepare t1` reaches and costs: scans with a reference segmentation, one process each.

  python -m anatcl_jax.bench t1 --volumes 'scans/*-T1_ds.nii.gz' --labels _DLMUSE \\
      --maps 'vbm/*_mod.nii.gz'

The labels are MUSE's, beside each scan, its name with --labels before the ending. --maps are
modulated gray-matter maps in MNI space that other software made: the measure by which ours are
judged, the correlation with the template's gray matter, has no meaning without. It needs the
extra `t1`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
import time

from anatcl_jax import command_line, errors, outputs, paths
from anatcl_jax.bench.command import Figures, in_own_process, peak_memory
from anatcl_jax.devices.machine import cpu
from anatcl_jax.errors import UserError

SMOOTHED = 6.0      # mm FWHM, as VBM maps often are
# Deep gray matter, cerebellar cortex and the vermis; from 100 on, cortex (Doshi et al., 2016).
_GRAY = (23, *range(30, 33), *range(36, 40), 47, 48, *range(55, 61), 71, 72, 73, 75, 76)
_CORTEX = 100
_COLUMNS = {'mask': 'brain mask', 'registered': 'registered brain', 'gray': 'gray matter',
            'correlation': 'correlation'}


def main(arguments: list[str], prog: str) -> None:
  """Measures every scan and prints a Markdown table."""
  with errors.reported():
    parser = command_line.Parser(prog=prog, description=__doc__)
    parser.add_argument('--volumes', required=True, type=paths.expanded, metavar='GLOB',
                        help='T1-weighted scans')
    parser.add_argument('--labels', default='_DLMUSE', metavar='TEXT',
                        help='before the ending of a scan\'s name: its MUSE labels (default: '
                             '%(default)s)')
    parser.add_argument('--maps', type=paths.expanded, metavar='GLOB',
                        help='modulated gray-matter maps of other software')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='also write figures here')
    parser.add_argument('--out', type=pathlib.Path, metavar='DIR',
                        help='keep quasiraw/ and gm/ there, as prepare t1 writes them (default: '
                             'deleted)')
    parser.add_argument('--id-pattern', metavar='REGEX', help='as of prepare t1')
    parser.add_argument('--case', help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    from anatcl_jax.cohorts.t1 import libraries
    libraries.check()
    if options.case:
      print(json.dumps(measured(options)))
      return
    if options.json:
      outputs.check_file(options.json, '--json')
    results = _all(options)
    others = _correlations(options.maps) if options.maps else []
    print(table(results, others, cpu()))
    if options.json:
      outputs.write_json(options.json, {'machine': cpu(), 'scans': results, 'maps': others})


def _all(options: argparse.Namespace) -> list[dict]:
  """Figures of every scan; quasi-raw images, with which each map begins, of the first alone."""
  from anatcl_jax.cohorts import find_scans
  from anatcl_jax.progress import progress_bar
  scans = [path for path in find_scans.matching(options.volumes)
           if _labels_of(path, options.labels).is_file()]
  if not scans:
    raise UserError(f'no scan of {options.volumes!r} has labels beside it, such as '
                    f'{_labels_of(pathlib.Path("NAME.nii.gz"), options.labels)}')
  results = []
  with (tempfile.TemporaryDirectory(prefix='anatcl-bench-') as temporary,
        progress_bar(len(scans) + 1, 't1', 'cases') as bar):
    for to, path in [('quasiraw', scans[0]), *(('gm', path) for path in scans)]:
      out = options.out / to if options.out else f'{temporary}/{to}'
      results.append({'scan': path.name, 'to': to} | in_own_process(
          [sys.executable, '-m', 'anatcl_jax.bench', 't1', '--volumes', str(path), '--labels',
           options.labels, '--out', str(out), '--case', to,
           *(['--id-pattern', options.id_pattern] if options.id_pattern else [])],
          f'{path.name} to {to}'))
      bar.update()
  return results


def measured(options: argparse.Namespace) -> Figures:
  """Of one scan: Dices, correlation, seconds of the processor and of the clock, MB at most."""
  import nibabel
  import numpy as np

  from anatcl_jax.cohorts.t1 import run, templates
  from anatcl_jax.cohorts.t1.recipe import Recipe
  from anatcl_jax.cohorts.t1.volume import Volume, dice
  job, = run.find(options.volumes, options.out, options.id_pattern, 'agreed', False)
  began, used = time.perf_counter(), time.process_time()
  outcome = run.one(job, Recipe(options.case, templates.GRIDS[options.case]))
  found = {'cpu_s': time.process_time() - used, 'wall_s': time.perf_counter() - began,
           'peak_mb': peak_memory()}
  if not outcome.figures or outcome.kept:
    raise UserError(outcome.why or f'{job.target.folder} has it already; choose another --out')

  def read(path: pathlib.Path) -> Volume:
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return Volume(np.asarray(image.dataobj), image.affine)
  truth = read(_labels_of(job.volume.path, options.labels)).values
  found |= {'mask': dice(read(job.target.mask).values > 0, truth > 0),
            'registered': outcome.figures.dice_template}
  if options.case == 'gm':
    gray = np.isin(truth, _GRAY) | (truth >= _CORTEX)
    found |= {'gray': dice(read(job.target.gray).values > 0.5, gray),
              'correlation': _correlation(read(job.target.map('gm')))}
  return found


def _correlation(image) -> float:
  """Of a map on CAT12's grid, smoothed, with the template's gray matter in the template's brain."""
  import scipy.ndimage

  from anatcl_jax.cohorts.t1 import quality, templates
  from anatcl_jax.cohorts.t1.volume import resampled
  template = templates.load()
  brain, gray = (resampled(one, image.values.shape, image.affine)
                 for one in (template.brain, template.gray))
  smooth = scipy.ndimage.gaussian_filter(image.values, SMOOTHED / 2.3548 / image.spacing)
  return quality.correlation(smooth[brain > 0.5], gray[brain > 0.5])


def _correlations(pattern: str) -> list[float]:
  import numpy as np

  from anatcl_jax.cohorts import find_scans
  from anatcl_jax.cohorts.t1.volume import Volume
  from anatcl_jax.cohorts.volumes import NAMED_GRIDS, NiftiFile, read_volume
  grid = NAMED_GRIDS['mni1.5']
  return [_correlation(Volume(read_volume(NiftiFile(path), grid), np.asarray(grid.affine)))
          for path in find_scans.matching(pattern)]


def _labels_of(path: pathlib.Path, labels: str) -> pathlib.Path:
  name, dot, ending = path.name.partition('.')
  return path.with_name(f'{name}{labels}{dot}{ending}')


def table(results: list[dict], others: list[float], machine: str) -> str:
  """The scans with their figures, and their means, as a Markdown table."""
  maps = [one for one in results if one['to'] == 'gm']
  mean = {name: sum(one[name] for one in maps) / len(maps)
          for name in maps[0] if name not in ('scan', 'to')}
  lines = [f'{machine}; one core a scan. Dice of the brain mask and of gray matter (p > 0.5, '
           'before modulation) with the reference labels, of the registered brain with the '
           'template\'s; '
           f'correlation of the map, smoothed by {SMOOTHED:g} mm, with the template\'s gray '
           'matter.', '',
           '| scan | to | ' + ' | '.join(_COLUMNS.values()) + ' | CPU | peak memory |',
           '|---' * (4 + len(_COLUMNS)) + '|']
  for one in [*results, {'scan': '**mean**', 'to': 'gm'} | mean]:
    cells = [one['scan'], one['to'], *(f'{one[name]:.3f}' if name in one else ''
                                       for name in _COLUMNS)]
    cells += [f'{one["cpu_s"] / 60:.1f} min', f'{one["peak_mb"]:,.0f} MB']
    lines.append(f'| {" | ".join(cells)} |')
  if others:
    lines += ['', f'{len(others)} maps of other software reach a correlation of '
                  f'{min(others):.3f} to {max(others):.3f}, {sum(others) / len(others):.3f} on '
                  'average.']
  return '\n'.join(lines)
