"""Splits from a file: who is fitted on and who is predicted, as somebody has published it."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pandas

from anatcl_jax.cohorts import ages, tables
from anatcl_jax.cohorts.identifiers import Known, known_session, natural_key
from anatcl_jax.cohorts.participants import complete
from anatcl_jax.errors import UserError, listed
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.splits import Split, check_apart
from anatcl_jax.evaluation.target import Target

TRAIN, TEST = 'train', 'test'


@dataclasses.dataclass(frozen=True)
class GivenSplits:
  """The side of each scan of a cohort: `train` or `test`, or the name of its fold; '' for none."""

  path: str
  sides: np.ndarray        # [scans] text
  by_fold: bool

  def predicted(self) -> np.ndarray:
    """[scans] whether a scan is predicted by some probe."""
    return self.sides != '' if self.by_fold else self.sides == TEST

  def of_target(self, target: Target) -> tuple[Target, list[Split], str]:
    """The scans of a target that have a side, how they are split, and that in words.

    Raises:
      UserError: a side has nobody, or a class of those predicted is nobody's who is fitted on.
    """
    target = target.select(self.sides[target.rows] != '')
    own = self.sides[target.rows]
    names = sorted(set(own), key=natural_key) if self.by_fold else [TEST]
    splits = [check_apart(target.groups, (
        np.flatnonzero(own != name if self.by_fold else own == TRAIN), np.flatnonzero(own == name)))
              for name in names]
    for name, (fit, test) in zip(names, splits):
      where = f'task {target.task.name}: {self.path}: {"fold " * self.by_fold}{name}'
      if not len(fit) or not len(test):
        side = 'predicted' if len(fit) else 'fitted on'
        raise UserError(f'{where}: nobody with a value is {side}')
      if target.classes and (lacking := set(range(len(target.classes))) - set(target.values[fit])):
        raise UserError(f'{where}: of those fitted on nobody is '
                        f'{listed([target.classes[code] for code in sorted(lacking)])}')
    return target, splits, (f'the {len(splits)} folds' if self.by_fold else 'the split'
                            ) + f' of {self.path}'


def read(path: pathlib.Path) -> pandas.DataFrame:
  """Participant, session ('' for all of theirs) and side of each row; the column has its name.

  Raises:
    UserError: no column `split` or `fold`, or both; values that are none; or somebody on two sides.
  """
  table = tables.read_table(path)
  age = ages.find_column(path, table, None)      # it is none of this table's business
  people = complete(path, table.drop(columns=[age] if age else []))
  by_name = {str(name).lower(): name for name in people.table}
  columns = [name for name in ('split', 'fold') if name in by_name]
  if not columns:
    raise UserError(f'{path}: has no column split or fold; it has {listed(list(table), 12)}')
  if len(columns) == 2:
    raise UserError(f'{path}: has both columns split and fold; keep one')
  if people.problems:
    raise UserError(f'{path}: ' + listed([f'{tables.joined_identifier(*key)} {why}'
                                          for key, why in people.problems.items()], 3))
  column, = columns
  table = people.table[['participant_id', 'session']].assign(
      **{column: tables.categories(people.table[by_name[column]]).fillna('')})
  if column == 'split':
    table[column] = table[column].str.lower()
    if wrong := sorted(set(table[column]) - {TRAIN, TEST, ''}):
      raise UserError(f'{path}: split holds {listed(wrong)}; a row is {TRAIN} or {TEST}, or n/a '
                      'to be left out')
  values = set(table[column]) - {''}
  if len(values) < 2:
    raise UserError(f'{path}: {column} holds {listed(sorted(values)) or "nothing"}; '
                    + (f'{TRAIN} and {TEST} are needed' if column == 'split'
                       else 'two folds are needed'))
  for person, own in table.groupby('participant_id')[column]:
    if len(sides := set(own) - {''}) > 1:
      raise UserError(f'{path}: {person} is on both sides: {listed(sorted(sides))}; all scans of a '
                      'person are on one')
  return table


def of_cohort(path: pathlib.Path, table: pandas.DataFrame, cohort: Cohort) -> GivenSplits:
  """The sides of a cohort's scans, by `read`'s table.

  Raises:
    UserError: a scan has no row, a row no scan, or somebody of a test side was seen in pretraining.
  """
  column = table.columns[2]
  keys, known = cohort.keys(), Known.of(cohort.keys())
  sides, strange = {}, []
  for participant, session, side in table.itertuples(index=False, name=None):
    person = participant if participant in known.sessions else known.alike(participant)
    own = known.sessions.get(person, ())
    found = [known_session(session, own)] if session else own
    if not person or not set(found) & set(own):
      strange.append(tables.joined_identifier(participant, session))
      continue
    sides |= {(person, one): side for one in found}
  lacking = [tables.joined_identifier(*key) for key in keys if key not in sides]
  if strange:
    raise UserError(f'{path}: {len(strange)} rows are of nobody whose labels and features are here '
                    f'({listed(strange, 3)}), so that this would be another split; take them from '
                    'the file if that is meant')
  if lacking:
    raise UserError(f'{path}: {len(lacking)} scans have no row ({listed(lacking, 3)}); a row with '
                    f'n/a in {column} leaves a scan out')
  given = GivenSplits(str(path), np.array([sides[key] for key in keys], str), column == 'fold')
  if (both := given.predicted() & cohort.seen).any():
    seen = [label for label, wrong in zip(cohort.labels(), both) if wrong]
    raise UserError(f'{path}: {len(seen)} scans to be predicted are of people seen in pretraining '
                    f'({listed(seen, 3)}), who are never predicted; pretrain without them, or '
                    f'write n/a in {column}')
  return given
