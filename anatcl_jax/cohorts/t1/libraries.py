"""The libraries of the extra `t1`: whether they are there, and their versions for the record."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from anatcl_jax.errors import UserError

# Distribution and module. torch comes with deepbet.
_NEEDED = {'deepbet': 'deepbet', 'dipy': 'dipy', 'nilearn': 'nilearn', 'SimpleITK': 'SimpleITK',
           'torch': 'torch'}


def check() -> None:
  """Raises UserError that names the extra where one of them is missing."""
  missing = [name for name, module in _NEEDED.items() if not importlib.util.find_spec(module)]
  if missing:
    raise UserError(f'prepare t1 needs {", ".join(missing)}: pip install \'anatcl_jax[t1]\' '
                    '(docs/t1.md says how to keep torch small)')


def version(name: str) -> str:
  return importlib.metadata.version(name)
