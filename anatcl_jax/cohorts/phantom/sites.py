"""The digital cohort's sites: their scanners, their bias of morphometry, who is scanned where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from anatcl_jax.cohorts.phantom.anatomy import NAMES
from anatcl_jax.cohorts.phantom.drawing import MEASURES, Site
from anatcl_jax.cohorts.phantom.population import fitted

_SCANNER, _BIAS = 4, 5                    # streams of random numbers, apart from those of subjects
_PATIENTS_WEIGHT = 4.0                    # of a site that patients go to, where site confounds


@dataclasses.dataclass(frozen=True)
class Bias:
  """What a site adds to morphometry, as ComBat's model has it, on logarithms.

  location [2, R, M] is added, scale [2, R, M] multiplies what a person differs from the mean of
  people of this age and sex; M as drawing.MEASURES.
  """

  location: np.ndarray
  scale: np.ndarray

  def apply(self, measured: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """measured and the mean of healthy people of this age and sex, [2, R, M] each: [2, R, M]."""
    difference = np.log(measured / expected)
    return expected * np.exp(self.location + self.scale * difference)


def scanner(seed: int, site: int) -> Site:
  """The scanner of site `site` (from 0) of the cohort with this seed."""
  rng = np.random.default_rng([seed, site, _SCANNER])
  return Site(gain=1 + 0.06 * rng.uniform(-1, 1), smoothing=rng.uniform(2, 6),
              noise=rng.uniform(0.01, 0.04))


def bias(seed: int, site: int, strength: float) -> Bias:
  """The bias of site `site` (from 0); strength 1 as five OpenNeuro data sets differ, 0 for none.

  Of thickness and of area, a part that all regions share and one of each region's own; that of
  volume is the sum of both, since volume is their product.
  """
  rng, scalars = np.random.default_rng([seed, site, _BIAS]), fitted().scalars
  location, scale = np.zeros((2, 2, len(NAMES), 2))
  for measure, name in enumerate(('thickness', 'area')):
    location[..., measure], scale[..., measure] = (
        strength * (scalars[f'site_{name}_{kind}'] * rng.standard_normal()
                    + scalars[f'site_{name}_{kind}_region'] * rng.standard_normal((2, len(NAMES))))
        for kind in ('location', 'scale'))
  assert MEASURES == ('thickness', 'area', 'volume')
  return Bias(*(np.concatenate([x, combine(x, -1, keepdims=True)], -1)
                for x, combine in ((location, np.sum), (np.exp(scale), np.mean))))


@dataclasses.dataclass(frozen=True)
class Assignment:
  """Who is scanned where: of `sites`, the last `held_out` are for tests alone.

  A person stays on one side of that. With `another`, each session is on another scanner than the
  one before; with `confounded`, patients go to the first, third, ... sites more often.
  """

  sites: int
  held_out: int = 0
  another: bool = False
  confounded: bool = False

  def is_held_out(self, site: int) -> bool:
    """Whether a site (from 0) is for tests alone."""
    return site >= self.sites - self.held_out

  def sites_of(self, patient: bool, sessions: int,
               stream: Callable[[int], np.random.Generator]) -> list[int]:
    """Sites (from 0) of a subject's sessions, by its streams of random numbers, one a session."""
    chosen: list[int] = []
    for session in range(sessions):
      there = [site for site in range(self.sites)
               if not chosen or (self.is_held_out(site) == self.is_held_out(chosen[0])
                                 and not (self.another and site == chosen[-1]))]
      place = stream(session).random()
      if self.confounded and patient:
        weights = np.array([_PATIENTS_WEIGHT if site % 2 == 0 else 1.0 for site in there])
        chosen.append(there[int((np.cumsum(weights) / weights.sum() <= place).sum())])
      else:
        chosen.append(there[int(place * len(there))])
    return chosen
