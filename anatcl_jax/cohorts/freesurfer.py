"""Regional morphometry from FreeSurfer's own folders: <subject>/stats/{lh,rh}.aparc.stats."""

from __future__ import annotations

import pathlib

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, listed

# Columns of a stats file, by aparcstats2table's names of the measures.
_MEASURES = {'SurfArea': 'area', 'GrayVol': 'volume', 'ThickAvg': 'thickness',
             'ThickStd': 'thicknessstd', 'MeanCurv': 'meancurv', 'GausCurv': 'gauscurv',
             'FoldInd': 'foldind', 'CurvInd': 'curvind'}

_PARCELLATIONS = {'desikan': 'aparc', 'destrieux': 'aparc.a2009s'}

ScanKey = tuple[str, str]                                   # participant_id, session
Columns = dict[tuple[str, str], dict[ScanKey, float]]       # (region, measure) -> value by scan


def read_subjects(directory: pathlib.Path, atlas: str) -> tuple[Columns, dict[ScanKey, str]]:
  """All measures (mm, mm^2, mm^3, ...) of the subjects of a SUBJECTS_DIR, and why some lack any.

  Of a session that was processed twice, the longitudinal stream's folder is read; its templates
  and fsaverage are no scans and are passed over.

  Raises:
    UserError: there are no subjects, none can be read, or two folders are of one scan.
  """
  columns: Columns = {}
  incomplete: dict[ScanKey, str] = {}
  for scan, folder in _subject_folders(directory).items():
    for hemisphere in atlases.HEMISPHERES:
      path = folder / 'stats' / f'{hemisphere}.{_PARCELLATIONS[atlas]}.stats'
      try:
        measured = read_stats(path, hemisphere)
      except UserError as error:
        incomplete.setdefault(scan, f'lacks morphometry: {error}')
        continue
      for region in measured.keys() & set(atlases.ATLASES[atlas]):
        for measure, value in measured[region].items():
          columns.setdefault((f'{hemisphere}_{region}', measure), {})[scan] = value
      if lacking := [name for name in atlases.ATLASES[atlas] if name not in measured]:
        incomplete.setdefault(scan, f'lacks morphometry: {path}: has no region {listed(lacking)}; '
                                    'look at its surfaces, or run recon-all again')
  if not columns:
    first = next(iter(incomplete.values()))
    raise UserError(f'{directory}: no subject can be read; the first {first}')
  return columns, incomplete


def read_stats(path: pathlib.Path, hemisphere: str) -> dict[str, dict[str, float]]:
  """The measures of each region of a stats file of mris_anatomical_stats, by their names.

  Raises:
    UserError: no such file, it is truncated, has no column headers, or is of the other hemisphere.
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
    region = atlases.region_name(row['StructName'])
    if region in measured:
      raise UserError(f'{path}: has region {region} twice')
    measured[region] = values
  if not text.endswith('\n'):
    raise UserError(f'{path}: ends within a line; it is truncated, copy or make it again')
  return measured


def _subject_folders(directory: pathlib.Path) -> dict[ScanKey, pathlib.Path]:
  """The folder of each scan, by participant and session."""
  try:
    folders = [path for path in sorted(directory.iterdir())
               if (path / 'stats').is_dir() and not path.name.startswith('fsaverage')]
  except OSError as error:
    raise UserError(f'{directory}: can\'t be read ({error.strerror})') from None
  templates = {path.name.split('.long.')[1] for path in folders if '.long.' in path.name}
  chosen: dict[ScanKey, pathlib.Path] = {}
  for path in folders:
    if path.name in templates or (path / 'base-tps').is_file():
      continue
    scan = tables.split_identifier(path.name)
    other = chosen.get(scan)
    if other and ('.long.' in other.name) == ('.long.' in path.name):
      raise UserError(f'{tables.joined_identifier(*scan)} has two folders, {other} and {path}; '
                      'keep one')
    if not other or '.long.' in path.name:
      chosen[scan] = path
  if not chosen:
    raise UserError(f'{directory}: holds no <subject>/stats; give FreeSurfer\'s SUBJECTS_DIR, or '
                    'the tables of aparcstats2table')
  return chosen
