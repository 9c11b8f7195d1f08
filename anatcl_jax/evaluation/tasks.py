"""What is predicted, as data: a task is a column of the labels and how to score its prediction."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pandas

from anatcl_jax import user_code
from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, check_name, listed
from anatcl_jax.evaluation.healthy import CONTROLS

REGRESSION, CLASSIFICATION, CHALLENGE = 'regression', 'classification', 'challenge'
BRAIN_AGE = 'brain_age'     # a regression fitted on the healthy alone, applied to all others

# The metrics of each kind, its main one first, and whether more is better.
METRICS = {REGRESSION: {'mae': False, 'r2': True, 'pearson_r': True},
           CLASSIFICATION: {'balanced_accuracy': True, 'roc_auc': True, 'average_precision': True},
           CHALLENGE: {'challenge_score': False, 'mae_external': False, 'mae_internal': False,
                       'r2_external': True, 'r2_internal': True, 'site_balanced_accuracy': False}}
METRICS[BRAIN_AGE] = METRICS[REGRESSION]

_IDENTIFIERS = ('participant_id', 'session')


@dataclasses.dataclass(frozen=True)
class Task:
  """One thing to predict from frozen features.

  Without `positive` a classification is among all values of the column; with it, the values of
  `positive` stand against those of `control`, named by `classes`, and other rows are left out.
  Values are compared without regard to case.
  """

  name: str
  column: str
  kind: str                               # REGRESSION, CLASSIFICATION, BRAIN_AGE, or CHALLENGE:
                                          # OpenBHB's
  positive: tuple[str, ...] = ()
  control: tuple[str, ...] = ()
  classes: tuple[str, ...] = ()           # names of control and positive, in this order
  covariates: tuple[str, ...] = ('age', 'sex', 'tiv', 'etiv', 'EstimatedTotalIntraCranialVol')
  groups: str = 'participant_id'          # rows with equal values never fall on both sides
  metric: str = ''                        # the main one; '' is the first of the kind's
  unit: str = ''
  healthy_column: str = ''                # of BRAIN_AGE: whom it is fitted on, by a column and its
  healthy: tuple[str, ...] = ()           # values; '' and () where they are to be found

  def __post_init__(self):
    where = f'task {self.name!r}'
    if self.kind not in METRICS:
      raise UserError(f'{where}: kind {self.kind!r} is none of {", ".join(METRICS)}')
    if bool(self.positive) != bool(self.control) or self.positive and self.kind != CLASSIFICATION:
      raise UserError(f'{where}: positive and control belong together, and to a classification')
    if both := {name.lower() for name in self.positive} & {name.lower() for name in self.control}:
      raise UserError(f'{where}: {listed(sorted(both))} is both positive and control')
    for name in ('positive', 'control', 'classes', 'covariates', 'healthy'):
      if isinstance(getattr(self, name), str):
        raise UserError(f'{where}: {name} is a text; write a tuple, ({getattr(self, name)!r},)')
    if self.positive and len(self.classes) not in (0, 2):
      raise UserError(f'{where}: classes must name control and positive')
    if self.kind != BRAIN_AGE and (self.healthy or self.healthy_column):
      raise UserError(f'{where}: healthy and healthy_column are of a {BRAIN_AGE}')
    check_name(self.main_metric, METRICS[self.kind], f'metric of {where}')

  @property
  def main_metric(self) -> str:
    return self.metric or next(iter(METRICS[self.kind]))

  @property
  def class_names(self) -> tuple[str, ...]:
    """Of a task with positive and control classes."""
    return self.classes or (' or '.join(self.control), ' or '.join(self.positive))


def read_tasks(*paths: str | pathlib.Path
               ) -> tuple[dict[str, Task], dict[str, tuple[str, ...]]]:
  """The TASKS of Python files such as configs/tasks.py, by name, and COHORTS: names of tasks.

  Of one name in several files the last counts.

  Raises:
    UserError: no such file, or one that does not define them.
  """
  by_name, cohorts = {}, {}
  for path in map(pathlib.Path, paths):
    defined = user_code.run(path, 'file of tasks')
    if 'TASKS' not in defined:
      raise UserError(f'{path}: defines no TASKS; see configs/tasks.py')
    with user_code.told(path, 'file of tasks'):
      tasks, own = tuple(defined['TASKS']), dict(defined.get('COHORTS', {}))
    if wrong := [task for task in tasks if not isinstance(task, Task)]:
      raise UserError(f'{path}: TASKS holds {wrong[0]!r}, which is no Task(...); '
                      'see configs/tasks.py')
    by_name |= {task.name: task for task in tasks}
    for cohort, names in own.items():
      if isinstance(names, str) or not all(name in by_name for name in names):
        raise UserError(f'{path}: COHORTS has {cohort!r}: {names!r}, '
                        'must be a tuple of names in TASKS')
    cohorts |= own
  return by_name, cohorts


def choose_tasks(text: str, tasks: dict[str, Task], cohorts: dict[str, tuple[str, ...]],
                 table: pandas.DataFrame | None = None) -> dict[str, tuple[Task, bool]]:
  """Tasks by name, from comma-separated names of tasks and cohorts, and whether it named them.

  `thickness:lh_insula` is a measure of a region; `group` and `group:SCZ/HC` are of a column of the
  table, as `task_of_column` has them.

  Raises:
    UserError: no such task, cohort or column, or a column that is no task.
  """
  chosen = {}
  columns = [] if table is None else [name for name in table if name not in _IDENTIFIERS]
  for name in filter(None, (part.strip() for part in text.split(','))):
    # A column of that name is meant where the task of that name is of one that is not there.
    if name in tasks and (tasks[name].column in columns or name not in columns):
      chosen[name] = tasks[name], True
    elif name in cohorts:
      for own in cohorts[name]:
        chosen.setdefault(own, (tasks[own], False))
    elif columns and (task := task_of_column(name, table[columns])):
      chosen[name] = task, True
    elif ':' in name:
      unit = {'thickness': 'mm', 'area': 'mm2', 'volume': 'mm3'}.get(name.partition(':')[0], '')
      chosen[name] = Task(name, name, REGRESSION, unit=unit), True
    else:
      check_name(name, [*tasks, *cohorts, *columns, 'thickness:lh_insula'],
                 'task or column' if columns else 'task')
  if not chosen:
    raise UserError('config.tasks names no task; try --config.tasks=age,sex')
  return chosen


def task_of_column(name: str, table: pandas.DataFrame) -> Task | None:
  """The task of a column, None where there is none of that name.

  `group` is a contrast where the column holds two values, and a regression where it holds numbers;
  `group:SCZ/HC` predicts SCZ against HC, and leaves others out. Of two values that were not told
  apart so, the one that names a control is the control, else the first by the alphabet.

  Raises:
    UserError: text of more than two values, or of one; or values that the column does not hold.
  """
  column, _, sides = (name, '', '') if name in table else name.partition(':')
  if column not in table:
    return None
  held = tables.categories(table[column]).dropna()
  values = list(held.groupby(held.str.lower()).first())     # one a value, whatever its case
  has = f'task {name}: column {column} holds {tally(held) or "no value"}'
  if sides:
    lower = {value.lower() for value in values}
    cuts = [(sides[:cut].strip(), sides[cut + 1:].strip())     # a value may have a / of its own
            for cut, letter in enumerate(sides) if letter == '/']
    fitting = [cut for cut in cuts if all(_code(side) in lower for side in cut)]
    if not cuts and _code(sides) not in lower:
      return None        # a measure of a region, such as thickness:lh_insula
    if not fitting:
      raise UserError(f'{has}; give two of these values, as in {column}:'
                      f'{"/".join(values[:2]) if len(values) > 1 else "PATIENT/CONTROL"}')
    positive, control = fitting[0]
    return _contrast(name, column, positive, control)
  numbers = pandas.to_numeric(held, errors='coerce')
  if len(values) == 2:
    first, second = sorted(values)
    return (_contrast(name, column, first, second) if second.lower() in CONTROLS
            else _contrast(name, column, second, first))
  if len(values) > 2 and np.isfinite(numbers).all():
    return Task(name, column, REGRESSION)
  if len(values) > 2 and np.isfinite(numbers).mean() > 0.5:
    raise UserError(f'task {name}: column {column} holds '
                    f'{listed(sorted(set(held[~np.isfinite(numbers)])))}, which is not a number')
  raise UserError(has + (
    '; say which two stand against each other, as in '
    f'--config.tasks={column}:{values[0]}/{values[1]}, or write a task of your own '
    '(--config.task_file)' if len(values) > 2 else '; two values are needed, or numbers'))


def _contrast(name: str, column: str, positive: str, control: str) -> Task:
  return Task(name, column, CLASSIFICATION, positive=(positive,), control=(control,),
              classes=(control, positive))


def _code(value: str) -> str:
  """A value as they are compared."""
  return str(tables.category(value)).lower()


def tally(values: pandas.Series) -> str:
  """`1 (30 scans), 2 (28 scans)`, the most frequent first."""
  return listed([f'{name} ({count} scan{"s" if count > 1 else ""})'
                 for name, count in values.value_counts().items()], 10)
