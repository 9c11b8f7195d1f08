"""All tasks of an evaluation: which can be done, on which scans, and everything about each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, listed
from anatcl_jax.evaluation import (
  beyond,
  brain_age,
  challenge,
  derived,
  estimators,
  harmonization,
  rows,
  scanners,
)
from anatcl_jax.evaluation import cohort as cohorts
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.evaluate import (
  Networks,
  Protocol,
  Scored,
  Settings,
  choose_protocol,
  comparisons,
  evaluate,
  of_networks,
)
from anatcl_jax.evaluation.finished import Finished, Part, key
from anatcl_jax.evaluation.given_splits import GivenSplits
from anatcl_jax.evaluation.representations import Variants, inputs, morphometry
from anatcl_jax.evaluation.results import (
  BESIDE,
  HARMONISED,
  SEEN_AND_UNSEEN,
  Evaluation,
  Outcome,
  is_derived,
)
from anatcl_jax.evaluation.target import Target, read_target
from anatcl_jax.evaluation.tasks import BRAIN_AGE, CHALLENGE, CLASSIFICATION, Task
from anatcl_jax.progress import progress_bar

SITE = Task('site', 'site', CLASSIFICATION)
COMPARISONS = ('task', 'metric', 'estimator', 'features', 'against', 'difference', 'low', 'high',
               'test', 't', 'p', 'p_holm', 'family', 'n', 'folds')


@dataclasses.dataclass(frozen=True)
class Extent:
  """What is done beside the tasks themselves."""

  learning_curve: str = 'auto'
  leave_one_site_out: bool = True


def run(cohort: Cohort, encoders: dict[str, Variants], tasks: dict[str, tuple[Task, bool]],
        settings: Settings, extent: Extent, made: dict[str, Any],
        progress: bool = True, finished: Finished | None = None,
        written: Callable[[Evaluation, list[str]], None] = lambda *_: None,
        save: Callable[[list[Scored]], None] | None = None,
        given: GivenSplits | None = None,
        networks: Networks | None = None) -> Evaluation:
  """Evaluates encoders (and `untrained` among them) and the baselines on every task.

  Args:
    encoders: by name, arrays [scans of the cohort, F].
    tasks: by name, and whether the user named it: then its column must be there.
    finished: where tasks are kept that were done before, and are not done again.
    written: is given what there is after each task, and the names of those to be done.
    save: is given each task's fitted probes, as soon as they are there.
    given: splits of a file, for all tasks but the challenge's.
    networks: rows of networks that are trained on the tasks, beside the probes of frozen features.

  Raises:
    UserError: a named task has no column, or no task can be done; the text says why.
  """
  for name, values in ((name, values) for name, own in encoders.items() for values in own):
    estimators.check_finite(name, values, cohort.labels())
  for task, _ in tasks.values():
    if ':' in task.column and task.column not in cohort.table:
      cohort = cohorts.add_region(cohort, task.column)
  if settings.harmonization:
    settings = dataclasses.replace(settings, harmonization=harmonization.in_table(
        settings.harmonization, cohort.table))
  notes, outcomes, done = [], [], []
  for name, (task, named) in _with_site(tasks, cohort).items():
    try:
      target = read_target(task, cohort.table, settings.fewest)
      done.append((target, choose_protocol(target, cohort.seen, settings, given)
                   if task.kind != CHALLENGE else None))
      notes += target.notes
    except UserError as error:
      if named and task.column not in cohort.table:
        raise
      if name in tasks:
        outcomes.append(_refused(task, str(error)))
  if not any(target.task.name in tasks for target, _ in done):
    raise UserError('; '.join(outcome.note for outcome in outcomes))
  parts, taken_over = [], []
  with progress_bar(_fits(done, cohort, encoders, settings, extent), 'probe', 'fits',
                    show=progress) as bar:
    for place, (target, protocol) in enumerate(done, 1):
      bar.set_postfix_str(target.task.name)
      found = inputs(target, cohort, encoders)
      name = key(target.task, dataclasses.replace(settings, jobs=1), extent, target.rows,
                 target.values, target.classes, target.groups, target.scans, cohort.seen, found,
                 *([] if save is None else ['saved']),
                 *([given.path, given.sides] if given else []),
                 *([networks.budget] if networks else []),
                 *([cohort.table.to_dict('list'), encoders]      # patients' too
                   if target.task.kind == BRAIN_AGE else []),
                 *(cohort.table[column].to_numpy() for column in dict.fromkeys((
                     SITE.column, 'split', *(settings.harmonization.columns
                                             if settings.harmonization else ())))
                   if column in cohort.table)) if finished else ''
      part = finished.read(name, target.task) if finished else None
      if part:
        taken_over.append(target.task.name)
        bar.update(_fits([(target, protocol)], cohort, encoders, settings, extent))
      else:
        try:
          part = _done(target, protocol, cohort, found, settings, extent, bar.update,
                       encoders, save, networks)
        except UserError as error:     # such as too few people on a side for the grid search
          if target.task.name in tasks:
            outcomes.append(_refused(target.task, str(error)))
          else:
            notes.append(f'not done: {error}')
          continue
        if finished:
          finished.write(name, part)
      parts.append(part)
      if to_do := [one.task.name for one, _ in done[place:]]:
        written(_together(parts, outcomes, tasks, cohort, encoders, made, notes), to_do)
  if taken_over:
    notes.append(f'done before the probe was interrupted: {listed(taken_over)}')
  if not any(one.outcomes[0].task.name in tasks for one in parts):
    raise UserError('; '.join(outcome.note for outcome in outcomes))
  evaluation = _together(parts, outcomes, tasks, cohort, encoders, made, notes)
  reliability, icc = beyond.reliability(cohort, _whole(cohort, encoders))
  components, table, said = scanners.by_scanner(cohort, _whole(cohort, encoders), settings)
  return dataclasses.replace(evaluation, reliability=reliability, icc=icc, components=components,
                             scanners=table, notes=(*evaluation.notes, *said))


def _done(target: Target, protocol: Protocol | None, cohort: Cohort, found: dict[str, Variants],
          settings: Settings, extent: Extent, advance: Callable[[int], None],
          encoders: dict[str, Variants], save: Callable[[list[Scored]], None] | None,
          networks: Networks | None) -> Part:
  """One task, and what is beyond its score; raises UserError where it can't be done."""
  name, notes = target.task.name, []
  empty = [pandas.DataFrame(columns=columns)
           for columns in (beyond.LEAKAGE, beyond.LEFT_OUT, beyond.CURVES, brain_age.GAPS,
                           brain_age.GROUPS)]
  leaks, left_out, curve, gaps, gap_groups = empty
  if protocol is None:
    scored = challenge.evaluate(target, cohort.table, cohort.seen, found, settings)
    advance(len(found))
  else:
    found, more = derived.rows(_of_protocol(found, target, protocol), protocol, cohort, settings,
                               _tells_sites(target.task))
    notes += more
    scored = evaluate(protocol, found, settings, advance)
    alone = [one for one in scored if not one.outcome.features.startswith(BESIDE)]
    if target.task.kind == BRAIN_AGE:
      rest, words = brain_age.others(protocol.target, cohort)
      gaps, more = brain_age.gaps(alone, protocol, cohort, encoders, rest)
      gap_groups = brain_age.groups(gaps, cohort, target.task, alone, settings.fewest)
      notes += [*words, *more]
      if protocol.design == SEEN_AND_UNSEEN:
        notes.append(f'{name}: {brain_age.OF_SEEN}')
    if save:
      save([one for one in alone if not (_tells_sites(target.task)
                                         and is_derived(one.outcome.features))])
    if networks and target.task.kind != BRAIN_AGE and not _tells_sites(target.task):
      try:
        scored += of_networks(protocol, networks)
      except UserError as error:
        notes.append(f'{name}: no networks: {error}')
    order = rows.in_order(one.outcome.features for one in scored)
    scored.sort(key=lambda one: order.index(one.outcome.features))
    if _tells_sites(target.task):
      leaks = beyond.leakage([one for one in scored if one.outcome.estimator in (
          settings.estimators[0], estimators.MEAN)])
      # Who is harmonised has told the site: that is no result of predicting it.
      scored = [one for one in scored if not one.outcome.features.endswith(HARMONISED)]
    else:
      curve = beyond.learning_curve(protocol, _for_curves(found), extent.learning_curve, settings,
                                    advance)
      if lacking := sorted(set(beyond.repeats_of_curve(protocol, extent.learning_curve))
                           - set(curve['subjects'])):
        notes.append(f'{name}: no learning curve of {listed([str(size) for size in lacking])} '
                     'people: a class, or a fold of the grid search, would have nobody')
      if _leaves_sites_out(target.task, cohort, extent):
        sites = _sites(cohort, protocol.target)
        left_out = beyond.leave_one_site_out(protocol, sites, derived.for_left_out(found, settings),
                                             settings, advance)
        if lacking := beyond.left_out_sites(protocol, sites, settings)[1]:
          reasons = listed([f'{site}: {why}' for site, why in lacking.items()])
          notes.append(f'{name}: not predicted from the other sites: {reasons}')
  return Part(tuple(one.outcome for one in scored), tuple(comparisons(scored)), leaks, left_out,
              curve, gaps, gap_groups, (*notes, f'{name}: {scored[0].protocol.words}'))


