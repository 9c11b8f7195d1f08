"""Morphometry without what named columns explain: of a site location and scale, as ComBat has them.

ComBat (Johnson et al., Biostatistics 8, 2007; of cortical thickness Fortin et al., NeuroImage 167,
2018) without its empirical Bayes: with hundreds of values a person and tens of people a site there
is nothing to borrow, and of a site of one person its prior would take away the person. A site of
few is left as it is instead, as are sites that were not there to be fitted.

Shapes: N subjects, R regions, M measures. Columns are [N], numbers (NaN where missing) or texts (''
where missing).
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence

import numpy as np

from anatcl_jax.errors import UserError

Columns = Mapping[str, np.ndarray]

# Of n people, a location fitted on them takes 1/n of what makes each a person, and a scale has
# n - 1 degrees of freedom.
LEAST_OF_A_SITE = 5


def is_site(column: str) -> bool:
  """Whether a column names the sites of ComBat, by its name: site, siteXacq, scanner_id, ..."""
  return re.match('site|scanner', column, re.IGNORECASE) is not None


def fit_residuals(x: np.ndarray, columns: Columns, without: Sequence[str],
                  keeping: Sequence[str] = ()) -> dict[str, np.ndarray]:
  """Statistics that `remove` needs, from the training subjects x[N, R, M].

  Numbers have a slope, texts a location each, the site also a scale: x = intercept + site shift +
  slopes (column - mean) + site scale * error, by ordinary least squares in float64; the intercept
  is the mean site's, the scale that of the errors of a site over that of all. Subjects with a
  missing value or column, and of sites of fewer than `LEAST_OF_A_SITE`, are passed over.

  Args:
    without: names of columns whose part `remove` takes out, at most one of them of sites.
    keeping: names of columns that are fitted beside them and stay.

  Raises:
    UserError: two columns of sites, no site of enough people, fewer people than there are to fit,
      or columns to keep that can't be told apart from those to remove.
  """
  sites = [name for name in without if is_site(name)]
  if len(sites) > 1 or any(map(is_site, keeping)):
    raise UserError(f'without={"+".join(without)}, keeping={"+".join(keeping)}: name one column of '
                    'sites, in without')
  x = np.asarray(x, np.float64)
  usable = np.isfinite(x).all((1, 2)) & known(columns, [*without, *keeping])
  names = []
  if sites:
    counts = collections.Counter(columns[sites[0]][usable].tolist())
    large = sorted(value for value, count in counts.items() if count >= LEAST_OF_A_SITE)
    if not large:
      raise UserError(f'without={"+".join(without)}: no {sites[0]} has {LEAST_OF_A_SITE} training '
                      'subjects with morphometry and all columns, the largest has '
                      f'{max([0, *counts.values()])}')
    usable &= np.isin(columns[sites[0]], large)
    names = [f'{sites[0]}={value}' for value in large]
  x, rows = x[usable], {name: values[usable] for name, values in columns.items()}
  parts = {'removed': [name for name in without if name not in sites], 'kept': list(keeping)}
  stats, designs = {}, []
  for part, own in parts.items():
    described = [text for name in own for text in _described(name, rows[name])]
    if described:
      design = _design(described, rows)
      stats |= {part: np.array(described), f'{part}_mean': design.mean(0)}
      designs.append(design - design.mean(0))
  site = _design(names, rows) if sites else np.ones((len(x), 1))
  design = np.concatenate([site, *designs], 1)
  rank = np.linalg.matrix_rank
  if len(x) <= rank(design):
    raise UserError(f'without={"+".join(without)}: {len(x)} training subjects with morphometry and '
                    f'all columns are too few to fit {rank(design)} numbers a region')
  if keeping and rank(design) < rank(designs[-1]) + rank(design[:, :-designs[-1].shape[1]]):
    raise UserError(f'keeping={"+".join(keeping)} can\'t be told apart from '
                    f'without={"+".join(without)} in the training subjects')
  fitted = np.linalg.lstsq(design, x.reshape(len(x), -1), rcond=None)[0]
  errors = (x.reshape(len(x), -1) - design @ fitted).reshape(x.shape)
  fitted = fitted.reshape(-1, *x.shape[1:])
  shares = site.mean(0)
  stats['intercept'] = np.tensordot(shares, fitted[:len(shares)], 1)
  if sites:
    pooled = np.sqrt(np.mean(errors**2, 0))
    scale = np.stack([errors[own > 0].std(0, ddof=1) for own in site.T])
    stats |= {'sites': np.array(names), 'site_shift': fitted[:len(names)] - stats['intercept'],
              'site_scale': np.where((scale > 0) & (pooled > 0),
                                     scale / np.where(pooled > 0, pooled, 1), 1)}
  start = len(shares)
  for part in parts:
    if part in stats:
      stats[f'{part}_slopes'] = fitted[start:start + len(stats[part])]
      start += len(stats[part])
  return {name: value if value.dtype.kind == 'U' else value.astype(np.float32)
          for name, value in stats.items()}


def remove(x: np.ndarray, columns: Columns, stats: Mapping[str, np.ndarray]) -> np.ndarray:
  """x[N, R, M] in its own unit, without what the columns explain, float32.

  `stats` are those of `fit_residuals` on the training subjects. The effect of a site or text that
  was not fitted stays in: its subjects are taken as of the mean site. A subject that lacks a column
  is NaN.
  """
  residual = np.asarray(x, np.float64) - stats['intercept']
  kept = np.zeros_like(residual)
  for part in ('removed', 'kept'):
    if part in stats:
      names = stats[part].tolist()
      centered = np.where(_fitted(names, columns),
                          _design(names, columns) - stats[f'{part}_mean'], 0)
      explained = np.tensordot(centered, stats[f'{part}_slopes'].astype(np.float64), 1)
      residual -= explained
      kept += explained if part == 'kept' else 0
  if 'sites' in stats:
    site = _design(stats['sites'].tolist(), columns)
    residual -= np.tensordot(site, stats['site_shift'].astype(np.float64), 1)
    residual /= 1 + np.tensordot(site, stats['site_scale'].astype(np.float64) - 1, 1)
  result = (stats['intercept'] + kept + residual).astype(np.float32)
  result[~known(columns, _columns_of(stats))] = np.nan
  return result


def not_fitted(columns: Columns, stats: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
  """By column of texts, how many subjects have each value whose effect `remove` leaves in."""
  result = {}
  for part in ('sites', 'removed'):
    names = stats[part].tolist() if part in stats else []
    for column in dict.fromkeys(name.partition('=')[0] for name in names if '=' in name):
      fitted = {name.partition('=')[2] for name in names if name.startswith(f'{column}=')}
      result[column] = {value: count for value, count in
                        sorted(collections.Counter(columns[column].tolist()).items())
                        if value and value not in fitted}
  return {column: values for column, values in result.items() if values}


def known(columns: Columns, names: Sequence[str]) -> np.ndarray:
  """True for the subjects that lack none of the columns, [N]."""
  return np.all([columns[name] != '' if columns[name].dtype.kind in 'OU'
                 else np.isfinite(columns[name]) for name in names], 0)


def _columns_of(stats: Mapping[str, np.ndarray]) -> list[str]:
  return list(dict.fromkeys(name.partition('=')[0] for part in ('sites', 'removed', 'kept')
                            if part in stats for name in stats[part].tolist()))


def _described(name: str, values: np.ndarray) -> list[str]:
  """`age` of numbers, `sex=F` and `sex=M` of texts."""
  return [f'{name}={value}' for value in np.unique(values.astype(str))] if (
      values.dtype.kind in 'OU') else [name]


def _design(names: Sequence[str], columns: Columns) -> np.ndarray:
  """[N, names]: 1 where a column has the value of `column=value`, else 0; a column's numbers."""
  parts = [name.partition('=') for name in names]
  return np.stack([columns[column] == value if equals else columns[column]
                   for column, equals, value in parts], 1).astype(np.float64)


def _fitted(names: Sequence[str], columns: Columns) -> np.ndarray:
  """[N, names]: False where a subject's text is none of its column's."""
  fitted = {}
  for name in names:
    column, equals, value = name.partition('=')
    own = columns[column] == value if equals else np.ones(len(columns[column]), bool)
    fitted[column] = fitted.get(column, False) | own
  return np.stack([fitted[name.partition('=')[0]] for name in names], 1)
