"""Regional morphometry: its measures, and whether values can be what they are said to be."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib

import numpy as np

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.errors import UserError, check_name

FREESURFER = 'FreeSurfer'     # and FastSurfer, which measures as it does
DIGITAL = 'the digital cohort'


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
  unmatched: tuple[str, ...] = ()          # rows of no scan, as they are named
  measured_by: str = FREESURFER

  @property
  def regions(self) -> tuple[str, ...]:
    return atlases.regions(self.atlas)


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


def check_medians(path: pathlib.Path, columns: dict[tuple[str, str], np.ndarray]) -> None:
  """Stops columns (region, measure) of another measure or unit: a UserError by their medians."""
  for (region, name), values in columns.items():
    measure, median = MEASURES[name], _median(values)
    if median < measure.lowest or median > measure.highest:
      raise UserError(f'{path}: {region}_{name} has a median of {median:g}, outside '
                      f'{_range(name)}; does the table hold another measure or unit?')


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
