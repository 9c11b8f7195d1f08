"""Brain age: the gap of everybody by probes of the healthy, and how it differs by diagnosis.

The gap is predicted age less age. A healthy person's is out of fold; all others were never fitted
on, and theirs is the mean of the folds' probes. Predictions lean towards the mean age, so that the
young look old and the old young; the corrected gap is without what age itself explains of it,
learned where the probe was fitted.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.evaluation import contrasts, fitted, healthy, measures
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.combat import PASS
from anatcl_jax.evaluation.derived import with_sites
from anatcl_jax.evaluation.evaluate import Protocol, Scored
from anatcl_jax.evaluation.fitted import FittedProbe
from anatcl_jax.evaluation.representations import Variants, inputs
from anatcl_jax.evaluation.results import plain
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import Task

GAPS = ('participant_id', 'session', 'task', 'features', 'estimator', 'group', 'fold', 'age',
        'predicted_age', 'gap', 'gap_corrected')
GROUPS = ('task', 'features', 'estimator', 'value', 'unit', 'group', 'n', 'against', 'n_against',
          'mean', 'sd', 'mean_against', 'sd_against', 'difference', 'low', 'high', 'd', 'd_low',
          'd_high', 'p', 'adjusted_for', 'slope', 'note')
GAP, CORRECTED = 'gap', 'gap, corrected for age'
_ADJUSTED = ('age', 'sex', 'site')
OF_SEEN = ('slope and correction are of people seen in pretraining, whom the encoder may know '
           'better: corrected gaps of others may still fall with age (differences between groups '
           'are adjusted for it); --config.protocol=cross_validation fits on people held out')


def predicted(probes: list[FittedProbe], x: np.ndarray) -> np.ndarray:
  """Ages [n] of people whom none of the probes was fitted on, from features [n, F]."""
  return fitted.mean([probe.predict(x) for probe in probes])


def corrected(probes: list[FittedProbe], age: np.ndarray, predicted_age: np.ndarray) -> np.ndarray:
  """Gaps [n] without what age explains: predicted age less the line a * age + b.

  Of several probes the line is their mean. De Lange and Cole, NeuroImage: Clinical 26, 2020.
  """
  return predicted_age - fitted.mean([probe.correction[0] * age + probe.correction[1]
                                      for probe in probes])


def others(target: Target, cohort: Cohort) -> tuple[Target, list[str]]:
  """Those who are not fitted on and can be predicted, and notes of those who can't."""
  task, table = target.task, cohort.table
  rest = ~healthy.find(task, table).fitted
  age = pandas.to_numeric(tables.categories(table[task.column]), errors='coerce').to_numpy(float)
  rows = np.flatnonzero(rest & np.isfinite(age) & ~cohort.seen)
  reasons = ((rest & ~np.isfinite(age), 'without an age'),
             (rest & np.isfinite(age) & cohort.seen, 'seen in pretraining'))
  words = [f'{int(which.sum())} scans {why}' for which, why in reasons if which.any()]
  scans = table[['participant_id', 'session']].astype(str).to_numpy()
  return (dataclasses.replace(target, rows=rows, values=age[rows], notes=(),
                              groups=table[task.groups].astype(str).to_numpy()[rows],
                              scans=scans[rows]),
          [f'{task.name}: of those who are not healthy {" and ".join(words)} have no gap']
          if words else [])


def gaps(scored: list[Scored], protocol: Protocol, cohort: Cohort, encoders: dict[str, Variants],
         rest: Target) -> tuple[pandas.DataFrame, list[str]]:
  """A row a scan and representation: GAPS, and notes. `fold` is -1 of those whom no fold holds."""
  names = healthy.find(protocol.target.task, cohort.table).names
  x_rest = inputs(rest, cohort, encoders)
  parts, notes = [], []
  for one in scored:
    if not one.probes:         # of the mean
      continue
    outcome, target, probes = one.outcome, protocol.target, list(one.probes)
    own = np.concatenate([test for _, test in protocol.splits])
    order = np.argsort(own, kind='stable')     # as outcomes have them
    out_of_fold = np.full(len(target.rows), np.nan)
    out_of_fold[own[order]] = outcome.prediction
    without = np.concatenate([corrected([probe], target.values[test], out_of_fold[test])
                              for probe, (_, test) in zip(probes, protocol.splits)])[order]
    own_rest, x, words = _harmonised(rest, x_rest[plain(outcome.features)][0], probes, cohort)
    notes += [f'{outcome.task.name}: {note}' for note in words]
    prediction = predicted(probes, x)
    sides = ((target.select(own[order]), outcome.fold, outcome.prediction, without),
             (own_rest, np.full(len(own_rest.rows), -1), prediction,
              corrected(probes, own_rest.values, prediction)))
    for side, fold, age, without in sides:
      parts.append(pandas.DataFrame({
          'participant_id': side.scans[:, 0], 'session': side.scans[:, 1],
          'task': outcome.task.name, 'features': outcome.features,
          'estimator': outcome.estimator, 'group': names[side.rows], 'fold': fold,
          'age': side.values, 'predicted_age': age, 'gap': age - side.values,
          'gap_corrected': without}))
  return pandas.concat(parts, ignore_index=True)[list(GAPS)], list(dict.fromkeys(notes))


