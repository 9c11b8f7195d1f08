"""What the terms of the loss compare: columns of participants.tsv and morphometry, as arrays."""

from __future__ import annotations

import numpy as np
import pandas
from ml_collections import ConfigDict

from anatcl_jax import kernels, residuals, supervision
from anatcl_jax.cohorts import tables
from anatcl_jax.cohorts.morphometry import measure_names
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.errors import UserError, check_name, listed

Statistics = dict[str, dict[str, np.ndarray]]


def read_attributes(data: ShardSet, config: ConfigDict) -> dict[str, np.ndarray]:
  """The attribute of every record, by term: float32 [N], codes int32 [N], or float32 [N, R, M].

  Missing numbers and morphometry are NaN, missing categories -1. Terms of weight 0 are left out.
  Codes of classes to be predicted are float32, missing ones NaN.

  Raises:
    UserError: no such column, measure or atlas in the shards, or text where numbers are needed.
  """
  attributes = {}
  for name, term in config.loss.terms.items():
    if term.weight and term.attribute == 'morphometry':
      attributes[name] = _morphometry(data, config, term.kernel)
    elif term.weight:
      check_name(term.attribute, data.table.columns, f'column of {data.directory}/participants.tsv')
      column = data.table[term.attribute]
      attributes[name] = (_codes(column) if term.kernel in ('equality', supervision.CLASSES)
                          else _numbers(data, column))
      if term.kernel == supervision.CLASSES:
        codes = attributes[name]
        attributes[name] = np.where(codes < 0, np.nan, codes).astype(np.float32)
  return attributes


def read_columns(data: ShardSet, config: ConfigDict) -> residuals.Columns:
  """The columns of participants.tsv that terms are `without` or `keeping`, by name.

  Numbers where all known values are and sites never, else texts ('' where missing).

  Raises:
    UserError: no such column in the shards.
  """
  names = {name for term in config.loss.terms.values() if term.weight
           for name in [*names_in(term, 'without'), *names_in(term, 'keeping')]}
  for name in sorted(names):
    check_name(name, data.table.columns, f'column of {data.directory}/participants.tsv')
  return {name: column_values(data.table[name]) for name in sorted(names)}


def names_in(term: ConfigDict, key: str) -> list[str]:
  """The columns of a term's `without` or `keeping`, which are joined by +."""
  return list(filter(None, getattr(term, key, '').split('+')))


def column_values(column: pandas.Series) -> np.ndarray:
  """A column as residuals.py takes it: float64, or texts."""
  text = tables.categories(column)
  numbers = pandas.to_numeric(text, errors='coerce')
  if residuals.is_site(str(column.name)) or (numbers.isna() & text.notna()).any():
    return text.fillna('').to_numpy(object)
  return numbers.to_numpy(np.float64)


def fit_attributes(attributes: dict[str, np.ndarray], records: np.ndarray, terms: ConfigDict,
                   columns: residuals.Columns | None = None) -> Statistics:
  """What normalising the attributes needs, by term, from the training records alone.

  Args:
    columns: those of `read_columns`.

  Raises:
    UserError: a term whose attribute fewer than two of these records have, or whose columns can't
      be fitted.
  """
  for name, values in attributes.items():
    if len(records) - missing(values[records]) < 2:
      raise UserError(f'loss term {name}: fewer than two of the {len(records)} scans to train on '
                      f'have {terms[name].attribute}; set its weight to 0 or add the values')
    if terms[name].kernel in supervision.KERNELS and (
        len(set(values[records][np.isfinite(values[records])])) < 2):
      raise UserError(f'loss term {name}: all of the {len(records)} scans to train on have one '
                      f'value of {terms[name].attribute}, of which nothing is learned')
  own = {name: values[records] for name, values in (columns or {}).items()}
  return {name: (_fit_morphometry(name, values[records], terms[name], own) if values.ndim == 3 else
                 supervision.fit(values[records], terms[name].kernel, terms[name].outputs))
          for name, values in attributes.items()
          if values.ndim == 3 or terms[name].kernel in supervision.KERNELS}


def with_outputs(config: ConfigDict, attributes: dict[str, np.ndarray]) -> ConfigDict:
  """The config of a supervised run with the `outputs` of each term, and all as the head's."""
  if config.loss.method != supervision.METHOD:
    return config
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for name, values in attributes.items():
      config.loss.terms[name].outputs = (
          1 if config.loss.terms[name].kernel == supervision.NUMBER else int(np.nanmax(values)) + 1)
    config.feature_dim = sum(config.loss.terms[name].outputs for name in attributes)
  return config


def normalize_attributes(attributes: dict[str, np.ndarray], statistics: Statistics,
                         terms: ConfigDict, columns: residuals.Columns | None = None
                         ) -> dict[str, np.ndarray]:
  """The attributes as the kernels take them: morphometry normalised, columns as they are.

  Those to be predicted as `supervision.for_loss` has them.
  """

  def normalized(values, term, stats):
    if names_in(term, 'without'):
      values = residuals.remove(values, columns, stats)
    return kernels.normalize_morphometry(values, term.normalization, stats)

  return {name: (normalized(values, terms[name], statistics[name]) if values.ndim == 3 else
                 supervision.for_loss(values, statistics[name])
                 if terms[name].kernel in supervision.KERNELS else values)
          for name, values in attributes.items()}


def left_in(columns: residuals.Columns, statistics: Statistics) -> list[str]:
  """Of each term a line on the sites and groups whose effect stays in its morphometry."""
  lines = []
  for name, stats in statistics.items():
    for column, counts in residuals.not_fitted(columns, stats).items():
      values = listed([f'{value} ({count} scans)' for value, count in counts.items()])
      lines.append(f'{name}: {column} {values} had too few scans to train on to be fitted: what it '
                   'does to morphometry stays in')
  return lines


def missing(values: np.ndarray) -> int:
  """How many records lack the attribute."""
  return int(np.sum(~np.asarray(kernels.present(values))))


def _fit_morphometry(name: str, values: np.ndarray, term: ConfigDict,
                     columns: residuals.Columns) -> dict[str, np.ndarray]:
  stats = {}
  if without := names_in(term, 'without'):
    try:
      stats = residuals.fit_residuals(values, columns, without, names_in(term, 'keeping'))
    except UserError as error:
      raise UserError(f'loss term {name}: {error}') from None
    values = residuals.remove(values, columns, stats)
  return stats | kernels.fit_morphometry(values, term.normalization, term.kernel)


def _codes(column: pandas.Series) -> np.ndarray:
  """Categories in the order of their names; equal text is equal, missing is -1."""
  return pandas.Categorical(tables.categories(column)).codes.astype(np.int32)


def _numbers(data: ShardSet, column: pandas.Series) -> np.ndarray:
  text = column.mask(column.isin(tables.MISSING))
  labels = [data.label(record) for record in range(len(data))]
  return tables.numbers(data.directory / 'participants.tsv', text, labels).to_numpy(np.float32)


def _morphometry(data: ShardSet, config: ConfigDict, descriptor: str) -> np.ndarray:
  if data.info['atlas'] != config.atlas:
    raise UserError(f'{data.directory} has the {data.info["atlas"]} atlas, the config asks for '
                    f'{config.atlas}: choose with --config=...:atlas={data.info["atlas"]}')
  names = measure_names(config.measures, data.measures)
  if descriptor == 'local' and len(names) == 1:
    raise UserError(f'the local descriptor of one measure ({names[0]}) is the same for all '
                    'subjects; give more measures, or variant=global')
  return data.select_measures(names)
