"""Regional morphometry from FreeSurfer's tables, matched by region and checked in its units."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re

import numpy as np

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts import freesurfer, tables
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

# Medians over scans and regions of cohorts of any age and either atlas.
_TYPICAL = {'thickness': (1, 5), 'thicknessstd': (0.2, 1.5), 'area': (50, 10_000),
            'volume': (100, 30_000)}
# A gray-matter volume is close to area x thickness (white-surface area makes it somewhat larger) in
# every region: in 42 real brains the logarithm of their ratio is 0.04 off its median, in the median
# again. Another measure may have the right median by chance, as curvind's 3.2 beside thickness's
# 2.5, but then the deviation is 0.7.
_VOLUME_RATIO = (0.6, 1.7)
_VOLUME_SPREAD = 0.4
_SOLID = ('thickness', 'area', 'volume')


@dataclasses.dataclass(frozen=True)
class Morphometry:
  """Measures of regions of scans: `values` float32 [scan, region, measure], NaN where missing.

  `outliers` says of a scan why its values can't be right, `absent` why it lacks some.
  """

  atlas: str
  measures: tuple[str, ...]
  scans: tuple[tuple[str, str], ...]
  values: np.ndarray
  source: str
  outliers: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
  absent: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

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
  outliers, absent = {}, {}
  for path in paths:
    if path.is_dir():
      own_columns, lacking = freesurfer.read_subjects(path, atlas)
      absent |= lacking
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
                               *absent]))
  values = np.full((len(scans), len(regions), len(measures)), np.nan, np.float32)
  for j, region in enumerate(regions):
    for k, measure in enumerate(measures):
      column = columns[region, measure][1]
      values[:, j, k] = [column.get(scan, np.nan) for scan in scans]
  return plausible(Morphometry(atlas, measures, scans, values,
                               ', '.join(path.name for path in paths), outliers, absent))


def plausible(morphometry: Morphometry) -> Morphometry:
  """The same morphometry, with scans whose volume is not about area x thickness in `outliers`.

  A swap among the curvatures alone can't be told: they have no fixed relation to the rest.

  Raises:
    UserError: medians over all scans that their measures can't have: measures are swapped.
  """
  columns = dict(zip(morphometry.measures, np.moveaxis(morphometry.values, -1, 0)))
  if why := _implausible(columns):
    raise UserError(f'{morphometry.source}: {why}; {_guess(columns)}')
  if not columns.keys() >= set(_SOLID):
    return morphometry
  outliers = dict(morphometry.outliers)
  for i, scan in enumerate(morphometry.scans):
    if why := _implausible_volume({name: values[i] for name, values in columns.items()}):
      outliers.setdefault(scan, f'has measures in {morphometry.source} of which {why}')
  return dataclasses.replace(morphometry, outliers=outliers)


def outlying_cells(scans: list[tuple[str, str]], values: np.ndarray, columns: list[str],
                   measures: list[str], source: str) -> dict[tuple[str, str], str]:
  """A value [scan, column] of each scan that has one outside the range of its column's measure."""
  lowest, highest = np.array([(MEASURES[m].lowest, MEASURES[m].highest) for m in measures]).T
  result = {}
  for i, j in np.argwhere((values < lowest) | (values > highest)):
    result.setdefault(scans[i], f'has {columns[j]} {values[i, j]:g} in {source}, outside '
                                f'{_range(measures[j])}')
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
  """An outlying cell of each scan that has one; stops columns of another measure or unit."""
  outliers = {}
  for (region, name), column in columns.items():
    values, measure = np.array(list(column.values())), MEASURES[name]
    median = _median(values)
    if median < measure.lowest or median > measure.highest:
      raise UserError(f'{path}: {region}_{name} has a median of {median:g}, outside '
                      f'{_range(name)}; does the table hold another measure or unit?')
    outliers = outlying_cells(list(column), values[:, None], [f'{region}_{name}'], [name],
                              path.name) | outliers
  return outliers


def _region_and_measure(column: str, atlas: str, default: re.Match | None) -> tuple | None:
  names, column = atlases.ATLASES[atlas], atlases.region_name(column)
  match = re.fullmatch(r'(lh|rh)_(.+)_([a-z]+)', column)
  if match and match[2] in names and match[3] in MEASURES:
    return f'{match[1]}_{match[2]}', match[3]
  if default and column in names and default[2] in MEASURES:
    return f'{default[1]}_{column}', default[2]
  return None


def _range(measure: str) -> str:
  described = MEASURES[measure]
  return f'{described.lowest:g} to {described.highest:g} {described.unit}'


def _implausible(columns: dict[str, np.ndarray]) -> str | None:
  """What is wrong with the medians of measures, each over all scans and regions, or None."""
  for name, (lowest, highest) in _TYPICAL.items():
    median = _median(columns[name]) if name in columns else np.nan
    if not (lowest <= median <= highest or np.isnan(median)):
      return (f'{name} has a median of {median:.3g}, where {lowest:g} to {highest:g} '
              f'{MEASURES[name].unit} is expected')
  return _implausible_volume(columns)


def _implausible_volume(columns: dict[str, np.ndarray]) -> str | None:
  """Whether volume is not about area x thickness in all regions, or None."""
  if not columns.keys() >= set(_SOLID):
    return None
  logarithm = _log_volume_ratio(columns)
  ratio = np.exp(_median(logarithm))
  if ratio < _VOLUME_RATIO[0] or ratio > _VOLUME_RATIO[1]:
    return f'volume is {ratio:.2g} times area x thickness in the median, where about 1 is expected'
  if (spread := _median(np.abs(logarithm - _median(logarithm)))) > _VOLUME_SPREAD:
    return (f'volume over area x thickness varies between regions by a factor of '
            f'{np.exp(spread):.2g}, where 1.0 to 1.2 is expected')
  return None


def _guess(columns: dict[str, np.ndarray]) -> str:
  """Which measures seem to stand under which names, where one reading explains the values."""
  readings = {}
  for names in itertools.permutations(columns, 3):
    reading = dict(zip(_SOLID, (columns[name] for name in names)))
    if not _implausible(reading):
      readings[names] = [f'{held} under {name}' for held, name in zip(_SOLID, names)
                         if held != name]
  swapped = next(iter(readings.values())) if len(readings) == 1 else []
  if not swapped:
    return 'are its measures swapped, or in other units?'
  return f'are its measures swapped? It seems to hold {", ".join(swapped)}'


def _log_volume_ratio(columns: dict[str, np.ndarray]) -> np.ndarray:
  thickness, area, volume = (np.where(columns[name] > 0, columns[name], np.nan) for name in _SOLID)
  return np.log(volume) - np.log(area) - np.log(thickness)


def _median(values: np.ndarray) -> float:
  known = values[~np.isnan(values)]
  return float(np.median(known)) if len(known) else np.nan
