"""What kernels of one session know of age, sex and site: a regression with each person left out.

Shapes: N people, R regions, M measures.
"""

from __future__ import annotations

import dataclasses
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from anatcl_jax.errors import UserError, check_name

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  from anatcl_jax.cohorts.row_names import RowNames

HEADER = """Statistics are fitted on all of them{left_out}.

- stated: positives that are stated, a share of the others (docs/losses.md)
- positives: effective ones, exp(entropy) of a row of weights, at most {most}
- age, r: between the age and the mean of the others' ages by a row's weights, the person left out
- spread: the standard deviation of these means over that of ages, in percent. Near 0 all rows say
  the mean of the others, which is lower the older the person left out: r may then be -1 and says
  nothing
- site, sex: the share of the weight on people of the own; of equal weights {chance}

Made by `python -m anatcl_jax.studies kernels --one-session` from
{source}.

| without | descriptor | normalisation | stated | positives | age, r | spread, % | site | sex |
|---|---|---|---|---|---|---|---|---|
"""

# What a stated sharpness and morphometry without columns are tried on: beside the published
# readings of g, which then differ little, the one that brings all regions to one scale.
_NORMALIZATIONS = ('minmax_region', 'zscore')


@dataclasses.dataclass(frozen=True)
class Kernel:
  """What makes the weights of a row; `share` 0 is the sharpness that the kernel has."""

  descriptor: str
  normalization: str
  share: float = 0.0
  without: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """What the rows of one kernel know; NaN where the people have no such column, or all one."""

  kernel: Kernel
  effective_positives: float
  age: float            # correlation
  spread: float         # of predicted ages over that of ages
  site: float           # mean share of the weight on the own site
  sex: float


def choices(shares: Sequence[float], without: Sequence[tuple[str, ...]], measures: int
            ) -> list[Kernel]:
  """Every kernel as it is, and those of a stated sharpness or without columns on two readings.

  Of these not `local` on one of the `measures`, whose cosines are signs alone.
  """
  from anatcl_jax import kernels
  every = [Kernel(descriptor, how) for descriptor in kernels.DESCRIPTORS
           for how in kernels.NORMALIZATIONS]
  return every + [
      Kernel(descriptor, how, share, columns) for columns in [(), *without]
      for descriptor in kernels.DESCRIPTORS if descriptor != 'local' or measures > 1
      for how in _NORMALIZATIONS
      for share in [0.0, *shares] if share or columns]


def weights_of(x: np.ndarray, kernel: Kernel, columns: Mapping[str, np.ndarray],
               keeping: Sequence[str] = ()) -> np.ndarray:
  """Weights of x[N, R, M] with each other, 0 with themselves, float64 [N, N].

  A row and a column of someone who lacks a column that is taken out, or kept, are 0.

  Raises:
    UserError: columns that can't be taken out.
  """
  from anatcl_jax import kernels, residuals, sharpness
  if kernel.without:
    keeping = [name for name in keeping if name not in kernel.without]
    fitted = residuals.known(columns, [*kernel.without, *keeping])
    own = {name: values[fitted] for name, values in columns.items()}
    stats = residuals.fit_residuals(x[fitted], own, kernel.without, keeping)
    weights = np.zeros((len(x), len(x)))
    weights[np.ix_(fitted, fitted)] = weights_of(
        residuals.remove(x[fitted], own, stats),
        dataclasses.replace(kernel, without=()), {})
    return weights
  stats = kernels.fit_morphometry(x, kernel.normalization, kernel.descriptor)
  x = kernels.normalize_morphometry(x, kernel.normalization, stats)
  itself = np.eye(len(x), dtype=bool)
  if not kernel.share:
    weights = kernels.anatomical_kernel(kernel.descriptor, x, x)
  else:
    logarithms = kernels.log_kernel(types.SimpleNamespace(kernel=kernel.descriptor), x, x)
    power = sharpness.solve_power(logarithms, ~itself, kernel.share)
    weights = sharpness.sharpened(logarithms, ~itself, itself, power)
  return np.where(itself, 0, np.asarray(weights, np.float64))


def measure(kernel: Kernel, weights: np.ndarray, columns: Mapping[str, np.ndarray]) -> Knowledge:
  """What weights[N, N], 0 on the diagonal, say of `age` [N], `site` [N] and `sex` [N].

  Who lacks a column takes no part in it, and a row without weight has nothing to say.
  """
  from anatcl_jax import kernels
  others = ~np.eye(len(weights), dtype=bool)
  positives = np.asarray(kernels.effective_positives(weights.astype(np.float32), others))
  positives = positives[weights.sum(1) > 0].mean() if weights.any() else 0.0
  age, spread = _of_age(weights, columns['age']) if 'age' in columns else (np.nan, np.nan)
  return Knowledge(kernel, float(positives), age, spread,
                   *(on_own(weights, columns[name]) if name in columns else np.nan
                     for name in ('site', 'sex')))


