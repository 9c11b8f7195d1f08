"""Harmonisation of a task: by which column, what is kept, and what ComBat needs of each scan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, check_name, listed
from anatcl_jax.evaluation.combat import REFUSE, UNKNOWN, UNSEEN
from anatcl_jax.evaluation.splits import Split
from anatcl_jax.evaluation.target import Target
from anatcl_jax.evaluation.tasks import CLASSIFICATION

_USUAL = ('age', 'sex')                  # what `auto` keeps, as far as a table has it
_PROXY = 0.99                            # |r| with a number to predict, from which a column is it


@dataclasses.dataclass(frozen=True)
class Harmonization:
  """By which column of the labels, and what is kept."""

  column: str
  keep: tuple[str, ...] = ()
  unseen: str = REFUSE

  @property
  def columns(self) -> tuple[str, ...]:
    return (self.column, *self.keep)


def asked(column: str, keep: str, unseen: str) -> Harmonization | None:
  """What config.harmonize, keep and unseen_sites ask for; None where nothing is harmonised.

  Raises:
    UserError: no such way with unseen sites, or the site is to be removed and kept.
  """
  check_name(unseen, UNSEEN, 'unseen_sites')
  if not column:
    return None
  names = tuple(dict.fromkeys(filter(None, (name.strip() for name in keep.split(',')))))
  if column in names:
    raise UserError(f'config.keep names {column}, which config.harmonize removes')
  return Harmonization(column, () if names == ('none',) else names, unseen)


def in_table(wanted: Harmonization, table: pandas.DataFrame) -> Harmonization:
  """The same with the columns of a table by their names there, and `auto` as age and sex.

  Raises:
    UserError: a column is not there, or there are not two sites.
  """
  by_name = {str(name).lower(): name for name in table.columns}
  if wanted.keep == ('auto',):
    keep = tuple(by_name[name] for name in _USUAL
                 if name in by_name and name != wanted.column.lower())
  else:
    for name in wanted.keep:
      check_name(name.lower(), tuple(by_name), 'column of config.keep')
    keep = tuple(by_name[name.lower()] for name in wanted.keep)
  check_name(wanted.column.lower(), tuple(by_name), 'column of config.harmonize')
  column = by_name[wanted.column.lower()]
  if (count := tables.categories(table[column]).nunique()) < 2:
    raise UserError(f'config.harmonize: column {column} holds {count} value{"" if count else "s"}; '
                    'harmonisation is between two sites or more')
  return Harmonization(column, keep, wanted.unseen)


@dataclasses.dataclass(frozen=True)
class Coding:
  """How a table's columns are the numbers that ComBat takes, the same of any table.

  `keep` has each kept column with its values where it is text, of which the first is 0 in all of
  its columns; without, where it is a number.
  """

  column: str
  sites: tuple[str, ...]
  keep: tuple[tuple[str, tuple[str, ...]], ...] = ()

  @staticmethod
  def of(table: pandas.DataFrame, column: str, keep: tuple[str, ...]) -> Coding:
    """That of the sites and values that a table holds."""
    sites = tuple(sorted(set(tables.categories(table[column]).dropna())))
    return Coding(column, sites, tuple((name, _levels(table[name])) for name in keep))

  @property
  def kept(self) -> int:
    """How many columns the kept covariates are."""
    return sum(max(len(levels) - 1, 0) if levels else 1 for _, levels in self.keep)

  def numbers(self, table: pandas.DataFrame,
              people: np.ndarray | None = None) -> tuple[np.ndarray, list[str]]:
    """Codes of site and of `people`, and the kept covariates, [n, 2 + kept], and notes.

    A site that is not among these is UNKNOWN; what a kept column can't tell is NaN, for which
    ComBat takes the mean of those fitted on, and is said.
    """
    text = tables.categories(table[self.column])
    code_of = {site: float(code) for code, site in enumerate(self.sites)}
    codes = text.map(code_of).fillna(UNKNOWN).to_numpy(float)
    values = [_coded(table[name], levels) for name, levels in self.keep]
    covariates = np.concatenate([np.zeros((len(table), 0)), *values], 1)
    lacking = int(np.isnan(covariates).any(1).sum())
    notes = [f'{lacking} scans whose {listed([name for name, _ in self.keep])} is not known, or is '
             "none of the fitted side's, are harmonised with that side's mean of it"
             ] if lacking else []
    people = np.zeros(len(table)) if people is None else people
    return np.column_stack([codes, people, covariates]), notes


def coded(table: pandas.DataFrame, names: tuple[str, ...]) -> np.ndarray:
  """Columns of a table as numbers, [n, C]; of text, 0 and 1 for each value but the first.

  NaN is missing.
  """
  return np.concatenate([np.zeros((len(table), 0)),
                         *(_coded(table[name], _levels(table[name])) for name in names)], 1)


def _levels(column: pandas.Series) -> tuple[str, ...]:
  """The values of a column of text; none of numbers."""
  text = tables.categories(column).dropna()
  numbers = pandas.to_numeric(text, errors='coerce')
  return tuple(sorted(set(text))) if numbers.isna().any() else ()


def _coded(column: pandas.Series, levels: tuple[str, ...]) -> np.ndarray:
  text = tables.categories(column)
  if not levels:
    return pandas.to_numeric(text, errors='coerce').to_numpy(float)[:, None]
  missing = ~text.isin(levels).to_numpy()
  columns = [np.where(missing, np.nan, text == level) for level in levels[1:]]
  return np.stack(columns, 1) if columns else np.zeros((len(text), 0))


def columns_of(wanted: Harmonization, target: Target, splits: list[Split],
               table: pandas.DataFrame) -> tuple[Coding, np.ndarray, list[str]]:
  """What ComBat needs of each scan of a target beside its features, [m, 2 + kept], and notes.

  A column that is, or tells, what the task predicts is never kept: harmonising a scan would need
  it, and features would come back with the truth in them.

  Raises:
    UserError: why the target can't be harmonised in these splits.
  """
  name, own = target.task.name, table.iloc[target.rows]
  keep = [column for column in wanted.keep if not _tells(column, target, own)]
  notes = [f'{name}: harmonised without keeping {listed(sorted(set(wanted.keep) - set(keep)))}, '
           'which is or tells what is predicted'] if len(keep) < len(wanted.keep) else []
  coding = Coding.of(own, wanted.column, tuple(keep))
  _, people = np.unique(target.groups, return_inverse=True)
  numbers, lacking = coding.numbers(own, people)
  notes += [f'{name}: {note}' for note in lacking]
  codes = numbers[:, 0].astype(int)
  passed: set[str] = set()
  for fit, test in splits:
    fitted = set(codes[fit]) - {UNKNOWN}
    if len(fitted) < 2:
      raise UserError(f'{name}: not harmonised: a fitted side has a single {wanted.column}')
    passed |= {coding.sites[code] if code != UNKNOWN else 'unknown'
               for code in set(codes[test]) - fitted}
    _check_told_apart(name, wanted.column, codes[fit], numbers[fit, 2:])
  if passed and wanted.unseen == REFUSE:
    raise UserError(f'{name}: not harmonised: nobody of {wanted.column} {listed(sorted(passed))} '
                    'is on the fitted side of some split; --config.unseen_sites=pass leaves those '
                    'scans as they are')
  if passed:
    notes.append(f'{name}: scans of {wanted.column} {listed(sorted(passed))} are not harmonised '
                 'where nobody of theirs is on the fitted side')
  return coding, numbers, notes


def _tells(column: str, target: Target, table: pandas.DataFrame) -> bool:
  """Whether a column is a task's own, or as good as it: its classes, or its numbers by a line."""
  if column.lower() == target.task.column.lower():
    return True
  text = tables.categories(table[column])
  known = text.notna().to_numpy()
  if target.task.kind == CLASSIFICATION:
    held = pandas.DataFrame({'value': text[known], 'class': target.values[known]})
    by_value = held.groupby('value')['class'].nunique()
    return 2 * len(by_value) <= len(held) and bool((by_value == 1).all()) and (
        held['class'].nunique() > 1)
  numbers = pandas.to_numeric(text, errors='coerce').to_numpy(float)
  known = np.isfinite(numbers)
  if known.sum() < 3 or not np.ptp(numbers[known]) or not np.ptp(target.values[known]):
    return False
  return abs(np.corrcoef(numbers[known], target.values[known])[0, 1]) > _PROXY


def _check_told_apart(name: str, column: str, codes: np.ndarray, covariates: np.ndarray) -> None:
  """Raises UserError where kept covariates, or a sum of some, are the same thing as sites."""
  known = (codes != UNKNOWN) & ~np.isnan(covariates).any(1)
  covariates = covariates[known] - covariates[known].mean(0)
  covariates = covariates / np.maximum(covariates.std(0), 1e-12)
  one_hot = (codes[known][:, None] == np.unique(codes[known])).astype(float)
  rank = np.linalg.matrix_rank(np.concatenate([one_hot, covariates], 1))
  if rank < one_hot.shape[1] + (np.linalg.matrix_rank(covariates) if covariates.size else 0):
    raise UserError(f'{name}: not harmonised: on a fitted side what config.keep names can\'t be '
                    f'told apart from {column}')
