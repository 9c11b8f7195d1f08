"""The digital cohort's people: ages, sexes, heads, illness, and a simple variation of anatomy."""

from __future__ import annotations

import dataclasses

import numpy as np

from anatcl_jax.cohorts.phantom.anatomy import (
  DEEP,
  NAMES,
  REFERENCE_AGE,
  SLOPES,
  THICKNESS,
  Anatomy,
  template,
)
from anatcl_jax.cohorts.phantom.disease import TEMPORAL, Atrophy, Disease
from anatcl_jax.cohorts.phantom.drawing import MEASURES

MEASUREMENT_ERROR = 0.01                  # sd of the logarithm, each region and measure


@dataclasses.dataclass(frozen=True)
class Person:
  """Age in years; whether male; severity, 0 for the healthy; head size in standard deviations."""

  age: float
  male: bool
  severity: float
  head: float


def sample_person(rng: np.random.Generator, youngest: float, oldest: float,
                  disease: Disease) -> Person:
  """Draws who a subject is: always the same draws, so that one setting changes one thing."""
  place = rng.random()
  male = rng.random() < 0.5
  ill, severity = rng.random() < disease.share(place), 1 - rng.random()
  return Person(youngest + (oldest - youngest) * place, male, severity if ill else 0.0,
                float(np.clip(rng.standard_normal(), -2.5, 2.5)))


def homologous(correlation: float) -> np.ndarray:
  """Factor [2, 2] of the correlation between the same regions of both hemispheres."""
  return np.linalg.cholesky([[1.0, correlation], [correlation, 1.0]])


def expected_thickness(age: float, male: bool) -> np.ndarray:
  """Mean of the simple population's healthy people of this age and sex: [2, R], mm."""
  return np.tile(THICKNESS - SLOPES * (age - REFERENCE_AGE) + (-0.01 if male else 0.01), (2, 1))


def mean_head_size(male: bool) -> float:
  """Linear factor, mean of the simple population's men or women."""
  return 1.02 if male else 0.97


def measurement_error(rng: np.random.Generator) -> np.ndarray:
  """Draws what measuring adds to log morphometry: [2, R, M]."""
  return MEASUREMENT_ERROR * rng.standard_normal((2, len(NAMES), len(MEASURES)))


def sample_anatomy(rng: np.random.Generator, youngest: float, oldest: float,
                   disease: Disease, atrophy: Atrophy = TEMPORAL) -> Anatomy:
  """Draws a subject of the simple population: figures in order of size, of no cohort."""
  shared, person = template(), sample_person(rng, youngest, oldest, disease)
  both = homologous(0.7)
  thickness_deviation, expansion = (
      both @ rng.standard_normal((2, len(NAMES))) @ shared.cholesky.T for _ in range(2))
  thickness = (THICKNESS * (1 + 0.04 * thickness_deviation) - SLOPES * (person.age - REFERENCE_AGE)
               - atrophy.thickness * person.severity + (-0.01 if person.male else 0.01))
  folds, deep = sample_shape(rng, person, atrophy)
  return Anatomy(person.age, 'M' if person.male else 'F',
                 mean_head_size(person.male) + 0.025 * person.head, person.severity,
                 np.clip(thickness, 1.55, 3.9), 0.08 * expansion, folds, deep)


def sample_shape(rng: np.random.Generator, person: Person,
                 atrophy: Atrophy) -> tuple[np.ndarray, np.ndarray]:
  """Draws the folds [2, K] and the linear sizes of the deep structures [2, D]."""
  shared, both = template(), homologous(0.7)
  folds = (shared.folds + 0.35 * both @ rng.standard_normal((2, len(shared.folds)))) / 1.06
  loss_age = np.array([row[2] for row in DEEP.values()])
  deep = (1 + 0.04 * both @ rng.standard_normal((2, len(DEEP)))
          - loss_age * (person.age - REFERENCE_AGE) - atrophy.deep * person.severity)
  return folds, deep
