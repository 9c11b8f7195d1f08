"""What the terms of the loss compare: columns of participants.tsv and morphometry, as arrays."""

from __future__ import annotations

import numpy as np
import pandas
from ml_collections import ConfigDict

from anatcl_jax import kernels
from anatcl_jax.cohorts import tables
from anatcl_jax.cohorts.morphometry import measure_names
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.errors import UserError, check_name

Statistics = dict[str, dict[str, np.ndarray]]


def read_attributes(data: ShardSet, config: ConfigDict) -> dict[str, np.ndarray]:
  """The attribute of every record, by term: float32 [N], codes int32 [N], or float32 [N, R, M].

  Missing numbers and morphometry are NaN, missing categories -1. Terms of weight 0 are left out.

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
      attributes[name] = (_codes(column) if term.kernel == 'equality'
                          else _numbers(data, column))
  return attributes


def fit_attributes(attributes: dict[str, np.ndarray], records: np.ndarray,
                   terms: ConfigDict) -> Statistics:
  """What normalising the attributes needs, by term, from the training records alone.

  Raises:
    UserError: a term whose attribute fewer than two of these records have.
  """
  for name, values in attributes.items():
    if len(records) - missing(values[records]) < 2:
      raise UserError(f'loss term {name}: fewer than two of the {len(records)} scans to train on '
                      f'have {terms[name].attribute}; set its weight to 0 or add the values')
  return {name: kernels.fit_morphometry(values[records], terms[name].normalization,
                                        terms[name].kernel)
          for name, values in attributes.items() if values.ndim == 3}


def normalize_attributes(attributes: dict[str, np.ndarray], statistics: Statistics,
                         terms: ConfigDict) -> dict[str, np.ndarray]:
  """The attributes as the kernels take them: morphometry normalised, columns as they are."""
  return {name: kernels.normalize_morphometry(values, terms[name].normalization, statistics[name])
          if values.ndim == 3 else values for name, values in attributes.items()}


def missing(values: np.ndarray) -> int:
  """How many records lack the attribute."""
  return int(np.sum(~np.asarray(kernels.present(values))))


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
