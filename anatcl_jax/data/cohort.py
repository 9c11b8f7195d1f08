"""A cohort as read from disk, whatever its layout: scans, their labels, and what does not match."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
import pandas

from anatcl_jax.data import tables
from anatcl_jax.data.volumes import VolumeSource
from anatcl_jax.errors import UserError, listed


@dataclasses.dataclass(frozen=True)
class Scan:
  """One volume on disk: sub-01, ses-2 ('' where its name holds no session) and where it lies."""

  participant_id: str
  session: str
  volume: VolumeSource

  @property
  def key(self) -> tuple[str, str]:
    return self.participant_id, self.session

  @property
  def label(self) -> str:
    return tables.joined_identifier(*self.key)


@dataclasses.dataclass(frozen=True)
class Problem:
  """Why a scan can't be used: `why` reads on from the name of its subject.

  `missing` says that it lacks only age or morphometry: it could still take part in other terms.
  """

  subject: str
  why: str
  missing: bool = False

  def __str__(self) -> str:
    return f'{self.subject} {self.why}'


@dataclasses.dataclass(frozen=True)
class Cohort:
  """Scans with one row of labels each: row i of `table` and `morphometry` belongs to scan i."""

  scans: tuple[Scan, ...]
  table: pandas.DataFrame          # participant_id, session, age, ...
  morphometry: np.ndarray          # float32 [scan, region, measure]
  atlas: str
  measures: tuple[str, ...]
  sources: dict[str, str]          # what it was read from, for the record
  synthetic: bool = False
  problems: tuple[Problem, ...] = ()

  def select(self, keep: Callable[[Scan], bool]) -> Cohort:
    """The cohort with only the scans for which `keep` holds."""
    rows = [i for i, scan in enumerate(self.scans) if keep(scan)]
    return dataclasses.replace(
        self, scans=tuple(self.scans[i] for i in rows),
        table=self.table.iloc[rows].reset_index(drop=True), morphometry=self.morphometry[rows])


def settle(problems: list[Problem], scans: int, leave_out_bad: bool) -> set[str]:
  """Reports problems by name; the labels of the scans to leave out.

  Raises:
    UserError: there are problems and `leave_out_bad` is not set, or no scan is left.
  """
  bad = dict.fromkeys(problem.subject for problem in problems)
  if len(problems) > 1 or (problems and leave_out_bad):
    for problem in problems:
      print(f'{"left out" if leave_out_bad else "problem"}: {problem}', file=sys.stderr)
  if problems and not leave_out_bad:
    first = str(problems[0]) if len(problems) == 1 else listed([str(p) for p in problems], 3)
    raise UserError(f'{len(bad)} of {scans} scans can\'t be used: {first}. '
                    'Mend them, or pass --leave-out-bad')
  if len(bad) >= scans:
    raise UserError('no scan is left')
  return set(bad)
