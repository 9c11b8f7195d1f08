"""Who is healthy: whom a brain-age probe is fitted on, and the groups of all others."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, listed

if TYPE_CHECKING:
  from anatcl_jax.evaluation.tasks import Task

# What tables call those whom others are compared with.
CONTROLS = {'control', 'controls', 'con', 'ctrl', 'hc', 'cn', 'nc', 'td', 'healthy', 'normal',
            'no', 'none', 'false', '0'}
EVERYBODY = 'all'
COLUMNS = ('diagnosis', 'group', 'dx', 'diagnosticgroup', 'dxgroup', 'patient', 'status')


@dataclasses.dataclass(frozen=True)
class Groups:
  """Of each row of a table: whether it is fitted on, and what its column says."""

  fitted: np.ndarray       # [n] bool
  names: np.ndarray        # [n] text, '' where the column says nothing
  control: str             # what the healthy are called
  words: str               # who is healthy, and how that was found


def parse(text: str) -> tuple[str, tuple[str, ...]]:
  """`group:HC/CN` of config.healthy as a column and its values; `all` is of no column."""
  if text.strip().lower() == EVERYBODY:
    return '', (EVERYBODY,)
  column, colon, values = (part.strip() for part in text.partition(':'))
  healthy = tuple(filter(None, (value.strip() for value in values.split('/'))))
  if text.strip() and (not column or colon and not healthy):
    raise UserError(f'config.healthy is {text!r}, must be a column and its values, such as '
                    f'diagnosis:control or group:HC/CN; {EVERYBODY}: everybody is')
  return column, healthy


def find(task: Task, table: pandas.DataFrame) -> Groups:
  """The groups of a task's table.

  Somebody who is not healthy in one session is fitted on in none.

  Raises:
    UserError: no column tells who is healthy, or nobody has the values that were named.
  """
  if task.healthy == (EVERYBODY,) and not task.healthy_column:
    everybody = np.ones(len(table), bool)
    return Groups(everybody, np.full(len(table), 'healthy'), 'healthy', 'everybody is healthy')
  column = task.healthy_column or _column(task, table)
  if column not in table:
    raise UserError(f'task {task.name}: the table has no column {column!r}, which is to say who is '
                    f'healthy (config.healthy); it has {listed(list(table.columns), 40)}')
  text = tables.categories(table[column])
  lower = text.str.lower()
  wanted = {tables.category(value).lower() for value in task.healthy} or CONTROLS
  own = lower.isin(wanted).to_numpy()
  held = sorted(set(text.dropna()))
  absent = sorted(wanted - set(lower.dropna())) if task.healthy else []
  if absent or not own.any():
    raise UserError(f'task {task.name}: nobody is {" or ".join(map(repr, absent or task.healthy))} '
                    f'in column {column}, which holds {listed(held, 10)}' if task.healthy else
                    f'task {task.name}: no value of column {column} names the healthy '
                    f'({listed(held, 10)}); say it, as in --config.healthy={column}:'
                    f'{held[0] if held else "VALUE"}')
  people = table[task.groups].astype(str)
  ill = set(people[~own & text.notna().to_numpy()])
  fitted = own & ~people.isin(ill).to_numpy()
  control = '/'.join(dict.fromkeys(text[own]))
  words = f'fitted on {control} of column {column}'
  if (mixed := len(set(people[own]) & ill)):
    words += f'; {mixed} people who are that in some sessions only are not fitted on'
  if unknown := int(text.isna().sum()):
    words += f'; {unknown} scans without a value there are predicted, and in no group'
  names = text.fillna('').to_numpy(str)
  return Groups(fitted, np.where(own & ~fitted, '', np.where(own, control, names)), control, words)


def _column(task: Task, table: pandas.DataFrame) -> str:
  """The first column of diagnoses or groups that holds a control."""
  by_name = {tables.plain(str(name)): name for name in reversed(table.columns)}
  there = [by_name[name] for name in COLUMNS if name in by_name]
  for name in there:
    if tables.categories(table[name]).str.lower().isin(CONTROLS).any():
      return name
  raise UserError(
      f'task {task.name}: who is healthy? '
      + (f'column {listed(there)} holds no control' if there else
         'the table has no column diagnosis or group')
      + f'; give --config.healthy=COLUMN:VALUE, or --config.healthy={EVERYBODY} where everybody is')
