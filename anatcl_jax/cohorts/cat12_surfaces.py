"""Regional thickness of CAT12 and T1Prep: label/catROIs_*.xml, exported CSV, label/ROI.*.json.

CAT12 (cat_surf_surf2roi, cat_roi_fun) writes an XML a scan with a block an atlas, names as
`lbankssts`, and exports a table of the scans, `..._catROIs_aparc_DK40_thickness.csv`. T1Prep
(CAT_Surf2ROIMulti_ui) writes a JSON a scan, measure and atlas. Of their measures only thickness is
read: their other ones are means over vertices, not FreeSurfer's areas and volumes.
"""

from __future__ import annotations

import json
import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Iterable

import numpy as np

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts import origins, tables
from anatcl_jax.cohorts.morphometry_blocks import Block
from anatcl_jax.cohorts.row_names import RowNames
from anatcl_jax.cohorts.volume_files import first_line
from anatcl_jax.errors import UserError, listed

_ATLASES = {'desikan': 'aparc_DK40', 'destrieux': 'aparc_a2009s'}
_THICKNESS = ('thickness', 'mean_thickness')
_XML = re.compile(r'catROIs_(?P<name>.+)\.xml')
_JSON = re.compile(r'ROI\.(?P<measure>[^.]+)\.(?P<atlas>[^.]+)(?:\.freesurfer)?(?:_\d+k)?'
                   r'\.(?P<name>.+)\.json')
_TABLE = re.compile(r'.*catROIs_(?P<atlas>\w+?)_(?P<measure>(?:mean_)?[a-zA-Z]+)\.csv')
_SIDES = {'l': 'lh', 'r': 'rh'}


def is_of_a_scan(path: pathlib.Path) -> bool:
  """Whether a file is the regional values of one scan, by its name."""
  found = _JSON.fullmatch(path.name)
  return bool(_XML.fullmatch(path.name) or found and found['measure'] == 'thickness')


def files_in(directory: pathlib.Path) -> list[pathlib.Path]:
  """The files of scans in a folder, at any depth."""
  return [path for pattern in ('catROIs_*.xml', 'ROI.thickness.*.json')
          for path in sorted(directory.rglob(pattern))]


def read_scans(paths: list[pathlib.Path], atlas: str, names: RowNames,
               source: pathlib.Path) -> list[Block]:
  """A block each of the files of CAT12 and of T1Prep; those without a scan are not opened.

  Raises:
    UserError: an atlas that neither writes, or no file that can be read.
  """
  wanted = _wanted(source, atlas)
  blocks = []
  for maker, own in _by_maker(paths).items():
    rows = {}
    for path in own:
      found = _XML.fullmatch(path.name) or _JSON.fullmatch(path.name)
      if found.re is _XML or found['atlas'] == wanted:
        if found['name'] in rows:
          raise UserError(f'{path}: {rows[found["name"]]} is of a scan of the same name; give one')
        rows[found['name']] = path
    if not rows:
      raise UserError(f'{source}: holds no {wanted} of {maker}; make it there, or choose another '
                      '--atlas')
    keys = {name: names.key(name) for name in rows}
    read, lacks = {}, {}
    for name, path in rows.items():
      if names.known(keys[name]):
        try:
          read[name] = (_of_xml if path.suffix == '.xml' else _of_json)(path, atlas, wanted)
        except UserError as error:
          lacks[keys[name]] = f'lacks morphometry: {error}'
    if lacks and not read:
      raise UserError(f'{source}: no scan can be read; the first {next(iter(lacks.values()))}')
    columns = {(region, 'thickness'): np.array([read.get(name, {}).get(region, np.nan)
                                                for name in rows])
               for region in atlases.regions(atlas)}
    blocks.append(Block(source, tuple(rows), tuple(keys.values()), columns, lacks, maker))
  return blocks


def is_export(path: pathlib.Path) -> bool:
  """Whether a file is a table that CAT12 exported for many scans: only its name says of what."""
  return bool(_TABLE.fullmatch(path.name))


def columns_without_measure(names: Iterable[str]) -> list[str]:
  """Columns that are regions as CAT12's export has them, in either atlas."""
  return [name for name in names if any(_region(name, atlas) for atlas in _ATLASES)]


