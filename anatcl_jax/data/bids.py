"""Reads a BIDS-like cohort: a glob of NIfTI volumes, participants.tsv, FreeSurfer tables."""

from __future__ import annotations

import glob
import json
import pathlib
import re
import sys

import numpy as np

from anatcl_jax.data import atlas as atlases
from anatcl_jax.data import morphometry as morphometry_tables
from anatcl_jax.data import participants as participants_table
from anatcl_jax.data.cohort import Cohort, Problem, Scan
from anatcl_jax.data.volumes import NiftiFile
from anatcl_jax.errors import UserError, listed

_ENTITY = re.compile(r'(sub-[A-Za-z0-9]+)(?:.*?[_/](ses-[A-Za-z0-9]+))?')


def read_cohort(volumes: str, participants: pathlib.Path, morphometry: list[pathlib.Path],
                atlas: str = 'desikan') -> Cohort:
  """A cohort of the volumes that match a glob, with their labels looked up by identifier.

  Scans without a participant, an age or complete morphometry are in `problems`. Rows of the tables
  without a volume are counted on stderr and not used: tables often cover more than one study.

  Raises:
    UserError: nothing matches the glob, or a table can't be read or trusted as a whole.
  """
  scans = _find_scans(volumes)
  table = participants_table.read_participants(participants)
  labels = {(row.participant_id, row.session): i for i, row in enumerate(table.itertuples())}
  measured = morphometry_tables.read_tables(morphometry, atlas) if morphometry else None
  problems, rows = [], []
  regions = atlases.regions(atlas)
  measures = measured.measures if measured else ()
  values = np.full((len(scans), len(regions), len(measures)), np.nan, np.float32)
  measured_rows = {key: i for i, key in enumerate(measured.scans)} if measured else {}
  for i, scan in enumerate(scans):
    row = _lookup(labels, scan)
    rows.append(row)
    if row is None:
      problems.append(Problem(scan.label, f'has no row in {participants}'))
    elif why := participants_table.age_problem(table['age'][row]):
      problems.append(Problem(scan.label, f'{why} in {participants}',
                              missing=np.isnan(table['age'][row])))
    if measured is None:
      continue
    row = _lookup(measured_rows, scan)
    if row is None:
      problems.append(Problem(scan.label, f'has no row in {measured.source}', missing=True))
      continue
    values[i] = measured.values[row]
    if why := measured.outliers.get(measured.scans[row]):
      problems.append(Problem(scan.label, why))
    elif np.isnan(values[i]).any():
      region, measure = np.argwhere(np.isnan(values[i]))[0]
      problems.append(Problem(scan.label, f'has no {measures[measure]} of {regions[region]} in '
                                          f'{measured.source}', missing=True))
  used = set(rows)
  unused = [key[0] for key, row in labels.items() if row not in used]
  if unused:
    print(f'note: {len(unused)} rows of {participants} have no volume and are not used: '
          f'{listed(unused)}', file=sys.stderr)
  # Scans that no row describes get the first row's columns; they are in `problems` and never kept.
  joined = table.iloc[[0 if row is None else row for row in rows]].reset_index(drop=True)
  joined['participant_id'] = [scan.participant_id for scan in scans]
  joined['session'] = [scan.session for scan in scans]
  sources = {'volumes': volumes, 'participants': str(participants),
             'morphometry': ', '.join(str(path) for path in morphometry)}
  return Cohort(scans, joined, values, atlas, measures, sources,
                synthetic=_is_synthetic(participants), problems=tuple(problems))


def _find_scans(pattern: str) -> tuple[Scan, ...]:
  paths = sorted(pathlib.Path(name) for name in glob.glob(pattern, recursive=True))
  if not paths:
    raise UserError(f'no file matches --volumes {pattern!r}; quote the pattern so that the shell '
                    'leaves it alone, and check it with ls')
  scans, unnamed = {}, []
  for path in paths:
    match = _ENTITY.search(path.name) or _ENTITY.search(str(path))
    if not match or not path.name.endswith(('.nii', '.nii.gz')):
      unnamed.append(str(path))
      continue
    scan = Scan(match[1], match[2] or '', NiftiFile(path))
    if scan.key in scans:
      raise UserError(f'{scan.label} has two volumes, {scans[scan.key].volume.path} and {path}; '
                      'narrow the pattern to one a participant (and session)')
    scans[scan.key] = scan
  if unnamed:
    raise UserError(f'{listed(unnamed, 3)}: not a .nii or .nii.gz with a participant (sub-...) in '
                    'its name; narrow the pattern')
  return tuple(scans.values())


def _lookup(rows: dict[tuple[str, str], int], scan: Scan) -> int | None:
  """The row of a scan; where scan or table names no session, the participant's only row."""
  if scan.key in rows:
    return rows[scan.key]
  own = [] if scan.session else [row for key, row in rows.items() if key[0] == scan.participant_id]
  return own[0] if len(own) == 1 else rows.get((scan.participant_id, ''))


def _is_synthetic(participants: pathlib.Path) -> bool:
  """Whether the cohort says of itself that it is synthetic, as the digital cohort does."""
  try:
    described = json.loads((participants.parent / 'dataset_description.json').read_text())
  except (OSError, ValueError):
    return False
  return isinstance(described, dict) and bool(described.get('Synthetic'))