def on_own(weights: np.ndarray, labels: np.ndarray) -> float:
  """Mean over people of the share of a row that lies on people of their own label; NaN of one."""
  known = labels != ''
  weights, labels = weights[np.ix_(known, known)], labels[known]
  if len(set(labels)) < 2:
    return np.nan
  total = weights.sum(1)
  own = (weights * (labels[:, None] == labels[None])).sum(1)
  return float(np.mean(own[total > 0] / total[total > 0]))


def _of_age(weights: np.ndarray, age: np.ndarray) -> tuple[float, float]:
  known = np.isfinite(age)
  weights, age = weights[np.ix_(known, known)], age[known]
  total = weights.sum(1)
  predicted, age = (weights @ age)[total > 0] / total[total > 0], age[total > 0]
  if len(age) < 3 or predicted.std() == 0 or age.std() == 0:
    return np.nan, np.nan
  return float(np.corrcoef(predicted, age)[0, 1]), float(predicted.std() / age.std())


def read_columns(paths: Sequence[pathlib.Path], participants: Sequence[str], names: RowNames,
                 id_column: str | None) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
  """Which of the participants have a row, these rows' columns by name, how many lack an age.

  `age` is in years, NaN where the table does not say; all other columns as residuals.py takes them.

  Raises:
    UserError: a table without participants, or fewer than two of them in it.
  """
  import pandas

  from anatcl_jax.cohorts import participants as tables_of_people
  from anatcl_jax.data.attributes import column_values
  read = [tables_of_people.read_people(path, tables_of_people.Reading(id_column=id_column))
          for path in paths]
  table = pandas.concat([people.table for people in read], ignore_index=True)
  problems = {key[0] for people in read for key in people.problems}
  keys = [names.key(name)[0] for name in table['participant_id']]
  if 'age' in table:
    ages = table['age'].groupby(keys).transform('nunique')
    table['age'] = table['age'].where((ages < 2).to_numpy()
                                      & ~table['participant_id'].isin(problems).to_numpy())
  first = {key: row for row, key in reversed(list(enumerate(keys)))}
  there = np.array([name in first for name in participants])
  if there.sum() < 2:
    raise UserError(f'{there.sum()} participants with morphometry are in '
                    f'{", ".join(map(str, paths))}; the first have the names '
                    f'{participants[0]} and {keys[0]}')
  table = table.iloc[[first[name] for name in participants if name in first]]
  columns = {name: column_values(table[name]) for name in table.columns
             if name not in ('participant_id', 'session', 'sex')}
  if 'sex' in table:   # also where its codes are numbers
    columns['sex'] = table['sex'].astype(object).where(table['sex'].notna(), '').to_numpy(object)
  return there, columns, int(np.sum(~np.isfinite(columns['age']))) if 'age' in columns else 0


def page(x: np.ndarray, columns: Mapping[str, np.ndarray], shares: Sequence[float],
         without: Sequence[str], keeping: Sequence[str], source: str, lacking: int,
         show: bool = False) -> str:
  """The table of all `choices` on x[N, R, M], with what its columns are.

  Raises:
    UserError: no such column, or one that can't be taken out.
  """
  from anatcl_jax.progress import progress_bar
  for name in {*keeping, *(name for spec in without for name in spec.split('+'))}:
    check_name(name, columns, 'column of --participants')
  alike = 1 - np.eye(len(x))
  chance = [f'{share:.2f} of {name}' for name in ('site', 'sex') if name in columns
            and not np.isnan(share := on_own(alike, columns[name]))]
  left_out = (f'; {lacking} have no age, or several, and take no part where it counts'
              if lacking else '')
  if keeping:
    left_out += f'. What is taken out is fitted beside {" and ".join(keeping)}, which stay'
  text = HEADER.format(most=len(x) - 1, chance=' and '.join(chance) or 'nothing to tell',
                       left_out=left_out, source=source)
  every = choices(shares, [tuple(spec.split('+')) for spec in without], x.shape[-1])
  with progress_bar(len(every), 'kernels', 'kernel', show=show) as progress:
    for kernel in every:
      row = measure(kernel, weights_of(x, kernel, columns, keeping), columns)
      text += _line(row)
      progress.update()
  return text


def _line(row: Knowledge) -> str:
  number = lambda value, digits: '' if np.isnan(value) else f'{value:.{digits}f}'
  kernel = row.kernel
  cells = ['+'.join(kernel.without), kernel.descriptor, kernel.normalization,
           f'{kernel.share:g}' if kernel.share else '', f'{row.effective_positives:.1f}',
           number(row.age, 2), number(100 * row.spread, 2), number(row.site, 2), number(row.sex, 2)]
  return f'| {" | ".join(cells)} |\n'