def read_export(path: pathlib.Path, atlas: str, names: RowNames) -> Block:
  """Such a table, a row a scan.

  Raises:
    UserError: it is of another atlas or measure.
  """
  table, found = tables.read_table(path), _TABLE.fullmatch(path.name)
  first = str(table.columns[0])
  wanted = _wanted(path, atlas)
  if found['measure'] not in _THICKNESS:
    raise UserError(f'{path}: is {found["measure"]}; of CAT12\'s measures only thickness is one '
                    'that others have too')
  if found['atlas'] != wanted:
    other = next((name for name, word in _ATLASES.items() if word == found['atlas']), '')
    raise UserError(f'{path}: is of {found["atlas"]}, not of {wanted}'
                    + (f'; read it with --atlas {other}' if other else ''))
  table = table[table[first].notna()].reset_index(drop=True)
  keys = tuple(names.key(name) for name in table[first])
  labels = [tables.joined_identifier(*key) for key in keys]
  columns = {(region, 'thickness'): tables.numbers(path, table[name], labels).to_numpy()
             for name in table.columns if (region := _region(str(name), atlas))}
  if not columns:
    raise UserError(f'{path}: no column is a region of {wanted}, such as lbankssts; it has '
                    f'{listed(list(table.columns), 4)}')
  maker = next(iter(_by_maker([path])))
  return Block(path, tuple(table[first]), keys, columns, measured_by=maker)


def _wanted(path: pathlib.Path, atlas: str) -> str:
  """What CAT12 and T1Prep call an atlas."""
  if atlas not in _ATLASES:
    raise UserError(f'{path}: CAT12 and T1Prep have thickness of {" and ".join(_ATLASES)}, not of '
                    f'{atlas}')
  return _ATLASES[atlas]


def _by_maker(paths: list[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
  """CAT12's and T1Prep's files: XML may be of either, by what lies around it, JSON is T1Prep's."""
  found: dict[str, list[pathlib.Path]] = {}
  maker = origins.makers()
  for path in paths:
    of_t1prep = path.suffix == '.json' or maker(path.parent) == 'T1Prep'
    found.setdefault('T1Prep' if of_t1prep else 'CAT12', []).append(path)
  return found


def _region(name: str, atlas: str) -> str | None:
  """lh_bankssts of `lbankssts`."""
  region = atlases.find_region(name[1:], atlas) if name[:1] in _SIDES else None
  return f'{_SIDES[name[0]]}_{region}' if region else None


def _of_xml(path: pathlib.Path, atlas: str, wanted: str) -> dict[str, float]:
  try:
    block = xml.etree.ElementTree.fromstring(path.read_bytes()).find(wanted)
    values = None if block is None else next(
        (found for word in _THICKNESS
         if (found := block.find(f'data/{word}')) is not None), None)
    if values is None:
      raise UserError(f'{path}: has no thickness of {wanted}; make it with CAT12\'s "Extract '
                      'ROI-based surface values"')
    names = [item.text or '' for item in block.findall('names/item')]
    numbers = [item.text or '' for item in values] or re.findall(
        r'[^\s;,\[\]]+', values.text or '')
    if len(names) != len(numbers):
      raise UserError(f'{path}: has {len(names)} names and {len(numbers)} values of {wanted}; make '
                      'it again')
    rows = [(region, float(number)) for name, number in zip(names, numbers)
            if (region := _region(name.strip(), atlas))]
    return _once(rows, path)
  except (OSError, ValueError, xml.etree.ElementTree.ParseError) as error:
    raise UserError(f'{path}: is no XML of CAT12\'s regions ({first_line(error)}); copy or make it '
                    'again') from None


def _of_json(path: pathlib.Path, atlas: str, wanted: str) -> dict[str, float]:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    return _once([(f'{side}_{region}', float(row['mean'])) for side in atlases.HEMISPHERES
                  for row in content[side]
                  if (region := atlases.find_region(row['name'], atlas))], path)
  except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
    raise UserError(f'{path}: is no JSON of T1Prep\'s regions ({first_line(error)}); copy or make '
                    'it again') from None


def _once(rows: list[tuple[str, float]], path: pathlib.Path) -> dict[str, float]:
  values = dict(rows)
  if len(values) < len(rows):
    raise UserError(f'{path}: has a region twice; make it again')
  return values
