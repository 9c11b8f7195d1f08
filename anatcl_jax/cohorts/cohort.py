"""A cohort as read from disk, whatever its layout: scans, their labels, and what does not match."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas

from anatcl_jax.cohorts import ages, identifiers, tables
from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts.morphometry import DIGITAL, FREESURFER, Morphometry
from anatcl_jax.cohorts.origins import Origin
from anatcl_jax.cohorts.phenotypes import ScanKey
from anatcl_jax.cohorts.volumes import VolumeSource
from anatcl_jax.errors import UserError, listed


@dataclasses.dataclass(frozen=True)
class Scan:
  """One volume on disk: sub-01, ses-2 ('' where its name holds no session) and where it lies."""

  participant_id: str
  session: str
  volume: VolumeSource

  @property
  def key(self) -> tuple[str, str]:
    return self.participant_id, self.session

  @property
  def label(self) -> str:
    return tables.joined_identifier(*self.key)


@dataclasses.dataclass(frozen=True)
class Problem:
  """Why a scan can't be used: `why` reads on from the name of its subject.

  `missing` says that it lacks only age or morphometry: it could still take part in other terms.
  """

  subject: str
  why: str
  missing: bool = False

  def __str__(self) -> str:
    return f'{self.subject} {self.why}'


@dataclasses.dataclass(frozen=True)
class Cohort:
  """Scans with one row of labels each: row i of `table` and `morphometry` belongs to scan i."""

  scans: tuple[Scan, ...]
  table: pandas.DataFrame          # participant_id, session, age, ...
  morphometry: np.ndarray          # float32 [scan, region, measure]
  atlas: str
  measures: tuple[str, ...]
  sources: dict[str, str]          # what it was read from, for the record
  synthetic: bool = False
  problems: tuple[Problem, ...] = ()
  maps: Origin | None = None       # what kind of maps the volumes are, where that is known
  measured_by: str = ''            # whose morphometry it is: FreeSurfer, CAT12, ...
  notes: tuple[str, ...] = ()      # what users of the volumes must know

  def select(self, keep: Callable[[Scan], bool]) -> Cohort:
    """The cohort with only the scans for which `keep` holds; a UserError where none is left."""
    rows = [i for i, scan in enumerate(self.scans) if keep(scan)]
    if not rows:
      raise UserError('no scan is left')
    return dataclasses.replace(
        self, scans=tuple(self.scans[i] for i in rows),
        table=self.table.iloc[rows].reset_index(drop=True), morphometry=self.morphometry[rows])

  def with_volumes(self, **reading: Any) -> Cohort:
    """The cohort with other fields of its volumes: how they are read."""
    return dataclasses.replace(self, scans=tuple(
        dataclasses.replace(scan, volume=dataclasses.replace(scan.volume, **reading))
        for scan in self.scans))


def join(scans: tuple[Scan, ...], table: pandas.DataFrame, participants: str,
         measured: Morphometry | None, atlas: str, sources: dict[str, str],
         synthetic: bool = False, untrusted: Mapping[ScanKey, str] | None = None) -> Cohort:
  """A cohort of scans with their labels and morphometry looked up by identifier.

  `table` is `participants.read_participants`'s, `participants` names it in messages, and
  `untrusted` says of its rows why they can't be used. Scans without
  a row, an age or complete morphometry are in `problems`. Rows without a scan are counted on stderr
  and not used: tables often cover more than one study.
  """
  labels = {(row.participant_id, row.session): i for i, row in enumerate(table.itertuples())}
  regions = atlases.regions(atlas)
  measures = measured.measures if measured else ()
  values = np.full((len(scans), len(regions), len(measures)), np.nan, np.float32)
  measured_rows = {key: i for i, key in enumerate(measured.scans)} if measured else {}
  sessions = collections.Counter(scan.participant_id for scan in scans)
  problems, rows = [], []
  for i, scan in enumerate(scans):
    row = find_row(labels, scan.key)
    rows.append(row)
    if row is None:
      problems.append(Problem(scan.label, f'has no row in {participants}'
                              + (_own_sessions(scan, labels) or _alike(scan, labels))))
    elif why := (untrusted or {}).get((table['participant_id'][row], table['session'][row])):
      problems.append(Problem(scan.label, f'{why} ({participants})',
                              missing=bool(np.isnan(table['age'][row]))))
    elif why := ages.age_problem(table['age'][row]):
      problems.append(Problem(scan.label, f'{why} in {participants}',
                              missing=np.isnan(table['age'][row])))
    if measured is None:
      continue
    row = find_row(measured_rows, scan.key)
    if row is None:
      why = measured.absent.get(scan.key, f'has no row in {measured.source}'
                                + (_own_sessions(scan, measured_rows) or _others(measured)))
      problems.append(Problem(scan.label, why, missing=True))
      continue
    if scan.session and not measured.scans[row][1] and sessions[scan.participant_id] > 1:
      problems.append(Problem(scan.label, (
          f'has no row of its own in {measured.source}, only one of {scan.participant_id}, who has '
          f'{sessions[scan.participant_id]} scans; name its session, as {scan.label}'),
          missing=True))
      continue
    values[i] = measured.values[row]
    if why := measured.outliers.get(measured.scans[row]):
      problems.append(Problem(scan.label, why))
    elif why := measured.absent.get(measured.scans[row]):
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
  measured_by = measured.measured_by if measured else ''
  if synthetic and measured_by == FREESURFER:     # whose files the digital cohort's look like
    measured_by = DIGITAL
  return Cohort(scans, joined, values, atlas, measures, sources, synthetic, tuple(problems),
                measured_by=measured_by)


def says_synthetic(directory: pathlib.Path) -> bool:
  """Whether a cohort, or shards made of one, say there that they are synthetic."""
  for name, key in (('dataset_description.json', 'Synthetic'), ('dataset.json', 'synthetic')):
    try:
      described = json.loads((directory / name).read_text())
    except (OSError, ValueError, RecursionError):
      continue
    if isinstance(described, dict) and described.get(key):
      return True
  return False


def any_synthetic(files: Iterable[pathlib.Path]) -> bool:
  """Whether a cohort in which one of the files lies says so."""
  folders = {parent for path in files for parent in list(path.absolute().parents)[:4]}
  return any(map(says_synthetic, folders))


def find_row(rows: dict[ScanKey, int], scan: ScanKey) -> int | None:
  """The row of a scan; where scan or table names no session, the participant's only row."""
  if scan in rows:
    return rows[scan]
  participant, session = scan
  own = [key for key in rows if key[0] == participant]
  if session:
    # Beside rows of sessions, one without is of none of them: a template's, or an average.
    key = participant, identifiers.known_session(session, [session for _, session in own])
    return rows.get(key, rows.get((participant, '')) if len(own) == 1 else None)
  return rows[own[0]] if len(own) == 1 else rows.get((participant, ''))


