"""Reads a cohort of files: a glob of NIfTI volumes, a table of participants, FreeSurfer tables."""

from __future__ import annotations

import pathlib

from anatcl_jax.cohorts import ages
from anatcl_jax.cohorts import cohort as cohorts
from anatcl_jax.cohorts.cohort import Cohort
from anatcl_jax.cohorts.find_scans import compiled, find_scans
from anatcl_jax.cohorts.identifiers import Known
from anatcl_jax.cohorts.participants import AS_WRITTEN, Reading
from anatcl_jax.cohorts.phenotypes import PRESETS
from anatcl_jax.cohorts.read_morphometry import STREAMS, read_tables
from anatcl_jax.cohorts.read_phenotypes import at_scans, read_phenotypes
from anatcl_jax.cohorts.row_names import RowNames
from anatcl_jax.cohorts.sessions import with_sessions, without_one_age
from anatcl_jax.errors import UserError


def read_cohort(volumes: str, participants: pathlib.Path, morphometry: list[pathlib.Path],
                atlas: str = 'desikan', *, phenotypes: str = 'bids',
                id_pattern: str | None = None, reading: Reading = AS_WRITTEN,
                same_age: bool = False, stream: str = STREAMS[0],
                loose_names: bool = False) -> Cohort:
  """A cohort of the volumes that match a glob, with their labels looked up by identifier.

  `phenotypes` names the preset by which the participants table is read, `id_pattern` is a regular
  expression that finds participant and session in the path of a volume, `reading` says of the
  table of people what it does not say itself. Ages are those of the table, or of BIDS's
  sub-*_sessions.tsv; with `same_age` the only age of a participant is that of all sessions.
  `stream` says which rows of morphometry count beside longitudinal ones; with `loose_names` no
  punctuation counts in their names.

  Scans without a participant, an age or complete morphometry are in `problems`. Rows of the tables
  without a volume are counted on stderr and not used: tables often cover more than one study.

  Raises:
    UserError: nothing matches the glob, or a table can't be read or trusted as a whole.
  """
  preset = PRESETS[phenotypes]
  people = read_phenotypes(participants, phenotypes, reading)
  scans = find_scans(volumes, Known.of(zip(people.table['participant_id'],
                                           people.table['session'])), preset, id_pattern)
  if preset.nearest_visit:
    people = at_scans(people, [scan.key for scan in scans])
  people = with_sessions(people, participants, scans, reading)
  if 'age' not in people.table:
    raise ages.no_column(participants, people.table.drop(columns='session'))
  if not same_age:
    people = without_one_age(people, scans, str(participants))
  if people.table.empty:
    raise UserError(f'{participants}: has no row of any participant of {volumes}, such as '
                    f'{scans[0].participant_id}')
  names = RowNames(tuple(scan.key for scan in scans), compiled(id_pattern) if id_pattern else None,
                   preset, loose_names)
  measured = (read_tables(morphometry, atlas, names, reading.id_column, stream) if morphometry
              else None)
  sources = {'volumes': volumes, 'participants': str(participants),
             'morphometry': ', '.join(str(path) for path in morphometry)}
  return cohorts.join(scans, people.table, str(participants), measured, atlas, sources,
                      cohorts.says_synthetic(participants.parent)
                      or cohorts.any_synthetic(scan.volume.path for scan in scans), people.problems)