def _harmonised(rest: Target, x: np.ndarray, probes: list[FittedProbe],
                cohort: Cohort) -> tuple[Target, np.ndarray, list[str]]:
  """The scans of `rest` that probes can predict, what they predict from, and notes.

  Probes of features as they are predict all. Those of harmonised ones have learned the sites of the
  healthy; who was scanned at another has no gap, unless such scans are to be passed.
  """
  first = probes[0]
  if first.harmonizer is None:
    return rest, x, []
  numbers, notes = first.coding.numbers(cohort.table.iloc[rest.rows])
  known = np.all([one.knows(numbers[:, 0]) for one in probes], 0)
  if not known.all():
    strangers = f'{int((~known).sum())} scans of a {first.coding.column} without healthy people'
    if first.harmonizer.unseen == PASS:
      notes.append(f'{strangers} are not harmonised')
      known[:] = True
    else:
      notes.append(f'{strangers} have no gap of harmonised features; --config.unseen_sites=pass '
                   'predicts them from features as they are')
  return rest.select(known), with_sites(x[known], numbers[known]), notes


def groups(table: pandas.DataFrame, cohort: Cohort, task: Task, scored: list[Scored],
           fewest: int) -> pandas.DataFrame:
  """GROUPS: of each representation and brain measure, each group against the healthy.

  The healthy themselves are a row without a difference, so that their gap is seen too. Groups of
  fewer than `fewest` people have no difference.

  Args:
    table: of `gaps`.
  """
  row_of = {key: row for row, key in enumerate(cohort.keys())}
  found = healthy.find(task, cohort.table)
  rows = []
  for one in scored:
    if not one.probes:
      continue
    outcome = one.outcome
    own = table[(table['features'] == outcome.features)
                & (table['estimator'] == outcome.estimator)]
    places = np.array([row_of[key] for key in zip(own['participant_id'], own['session'])])
    slope = float(np.mean([probe.correction[0] for probe in one.probes]))
    for value, column in ((GAP, 'gap'), (CORRECTED, 'gap_corrected')):
      rows += _rows(task, (outcome.features, outcome.estimator, value, task.unit), slope, found,
                    cohort, places, own[column].to_numpy(), _ADJUSTED, fewest)
  own = table.drop_duplicates(['participant_id', 'session'])
  places = np.array([row_of[key] for key in zip(own['participant_id'], own['session'])])
  for measure in measures.of_cohort(cohort):
    kept = places[np.isfinite(measure.values[places])]
    rows += _rows(task, (measure.name, '', measure.name, measure.unit), np.nan, found, cohort,
                  kept, measure.values[kept], (*_ADJUSTED, *measure.adjusted), fewest)
  return pandas.DataFrame(rows, columns=GROUPS)


def _rows(task: Task, named: tuple[str, str, str, str], slope: float, found: healthy.Groups,
          cohort: Cohort, places: np.ndarray, values: np.ndarray, adjusted: tuple[str, ...],
          fewest: int) -> list[tuple]:
  features, estimator, value, unit = named
  own = cohort.table.iloc[places]
  used = tuple(name for name in adjusted if name in own and own[name].nunique() > 1)
  people, labels = own[task.groups].astype(str).to_numpy(), found.names[places]
  control = found.fitted[places]

  rows = []
  for group in (found.control, *sorted(set(labels[~control]) - {'', found.control})):
    both = control if group == found.control else control | (labels == group)
    names, mean, covariates = contrasts.by_person(people[both], own[both], values[both], used)
    member = ~np.isin(names, people[control])
    one = contrasts.contrast(mean, member, covariates)
    numbers = [one.difference, one.low, one.high, one.d, one.d_low, one.d_high, one.p]
    note, of_group = one.note, (one.n, one.mean, one.sd)
    of_healthy = one.healthy, one.healthy_mean, one.healthy_sd
    if group == found.control:
      numbers, note, of_group = [np.nan] * len(numbers), '', of_healthy
    elif one.n < fewest:
      numbers, note = [np.nan] * len(numbers), f'fewer than {fewest} people'
    rows.append((task.name, features, estimator, value, unit, group, of_group[0], found.control,
                 of_healthy[0], *of_group[1:], *of_healthy[1:], *numbers, '+'.join(used), slope,
                 note))
  return rows
