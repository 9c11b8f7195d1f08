"""Digests by which a shard set knows its files again: what prepare writes and readers check.

Volumes, the order of the scans and dataset.json itself must be as they were written. Labels may be
corrected by hand, so a change of theirs is told and not refused.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

import pandas

from anatcl_jax import paths

LABEL_FILES = ('participants.tsv', 'morphometry.npy')


def of_json(value: Any) -> str:
  """SHA-256 of a JSON value, whatever its spaces and the order of its keys."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_scans(table: pandas.DataFrame) -> str:
  """Changes with whose scans the rows are, and with their order."""
  return of_json(table[['participant_id', 'session']].values.tolist())


def signed(info: dict[str, Any], directory: pathlib.Path, table: pandas.DataFrame
           ) -> dict[str, Any]:
  """dataset.json with the digests of the scans, of the label files in `directory`, and its own."""
  info = {name: value for name, value in info.items() if name != 'digest'}
  info |= {'scans': of_scans(table),
           'labels': {name: paths.sha256(directory / name) for name in LABEL_FILES}}
  return info | {'digest': of_json(info)}


def is_genuine(info: dict[str, Any]) -> bool:
  """Whether dataset.json says what it said when it was signed."""
  rest = {name: value for name, value in info.items() if name != 'digest'}
  try:
    return of_json(rest) == info.get('digest')
  except RecursionError:     # JSON in JSON in JSON, which is read and can't be written
    return False


def changed_labels(info: dict[str, Any], directory: pathlib.Path) -> list[str]:
  """The label files that are not as they were written."""
  return [name for name in LABEL_FILES
          if paths.sha256(directory / name) != info['labels'].get(name)]
