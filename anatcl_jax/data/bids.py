"""Reads a cohort of files: a glob of NIfTI volumes, a table of participants, FreeSurfer tables."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable

import numpy as np

from anatcl_jax.data import atlas as atlases
from anatcl_jax.data import morphometry as morphometry_tables
from anatcl_jax.data import participants as participants_table
from anatcl_jax.data import tables
from anatcl_jax.data.cohort import Cohort, Problem, Scan
from anatcl_jax.data.find_scans import find_scans
from anatcl_jax.data.morphometry import Morphometry
from anatcl_jax.data.phenotypes import PRESETS, Preset
from anatcl_jax.data.read_phenotypes import at_scans, read_phenotypes
from anatcl_jax.errors import UserError, listed


def read_cohort(volumes: str, participants: pathlib.Path, morphometry: list[pathlib.Path],
                atlas: str = 'desikan', *, phenotypes: str = 'bids',
                id_pattern: str | None = None) -> Cohort:
  """A cohort of the volumes that match a glob, with their labels looked up by identifier.

  `phenotypes` names the preset by which the participants table is read, `id_pattern` is a regular
  expression that finds participant and session in the path of a volume.

  Scans without a participant, an age or complete morphometry are in `problems`. Rows of the tables
  without a volume are counted on stderr and not used: tables often cover more than one study.

  Raises:
    UserError: nothing matches the glob, or a table can't be read or trusted as a whole.
  """
  preset = PRESETS[phenotypes]
  table = read_phenotypes(participants, phenotypes)
  scans = find_scans(volumes, set(table['participant_id']), preset, id_pattern)
  if preset.nearest_visit:
    table = at_scans(table, [scan.key for scan in scans])
  if table.empty:
    raise UserError(f'{participants}: has no row of any participant of {volumes}, such as '
                    f'{scans[0].participant_id}')
  labels = {(row.participant_id, row.session): i for i, row in enumerate(table.itertuples())}
  measured = (_in_form_of(preset, morphometry_tables.read_tables(morphometry, atlas))
              if morphometry else None)
  problems, rows = [], []
  regions = atlases.regions(atlas)
  measures = measured.measures if measured else ()
  values = np.full((len(scans), len(regions), len(measures)), np.nan, np.float32)
  measured_rows = {key: i for i, key in enumerate(measured.scans)} if measured else {}
  for i, scan in enumerate(scans):
    row = _lookup(labels, scan)
    rows.append(row)
    if row is None:
      problems.append(Problem(scan.label, f'has no row in {participants}'
                              + _own_sessions(scan, list(labels))))
    elif why := participants_table.age_problem(table['age'][row]):
      problems.append(Problem(scan.label, f'{why} in {participants}',
                              missing=np.isnan(table['age'][row])))
    if measured is None:
      continue
    row = _lookup(measured_rows, scan)
    if row is None:
      problems.append(Problem(scan.label, f'has no row in {measured.source}'
                              + _own_sessions(scan, measured.scans), missing=True))
      continue
    values[i] = measured.values[row]
    if why := measured.outliers.get(measured.scans[row]):
      problems.append(Problem(scan.label, why))
    elif why := measured.incomplete.get(measured.scans[row]):
      problems.append(Problem(scan.label, why, missing=True))
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


def _lookup(rows: dict[tuple[str, str], int], scan: Scan) -> int | None:
  """The row of a scan; where scan or table names no session, the participant's only row."""
  if scan.key in rows:
    return rows[scan.key]
  own = [] if scan.session else [row for key, row in rows.items() if key[0] == scan.participant_id]
  return own[0] if len(own) == 1 else rows.get((scan.participant_id, ''))


def _own_sessions(scan: Scan, keys: Iterable[tuple[str, str]]) -> str:
  """What a table has of the participant instead of the scan, to end a sentence."""
  own = [session for participant, session in keys if participant == scan.participant_id]
  return f', only its sessions {listed(own)}; does --id-pattern find its session?' if own else ''


def _in_form_of(preset: Preset, measured: Morphometry) -> Morphometry:
  """The morphometry, its scans named as the preset names those of the cohort."""
  names = {key: preset.scan_key(tables.joined_identifier(*key)) or key for key in measured.scans}
  counts = collections.Counter(names.values())
  if twice := [tables.joined_identifier(*key) for key, name in names.items() if counts[name] > 1]:
    raise UserError(f'{measured.source}: {listed(twice)} are the same scan; keep one row of each')
  return dataclasses.replace(
      measured, scans=tuple(names.values()),
      outliers={names[key]: why for key, why in measured.outliers.items()},
      incomplete={names[key]: why for key, why in measured.incomplete.items()})


def _is_synthetic(participants: pathlib.Path) -> bool:
  """Whether the cohort says of itself that it is synthetic, as the digital cohort does."""
  try:
    described = json.loads((participants.parent / 'dataset_description.json').read_text())
  except (OSError, ValueError):
    return False
  return isinstance(described, dict) and bool(described.get('Synthetic'))
