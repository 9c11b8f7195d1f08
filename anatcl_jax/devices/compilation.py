"""Compiled programs kept on disk, so that a run which goes on need not compile them again."""

from __future__ import annotations

import os
import pathlib
import sys

import jax

from anatcl_jax import paths
from anatcl_jax.errors import UserError


def use_cache(setting: str) -> pathlib.Path | None:
  """Sets where JAX keeps what it compiles; call it before anything is compiled.

  Entries that a killed process left half written are compiled anew, with a warning of JAX.

  Args:
    setting: a folder; `none`; or `auto`, which is JAX's own setting where there is one
      (JAX_COMPILATION_CACHE_DIR), and otherwise `anatcl_jax` in the user's cache folder.

  The programs are native code that is run, so the folder must be its user's alone: it is made so,
  and one that others own or can write is not used.

  Returns:
    The folder, or None.

  Raises:
    UserError: a folder that was named can't be written, or others can write it too.
  """
  if setting == 'none':
    jax.config.update('jax_compilation_cache_dir', None)
    return None
  own = setting == 'auto' and jax.config.jax_compilation_cache_dir
  named = setting != 'auto'
  try:
    directory = pathlib.Path(own or (setting if named else paths.user_cache() / 'anatcl_jax'))
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    refused = _of_others(directory)
  except (OSError, RuntimeError) as error:
    if not named:   # no home, or one that is read-only, must not stop a run
      return None
    raise UserError(f'compilation_cache {setting!r} can\'t be written ({error.strerror}); name '
                    'another folder, or none') from None
  if refused:
    refused = (f'compilation_cache {directory} {refused}: compiled programs are code that is run; '
               f'chmod 700 a folder of your own')
    if named:
      raise UserError(f'{refused}, or give none')
    print(f'warning: {refused}; nothing is kept', file=sys.stderr)
    directory = None
  jax.config.update('jax_compilation_cache_dir', directory and str(directory))
  return directory


def _of_others(directory: pathlib.Path) -> str:
  """Why a folder is not its user's alone; '' where it is."""
  found = directory.stat()
  if found.st_uid != os.geteuid():
    return f'belongs to another user (number {found.st_uid})'
  return 'can be written by others' if found.st_mode & 0o022 else ''
