"""All tasks of an evaluation: which can be done, on which scans, and everything about each."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, listed
from anatcl_jax.evaluation import beyond, challenge, estimators, statistics
from anatcl_jax.evaluation import cohort as cohorts
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.evaluate import (
  Protocol,
  Settings,
  choose_protocol,
  comparisons,
  evaluate,
)
from anatcl_jax.evaluation.representations import Variants, inputs, morphometry
from anatcl_jax.evaluation.results import Evaluation, Outcome
from anatcl_jax.evaluation.tasks import (
  CHALLENGE,
  CLASSIFICATION,
  Target,
  Task,
  read_target,
)
from anatcl_jax.progress import progress_bar

SITE = Task('site', 'site', CLASSIFICATION)
COMPARISONS = ('task', 'metric', 'estimator', 'features', 'against', 'difference', 'low', 'high',
               'test', 't', 'p', 'p_holm', 'n', 'folds')


@dataclasses.dataclass(frozen=True)
class Extent:
  """What is done beside the tasks themselves."""

  learning_curve: str = 'auto'
  leave_one_site_out: bool = True


def run(cohort: Cohort, encoders: dict[str, Variants], tasks: dict[str, tuple[Task, bool]],
        settings: Settings, extent: Extent, made: dict[str, Any],
        progress: bool = True) -> Evaluation:
  """Evaluates encoders (and `untrained` among them) and the baselines on every task.

  Args:
    encoders: by name, arrays [scans of the cohort, F].
    tasks: by name, and whether the user named it: then its column must be there.

  Raises:
    UserError: a named task has no column, or no task can be done; the text says why.
  """
  for name, values in ((name, values) for name, own in encoders.items() for values in own):
    estimators.check_finite(name, values, cohort.labels())
  for task, _ in tasks.values():
    if ':' in task.column and task.column not in cohort.table:
      cohort = cohorts.add_region(cohort, task.column)
  notes, outcomes, done = [], [], []
  for name, (task, named) in _with_site(tasks, cohort).items():
    try:
      target = read_target(task, cohort.table, settings.fewest)
      done.append((target, choose_protocol(target, cohort.seen, settings)
                   if task.kind != CHALLENGE else None))
      notes += target.notes
    except UserError as error:
      if named and task.column not in cohort.table:
        raise
      if name in tasks:
        outcomes.append(_refused(task, str(error)))
  if not any(target.task.name in tasks for target, _ in done):
    raise UserError('; '.join(outcome.note for outcome in outcomes))
  compared, curves, left_out, leaks = [], [], [], []
  with progress_bar(_fits(done, cohort, encoders, settings, extent), 'probe', 'fits',
                    show=progress) as bar:
    for target, protocol in done:
      bar.set_postfix_str(target.task.name)
      found = inputs(target, cohort, encoders)
      try:
        if protocol is None:
          scored = challenge.evaluate(target, cohort.table, cohort.seen, found, settings)
          bar.update(len(found))
        else:
          found = _of_protocol(found, target, protocol)
          scored = evaluate(protocol, found, settings, bar.update)
      except UserError as error:     # such as too few people on a side for the grid search
        if target.task.name in tasks:
          outcomes.append(_refused(target.task, str(error)))
        else:
          notes.append(f'not done: {error}')
        continue
      if protocol is not None:
        if target.task.column == SITE.column:
          leaks = [one for one in scored if one.outcome.estimator in (settings.estimators[0],
                                                                      estimators.MEAN)]
        else:
          curve = beyond.learning_curve(protocol, _for_curves(found), extent.learning_curve,
                                        settings, bar.update)
          curves.append(curve)
          if lacking := sorted(set(beyond.repeats_of_curve(protocol, extent.learning_curve))
                               - set(curve['subjects'])):
            notes.append(f'{target.task.name}: no learning curve of '
                         f'{listed([str(size) for size in lacking])} people: a class, or a fold of '
                         'the grid search, would have nobody')
          if extent.leave_one_site_out and SITE.column in cohort.table:
            left_out.append(beyond.leave_one_site_out(
                protocol, _sites(cohort, protocol.target), found, settings, bar.update))
      if target.task.name in tasks:
        outcomes += [one.outcome for one in scored]
        compared += comparisons(scored)
        notes.append(f'{target.task.name}: {scored[0].protocol.words}')
  if all(outcome.refused for outcome in outcomes):
    raise UserError('; '.join(outcome.note for outcome in outcomes))
  reliability, icc = beyond.reliability(cohort, _whole(cohort, encoders))
  return Evaluation(
      outcomes=tuple(sorted(outcomes, key=lambda outcome: list(tasks).index(outcome.task.name))),
      comparisons=_adjusted(compared), leakage=beyond.leakage(leaks),
      leave_one_site_out=_joined(left_out, beyond.LEFT_OUT), reliability=reliability, icc=icc,
      learning_curves=_joined(curves, beyond.CURVES), table=cohort.table,
      features={name: variants[0] for name, variants in encoders.items()},
      synthetic=cohort.synthetic, made=made, notes=(*cohort.notes, *notes))


def _with_site(tasks: dict[str, tuple[Task, bool]], cohort: Cohort) -> dict[str, tuple[Task, bool]]:
  """The tasks, and that of site for its leakage where the table has one."""
  if SITE.column not in cohort.table or any(task.column == SITE.column for task, _ in tasks.values()
                                            if task.kind != CHALLENGE):
    return tasks
  return tasks | {'site (leakage)': (dataclasses.replace(SITE, name='site (leakage)'), False)}


def _refused(task: Task, why: str) -> Outcome:
  empty = np.zeros(0)
  return Outcome(task, '', '', empty, empty, empty, empty, None, (), empty, {}, {}, {}, why)


def _of_protocol(found: dict[str, Variants], target: Target,
                 protocol: Protocol) -> dict[str, Variants]:
  """The rows of those scans that the protocol kept."""
  kept = np.isin(target.rows, protocol.target.rows)
  return {name: tuple(values[kept] for values in own) for name, own in found.items()}


def _for_curves(found: dict[str, Variants]) -> dict[str, Variants]:
  return {name: own for name, own in found.items() if name not in ('covariates', 'mean')}


def _fits(done: list[tuple[Target, Protocol | None]], cohort: Cohort,
          encoders: dict[str, Variants], settings: Settings, extent: Extent) -> int:
  """How often the progress bar will be advanced."""
  total = 0
  for target, protocol in done:
    found = inputs(target, cohort, encoders)
    if protocol is None:
      total += len(found)
      continue
    total += len(protocol.splits) * sum(
        len(own) * (1 if name == estimators.MEAN else len(settings.estimators))
        for name, own in found.items())
    if target.task.column != SITE.column:
      total += len(_for_curves(found)) * beyond.draws_of_curve(protocol, extent.learning_curve)
      if extent.leave_one_site_out and SITE.column in cohort.table:
        total += (len(found) - 1) * len(beyond.left_out_sites(
            protocol, _sites(cohort, protocol.target), settings))
  return total


def _sites(cohort: Cohort, target: Target) -> np.ndarray:
  return tables.categories(cohort.table[SITE.column]).fillna('').to_numpy()[target.rows]


def _whole(cohort: Cohort, encoders: dict[str, Variants]) -> dict[str, np.ndarray]:
  """Every representation of all scans that needs no task."""
  found = {name: variants[0] for name, variants in encoders.items()}
  values = morphometry(SITE, cohort)
  return found if values is None else found | {'morphometry': values}


def _adjusted(rows: list[dict]) -> pandas.DataFrame:
  """Holm's correction over the evaluation's comparisons with whatever knows something.

  That an encoder is better than the mean is no question of its own, and makes no other stricter.
  """
  table = pandas.DataFrame(rows, columns=COMPARISONS)
  p = table['p'].to_numpy(float)
  return table.assign(p_holm=statistics.holm(
      np.where(table['against'] == estimators.MEAN, np.nan, p)))


def _joined(parts: list[pandas.DataFrame], columns: tuple[str, ...]) -> pandas.DataFrame:
  parts = [part for part in parts if len(part)]
  return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame(columns=columns)