def _alike(scan: Scan, rows: dict[tuple[str, str], int]) -> str:
  """Whom the table has instead, if it lost leading zeros, to end a sentence."""
  bare = identifiers.without_zeros(scan.participant_id)
  alike = [name for name, _ in rows if identifiers.without_zeros(name) == bare]
  if not alike:
    longest = max((name for name, _ in rows if scan.participant_id.startswith(name)), key=len,
                  default='')
    return longest and (f'; {longest} is there, and is another unless --id-pattern says so')
  return (f', but one of {alike[0]}: has a spreadsheet taken the leading zeros? Restore them, or '
          'name the participant without them with --id-pattern')


def _own_sessions(scan: Scan, rows: dict[tuple[str, str], int]) -> str:
  """What a table has of the participant instead of the scan, to end a sentence."""
  own = [session for participant, session in rows if participant == scan.participant_id]
  if scan.session and own:
    return f', only of {listed([session or "no session" for session in own])}'
  return f', only its sessions {listed(own)}; its volume must say which' if own else ''


def _others(measured: Morphometry) -> str:
  """Rows that no scan has, to end a sentence: perhaps the scan's is among them."""
  names = measured.unmatched
  return (f'; it has rows of no scan, such as {listed(list(names), 3)} (--id-pattern says what in '
          'them is the participant)' if names else '')


def settle(problems: list[Problem], scans: int, leave_out_bad: bool) -> set[str]:
  """Reports problems by name; the labels of the scans to leave out.

  Raises:
    UserError: there are problems and `leave_out_bad` is not set.
  """
  bad = dict.fromkeys(problem.subject for problem in problems)
  if len(problems) > 1 or (problems and leave_out_bad):
    for problem in problems:
      print(f'{"left out" if leave_out_bad else "problem"}: {problem}', file=sys.stderr)
  if problems and not leave_out_bad:
    first = str(problems[0]) if len(problems) == 1 else listed([str(p) for p in problems], 3)
    raise UserError(f'{len(bad)} of {scans} scans can\'t be used: {first}. '
                    'Mend them, or pass --leave-out-bad')
  return set(bad)
