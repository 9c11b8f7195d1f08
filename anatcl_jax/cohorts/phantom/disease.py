"""The digital cohort's diseases: where each thins the cortex, and who falls ill."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from anatcl_jax.cohorts.phantom.anatomy import DEEP, LOSSES, NAMES


@dataclasses.dataclass(frozen=True)
class Atrophy:
  """What severity 1 takes: thickness [2, R] mm, lh and rh; deep [2, D] share of the half-axes."""

  thickness: np.ndarray
  deep: np.ndarray


@dataclasses.dataclass(frozen=True)
class Disease:
  """Share of subjects who are ill in the middle of the ages.

  The odds of the oldest are `age_odds` times those of the youngest.
  """

  patients: float = 0.0
  age_odds: float = 1.0

  def share(self, place: float) -> float:
    """Probability of disease at `place`, 0 for the youngest and 1 for the oldest."""
    if self.age_odds == 1 or self.patients in (0, 1):
      return self.patients
    odds = self.patients / (1 - self.patients) * self.age_odds**(place - 0.5)
    return odds / (1 + odds)


def _atrophy(losses: Mapping[str, float], deep: Mapping[str, float], left: float = 1.0) -> Atrophy:
  """The loss of named regions; lh loses `left` times as much as rh, at one mean of the two."""
  sides = 2 * np.array([left, 1.0]) / (1 + left)
  return Atrophy(np.outer(sides, [losses.get(name, 0.0) for name in NAMES]),
                 np.outer(sides, [deep.get(name, 0.0) for name in DEEP]))


_TEMPORAL = dict(zip(NAMES, LOSSES))
_SHRINKING = {name: row[3] for name, row in DEEP.items()}

# Patterns as the subtypes of neurodegeneration that atrophy tells apart: medial temporal; parietal
# and occipital with spared hippocampus; frontal and insular; left temporal pole and language. Each
# takes as much of the mean thickness as the first, so that the mean says nothing of the subtype.
_PATTERNS = {
    'temporal': _atrophy(_TEMPORAL, _SHRINKING),
    'parietal': _atrophy(
        {'inferiorparietal': 0.40, 'superiorparietal': 0.40, 'precuneus': 0.40,
         'supramarginal': 0.25, 'posteriorcingulate': 0.30, 'isthmuscingulate': 0.25,
         'lateraloccipital': 0.25, 'cuneus': 0.15, 'bankssts': 0.25}, {'thalamus': 0.05}),
    'frontal': _atrophy(
        {'superiorfrontal': 0.30, 'rostralmiddlefrontal': 0.30, 'caudalmiddlefrontal': 0.25,
         'lateralorbitofrontal': 0.30, 'medialorbitofrontal': 0.30, 'parsorbitalis': 0.25,
         'rostralanteriorcingulate': 0.35, 'caudalanteriorcingulate': 0.25, 'insula': 0.25,
         'frontalpole': 0.30}, {'putamen': 0.08}),
    'left': _atrophy(
        {'temporalpole': 0.50, 'entorhinal': 0.35, 'inferiortemporal': 0.35, 'fusiform': 0.30,
         'middletemporal': 0.30, 'superiortemporal': 0.25, 'parahippocampal': 0.25,
         'parsopercularis': 0.15, 'insula': 0.20}, {'hippocampus': 0.12}, left=4.0),
}
_MEAN_LOSS = _PATTERNS['temporal'].thickness.mean()
SUBTYPES = {name: dataclasses.replace(
    pattern, thickness=pattern.thickness * (_MEAN_LOSS / pattern.thickness.mean()))
    for name, pattern in _PATTERNS.items()}
TEMPORAL = SUBTYPES['temporal']
