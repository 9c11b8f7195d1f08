"""People scanned on several scanners: what of each feature is the person, the scanner, and neither.

Nobody's anatomy differs between two scans of theirs that are close in time, so that what a probe
tells of the scanner of the same people is of scanners alone, not of whom they scan.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import splits
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.evaluate import Protocol, Settings, evaluate
from anatcl_jax.evaluation.results import FOLDS, score_and_sd
from anatcl_jax.evaluation.target import read_target
from anatcl_jax.evaluation.tasks import CLASSIFICATION, Task

COMPONENTS = ('features', 'feature', 'person', 'scanner', 'rest', 'person_share', 'scanner_share',
              'rest_share')
SCANNERS = ('features', 'person', 'scanner', 'rest', 'scanner_low', 'scanner_high',
            'balanced_accuracy', 'low', 'high', 'chance', 'subjects', 'scans', 'scanners')

_METRIC = 'balanced_accuracy'


@dataclasses.dataclass(frozen=True)
class Scanned:
  """The scans of those who were on several scanners."""

  rows: np.ndarray        # [n] positions in the cohort's table
  people: np.ndarray      # [n] codes from 0 up
  scanners: np.ndarray    # [n] codes from 0 up
  column: str             # of the scanners' names


def on_several(cohort: Cohort) -> tuple[Scanned | None, str]:
  """Who was scanned on two scanners or more, people seen in pretraining left out, or why nobody.

  Scanners stand in a column `scanner`, else `site`. Of others the person can't be told from the
  scanner. The words are empty where nobody has a second scan either.
  """
  names = {tables.plain(str(name)): name for name in reversed(cohort.table.columns)}
  column = names.get('scanner', names.get('site'))
  people = cohort.table['participant_id'].astype(str).to_numpy()
  unseen = ~cohort.seen
  if column is None or len(set(people[unseen])) == unseen.sum():
    return None, ''
  named = tables.categories(cohort.table[column])
  known = unseen & named.notna().to_numpy()
  several = named[known].groupby(people[known]).nunique() > 1
  rows = np.flatnonzero(known & np.isin(people, several.index[several]))
  if several.sum() < 3:
    return None, (f'variance by scanner: {several.sum()} people with several scans were on two '
                  f'scanners or more (column {column}), and 3 are needed')
  return Scanned(rows, np.unique(people[rows], return_inverse=True)[1],
                 np.unique(named.to_numpy(str)[rows], return_inverse=True)[1], column), ''


def variance_components(values: np.ndarray, people: np.ndarray, scanners: np.ndarray
                        ) -> np.ndarray:
  """Variances of person, scanner and rest of each feature, [3, F]; unbiased, so some are below 0.

  values[n, F] = mean + person + scanner + rest, all drawn at random. Sums of squares are those of
  constants fitted in turn, set equal to what they are on average (Henderson's method 3, Biometrics
  9:226-252, 1953; Searle, Casella and McCulloch, Variance Components, 1992, 5.5): where everybody
  was scanned alike often on every scanner those of the two-way analysis of variance, and unbiased
  for any other pattern. The rest is noise, and what a scanner does to some people only.

  Args:
    people, scanners: [n] codes from 0 up.

  Raises:
    ValueError: the pattern leaves a variance undetermined.
  """
  values = np.asarray(values, np.float64)
  values = values - values.mean(0)
  of_people, of_scanners = (np.bincount(codes).astype(float) for codes in (people, scanners))

  def centred(x: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, codes, x)
    return x - (sums / counts[:, None])[codes]

  indicators = np.eye(len(of_scanners))[scanners]
  within = centred(indicators, people, of_people)          # scanners, without what people explain
  left = centred(values, people, of_people)
  basis, singular, _ = np.linalg.svd(within, full_matrices=False)
  basis = basis[:, singular > 1e-9 * singular.max()]
  by_scanner = ((basis.T @ left)**2).sum(0)                # of scanners beyond people
  total, after_people = (values**2).sum(0), (left**2).sum(0)
  after_scanners = (centred(values, scanners, of_scanners)**2).sum(0)
  error = after_people - by_scanner
  by_person = after_scanners - error                       # of people beyond scanners
  rank = basis.shape[1]
  free = len(values) - len(of_people) - rank
  persons = len(of_people) + rank - len(of_scanners)       # their degrees of freedom
  cells = np.zeros((len(of_people), len(of_scanners)))
  np.add.at(cells, (people, scanners), 1)
  weight_scanner = (within**2).sum()
  weight_person = len(values) - (cells**2 / of_scanners).sum()
  if min(free, rank, persons) < 1 or min(weight_scanner, weight_person) <= 0:
    raise ValueError('too few scans to tell person, scanner and rest apart')
  rest = error / free
  found = np.stack([(by_person - persons * rest) / weight_person,
                    (by_scanner - rank * rest) / weight_scanner, rest])
  constant = total <= 1e-12 * np.maximum(1.0, np.abs(values).max(0))
  return np.where(constant, np.nan, found)


def shares(components: np.ndarray) -> np.ndarray:
  """Shares of the variance, [3, F]: estimates below 0 count as 0."""
  known = np.maximum(components, 0)
  with np.errstate(invalid='ignore'):
    return known / known.sum(0)


def by_scanner(cohort: Cohort, representations: dict[str, np.ndarray], settings: Settings
               ) -> tuple[pandas.DataFrame, pandas.DataFrame, list[str]]:
  """Of each representation: components of each feature, their means with the naming, and notes."""
  empty = pandas.DataFrame(columns=COMPONENTS), pandas.DataFrame(columns=SCANNERS)
  scanned, why = on_several(cohort)
  if scanned is None:
    return *empty, [why] if why else []
  usable = {name: values[scanned.rows] for name, values in representations.items()
            if np.isfinite(values[scanned.rows]).all()}
  try:
    found = {name: variance_components(values, scanned.people, scanned.scanners)
             for name, values in usable.items()}
  except ValueError as error:
    return *empty, [f'variance by scanner: {error}']
  named, notes = _named(cohort, scanned, usable, settings)
  features = [pandas.DataFrame(dict(zip(COMPONENTS, (
      name, np.arange(components.shape[1]), *components, *shares(components)))))
              for name, components in found.items()]
  rows = []
  for name, components in found.items():
    own = shares(components)
    own = own[:, np.isfinite(own).all(0)]
    if not own.size:
      continue
    rows.append((name, *own.mean(1), *np.quantile(own[1], [0.05, 0.95]),
                 *named.get(name, (np.nan,) * 4), len(set(scanned.people)), len(scanned.rows),
                 len(set(scanned.scanners))))
  return pandas.concat(features, ignore_index=True), pandas.DataFrame(rows, columns=SCANNERS), notes


def _named(cohort: Cohort, scanned: Scanned, representations: dict[str, np.ndarray],
           settings: Settings) -> tuple[dict[str, tuple[float, ...]], list[str]]:
  """Balanced accuracy of the scanner with its interval and chance, in folds by person."""
  task = Task('scanner', scanned.column, CLASSIFICATION)
  try:
    target = read_target(task, cohort.table.iloc[scanned.rows].reset_index(drop=True),
                         settings.fewest)
    folds = splits.grouped_folds(target, settings.folds, settings.seed)
    protocol = Protocol(target, folds, '', FOLDS)
    scored = evaluate(protocol, {name: (values[target.rows],)
                                 for name, values in representations.items()},
                      dataclasses.replace(settings, estimators=settings.estimators[:1]))
  except UserError as error:
    return {}, [f'scanners are not named: {error}']
  notes = [f'the scanner of the same people: {note.partition(": ")[2]}' for note in target.notes]
  return {one.outcome.features: (score_and_sd(one.outcome, _METRIC)[0],
                                 *one.outcome.interval[_METRIC], 1 / len(target.classes))
          for one in scored}, notes
