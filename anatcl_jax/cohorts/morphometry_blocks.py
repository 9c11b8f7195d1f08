"""Puts morphometry of several tables and folders together: a block each, one set of values."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts.morphometry import FREESURFER
from anatcl_jax.cohorts.phenotypes import ScanKey
from anatcl_jax.cohorts.row_names import plain_name
from anatcl_jax.errors import UserError, listed

Columns = dict[tuple[str, str], np.ndarray]     # (region, measure) -> a value a row, NaN: missing


@dataclasses.dataclass(frozen=True)
class Block:
  """What a table or a SUBJECTS_DIR says: `names` and `keys` of its rows, `lacks` of its scans."""

  path: pathlib.Path
  names: tuple[str, ...]
  keys: tuple[ScanKey, ...]
  columns: Columns
  lacks: dict[ScanKey, str] = dataclasses.field(default_factory=dict)
  measured_by: str = FREESURFER

  def rows(self, kept: list[int]) -> Block:
    """Some of the rows."""
    keys = tuple(self.keys[i] for i in kept)
    return dataclasses.replace(
        self, names=tuple(self.names[i] for i in kept), keys=keys,
        columns={column: values[kept] for column, values in self.columns.items()},
        lacks={key: why for key, why in self.lacks.items() if key in set(keys)})


def of_stream(blocks: list[Block], stream: str) -> tuple[list[Block], dict[ScanKey, str]]:
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


def put_together(blocks: list[Block], atlas: str, scans: tuple[ScanKey, ...],
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
