"""The libraries of the extra `t1`: whether they are there, and their versions for the record."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from anatcl_jax.errors import UserError

# Distributions, whose modules have the same names. torch comes with deepbet.
_NEEDED = ('deepbet', 'dipy', 'nilearn', 'SimpleITK', 'torch')


def check() -> None:
  """Raises UserError that names the extra where one of them is missing."""
  missing = [name for name in _NEEDED if not importlib.util.find_spec(name)]
  if missing:
    raise UserError(f'prepare t1 needs {", ".join(missing)}: pip install \'anatcl_jax[t1]\' '
                    '(docs/t1.md says how to keep torch small)')


def version(name: str) -> str:
  """Of an installed distribution."""
  return importlib.metadata.version(name)
