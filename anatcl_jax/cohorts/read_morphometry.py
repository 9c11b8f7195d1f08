"""Reads regional morphometry: tables of many makers and FreeSurfer's folders, put together."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import pandas

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts import freesurfer, id_columns, tables
from anatcl_jax.cohorts.morphometry import (
  MEASURES,
  Morphometry,
  check_medians,
  outlying_cells,
  plausible,
)
from anatcl_jax.cohorts.phenotypes import ScanKey
from anatcl_jax.cohorts.region_columns import RegionColumn, region_column
from anatcl_jax.cohorts.row_names import RowNames, plain_name
from anatcl_jax.errors import UserError, listed

# What --stream may be: whose rows count where FreeSurfer's longitudinal stream has made some.
STREAMS = ('longitudinal', 'cross-sectional', 'either')

# aparcstats2table's corner cell: bare names of regions may stand beside it.
_CORNER = re.compile(r'(?P<hemisphere>lh|rh)\.(?P<parcellation>aparc[\w.]*)\.(?P<measure>[a-z]+)')

_BY_FORM = RowNames()

Columns = dict[tuple[str, str], np.ndarray]     # (region, measure) -> a value a row, NaN: missing


@dataclasses.dataclass(frozen=True)
class _Block:
  """What a table or a SUBJECTS_DIR says: `names` and `keys` of its rows, `lacks` of its scans."""

  path: pathlib.Path
  names: tuple[str, ...]
  keys: tuple[ScanKey, ...]
  columns: Columns
  lacks: dict[ScanKey, str] = dataclasses.field(default_factory=dict)

  def rows(self, kept: list[int]) -> _Block:
    """Some of the rows."""
    keys = tuple(self.keys[i] for i in kept)
    return dataclasses.replace(
        self, names=tuple(self.names[i] for i in kept), keys=keys,
        columns={column: values[kept] for column, values in self.columns.items()},
        lacks={key: why for key, why in self.lacks.items() if key in set(keys)})


def read_tables(paths: list[pathlib.Path], atlas: str, names: RowNames = _BY_FORM,
                id_column: str | None = None, stream: str = STREAMS[0]) -> Morphometry:
  """Morphometry of SUBJECTS_DIRs and tables: of a hemisphere and measure each, wide, or of a site.

  Columns are those that `region_column` knows; all others are passed over. A value that stands in
  several places is one where they agree. Templates of a longitudinal stream are no scans; where
  any row is of FreeSurfer's longitudinal stream, `stream` says which rows count.

  Raises:
    UserError: a region that no table has, two tables that disagree, text for a number, a column
      whose median lies outside the range of its measure, no column of identifiers, or another
      atlas than asked for.
  """
  blocks = []
  for path in paths:
    blocks += ([_read_folders(path, atlas, names, stream)] if path.is_dir()
               else _read_table(path, atlas, names, id_column))
  blocks, absent = _of_stream(blocks, stream)
  outliers: dict[ScanKey, str] = {}
  for block in blocks:
    check_medians(block.path, block.columns)
    cells = np.array(list(block.columns.values())).reshape(len(block.columns), -1).T
    outliers = outlying_cells(list(block.keys), cells, ['_'.join(name) for name in block.columns],
                              [measure for _, measure in block.columns], block.path.name) | outliers
    absent = absent | block.lacks
  scans = tuple(dict.fromkeys([*(key for block in blocks for key in block.keys), *absent]))
  measures = tuple(m for m in MEASURES if any(own == m for block in blocks
                                              for _, own in block.columns))
  values, disagree = _put_together(blocks, atlas, scans, measures)
  unmatched = tuple(dict.fromkeys(name for block in blocks
                                  for name, key in zip(block.names, block.keys)
                                  if not names.known(key)))
  return plausible(Morphometry(atlas, measures, scans, values,
                               ', '.join(path.name for path in paths), outliers | disagree, absent,
                               unmatched))


def _read_folders(directory: pathlib.Path, atlas: str, names: RowNames, stream: str) -> _Block:
  """The subjects of a SUBJECTS_DIR; of those without a scan only the names, if scans are known."""
  folders = freesurfer.subject_folders(directory)
  keys = {name: names.key(name) for name in folders}
  used = {name: path for name, path in folders.items() if names.known(keys[name])}
  file = freesurfer.parcellation(used.values(), atlas)
  read, lacks = {}, {}
  for name, path in used.items():
    read[name], why = freesurfer.read_subject(path, atlas, file)
    if why:
      lacks[keys[name]] = why
  if used and not any(read.values()):
    raise UserError(f'{directory}: no subject can be read; the first {next(iter(lacks.values()))}')
  columns = dict.fromkeys(column for values in read.values() for column in values)
  return _Block(directory, tuple(folders), tuple(keys.values()),
                {column: np.array([read.get(name, {}).get(column, np.nan) for name in folders])
                 for column in columns}, lacks)


def _read_table(path: pathlib.Path, atlas: str, names: RowNames,
                asked: str | None) -> list[_Block]:
  """The rows of a table, a block a session where columns name sessions."""
  if path.suffix == '.stats':
    raise UserError(f'{path}: is no table; give the SUBJECTS_DIR that holds its subject')
  table = tables.read_table(path, lambda name: (not atlases.find_region(name, atlas)
                                                and not region_column(name, atlas)))
  first = str(table.columns[0])
  corner = _CORNER.fullmatch(first)
  corner = corner if corner and corner['measure'] in MEASURES else None
  regions = {name: column for name in table.columns
             if (column := region_column(name, atlas, corner))}
  _check_atlas(path, table, atlas, corner, regions)
  others = [name for name in table.columns if name not in regions]
  identifier = first if corner else _identifier(path, table, others, names, asked)
  table = table[table[identifier].notna()].reset_index(drop=True)
  session = id_columns.find_session_column(others, identifier)
  own = table[session].fillna('') if session else [''] * len(table)
  keys = [names.key(name, of_session) for name, of_session in zip(table[identifier], own)]
  columns = {}
  for name, column in regions.items():
    values = _numbers(path, table[name], [tables.joined_identifier(*key) for key in keys],
                      [names.known(key) for key in keys])
    place = (column.session, column.region, column.measure)
    if place in columns:
      values = _one_of_two(path, name, column, columns[place], values)
    columns[place] = values
  blocks = []
  for instance in dict.fromkeys(place[0] for place in columns):
    part = {place[1:]: values for place, values in columns.items() if place[0] == instance}
    there = [i for i in range(len(keys)) if not instance
             or any(not np.isnan(values[i]) for values in part.values())]
    block = _Block(path, tuple(table[identifier]), tuple(
        names.key(name, instance) if instance else key
        for name, key in zip(table[identifier], keys)), part)
    blocks.append(block.rows(there))
  return blocks


def _identifier(path: pathlib.Path, table: pandas.DataFrame, others: list[str], names: RowNames,
                asked: str | None) -> str:
  """The column of identifiers; `asked` may be that of other tables, and a number only asks here."""
  named = id_columns.asked_column(table, asked) if asked else None
  if named is not None and not asked.isdigit():
    return named
  try:
    return id_columns.find_id_column(
        path, table, others, (lambda name: names.known(names.key(name))) if names.scans else None)
  except UserError:
    if named is not None:
      return named
    if asked is None:
      raise
    raise UserError(f'{path}: has no column {asked!r} for --id-column; besides regions it has '
                    f'{listed(others, 8)}') from None


def _one_of_two(path: pathlib.Path, name: str, column: RegionColumn, first: np.ndarray,
                second: np.ndarray) -> np.ndarray:
  """Columns of one region and measure: equal, or each where the other has nothing or 0.

  Tables joined of two spellings (G&S_..., G_and_S_...) fill what a part lacks with 0.
  """
  a, b = (np.where(values == 0, np.nan, values) for values in (first, second))
  if (np.isfinite(a) & np.isfinite(b) & (a != b)).any():
    raise UserError(f'{path}: {column.region} {column.measure} stands in two columns, one of '
                    f'them {name}, with other values; remove one')
  return np.where(np.isnan(a), b, a)


def _check_atlas(path: pathlib.Path, table: pandas.DataFrame, atlas: str, corner: re.Match | None,
                 regions: dict[str, RegionColumn]) -> None:
  """Stops a table that is of another atlas: Desikan and DKT share names of regions."""
  told = corner and next((other for word, other in (('DKT', 'dkt'), ('a2009s', 'destrieux'))
                          if word in corner['parcellation']), 'desikan')
  if told and told != atlas and not (regions and 'destrieux' in (told, atlas)):
    raise UserError(f'{path}: its first cell {corner[0]!r} says the {_title(told)} atlas, not '
                    f'{_title(atlas)}; read it with --atlas {told}')
  if atlas == 'dkt' and regions:
    desikan = {name: region_column(name, 'desikan', corner) for name in table.columns}
    strange = [name for name, column in desikan.items() if column and not column.coded
               and column.region.partition('_')[2] in atlases.NOT_IN_DKT]
    if strange:
      raise UserError(f'{path}: holds {listed(strange, 2)}, which the DKT atlas has not: it is of '
                      'the desikan atlas; read it with --atlas desikan')
  if regions:
    return
  other = next((other for other in atlases.ATLASES
                if any(region_column(name, other, corner) for name in table.columns)), None)
  if other:
    raise UserError(f'{path}: its columns are of the {_title(other)} atlas, not {_title(atlas)}; '
                    f'read it with --atlas {other}')
  raise UserError(f'{path}: no column is a region of the {atlas} atlas with a measure, such as '
                  f'lh_bankssts_thickness; it has {listed(list(table.columns), 4)}')


def _title(atlas: str) -> str:
  return 'DKT' if atlas == 'dkt' else atlas


def _numbers(path: pathlib.Path, column: pandas.Series, labels: list[str],
             used: list[bool]) -> np.ndarray:
  """The column as float64; text in rows that no scan uses is NaN."""
  wrong = pandas.to_numeric(column, errors='coerce').isna() & ~np.array(used)
  return tables.numbers(path, column.mask(wrong), labels).to_numpy()


def _of_stream(blocks: list[_Block], stream: str) -> tuple[list[_Block], dict[ScanKey, str]]:
  """The rows that count, and why scans have none: all of one stream, but for `either`."""
  longitudinal = {}
  templates = set()
  for block in blocks:
    for name, key in zip(block.names, block.keys):
      if '.long.' in name:
        longitudinal[key] = block.path
        templates.add(plain_name(name).split('.long.')[1])
  if not longitudinal:
    return blocks, {}

  def counts(name: str, key: ScanKey) -> bool:
    if '.long.' in name:
      return stream != 'cross-sectional'
    if plain_name(name).rpartition('/')[2] in templates:
      return False
    return stream == 'cross-sectional' or (stream == 'either' and key not in longitudinal)

  kept = [block.rows([i for i, row in enumerate(zip(block.names, block.keys)) if counts(*row)])
          for block in blocks]
  there = {key for block in kept for key in block.keys}
  other = 'cross-sectional' if stream == 'longitudinal' else 'longitudinal'
  absent = {key: f'has only a {other} row in {block.path}, where --stream {stream} counts; '
                 f'--stream either takes what a scan has, --stream {other} those of all'
            for block in blocks for name, key in zip(block.names, block.keys)
            if key not in there and plain_name(name).rpartition('/')[2] not in templates}
  return [block for block in kept if block.keys], absent


def _put_together(blocks: list[_Block], atlas: str, scans: tuple[ScanKey, ...],
                  measures: tuple[str, ...]) -> tuple[np.ndarray, dict[ScanKey, str]]:
  """Values [scan, region, measure], and why a scan's rows can't be right: they disagree."""
  regions = {name: j for j, name in enumerate(atlases.regions(atlas))}
  places = {scan: i for i, scan in enumerate(scans)}
  values = np.full((len(scans), len(regions), len(measures)), np.nan, np.float32)
  said: dict[tuple[str, str], pathlib.Path] = {}
  again: dict[tuple[str, str], tuple[pathlib.Path, pathlib.Path]] = {}
  disagree: dict[ScanKey, str] = {}
  for block in blocks:
    layers = _layers([places[key] for key in block.keys])
    for (region, measure), column in block.columns.items():
      target = values[:, regions[region], measures.index(measure)]
      path = said.setdefault((region, measure), block.path)
      for rows, scan in layers:
        new, old = column[rows].astype(np.float32), target[scan]
        both = ~np.isnan(new) & ~np.isnan(old)
        other = both & ~np.isclose(new, old, rtol=1e-5)
        if path != block.path and both.any():
          again[region, measure] = (path, block.path)
          if other.sum() * 2 > both.sum():
            raise UserError(f'{block.path}: {region} {measure} stands in {path} too, with other '
                            'values; give each measure of a scan once')
        for i in np.flatnonzero(other):
          disagree.setdefault(scans[scan[i]], (
              f'has more than one row in {block.path.name}' + (
                  f' and {path.name}' if path != block.path else '')
              + f', with {region}_{measure} {old[i]:g} and {new[i]:g}; keep one, or tell its '
                'sessions apart in a column session or in the names'))
        target[scan] = np.where(np.isnan(old), new, old)
  for measure in measures:
    missing = [region for region in regions if (region, measure) not in said]
    if missing:
      raise UserError(_missing(measure, missing, atlas, said, again))
  values[[places[scan] for scan in disagree]] = np.nan
  return values, disagree


def _layers(scans: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
  """Rows and their scans, in as few sets as hold no scan twice."""
  layers: list[tuple[list[int], list[int]]] = []
  seen: dict[int, int] = {}
  for row, scan in enumerate(scans):
    depth = seen[scan] = seen.get(scan, -1) + 1
    if depth == len(layers):
      layers.append(([], []))
    layers[depth][0].append(row)
    layers[depth][1].append(scan)
  return [(np.array(rows), np.array(own)) for rows, own in layers]


def _missing(measure: str, missing: list[str], atlas: str, said: dict, again: dict) -> str:
  """The error of regions that no table has, with what it may be."""
  source = next(path for (_, own), path in said.items() if own == measure)
  text = (f'{source}: {measure} of region {listed(missing)} is in no table; the {atlas} atlas has '
          f'{len(atlases.regions(atlas))} regions, of both hemispheres')
  names = {region.partition('_')[2] for region in missing}
  if names == set(atlases.NOT_IN_DKT) and atlas == 'desikan':
    text += '. Without these three they are of the DKT atlas: --atlas dkt'
  elif names == {'temporalpole'} and atlas == 'desikan':
    text += ('. UK Biobank\'s category 192 has no temporalpole; take category 196 and --atlas dkt')
  if repeated := [(key, paths) for key, paths in again.items() if key[1] == measure]:
    (region, _), (first, second) = repeated[0]
    text += f'. {region} {measure} stands in {first} and in {second} too: is one there twice?'
  return text
