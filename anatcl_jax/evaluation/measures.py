"""What a scan says of age without any encoder: mean cortical thickness and gray-matter volume."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.evaluation.cohort import Cohort

# Columns of tables, as `tables.plain` has them; several are of two hemispheres.
_THICKNESS = (('meanthickness',), ('lhmeanthicknessthickness', 'rhmeanthicknessthickness'),
              ('lhmeanthickness', 'rhmeanthickness'))
_VOLUME = (('gmv',), ('totalgrayvol',), ('graymattervolume',), ('totalgraymattervolume',))
_HEAD = ('tiv', 'etiv', 'estimatedtotalintracranialvol')
_UNITS = {'totalgrayvol': 'mm3'}


@dataclasses.dataclass(frozen=True)
class Measure:
  """A number a scan, NaN where it is not known, and columns it is adjusted for beside others."""

  name: str
  unit: str
  values: np.ndarray                   # [n]
  adjusted: tuple[str, ...] = ()       # head size, of a volume


def of_cohort(cohort: Cohort) -> list[Measure]:
  """Mean cortical thickness and gray-matter volume, as far as the labels or regions tell them.

  A column of the table counts first. Of regions, thickness is weighted by their areas where these
  are there (FreeSurfer's MeanThickness), and volume is the cortex's alone.
  """
  by_name = {tables.plain(str(name)): name for name in reversed(cohort.table.columns)}
  head = tuple(by_name[name] for name in _HEAD if name in by_name)[:1]
  found = []
  if (known := _column(cohort.table, by_name, _THICKNESS, np.mean)) is not None:
    found.append(Measure('mean cortical thickness', 'mm', known[0]))
  elif 'thickness' in cohort.measures:
    thickness = _regions(cohort, 'thickness')
    area = _regions(cohort, 'area') if 'area' in cohort.measures else np.ones_like(thickness)
    with np.errstate(invalid='ignore'):
      found.append(Measure('mean cortical thickness', 'mm',
                           (thickness * area).sum(1) / area.sum(1)))
  if (known := _column(cohort.table, by_name, _VOLUME, np.sum)) is not None:
    found.append(Measure('gray-matter volume', _UNITS.get(known[1], ''), known[0], head))
  elif 'volume' in cohort.measures:
    found.append(Measure('cortical gray-matter volume', 'mm3',
                         _regions(cohort, 'volume').sum(1), head))
  return [one for one in found if np.isfinite(one.values).any()]


def _regions(cohort: Cohort, measure: str) -> np.ndarray:
  return cohort.morphometry[:, :, cohort.measures.index(measure)].astype(np.float64)


def _column(table: pandas.DataFrame, by_name: dict[str, str], known: tuple[tuple[str, ...], ...],
            together) -> tuple[np.ndarray, str] | None:
  """The first columns that are there, of two hemispheres together, and what they are called."""
  for names in known:
    if all(name in by_name for name in names):
      values = [pandas.to_numeric(tables.categories(table[by_name[name]]), errors='coerce')
                for name in names]
      return together(np.stack([one.to_numpy(float) for one in values]), 0), names[0]
  return None
