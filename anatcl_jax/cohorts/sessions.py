"""Ages of sessions: BIDS's sub-*_sessions.tsv beside people of one row each."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable

import numpy as np
import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.cohorts.cohort import Scan
from anatcl_jax.cohorts.identifiers import bare_session, natural_key
from anatcl_jax.cohorts.participants import AS_WRITTEN, People, Reading, complete
from anatcl_jax.errors import listed


def with_sessions(people: People, participants: pathlib.Path, scans: Iterable[Scan],
                  reading: Reading = AS_WRITTEN) -> People:
  """The people with a row a session for those of whose sessions a file tells the ages.

  Such files are `sub-*/sub-*_sessions.tsv` in the folder of the participants table or above a
  volume (BIDS, Clinica, HBCD), and `sessions.tsv` with a column participant_id in the former.
  A session has the columns of its participant, and those of its own row before them.
  """
  scans = list(scans)
  found = {}      # participant -> file, table
  if (whole := participants.parent / 'sessions.tsv').is_file():
    for name, rows in _read(whole, None, reading).items():
      found[name] = whole, rows
  for scan in scans:
    name = scan.participant_id
    if name not in found and (path := _file(name, participants, scan)):
      found[name] = path, _read(path, name, reading).get(name)
  rows, problems = [], dict(people.problems)
  own = {name: read for name, (_, read) in found.items()
         if read is not None and 'age' in read.table}
  have = set(people.table['participant_id'][people.table['session'] != ''])
  for record in people.table.to_dict('records'):
    name = record['participant_id']
    if name not in own or name in have:
      rows.append(record)
      continue
    problems.pop((name, ''), None)
    rows += [record | {key: value for key, value in session.items() if not pandas.isna(value)}
             | {'age': session['age']} for session in own[name].table.to_dict('records')]
    problems |= own[name].problems
  if not own:
    return people
  columns = [*people.table.columns, *(name for read in own.values() for name in read.table.columns)]
  return People(pandas.DataFrame(rows, columns=list(dict.fromkeys(columns))), problems)


def without_one_age(people: People, scans: Iterable[Scan], participants: str) -> People:
  """The people without the ages of those who have several sessions where the table has one row.

  Sessions are those of volumes, and of files and folders beside them: a pattern may show only some.
  """
  sessions, listed_folders = collections.defaultdict(set), {}
  for scan in scans:
    if scan.session:
      folder = scan.volume.path.parent
      if folder not in listed_folders:
        listed_folders[folder] = _named_in(folder)
      sessions[scan.participant_id] |= {scan.session, *_beside(scan.volume.path),
                                        *listed_folders[folder].get(scan.participant_id, ())}
  table, problems = people.table, dict(people.problems)
  counts = table['participant_id'].value_counts()
  for name, row, session in zip(table['participant_id'], table.index, table['session']):
    own = sorted({bare_session(one): one for one in sessions.get(name, ())}.values(),
                 key=natural_key)
    if session or counts[name] > 1 or len(own) < 2 or np.isnan(table.at[row, 'age']):
      continue
    problems[name, ''] = (
        f'is of {len(own)} sessions ({listed(own, 4)}), with one age in {participants}: that of '
        f'which? Give a row a session there or in {name}_sessions.tsv, or pass --same-age')
  untold = [(name, session) in problems and (name, session) not in people.problems
            for name, session in zip(table['participant_id'], table['session'])]
  return People(table.assign(age=table['age'].mask(np.array(untold, bool))), problems)


def _file(name: str, participants: pathlib.Path, scan: Scan) -> pathlib.Path | None:
  above = [folder for folder in scan.volume.path.parents if folder.name == name]
  places = [participants.parent / name, participants.parent, *above]
  return next((path for place in places
               if (path := place / f'{name}_sessions.tsv').is_file()), None)


def _read(path: pathlib.Path, name: str | None, reading: Reading) -> dict[str, People]:
  """Sessions by participant, of a file of one (`name`) or of all."""
  if len(tables.read_text(path).splitlines()) < 2:
    return {}
  table = tables.read_table(path)
  if name is None and 'participant_id' not in table or not tables.session_column(table):
    return {}
  if name is not None:
    table = table.drop(columns='participant_id', errors='ignore')
    table.insert(0, 'participant_id', name)
  sidecar = path if path.with_suffix('.json').is_file() else path.parent.parent / 'sessions.tsv'
  column = reading.age_column if reading.age_column in table else None
  people = complete(sidecar, table, dataclasses.replace(reading, id_column=None, age_column=column))
  return {own: People(rows.reset_index(drop=True),
                      {key: why for key, why in people.problems.items() if key[0] == own})
          for own, rows in people.table.groupby('participant_id', sort=False)}


def _named_in(folder: pathlib.Path) -> dict[str, set[str]]:
  """Sessions by participant in the names of a folder, sub-01_ses-2_..."""
  found = collections.defaultdict(set)
  for path in folder.iterdir():
    if match := re.search(r'(sub-[^_/]+)_(ses-[^_./]+)', path.name):
      found[match[1]].add(match[2])
  return dict(found)


def _beside(volume: pathlib.Path) -> set[str]:
  """Sessions that have a folder beside that of a volume."""
  folder = next((one for one in volume.parents if one.name.startswith('ses-')), None)
  if not folder:
    return set()
  return {one.name for one in folder.parent.iterdir() if one.name.startswith('ses-')
          and one.is_dir()}
