"""Which rows stand beside an encoder: their order, and which comparisons are adjusted together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas

from anatcl_jax.evaluation import statistics
from anatcl_jax.evaluation.estimators import MEAN
from anatcl_jax.evaluation.results import (
  BESIDE,
  COVARIATES,
  FINETUNED,
  HARMONISED,
  MORPHOMETRY,
  SUPERVISED,
  UNTRAINED,
  plain,
)

# Families of comparisons: the representations that were named and their baselines, as they are,
# and a question of its own for each kind of row that is added to them.
MAIN, ADDED = 'main', 'added to covariates'
HARMONISATION, MORE_BASELINES = 'harmonisation', 'further baselines'
FAMILIES = (MAIN, MORE_BASELINES, ADDED, HARMONISATION, '')     # the last of none

_ORDER = ('', SUPERVISED, FINETUNED, UNTRAINED, MORPHOMETRY, COVARIATES, MEAN)


def in_order(names: Iterable[str]) -> list[str]:
  """Names as a reader looks for them: encoders, networks of the task, baselines, the mean last.

  What is made of a row stands right under it, harmonised first. Of a kind, rows stay as they came.
  """
  names = list(dict.fromkeys(names))
  parents = list(dict.fromkeys(plain(name) for name in names))

  def place(name: str) -> tuple[int, int, bool, bool]:
    parent = plain(name)
    kind = parent.split()[0] if parent.split()[0] in (SUPERVISED, FINETUNED, UNTRAINED) else parent
    return (_ORDER.index(kind) if kind in _ORDER else 0, parents.index(parent),
            name.startswith(BESIDE), name.endswith(HARMONISED))

  return sorted(names, key=place)


def family(features: str, against: str) -> str:
  """The family of a comparison; '' of one with the mean, which is no question of its own."""
  if against == MEAN:
    return ''
  if features.startswith(BESIDE):
    return ADDED
  if features.endswith(HARMONISED):
    return HARMONISATION
  further = against.split()[0] in (SUPERVISED, FINETUNED) or _pooled_otherwise(against)
  return MORE_BASELINES if further else MAIN


def adjusted(comparisons: pandas.DataFrame) -> pandas.DataFrame:
  """The table with `family`, and `p_holm` by Holm's method within each family."""
  families = [family(*pair) for pair in zip(comparisons['features'], comparisons['against'])]
  table = comparisons.assign(family=families, p_holm=np.nan)
  for name in set(families) - {''}:
    own = table['family'] == name
    table.loc[own, 'p_holm'] = statistics.holm(table.loc[own, 'p'].to_numpy(float))
  return table


def _pooled_otherwise(name: str) -> bool:
  """Whether a row is `untrained (covariance)`, which config.untrained_pool adds."""
  return name.startswith(UNTRAINED) and name.endswith(')')
