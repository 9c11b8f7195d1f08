"""What a task predicts in a table of labels: the value of each scan that has one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, listed
from anatcl_jax.evaluation import healthy
from anatcl_jax.evaluation.tasks import BRAIN_AGE, CLASSIFICATION, REGRESSION, Task, tally

_FEW_NUMBERS = 3     # that may be codes of classes


@dataclasses.dataclass(frozen=True)
class Target:
  """What a task predicts in a table: value i belongs to the scan in row `rows[i]`."""

  task: Task
  rows: np.ndarray                  # [m] positions in the table
  values: np.ndarray                # [m] float, or the index into `classes`
  classes: tuple[str, ...]          # () for regression
  groups: np.ndarray                # [m] whose scan it is
  scans: np.ndarray                 # [m, 2] text, participant and session
  notes: tuple[str, ...]            # which scans were left out, a sentence each

  def names(self, values: np.ndarray) -> np.ndarray:
    """Values as they stand in tables: numbers, or the names of classes."""
    return np.array(self.classes)[values.astype(int)] if self.classes else values

  def select(self, kept: np.ndarray, note: str = '') -> Target:
    """The target of some of its scans, given by a mask or positions."""
    return dataclasses.replace(
        self, rows=self.rows[kept], values=self.values[kept], groups=self.groups[kept],
        scans=self.scans[kept], notes=(*self.notes, note) if note else self.notes)


def read_target(task: Task, table: pandas.DataFrame, fewest: int) -> Target:
  """The values that a task predicts, of the rows that have one.

  Classes of fewer than `fewest` people are left out where more than two stand against each other.

  Raises:
    UserError: why the task can't be done with this table: no such column, text where numbers are
      needed, too few people, or classes that are too small.
  """
  for name in (task.column, task.groups):
    if name not in table:
      raise UserError(f'task {task.name}: the table has no column {name!r}; it has '
                      f'{listed(list(table.columns), 40)}')
  text = tables.categories(table[task.column])
  present = text.notna().to_numpy()
  notes = _counted(task, ~present, 'without a value')
  if task.kind == BRAIN_AGE:
    groups = healthy.find(task, table)
    present = present & groups.fitted
    notes.append(f'{task.name}: {groups.words}')
  if task.kind != CLASSIFICATION:
    values = pandas.to_numeric(text.where(present), errors='coerce').to_numpy(float)
    if wrong := sorted(set(text[present & ~np.isfinite(values)])):
      raise UserError(f'task {task.name}: column {task.column} holds {listed(wrong)}, which is not '
                      'a number; make it a classification or mend the table')
    classes = ()
    if task.kind == REGRESSION and len(set(values[present])) <= _FEW_NUMBERS:
      notes.append(f'{task.name}: {tally(text[present])} are predicted as numbers; codes of '
                   f'classes would be written {task.column}:1/0')
  else:
    lower = text.str.lower()
    held = text[present]
    sides = ({task.class_names[0]: task.control, task.class_names[1]: task.positive}
             if task.positive else {name: (name,) for name in sorted(set(text[present]))})
    classes, values = tuple(sides), np.full(len(table), np.nan)
    for code, members in enumerate(sides.values()):
      own = [tables.category(member).lower() for member in members]
      values[(present & lower.isin(own)).to_numpy()] = code
      if len(held) and not (values == code).any():
        one, *rest = held.value_counts().index
        raise UserError(
            f'task {task.name}: nobody is {" or ".join(map(repr, members))}; column {task.column} '
            f'holds {tally(held)}. Say which is which, as in --config.tasks={task.column}:{one}/'
            f'{(rest or ["..."])[0]}, or by a task of your own, as in '
            f'--config.task_file=my_tasks.py with Task({task.name!r}, {task.column!r}, '
            f'CLASSIFICATION, positive=({one!r},), control=({(rest or ["..."])[0]!r},), '
            f'classes={task.class_names!r})')
    other = present & np.isnan(values)
    notes += _counted(task, other, 'of other classes (' + listed(sorted(set(text[other]))) + ')')
  rows = np.flatnonzero(np.isfinite(values))
  scans = table[['participant_id', 'session']].astype(str).to_numpy()
  target = Target(task, rows, values[rows], classes,
                  table[task.groups].astype(str).to_numpy()[rows], scans[rows], tuple(notes))
  return _check_sizes(target, fewest)


def _counted(task: Task, rows: np.ndarray, why: str) -> list[str]:
  return [f'{task.name}: {int(rows.sum())} scans {why} are left out'] if rows.any() else []


def class_sizes(target: Target) -> list[int]:
  """How many people each class has; one with scans in two classes counts in both."""
  return [len(set(target.groups[target.values == code])) for code in range(len(target.classes))]


def _check_sizes(target: Target, fewest: int) -> Target:
  """Raises UserError for too few people; small ones of many classes are left out."""
  task = target.task
  if task.kind != CLASSIFICATION:
    people = len(set(target.groups))
    if people < 2 * fewest:
      raise UserError(f'task {task.name}: {people} people have a value, fewer than {2 * fewest} '
                      '(twice config.fewest)')
    if np.ptp(target.values) == 0:
      raise UserError(f'task {task.name}: all values of {task.column} are {target.values[0]:g}')
    return target
  sizes = dict(zip(target.classes, class_sizes(target)))
  small = [f'{name} ({size})' for name, size in sizes.items() if size < fewest]
  large = [code for code, size in enumerate(sizes.values()) if size >= fewest]
  if len(large) < 2 or small and task.positive:
    raise UserError(f'task {task.name}: two classes of at least {fewest} people are needed '
                    f'(config.fewest), and there are '
                    f'{listed([f"{name} ({size})" for name, size in sizes.items()])}')
  if not small:
    return target
  kept = np.isin(target.values, large)
  codes = {old: new for new, old in enumerate(large)}
  note = (f'{task.name}: {listed(small)} {"has" if len(small) == 1 else "have"} fewer than '
          f'{fewest} people and {"is" if len(small) == 1 else "are"} left out')
  target = target.select(kept, note)
  return dataclasses.replace(target, classes=tuple(target.classes[code] for code in large),
                             values=np.array([codes[value] for value in target.values], float))
