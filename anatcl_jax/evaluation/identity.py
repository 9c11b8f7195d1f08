"""Which encoder made some features: whether a probe of the ones may be applied to the others."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from anatcl_jax.cohorts.volumes import Grid
from anatcl_jax.data.arrange import Arrangement
from anatcl_jax.errors import UserError, listed
from anatcl_jax.evaluation.sources import Sources
from anatcl_jax.frozen import table as feature_table
from anatcl_jax.frozen.image_encoder import Encoder

_DIGEST = 'weights_sha256'
_SETTINGS = (_DIGEST, 'encoder', 'pool', 'axes', 'crop', 'pad', 'spacing', 'grid', 'precision')


def of_sources(found: Sources, pool: str) -> dict[str, list[dict[str, Any]]]:
  """By the name of a representation, its encoders in the order of their columns.

  Each has name (that of its columns in a table), columns (how many), numbers (which, where they are
  not 0, 1, ...), source, and the settings that features depend on, as far as they are known.
  """
  identities = {}
  for name, weights in found.weights.items():
    grid = found.data.info['grid']
    encoder = Encoder(weights, Arrangement.of(weights.card), Grid.of(grid['shape'], grid['affine']),
                      None, 'float32', pool)
    identities[name] = [{'name': '', 'columns': found.encoders[name][0].shape[1],
                         'source': weights.card.get('source'), **encoder.settings()}]
  for name, path in found.tables.items():
    parts = of_table(path)
    identities[name] = parts
    identities |= {f'{name}:{part["name"]}': [part] for part in parts if len(parts) > 1}
  return identities


def of_table(path: pathlib.Path) -> list[dict[str, Any]]:
  """The encoders of a table of features, by the JSON beside it."""
  described = feature_table.read_description(path)
  several = described.get('encoders')
  parts = []
  for name, numbers in feature_table.read_columns(path).items():
    own = (several or {}).get(name) if isinstance(several, dict) else described
    own = own if isinstance(own, dict) and own.get(_DIGEST) else {}
    parts.append({'name': name, 'columns': len(numbers)}
                 | ({} if numbers == list(range(len(numbers))) else {'numbers': numbers})
                 | ({'source': described.get('weights')} if own else {})
                 | {key: own[key] for key in _SETTINGS if key in own})
  return parts


def matched(path: pathlib.Path, wanted: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
  """The names of the encoders in a table that a probe wants, in its order, and notes.

  Raises:
    UserError: the table has not the columns that the probe was fitted on, or another encoder made
      them, or the same otherwise; the text says which.
  """
  there = {part['name']: part for part in of_table(path)}
  names, notes = [], []
  for one in wanted:
    name = one['name'] if one['name'] in there else None
    if len(wanted) == len(there) == 1:
      name = next(iter(there))
    if name is None:
      raise UserError(f'{path}: has features of {_names(there)}, and the probe was fitted on those '
                      f'of {_names([part["name"] for part in wanted])}')
    notes += _compare(path, there[name], one)
    names.append(name)
  return names, notes


def _compare(path: pathlib.Path, own: dict[str, Any], one: dict[str, Any]) -> list[str]:
  fitted = f'the probe was fitted on {one["columns"]}'
  if own.get(_DIGEST) and one.get(_DIGEST) and own[_DIGEST] != one[_DIGEST]:
    raise UserError(f'{path}: was made by another encoder: weights {own.get("source")} '
                    f'({own[_DIGEST][:12]}), and the probe was fitted on features of '
                    f'{one.get("source")} ({one[_DIGEST][:12]})')
  for key in _SETTINGS[1:]:
    if key in own and key in one and not _equal(key, own[key], one[key]):
      if key == 'precision':
        continue
      raise UserError(f'{path}: its features were made with {key} {own[key]}, and the probe was '
                      f'fitted on those with {key} {one[key]}; make them again by `features` so')
  if own['columns'] != one['columns']:
    raise UserError(f'{path}: has {own["columns"]} columns of features, and {fitted}')
  wanted = one.get('numbers', list(range(one['columns'])))
  if lacking := [f'f{number}' for number in wanted
                 if number not in set(own.get('numbers', range(own['columns'])))]:
    raise UserError(f'{path}: lacks the columns {listed(lacking)}, which the probe was fitted on')
  if not own.get(_DIGEST) or not one.get(_DIGEST):
    lacks = f'{path}' if not own.get(_DIGEST) else 'the table that the probe was fitted on'
    return [f'which encoder made {lacks} is not known (no JSON of `features` beside it): that it '
            'is the same was not checked, but for its columns']
  if own.get('precision') != one.get('precision'):
    return [f'{path}: its features were computed in {own.get("precision")}, and the probe was '
            f'fitted on {one.get("precision")}: expect small differences']
  return []


def _equal(key: str, one: Any, other: Any) -> bool:
  if key != 'grid':
    return one == other
  if not (isinstance(one, dict) and isinstance(other, dict)):
    return True      # of each volume its own
  return one['shape'] == other['shape'] and np.allclose(one['affine'], other['affine'], atol=1e-3)


def _names(names: Any) -> str:
  return listed([name or 'one encoder (f0, f1, ...)' for name in names])
