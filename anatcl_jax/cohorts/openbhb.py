"""Reads OpenBHB in the three layouts in which it circulates.

    subjects   participants.tsv beside data/sub-<id>_preproc-*.npy
    hub        {train,val}/derivatives/sub-<id>/ses-1/*.npy and .../freesurfer_roi/*.csv
    matrix     the challenge's train.npy and test.npy, a row a scan: see openbhb_matrix.py
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pandas

from anatcl_jax.cohorts import ages, openbhb_matrix, origins, tables
from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts import cohort as cohorts
from anatcl_jax.cohorts import participants as participants_table
from anatcl_jax.cohorts.cohort import Cohort, Problem, Scan
from anatcl_jax.cohorts.morphometry import Morphometry
from anatcl_jax.cohorts.openbhb_arrays import (
  MODALITIES,
  ROI_MEASURES,
  Affine,
  ArrayFile,
  Modality,
  from_roi_arrays,
  without_leading_axes,
)
from anatcl_jax.cohorts.volumes import Grid, NiftiFile, read_grid
from anatcl_jax.errors import UserError, listed

LAYOUTS = ('subjects', 'hub', 'matrix')
_HUB_SPLITS = ('train', 'val')


def read_cohort(root: pathlib.Path, layout: str = 'auto', mask: pathlib.Path | None = None,
                atlas: str = 'desikan', modality: str = 'vbm', axes: str = 'LAS') -> Cohort:
  """A cohort of OpenBHB's scans, seven measures a region, every column of its participants table.

  `mask` is the template that masked the volumes; without it the one under `root`/resource is taken.
  Its affine is the volumes'. Without any, `axes` (LAS or RAS) says how the arrays are stored.

  Raises:
    UserError: no layout fits, or more than one; a table, template or matrix can't be trusted.
  """
  kind = MODALITIES[modality]
  layout = _detected(root) if layout == 'auto' else layout
  mask = mask or next((path for path in (root / 'resource' / kind.template, root / kind.template)
                       if path.is_file()), None)
  affine = _checked_affine(mask, kind) if mask else kind.affine(axes)
  sources = {'openbhb': str(root), 'layout': layout, 'modality': modality,
             'mask': str(mask or f'none; axes taken for {axes}')}
  if layout == 'matrix':
    cohort = openbhb_matrix.read_cohort(root, mask, affine, atlas, modality, sources)
    return dataclasses.replace(cohort, maps=origins.OPENBHB[modality])
  if layout == 'subjects':
    scans = _find_scans(root, ['data'], kind, affine)
    paths = [root / 'participants.tsv']
    measured = _read_roi_arrays(scans, atlas)
  else:
    scans = _find_scans(root, [f'{split}/derivatives/sub-*/ses-*' for split in _HUB_SPLITS], kind,
                        affine)
    paths = [path for path in (root / 'participants.tsv',
                               *(root / split / 'participants.tsv' for split in _HUB_SPLITS))
             if path.is_file()] or [root / 'participants.tsv']
    measured = _read_roi_tables(root, scans, atlas)
  people = [participants_table.read_people(path) for path in paths]
  for path, own in zip(paths, people):
    if 'age' not in own.table:
      raise ages.no_column(path, own.table.drop(columns='session'))
  table = participants_table.concatenated([own.table for own in people], paths)
  untrusted = {key: why for own in people for key, why in own.problems.items()}
  cohort = cohorts.join(scans, table, ' and '.join(map(str, paths)), measured, atlas, sources,
                        cohorts.says_synthetic(root), untrusted)
  cohort = dataclasses.replace(cohort, maps=origins.OPENBHB[modality])
  return _with_folders(cohort, root) if layout == 'hub' else cohort


def _detected(root: pathlib.Path) -> str:
  if not root.is_dir():
    raise UserError(f'{root}: no such folder; give the one that holds OpenBHB')
  marks = {'subjects': next(root.glob('data/sub-*_preproc-*.npy'), None),
           'hub': next((path for split in _HUB_SPLITS
                        for path in root.glob(f'{split}/derivatives/sub-*')), None),
           'matrix': next(iter(openbhb_matrix.find_matrices(root)), None)}
  found = [layout for layout, mark in marks.items() if mark]
  if len(found) > 1:
    raise UserError(f'{root} holds OpenBHB in more than one layout; choose one with --layout '
                    f'{"|".join(found)}')
  if not found:
    raise UserError(
        f'{root} holds OpenBHB in no known layout: there is neither data/sub-*_preproc-*.npy '
        '(subjects), nor {train,val}/derivatives/sub-* (hub), nor train.npy or test.npy, in it or '
        'its data/ (matrix); give the folder that holds one of them')
  return found[0]


def _checked_affine(mask: pathlib.Path, kind: Modality) -> Affine:
  read_grid(NiftiFile(mask))      # names what is wrong with the file
  image = NiftiFile(mask).image()
  if image.shape != kind.grid.shape:
    raise UserError(f'{mask}: has shape {image.shape}, where {kind.grid.shape} is expected; give '
                    f'the release\'s {kind.template}')
  return Grid.of(image.shape, image.affine).affine


def _find_scans(root: pathlib.Path, folders: list[str], kind: Modality,
                affine: Affine) -> tuple[Scan, ...]:
  patterns = [f'{folder}/sub-*_preproc-{kind.suffix}.npy' for folder in folders]
  scans = {}
  for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
    participant, session = tables.split_identifier(path.name.split('_preproc-')[0])
    if path.parent.name.startswith('ses-'):
      session = path.parent.name
    scan = Scan(participant, session, ArrayFile(path, kind.grid.shape, affine))
    if scan.key in scans:
      raise UserError(f'{scan.label} has two volumes, {scans[scan.key].volume.path} and {path}; '
                      'remove one')
    scans[scan.key] = scan
  if not scans:
    raise UserError(f'{root}: no file matches {" or ".join(patterns)}; is it another --layout or '
                    '--modality?')
  return tuple(scans.values())


def _read_roi_arrays(scans: tuple[Scan, ...], atlas: str) -> Morphometry:
  """From a file a scan, beside its volume."""
  shape = (len(ROI_MEASURES), len(atlases.regions(atlas)))
  ending = f'preproc-freesurfer_desc-{atlas}_ROI.npy'
  arrays, absent, outliers = {}, {}, {}
  for scan in scans:
    volume = scan.volume.path
    path = volume.with_name(f'{volume.name.split("preproc-")[0]}{ending}')
    if not path.is_file():
      absent[scan.key] = f'has no {path}'
      continue
    try:
      arrays[scan.key] = np.array(without_leading_axes(path, shape), np.float32)
    except UserError as error:
      arrays[scan.key] = np.full(shape, np.nan, np.float32)
      outliers[scan.key] = f'has unusable measures: {error}'
  return from_roi_arrays(arrays, atlas, f'sub-*_{ending}', absent, outliers)


def _read_roi_tables(root: pathlib.Path, scans: tuple[Scan, ...], atlas: str) -> Morphometry:
  """From a table a split: participant_id, session, then [measure, region] in C order."""
  expected = {split: root / split / 'derivatives' / 'freesurfer_roi' / f'{atlas}_roi_features.csv'
              for split in _HUB_SPLITS}
  paths = [path for path in expected.values() if path.is_file()]
  if not paths:
    return _read_roi_arrays(scans, atlas)
  absent = {scan.key: f'has no {path}' for scan in scans
            if (path := expected[_split(scan, root)]) not in paths}
  width = len(ROI_MEASURES) * len(atlases.regions(atlas))
  arrays = {}
  for path in paths:
    table = tables.read_table(path)
    if list(table.columns[:2]) != ['participant_id', 'session']:
      raise UserError(f'{path}: begins with columns {listed(list(table.columns), 2)}, where '
                      'participant_id and session are expected')
    if table.shape[1] - 2 != width:
      raise UserError(f'{path}: has {table.shape[1] - 2} columns of features, where {atlas} has '
                      f'{len(ROI_MEASURES)} x {width // len(ROI_MEASURES)} = {width}')
    labels = [str(name) for name in table['participant_id']]
    values = np.stack([tables.numbers(path, table[name], labels) for name in table.columns[2:]], 1)
    for label, session, row in zip(labels, table['session'].fillna(''), values):
      key = tables.split_identifier(label)[0], session and f'ses-{session.removeprefix("ses-")}'
      if key in arrays:
        raise UserError(f'{path}: {tables.joined_identifier(*key)} has more than one row; keep one')
      arrays[key] = row
  return from_roi_arrays(arrays, atlas, ' and '.join(map(str, paths)), absent)


def _split(scan: Scan, root: pathlib.Path) -> str:
  return scan.volume.path.relative_to(root).parts[0]


def _with_folders(cohort: Cohort, root: pathlib.Path) -> Cohort:
  """Takes the split from the folders where the table has none, and finds scans in a wrong one."""
  folders = [_split(scan, root) for scan in cohort.scans]
  if 'split' not in cohort.table:
    return dataclasses.replace(cohort, table=cohort.table.assign(split=folders))
  wrong = [Problem(scan.label, f'lies in {folder}/ and has split {split} in the participants table')
           for scan, folder, split in zip(cohort.scans, folders, cohort.table['split'])
           if (folder == 'train') != (split == 'train') and not pandas.isna(split)]
  return dataclasses.replace(cohort, problems=(*cohort.problems, *wrong))