def _together(parts: list[Part], refused: list[Outcome], tasks: dict[str, tuple[Task, bool]],
              cohort: Cohort, encoders: dict[str, Variants], made: dict[str, Any],
              notes: list[str]) -> Evaluation:
  """The evaluation of what is done; a task that nobody named gives its leakage alone."""
  named = [part for part in parts if part.outcomes[0].task.name in tasks]
  outcomes = refused + [one for part in named for one in part.outcomes]
  return Evaluation(
      outcomes=tuple(sorted(outcomes, key=lambda outcome: list(tasks).index(outcome.task.name))),
      comparisons=rows.adjusted(pandas.DataFrame(
          [row for part in named for row in part.compared], columns=COMPARISONS)),
      leakage=_joined([part.leakage for part in parts if len(part.leakage)][-1:], beyond.LEAKAGE),
      leave_one_site_out=_joined([part.left_out for part in parts], beyond.LEFT_OUT),
      reliability=pandas.DataFrame(columns=beyond.RELIABILITY), icc={},
      learning_curves=_joined([part.curve for part in parts], beyond.CURVES), table=cohort.table,
      features={name: variants[0] for name, variants in encoders.items()},
      gaps=_joined([part.gaps for part in parts], brain_age.GAPS),
      gap_groups=_joined([part.gap_groups for part in parts], brain_age.GROUPS),
      synthetic=cohort.synthetic, trained_on_synthetic=cohort.trained_on_synthetic,
      made=made,
      notes=(*cohort.notes, *notes, *(note for part in named for note in part.notes)))


