"""Regional morphometry from FreeSurfer's and FastSurfer's folders: <subject>/stats/*.stats."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, listed

# Columns of a stats file, by aparcstats2table's names of the measures.
_MEASURES = {'SurfArea': 'area', 'GrayVol': 'volume', 'ThickAvg': 'thickness',
             'ThickStd': 'thicknessstd', 'MeanCurv': 'meancurv', 'GausCurv': 'gauscurv',
             'FoldInd': 'foldind', 'CurvInd': 'curvind'}

# Names of stats files. DKT: of recon-all, of FastSurfer, and of FreeSurfer 5.3.
_PARCELLATIONS = {'desikan': ('aparc',), 'destrieux': ('aparc.a2009s',),
                  'dkt': ('aparc.DKTatlas', 'aparc.DKTatlas.mapped', 'aparc.DKTatlas40')}

Values = dict[tuple[str, str], float]       # (region, measure) -> value


def subject_folders(directory: pathlib.Path) -> dict[str, pathlib.Path]:
  """The folders of a SUBJECTS_DIR that hold stats, by subject; of <subject>/ses-1 by both names.

  Templates of FreeSurfer's and FastSurfer's longitudinal streams and fsaverage are no subjects. A
  single subject's own folder is one too.

  Raises:
    UserError: it can't be read, or holds no subject.
  """
  try:
    if (directory / 'stats').is_dir():
      return {directory.resolve().name: directory}
    folders = {}
    for path in sorted(directory.iterdir()):
      for below in [path, *sorted(path.glob('ses-*'))]:
        if (below / 'stats').is_dir():
          folders[path.name if below == path else f'{path.name}_{below.name}'] = below
  except OSError as error:
    raise UserError(f'{directory}: can\'t be read ({error.strerror})') from None
  subjects = {name: path for name, path in folders.items()
              if not name.startswith('fsaverage') and not any(path.glob('base-tps*'))}
  if not subjects:
    raise UserError(f'{directory}: holds no <subject>/stats; give FreeSurfer\'s SUBJECTS_DIR, or '
                    'the tables of aparcstats2table')
  return subjects


def parcellation(folders: Iterable[pathlib.Path], atlas: str) -> str:
  """The name of the atlas's stats files in most of the folders: one tool's for all subjects."""
  names = _PARCELLATIONS[atlas]
  counts = [sum((path / 'stats' / f'lh.{name}.stats').is_file() for path in folders)
            for name in names]
  return names[counts.index(max(counts))]


def read_subject(folder: pathlib.Path, atlas: str, name: str) -> tuple[Values, str | None]:
  """All measures (mm, mm^2, mm^3, ...) of a subject by region, and why it lacks any."""
  values: Values = {}
  lacks = []
  for hemisphere in atlases.HEMISPHERES:
    path = folder / 'stats' / f'{hemisphere}.{name}.stats'
    try:
      measured = read_stats(path, hemisphere, atlas)
    except UserError as error:
      lacks.append(f'lacks morphometry: {error}' + (_other_atlas(path, atlas)
                                                   if not path.exists() else ''))
      continue
    values |= {(f'{hemisphere}_{region}', measure): value for region in measured
               for measure, value in measured[region].items()}
    if lacking := [region for region in atlases.ATLASES[atlas] if region not in measured]:
      lacks.append(f'lacks morphometry: {path}: has no region {listed(lacking)}; look at its '
                   'surfaces, or run recon-all again')
  return values, lacks[0] if lacks else None


def read_stats(path: pathlib.Path, hemisphere: str,
               atlas: str) -> dict[str, dict[str, float]]:
  """The measures of each region of an atlas in a stats file of mris_anatomical_stats, by name.

  Raises:
    UserError: no such file, it is truncated, has no column headers, or is of the other hemisphere
      or of another atlas.
  """
  text = tables.read_text(path)
  headers = dict(line[1:].split(maxsplit=1) for line in text.splitlines()
                 if line.startswith(('# ColHeaders ', '# hemi ')))
  names = headers.get('ColHeaders', '').split()
  if 'StructName' not in names:
    raise UserError(f'{path}: has no ColHeaders line that names its columns; it is truncated or no '
                    'stats file of FreeSurfer')
  if (own := headers.get('hemi', hemisphere).strip()) != hemisphere:
    raise UserError(f'{path}: says that it is of {own}; are the hemispheres swapped?')
  measured: dict[str, dict[str, float]] = {}
  for cells in (line.split() for line in text.splitlines() if line and line[0] != '#'):
    row = dict(zip(names, cells))
    try:
      values = {measure: float(row[name]) for name, measure in _MEASURES.items() if name in names}
    except (KeyError, ValueError):
      raise UserError(f'{path}: row {" ".join(cells)[:60]!r} lacks a number; '
                      'it is truncated or damaged, run recon-all again') from None
    region = atlases.find_region(row['StructName'], atlas)
    if atlas == 'dkt' and row['StructName'] in atlases.NOT_IN_DKT:
      raise UserError(f'{path}: has region {row["StructName"]}, which the DKT atlas has not; it is '
                      'of another atlas')
    if not region:
      continue
    if region in measured:
      raise UserError(f'{path}: has region {region} twice')
    measured[region] = values
  if not text.endswith('\n'):
    raise UserError(f'{path}: ends within a line; it is truncated, copy or make it again')
  return measured


def _other_atlas(path: pathlib.Path, atlas: str) -> str:
  """Which atlas's files lie there instead, to end a sentence."""
  hemisphere = path.name.partition('.')[0]
  for other, names in _PARCELLATIONS.items():
    for name in names:
      if other != atlas and (path.parent / f'{hemisphere}.{name}.stats').is_file():
        remedy = ', or make the other with run_fastsurfer.sh --fsaparc' if 'mapped' in name else ''
        return (f'; its {name}.stats is of the {other.upper() if other == "dkt" else other} atlas: '
                f'read it with --atlas {other}{remedy}')
  return ''
