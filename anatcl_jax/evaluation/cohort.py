"""Whose scans are evaluated: labels and morphometry of shards or a table, joined to features."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pandas

from anatcl_jax.cohorts import ages, atlas, find_scans, identifiers, tables
from anatcl_jax.cohorts import cohort as disk_cohorts
from anatcl_jax.cohorts.identifiers import Known
from anatcl_jax.cohorts.participants import read_people
from anatcl_jax.cohorts.phenotypes import PRESETS
from anatcl_jax.data import pipeline, shards
from anatcl_jax.errors import UserError, check_name, listed
from anatcl_jax.evaluation import same_people
from anatcl_jax.weights.choice import workdir_of
from anatcl_jax.weights.run_config import read_config


@dataclasses.dataclass(frozen=True)
class Cohort:
  """Labels, one row a scan, and whatever else is known of the same scans."""

  source: str                                # where the labels come from
  table: pandas.DataFrame                    # participant_id, session, then every column
  morphometry: np.ndarray | None             # float32 [n, R, M]
  regions: tuple[str, ...]
  measures: tuple[str, ...]
  seen: np.ndarray                           # [n] True for people whom an encoder was trained on
  synthetic: bool                            # the scans
  notes: tuple[str, ...] = ()
  trained_on_synthetic: tuple[str, ...] = ()     # names of encoders

  def labels(self) -> list[str]:
    """How each scan is named to the user."""
    return [tables.joined_identifier(*key) for key in self.keys()]

  def keys(self) -> list[tuple[str, str]]:
    return list(self.table[['participant_id', 'session']].itertuples(index=False, name=None))

  def select(self, rows: np.ndarray) -> Cohort:
    """Some of the scans, in the order of `rows`."""
    return dataclasses.replace(
        self, table=self.table.iloc[rows].reset_index(drop=True), seen=self.seen[rows],
        morphometry=None if self.morphometry is None else self.morphometry[rows])

  def noted(self, *notes: str) -> Cohort:
    return dataclasses.replace(self, notes=(*self.notes, *notes))


def of_shards(data: shards.ShardSet) -> Cohort:
  """The labels and the morphometry of a shard set."""
  return Cohort(str(data.directory), data.table, data.morphometry if data.measures else None,
                atlas.regions(data.info['atlas']), data.measures, np.zeros(len(data), bool),
                data.synthetic)


def of_table(path: pathlib.Path, ages_needed: bool = True) -> Cohort:
  """The labels of a participants.tsv, without morphometry; rows that can't be used are noted.

  Subjects are SYNTHETIC where the folder of the table says so.
  """
  people = read_people(path)
  if 'age' not in people.table:
    if ages_needed:
      raise ages.no_column(path, people.table)
    people = dataclasses.replace(people, table=people.table.assign(age=np.nan))
  keys = list(people.table[['participant_id', 'session']].itertuples(index=False, name=None))
  known = people.table['age'].notna()
  # An age that can't be told is missing; rows that disagree are of nobody.
  table = people.table[[key not in people.problems or not age
                        for key, age in zip(keys, known)]].reset_index(drop=True)
  notes = [f'{tables.joined_identifier(*key)} {why}' for key, why in people.problems.items()]
  cohort = Cohort(str(path), table, None, (), (), np.zeros(len(table), bool),
                  disk_cohorts.says_synthetic(path.parent))
  return cohort.noted(f'{len(notes)} rows of {path} can\'t be used as they are: '
                      f'{listed(notes, 3)}') if notes else cohort


def join(cohort: Cohort, scans: dict[str, pandas.DataFrame]
         ) -> tuple[Cohort, dict[str, np.ndarray]]:
  """The scans that the labels and every table of features have, and their rows in each table.

  A label without session, of a table that has none, serves every session of its participant.

  Raises:
    UserError: a scan stands in a table twice, or no scan is in all of them.
  """
  known = Known.of(cohort.keys())
  places = {name: _places(name, table, known) for name, table in scans.items()}
  if not cohort.table['session'].astype(bool).any():
    cohort = _with_sessions(cohort, next(iter(places.values())))
  keys = cohort.keys()
  kept = [row for row, key in enumerate(keys) if all(key in own for own in places.values())]
  if not kept:
    first = {name: next(iter(own), None) for name, own in places.items()}
    raise UserError(f'no scan of {cohort.source} (such as {cohort.labels()[0]}) is in every table '
                    f'of features ({", ".join(f"{name}: {key}" for name, key in first.items())}); '
                    'identifiers and sessions must agree')
  known = set(keys)
  notes = [f'{len(keys) - len(kept)} scans of {cohort.source} have no features and are left out'
           ] if len(kept) < len(keys) else []
  for name, own in places.items():
    if lacking := [tables.joined_identifier(*key) for key in own if key not in known]:
      notes.append(f'{len(lacking)} scans of {name} have no labels in {cohort.source} and are left '
                   f'out ({listed(lacking)})')
  return (cohort.select(np.array(kept)).noted(*notes),
          {name: np.array([own[keys[row]] for row in kept]) for name, own in places.items()})


def _places(name: str, table: pandas.DataFrame, known: Known) -> dict[tuple[str, str], int]:
  """The row of each scan, called as the labels call it, else by the name of its file."""
  sessions = table['session'].fillna('') if 'session' in table else [''] * len(table)
  files = table['file'].fillna('') if 'file' in table else [''] * len(table)
  places = {}
  for row, (participant, session, file) in enumerate(zip(table['participant_id'], sessions, files)):
    key = participant, session
    if participant not in known.sessions:
      by_file = file and find_scans.scan_key(pathlib.Path(file), known, PRESETS['bids'])
      if by_file and by_file[0] in known.sessions:
        key = by_file
      else:
        key = known.alike(participant) or participant, session
    key = key[0], identifiers.known_session(key[1], known.sessions.get(key[0], ()))
    if key in places:
      raise UserError(f'features {name!r}: {tables.joined_identifier(*key)} stands there twice')
    places[key] = row
  return places


def _with_sessions(cohort: Cohort, places: dict[tuple[str, str], int]) -> Cohort:
  """A row a scan of `places` for a table that has one a participant."""
  row_of = {participant: row for row, participant in enumerate(cohort.table['participant_id'])}
  keys = [key for key in places if key[0] in row_of]
  if len(row_of) < len(cohort.table) or not any(session for _, session in keys):
    return cohort
  rows = [row_of[participant] for participant, _ in keys]
  absent = [row for row in range(len(cohort.table)) if row not in set(rows)]
  expanded = cohort.select(np.array(rows + absent))
  sessions = [session for _, session in keys] + [''] * len(absent)
  table = expanded.table.assign(session=sessions)
  several = table['participant_id'].duplicated(keep=False)
  expanded = dataclasses.replace(expanded, table=table.assign(age=table['age'].mask(several)))
  people = sorted(set(table['participant_id'][several]))
  return expanded.noted(
      f'{len(people)} participants have several sessions and one age in {cohort.source} '
      f'({listed(people, 3)}): it is of one session, nobody knows which, and is not used; a row a '
      'session tells it') if people and cohort.table['age'].notna().any() else expanded


def add_region(cohort: Cohort, name: str) -> Cohort:
  """The cohort with a column `name`, such as `thickness:lh_insula`, of its morphometry.

  Raises:
    UserError: no such measure or region, or no morphometry.
  """
  measure, _, region = name.partition(':')
  if cohort.morphometry is None:
    raise UserError(f'task {name}: {cohort.source} holds no morphometry; give --config.data_dir '
                    'with shards that were prepared with --morphometry, or --config.morphometry')
  check_name(measure, cohort.measures, f'measure of {cohort.source}')
  check_name(region, cohort.regions, 'region')
  values = cohort.morphometry[:, cohort.regions.index(region), cohort.measures.index(measure)]
  return dataclasses.replace(cohort, table=cohort.table.assign(**{name: values.astype(float)}))


def mark_seen(cohort: Cohort, run: dict[str, Any], workdir: pathlib.Path,
              same: str = 'auto') -> Cohort:
  """The cohort with the people marked on whom the run of a workdir was trained.

  `run` is its config.json. The people are found in the shards that it was trained on; if these are
  gone, in this cohort if it is the same one.

  Args:
    same: whether people of one name are the same where the shards are others, see same_people.

  Raises:
    UserError: the config lacks what the split was made of.
  """
  try:
    fold, folds, seed = run['fold'], run['num_folds'], run['seed']
    identity, directory = run['data_identity'], pathlib.Path(run['data_dir'])
  except KeyError as error:
    raise UserError(f'{workdir}/config.json has no {error}; is it a workdir of '
                    'anatcl_jax.main?') from None
  places = [shards.open_shards(place) for place in (directory, pathlib.Path(cohort.source))
            if (place / 'dataset.json').is_file()]
  trained_on = next((data for data in places if data.identity() == identity), None)
  if trained_on is None:
    return cohort.noted(f'whether {workdir} was trained on people of {cohort.source} is not known: '
                        f'{directory}, its data, is not here or has changed')
  people = trained_on.table['participant_id'].to_numpy()
  records, _ = pipeline.split_by_participant(people, fold, folds, seed)
  # Two cohorts that count from sub-0001 on one grid have one identity, and other volumes.
  if str(places[-1].directory) == cohort.source and _of_one_make(places[-1], trained_on):
    matched, why = set(people), ''
  else:
    found = same_people.match(cohort.table, trained_on.table, same)
    matched, why = found.people, f' (by names in {trained_on.directory}: {found.why})'
  seen = cohort.table['participant_id'].isin(matched & set(people[records])).to_numpy()
  if not seen.any():
    return cohort.noted(f'no participant of {cohort.source} was in the training of {workdir}{why}')
  return dataclasses.replace(cohort, seen=cohort.seen | seen).noted(
      f'{workdir} was trained on {int(seen.sum())} of these {len(seen)} scans: only the others '
      f'are predicted{why}')


def _of_one_make(one: shards.ShardSet, other: shards.ShardSet) -> bool:
  """Whether two shard sets hold the same volumes of the same scans; labels may differ."""
  digests = [[shard['sha256'] for shard in data.info['shards']] for data in (one, other)]
  return one.identity() == other.identity() and digests[0] == digests[1]


def read_run(path: pathlib.Path) -> dict[str, Any] | None:
  """config.json of the workdir that holds a checkpoint, None where it is of none."""
  workdir, _ = workdir_of(path)
  return read_config(workdir) if (workdir / 'config.json').is_file() else None
