"""Morphometry of tables, for scans whose labels or features come from tables too."""

from __future__ import annotations

import dataclasses
import glob
import pathlib

import numpy as np
import pandas

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts.cohort import find_row
from anatcl_jax.cohorts.morphometry import Morphometry
from anatcl_jax.cohorts.phenotypes import PRESETS
from anatcl_jax.cohorts.read_morphometry import read_tables
from anatcl_jax.cohorts.row_names import RowNames
from anatcl_jax.errors import UserError, check_name, listed
from anatcl_jax.evaluation.cohort import Cohort


def paths_of(text: str, atlas: str) -> list[pathlib.Path]:
  """Comma-separated tables, SUBJECTS_DIRs and globs of them.

  Raises:
    UserError: one is not there, or no such atlas.
  """
  check_name(atlas, atlases.ATLASES, 'atlas')
  found = []
  for name in filter(None, (part.strip() for part in text.split(','))):
    own = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
    if missing := [path for path in own or [name] if not pathlib.Path(path).exists()]:
      raise UserError(f'config.morphometry: {missing[0]}: no such table or folder (seen from '
                      f'{pathlib.Path.cwd()})')
    found += map(pathlib.Path, own)
  return found


def read(paths: list[pathlib.Path], atlas: str, cohort: Cohort, loose: bool) -> Morphometry:
  """Morphometry of a cohort's scans, read as `prepare bids --morphometry` reads it."""
  return read_tables(paths, atlas, RowNames(tuple(cohort.keys()), None, PRESETS['bids'], loose))


def scans(measured: Morphometry) -> pandas.DataFrame:
  """Whom the tables hold, as tables of features name them."""
  return pandas.DataFrame(measured.scans, columns=['participant_id', 'session'])


def joined(cohort: Cohort, measured: Morphometry) -> tuple[Cohort, np.ndarray]:
  """The scans that have morphometry, with it, and which of the cohort's they are.

  Scans without a row, or with values that can't be right, are left out and said: all
  representations are of the same people. A region that is missing is imputed by the fits.

  Raises:
    UserError: nobody has any.
  """
  row_of = {key: row for row, key in enumerate(measured.scans)}
  rows, why = [], {}
  for key, label in zip(cohort.keys(), cohort.labels()):
    row = find_row(row_of, key)
    if row is None:
      why[label] = measured.absent.get(key, 'has no row there')
    elif problem := measured.outliers.get(measured.scans[row]) or measured.absent.get(
        measured.scans[row]):
      why[label], row = problem, None
    rows.append(row)
  kept = np.array([place for place, row in enumerate(rows) if row is not None], int)
  if not len(kept):
    others = [*measured.unmatched, *(key[0] for key in measured.scans)]
    raise UserError(f'no scan of {cohort.source}, such as {cohort.labels()[0]}, is in '
                    f'{measured.source}, which has {listed(others, 2)}; if names differ in '
                    'punctuation alone, --config.loose_names=True')
  values = measured.values[[rows[place] for place in kept]]
  notes = []
  if why:
    told = [f'{label} {reason}' for label, reason in why.items()]
    notes.append(f'{len(why)} scans have no morphometry in {measured.source} and are left out: '
                 f'{listed(told, 3)}')
  lacking = np.isnan(values).any((1, 2))
  if lacking.any():
    notes.append(f'{int(lacking.sum())} scans lack a region in {measured.source}: the mean of the '
                 'fitted side stands for it')
  found = dataclasses.replace(cohort.select(kept), morphometry=values, regions=measured.regions,
                              measures=measured.measures)
  return found.noted(*notes), kept
