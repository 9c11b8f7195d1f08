"""Paths as people write them: a home folder and variables of the environment in them."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import sys

from anatcl_jax.errors import UserError


def expanded(text: str) -> str:
  """A path or pattern with `~`, `~user`, `$NAME` and `${NAME}` replaced; one that is there is kept.

  A shell leaves them as they are behind `=` or between quotes, and nobody expands a config's.

  Raises:
    UserError: no such user, or a variable that is not set.
  """
  if os.path.lexists(text):
    return text
  path = os.path.expanduser(os.path.expandvars(text))
  if path.startswith('~'):
    raise UserError(f'{text}: no home folder is known for {path.partition("/")[0]}; a file of that '
                    f'name is ./{text}')
  if unset := re.search(r'\$(\w+|\{\w+\})', path):
    raise UserError(f'{text}: the variable {unset[0]} is not set; set it, or write the path out')
  return path


def expanded_list(text: str) -> str:
  """The same in each path of `PATH,NAME=PATH,...`."""
  parts = [part.rpartition('=') for part in text.split(',')]
  return ','.join(name + given + expanded(path.strip()) for name, given, path in parts)


def sha256(path: pathlib.Path) -> str:
  """SHA-256 of a file, in hexadecimal.

  Raises:
    OSError: it can't be read.
  """
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def user_cache() -> pathlib.Path:
  """The folder where the user's programs keep what they can make again.

  Raises:
    RuntimeError: no home folder is known.
  """
  if named := os.environ.get('XDG_CACHE_HOME'):
    return pathlib.Path(named)
  return pathlib.Path.home() / ('Library/Caches' if sys.platform == 'darwin' else '.cache')
