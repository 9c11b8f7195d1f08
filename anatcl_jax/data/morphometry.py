"""Regional morphometry from FreeSurfer's tables, matched by region name and checked in its units."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np

from anatcl_jax.data import atlas as atlases
from anatcl_jax.data import freesurfer, tables
from anatcl_jax.errors import UserError, check_name, listed


@dataclasses.dataclass(frozen=True)
class Measure:
  """A FreeSurfer measure: its unit, and the range in which any real region lies."""

  unit: str
  lowest: float = -np.inf
  highest: float = np.inf


# By aparcstats2table's own names. The ranges are wide: they catch another measure or another unit,
# not an unusual brain.
MEASURES = {
    'thickness': Measure('mm', 0.5, 6.0),
    'area': Measure('mm^2', 10.0, 40_000.0),
    'volume': Measure('mm^3', 20.0, 100_000.0),
    'thicknessstd': Measure('mm', 0.0, 3.0),
    'meancurv': Measure('mm^-1'),
    'gauscurv': Measure('mm^-2'),
    'foldind': Measure('1'),
    'curvind': Measure('1'),
}

# A gray-matter volume is close to area x thickness (white-surface area makes it somewhat larger).
_VOLUME_RATIO = (0.6, 1.7)


@dataclasses.dataclass(frozen=True)
class Morphometry:
  """Measures of regions of scans: `values` float32 [scan, region, measure], NaN where missing.

  `outliers` says of a scan which of its cells lies outside the range of its measure, `incomplete`
  why it lacks measures.
  """

  atlas: str
  measures: tuple[str, ...]
  scans: tuple[tuple[str, str], ...]
  values: np.ndarray
  source: str
  outliers: dict[tuple[str, str], str]
  incomplete: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

  @property
  def regions(self) -> tuple[str, ...]:
    return atlases.regions(self.atlas)


def read_tables(paths: list[pathlib.Path], atlas: str) -> Morphometry:
  """Morphometry from a SUBJECTS_DIR, or aparcstats2table tables of any width.

  Columns are `lh_bankssts_thickness`, or bare region names below a corner cell such as
  `lh.aparc.thickness`; summary columns are not regions and are passed over.

  Raises:
    UserError: a region that no table has or that two have, a scan twice in a table, text for a
      number, or a column whose median lies outside the range of its measure.
  """
  columns = {}  # (region, measure) -> (path, {scan: value})
  outliers, incomplete = {}, {}
  for path in paths:
    if path.is_dir():
      own_columns, lacking = freesurfer.read_subjects(path, atlas)
      incomplete |= lacking
    else:
      own_columns = _read_table(path, atlas)
    outliers |= _check_ranges(path, own_columns)
    for key, values in own_columns.items():
      if key in columns:
        raise UserError(f'{path}: {key[0]} {key[1]} stands in {columns[key][0]} too; '
                        'give each measure of a hemisphere once')
      columns[key] = (path, values)
  regions = atlases.regions(atlas)
  measures = tuple(m for m in MEASURES if any(key[1] == m for key in columns))
  for measure in measures:
    missing = [region for region in regions if (region, measure) not in columns]
    if missing:
      source = next(path for (_, m), (path, _) in columns.items() if m == measure)
      raise UserError(f'{source}: {measure} of region {listed(missing)} is in no table; the '
                      f'{atlas} atlas has {len(regions)} regions, of both hemispheres')
  scans = tuple(dict.fromkeys([*(scan for _, values in columns.values() for scan in values),
                               *incomplete]))
  values = np.full((len(scans), len(regions), len(measures)), np.nan, np.float32)
  for j, region in enumerate(regions):
    for k, measure in enumerate(measures):
      column = columns[region, measure][1]
      values[:, j, k] = [column.get(scan, np.nan) for scan in scans]
  result = Morphometry(atlas, measures, scans, values, ', '.join(path.name for path in paths),
                       outliers, incomplete)
  _check_volume_ratio(result)
  return result


def measure_names(text: str, available: tuple[str, ...]) -> tuple[str, ...]:
  """The config's `measures`: a list joined by `+`, or `all` that are available.

  Raises:
    UserError: a name that is no measure, or one that stands there twice.
  """
  if text == 'all':
    return available
  names = tuple(text.split('+'))
  for name in names:
    check_name(name, MEASURES, 'measure')
  if len(set(names)) < len(names):
    raise UserError(f'measures {text!r} names a measure twice')
  return names


def _read_table(path: pathlib.Path, atlas: str) -> freesurfer.Columns:
  """The columns of a table that are regions, each a value by scan."""
  if path.suffix == '.stats':
    raise UserError(f'{path}: is no table; give the SUBJECTS_DIR that holds its subject')
  table = tables.read_table(path, lambda name: (name not in atlases.ATLASES[atlas]
                                                and not _region_and_measure(name, atlas, None)))
  corner = str(table.columns[0])
  table = table[table[corner].notna()]
  scans = tables.scan_keys(table, corner)
  labels = [tables.joined_identifier(*scan) for scan in scans]
  twice = sorted({label for label, scan in zip(labels, scans) if scans.count(scan) > 1}) if len(
      set(scans)) < len(scans) else []
  if twice:
    raise UserError(f'{path}: {listed(twice)} has more than one row')
  default = re.match(r'(lh|rh)\.aparc.*\.(\w+)$', corner)
  columns = {key: dict(zip(scans, tables.numbers(path, table[name], labels)))
             for name in table.columns[1:] if (key := _region_and_measure(name, atlas, default))}
  if not columns:
    raise UserError(f'{path}: no column is a region of the {atlas} atlas with a measure, such as '
                    f'lh_bankssts_thickness; it has {listed(list(table.columns), 4)}')
  return columns


def _check_ranges(path: pathlib.Path, columns: freesurfer.Columns) -> dict[tuple[str, str], str]:
  """The first outlying cell of each scan that has one; stops columns of another measure or unit."""
  outliers = {}
  for (region, name), values in columns.items():
    measure, numbers = MEASURES[name], np.array(list(values.values()))
    expected = f'{measure.lowest:g} to {measure.highest:g} {measure.unit}'
    median = np.nanmedian(numbers) if np.isfinite(numbers).any() else measure.lowest
    if not measure.lowest <= median <= measure.highest:
      raise UserError(f'{path}: {region}_{name} has a median of {median:g}, outside {expected}; '
                      'does the table hold another measure or unit?')
    for scan, value in values.items():
      if value < measure.lowest or value > measure.highest:
        outliers.setdefault(scan, f'has {region}_{name} {value:g} in {path.name}, outside '
                                  f'{expected}')
  return outliers


def _region_and_measure(column: str, atlas: str, default: re.Match | None) -> tuple | None:
  names, column = atlases.ATLASES[atlas], atlases.region_name(column)
  match = re.fullmatch(r'(lh|rh)_(.+)_([a-z]+)', column)
  if match and match[2] in names and match[3] in MEASURES:
    return f'{match[1]}_{match[2]}', match[3]
  if default and column in names and default[2] in MEASURES:
    return f'{default[1]}_{column}', default[2]
  return None


def _check_volume_ratio(morphometry: Morphometry) -> None:
  """Stops tables whose volume is not about area x thickness: swapped files or measures."""
  if not {'thickness', 'area', 'volume'} <= set(morphometry.measures):
    return
  thickness, area, volume = (morphometry.values[..., morphometry.measures.index(m)]
                             for m in ('thickness', 'area', 'volume'))
  product = np.where(area * thickness > 0, area * thickness, np.nan)
  ratio = float(np.nanmedian(volume / product))
  if not _VOLUME_RATIO[0] <= ratio <= _VOLUME_RATIO[1]:
    raise UserError(f'{morphometry.source}: volume is {ratio:.2g} times area x thickness in the '
                    'median, where about 1 is expected; are the measures of these tables swapped?')
