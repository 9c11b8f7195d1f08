"""Reads regional morphometry: tables of many makers and FreeSurfer's folders, put together."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pandas

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts import cat12_surfaces, freesurfer, id_columns, tables
from anatcl_jax.cohorts.morphometry import (
  FREESURFER,
  MEASURES,
  Morphometry,
  check_medians,
  outlying_cells,
  plausible,
)
from anatcl_jax.cohorts.morphometry_blocks import Block, of_stream, put_together
from anatcl_jax.cohorts.phenotypes import ScanKey
from anatcl_jax.cohorts.region_columns import RegionColumn, region_column
from anatcl_jax.cohorts.row_names import RowNames
from anatcl_jax.errors import UserError, listed

# What --stream may be: whose rows count where FreeSurfer's longitudinal stream has made some.
STREAMS = ('longitudinal', 'cross-sectional', 'either')

# aparcstats2table's corner cell: bare names of regions may stand beside it.
_CORNER = re.compile(r'(?P<hemisphere>lh|rh)\.(?P<parcellation>aparc[\w.]*)\.(?P<measure>[a-z]+)')

_BY_FORM = RowNames()


def read_tables(paths: list[pathlib.Path], atlas: str, names: RowNames = _BY_FORM,
                id_column: str | None = None, stream: str = STREAMS[0]) -> Morphometry:
  """Morphometry of SUBJECTS_DIRs and tables: of a hemisphere and measure each, wide, or of a site.

  Or thickness of CAT12 or T1Prep, in their folders, files of scans or exported tables.

  Columns are those that `region_column` knows; all others are passed over. A value that stands in
  several places is one where they agree. Templates of a longitudinal stream are no scans; where
  any row is of FreeSurfer's longitudinal stream, `stream` says which rows count.

  Raises:
    UserError: a region that no table has, two tables that disagree, text for a number, a column
      whose median lies outside the range of its measure, no column of identifiers, another atlas
      than asked for, or several tools' measures.
  """
  blocks = []
  of_scans = [path for path in paths if cat12_surfaces.is_of_a_scan(path)]
  if of_scans:
    blocks += cat12_surfaces.read_scans(of_scans, atlas, names, of_scans[0])
  for path in paths:
    if path in of_scans:
      continue
    blocks += (_read_folders(path, atlas, names) if path.is_dir()
               else _read_table(path, atlas, names, id_column))
  measured_by = _one_maker(blocks)
  blocks, absent = of_stream(blocks, stream)
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
  values, disagree = put_together(blocks, atlas, scans, measures)
  unmatched = tuple(dict.fromkeys(name for block in blocks
                                  for name, key in zip(block.names, block.keys)
                                  if not names.known(key)))
  return plausible(Morphometry(atlas, measures, scans, values,
                               ', '.join(path.name for path in paths), outliers | disagree, absent,
                               unmatched, measured_by))


def _one_maker(blocks: list[Block]) -> str:
  """Whose morphometry it all is.

  Raises:
    UserError: more than one tool's.
  """
  makers = {block.measured_by: block.path for block in blocks}
  if len(makers) < 2:
    return next(iter(makers), FREESURFER)
  told = ' and '.join(f"{maker}'s ({path})" for maker, path in makers.items())
  raise UserError(
      f'morphometry is of several tools, {told}, which are not mixed in one cohort: thickness of '
      'CAT12 and FreeSurfer has R2 of .67 to .83 with each other and offsets in most regions (Ay '
      '2022, Seiger 2018), so that it would tell tools apart; give --morphometry of one')


def _read_folders(directory: pathlib.Path, atlas: str, names: RowNames) -> list[Block]:
  """The subjects of a SUBJECTS_DIR, or the scans of a folder of CAT12 or T1Prep.

  Of those without a scan only the names, if scans are known.
  """
  if not any(any(directory.glob(pattern)) for pattern in ('stats', '*/stats', '*/ses-*/stats')):
    if files := cat12_surfaces.files_in(directory):
      return cat12_surfaces.read_scans(files, atlas, names, directory)
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
  return [Block(directory, tuple(folders), tuple(keys.values()),
                {column: np.array([read.get(name, {}).get(column, np.nan) for name in folders])
                 for column in columns}, lacks)]


def _read_table(path: pathlib.Path, atlas: str, names: RowNames,
                asked: str | None) -> list[Block]:
  """The rows of a table, a block a session where columns name sessions."""
  if path.suffix == '.stats':
    raise UserError(f'{path}: is no table; give the SUBJECTS_DIR that holds its subject')
  if cat12_surfaces.is_export(path):
    return [cat12_surfaces.read_export(path, atlas, names)]
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
  labels = [tables.joined_identifier(*key) for key in keys]
  used = np.array([names.known(key) for key in keys], bool)
  columns = {}
  for name, column in regions.items():
    values = tables.numbers(path, table[name], labels, asked=used).to_numpy()
    place = (column.session, column.region, column.measure)
    if place in columns:
      values = _one_of_two(path, name, column, columns[place], values)
    columns[place] = values
  blocks = []
  for instance in dict.fromkeys(place[0] for place in columns):
    part = {place[1:]: values for place, values in columns.items() if place[0] == instance}
    there = [i for i in range(len(keys)) if not instance
             or any(not np.isnan(values[i]) for values in part.values())]
    block = Block(path, tuple(table[identifier]), tuple(
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
  if found := cat12_surfaces.columns_without_measure(table.columns):
    raise UserError(f'{path}: columns such as {found[0]} are of CAT12\'s export, where the name of '
                    'the file says of what: call it ..._catROIs_aparc_DK40_thickness.csv as CAT12 '
                    'does')
  raise UserError(f'{path}: no column is a region of the {atlas} atlas with a measure, such as '
                  f'lh_bankssts_thickness; it has {listed(list(table.columns), 4)}')


def _title(atlas: str) -> str:
  return 'DKT' if atlas == 'dkt' else atlas