def _with_site(tasks: dict[str, tuple[Task, bool]], cohort: Cohort) -> dict[str, tuple[Task, bool]]:
  """The tasks, and that of site for its leakage where the table has one."""
  if SITE.column not in cohort.table or any(_tells_sites(task) for task, _ in tasks.values()):
    return tasks
  return tasks | {'site (leakage)': (dataclasses.replace(SITE, name='site (leakage)'), False)}


def _tells_sites(task: Task) -> bool:
  """Whether a task is that of all sites, and no contrast of some."""
  return task.column == SITE.column and task.kind == CLASSIFICATION and not task.positive


def _leaves_sites_out(task: Task, cohort: Cohort, extent: Extent) -> bool:
  return (extent.leave_one_site_out and SITE.column in cohort.table
          and task.column != SITE.column)      # of one site alone there is a single value


def _refused(task: Task, why: str) -> Outcome:
  empty = np.zeros(0)
  return Outcome(task, '', '', empty, empty, empty, empty, None, (), empty, {}, {}, {}, why)


def _of_protocol(found: dict[str, Variants], target: Target,
                 protocol: Protocol) -> dict[str, Variants]:
  """The rows of those scans that the protocol kept."""
  kept = np.isin(target.rows, protocol.target.rows)
  return {name: tuple(values[kept] for values in own) for name, own in found.items()}


def _for_curves(found: dict[str, Variants]) -> dict[str, Variants]:
  return {name: own for name, own in found.items()
          if name not in ('covariates', 'mean') and not is_derived(name)}


def _fits(done: list[tuple[Target, Protocol | None]], cohort: Cohort,
          encoders: dict[str, Variants], settings: Settings, extent: Extent) -> int:
  """How often the progress bar will be advanced."""
  total = 0
  for target, protocol in done:
    found = inputs(target, cohort, encoders)
    if protocol is None:
      total += len(found)
      continue
    found |= dict.fromkeys(derived.names(found, protocol, cohort, settings,
                                         _tells_sites(target.task)), (None,))
    total += len(protocol.splits) * sum(
        len(own) * (1 if name == estimators.MEAN else len(settings.estimators))
        for name, own in found.items())
    if not _tells_sites(target.task):
      total += len(_for_curves(found)) * beyond.draws_of_curve(protocol, extent.learning_curve)
      if _leaves_sites_out(target.task, cohort, extent):
        total += (len(derived.for_left_out(found, settings)) - 1) * len(beyond.left_out_sites(
            protocol, _sites(cohort, protocol.target), settings)[0])
  return total


def _sites(cohort: Cohort, target: Target) -> np.ndarray:
  return tables.categories(cohort.table[SITE.column]).fillna('').to_numpy()[target.rows]


def _whole(cohort: Cohort, encoders: dict[str, Variants]) -> dict[str, np.ndarray]:
  """Every representation of all scans that needs no task."""
  found = {name: variants[0] for name, variants in encoders.items()}
  values = morphometry(SITE, cohort)
  return found if values is None else found | {'morphometry': values}


def _joined(parts: list[pandas.DataFrame], columns: tuple[str, ...]) -> pandas.DataFrame:
  parts = [part for part in parts if len(part)]
  return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame(columns=columns)

