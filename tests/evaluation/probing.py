"""Small cohorts and targets for the tests of the probe; all SYNTHETIC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pandas
import pytest

from anatcl_jax.cohorts import atlas
from anatcl_jax.evaluation import estimators
from anatcl_jax.evaluation.cohort import Cohort
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import CLASSIFICATION, REGRESSION, Task


@contextlib.contextmanager
def two_strengths() -> Iterator[None]:
  """A coarse grid search, where only what is made of it is asked; test_probes has the whole one."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(estimators, 'STRENGTHS', (0.1, 10.0))
    yield


def target_of(values, classes=(), groups=None) -> Target:
  """A target whose scans are all of the table, each of another person unless told."""
  count = len(values)
  groups = np.array([f'sub-{row:04d}' for row in range(count)]) if groups is None else groups
  task = Task('some', 'some', CLASSIFICATION if classes else REGRESSION)
  scans = np.stack([groups, np.full(count, '')], 1)
  values = np.asarray(values, float)
  return Target(task, np.arange(count), values, tuple(classes), groups, scans, ())


def cohort_of(columns: dict, sessions: int = 1, seen=None, seed: int = 0) -> Cohort:
  """A cohort with these columns, a value a person, and random morphometry."""
  people = len(next(iter(columns.values())))
  table = pandas.DataFrame({
      'participant_id': np.repeat([f'sub-{row:04d}' for row in range(people)], sessions),
      'session': [f'ses-{1 + row % sessions}' if sessions > 1 else ''
                  for row in range(people * sessions)],
      **{name: np.repeat(np.asarray(values), sessions) for name, values in columns.items()}})
  rng = np.random.default_rng(seed)
  morphometry = rng.normal(2.5, 0.2, (len(table), 68, 1)).astype(np.float32)
  seen = np.zeros(len(table), bool) if seen is None else np.repeat(seen, sessions)
  regions = atlas.regions('desikan')
  return Cohort('SYNTHETIC', table, morphometry, regions, ('thickness',), seen, True)


def features_of(cohort, strength=1.0, seed=0):
  """Features that know age and sex."""
  rng = np.random.default_rng(seed)
  age = cohort.table['age'].to_numpy(float)
  sex = (cohort.table['sex'] == 'F').to_numpy(float)
  x = rng.normal(size=(len(age), 8))
  x[:, 0] += strength * (age - age.mean()) / age.std() * 2
  x[:, 1] += strength * sex * 2
  return x.astype(np.float32)
