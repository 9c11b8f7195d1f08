"""How real people's cortex varies, as fitted on public cohorts, and subjects drawn like them.

The coefficients are the package's `population.json`, which `anatcl-jax study population` writes and
a test fits again where the cohorts are at hand.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from anatcl_jax.cohorts import atlas
from anatcl_jax.cohorts.phantom.anatomy import Anatomy
from anatcl_jax.cohorts.phantom.disease import TEMPORAL, Atrophy, Disease
from anatcl_jax.cohorts.phantom.drawing import MEASURES
from anatcl_jax.cohorts.phantom.people import homologous, sample_person, sample_shape

FILE = 'population.json'
_CUTS = (1.0, 5.0)                        # mm, of thickness: what a ribbon can be drawn of
# Growth of a parcel's area that its radius is asked for gives this share of it: sulci keep their
# depth. The folds that differ between people give a region this spread of its own (log area).
_RESPONSE, _FOLDING = 0.56, 0.04
_MOST_GROWTH = 0.12                       # share of the radius; leaves the hemispheres apart


@dataclasses.dataclass(frozen=True)
class Population:
  """Coefficients of N people's morphometry; R regions, lh then rh, K shared factors.

  Thickness (mm): mean [R] at `centre` years, halfway between the sexes; slope [R] a decade there;
  bend [R] a decade squared; sex [R] men less women; loadings [R, K] and unique [R] (sd) of what is
  left, of which unique holds the error of measuring too. area_sd [R]: of log area beyond that of
  the whole cortex. error [R, 2]: sd of measuring log thickness and log area. youngest, oldest:
  years that were fitted. scalars: of head size, whole area and sites, each explained in the file.
  """

  centre: float
  youngest: float
  oldest: float
  mean: np.ndarray
  slope: np.ndarray
  bend: np.ndarray
  sex: np.ndarray
  loadings: np.ndarray
  unique: np.ndarray
  area_sd: np.ndarray
  error: np.ndarray
  scalars: Mapping[str, float]

  def expected_thickness(self, age: float, male: bool) -> np.ndarray:
    """Mean of healthy people of this age and sex: [R], mm; beyond fitted ages its tangent."""
    decades = (age - self.centre) / 10
    within = (np.clip(age, self.youngest, self.oldest) - self.centre) / 10
    return (self.mean + self.slope * decades + self.sex * (male - 0.5)
            + self.bend * within * (2 * decades - within))

  def covariance(self) -> np.ndarray:
    """Of the measured thickness of people of one age and sex: [R, R], mm^2."""
    return self.loadings @ self.loadings.T + np.diag(self.unique**2)

  def as_json(self) -> dict[str, Any]:
    """What `of_json` reads: a list of numbers a region."""
    columns = np.column_stack([self.mean, self.slope, self.bend, self.sex, self.unique,
                               self.area_sd, self.error, self.loadings])
    return {'ages': [self.centre, self.youngest, self.oldest], 'scalars': dict(self.scalars),
            'columns': [*_COLUMNS, *(f'factor{k}' for k in range(self.loadings.shape[1]))],
            'regions': {region: [float(f'{value:.4g}') for value in row]
                        for region, row in zip(atlas.regions('desikan'), columns)}}


_COLUMNS = ('mean', 'slope', 'bend', 'sex', 'unique', 'area_sd', 'error_thickness', 'error_area')


def of_json(content: dict[str, Any]) -> Population:
  """The population of `as_json`."""
  table = np.array([content['regions'][region] for region in atlas.regions('desikan')])
  mean, slope, bend, sex, unique, area_sd = table[:, :6].T
  return Population(*content['ages'], mean, slope, bend, sex, table[:, 8:], unique, area_sd,
                    table[:, 6:8], content['scalars'])


@functools.lru_cache(maxsize=1)
def fitted() -> Population:
  """The population of the package's coefficients."""
  return of_json(json.loads(importlib.resources.files(__package__).joinpath(FILE).read_text()))


def sample_anatomy(rng: np.random.Generator, youngest: float, oldest: float,
                   disease: Disease, atrophy: Atrophy = TEMPORAL) -> Anatomy:
  """Draws a subject of the fitted population: as `people.sample_anatomy`, with real variation."""
  fitted_on, person = fitted(), sample_person(rng, youngest, oldest, disease)
  scalars, sex = fitted_on.scalars, person.male - 0.5
  head = scalars['head_sd'] * person.head

  # What is measured has the fitted variance; the truth is without the error of measuring.
  true = np.sqrt(np.maximum(fitted_on.unique**2 - (fitted_on.mean * fitted_on.error[:, 0])**2, 0))
  thickness = (fitted_on.loadings @ rng.standard_normal(fitted_on.loadings.shape[1])
               + true * rng.standard_normal(len(true))).reshape(2, -1)
  thickness += expected_thickness(person.age, person.male) - atrophy.thickness * person.severity

  # The drawn surface grows with the square of head size; real areas grow less.
  whole = (scalars['area_head'] * head + scalars['area_sd'] * rng.standard_normal()
           + scalars['area_sex'] * sex
           + scalars['area_age'] * (person.age - fitted_on.centre) / 10
           - 2 * (head + scalars['head_sex'] * sex))
  spread = np.sqrt(np.maximum(
      fitted_on.area_sd**2 - fitted_on.error[:, 1]**2 - _FOLDING**2, 0)).reshape(2, -1)
  own = homologous(scalars['area_homologous']) @ rng.standard_normal(spread.shape)
  folds, deep = sample_shape(rng, person, atrophy)
  return Anatomy(person.age, 'M' if person.male else 'F',
                 float(mean_head_size(person.male) * np.exp(head)), person.severity,
                 np.clip(thickness, *_CUTS), (whole + spread * own) / _RESPONSE, folds, deep,
                 _MOST_GROWTH)


def expected_thickness(age: float, male: bool) -> np.ndarray:
  """Mean of healthy people of this age and sex: [2, R], mm."""
  return fitted().expected_thickness(age, male).reshape(2, -1)


def mean_head_size(male: bool) -> float:
  """Linear factor, mean of men or women."""
  return float(np.exp(fitted().scalars['head_sex'] * (male - 0.5)))


def measurement_error(rng: np.random.Generator) -> np.ndarray:
  """Draws what measuring adds to log morphometry: [2, R, M]; volume has both others' errors."""
  error = fitted().error.reshape(2, -1, 2)
  drawn = error * rng.standard_normal((*error.shape[:2], len(MEASURES)))[..., :2]
  return np.concatenate([drawn, drawn.sum(-1, keepdims=True)], -1)
