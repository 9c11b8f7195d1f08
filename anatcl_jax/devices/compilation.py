"""Compiled programs kept on disk, so that a run which goes on need not compile them again."""

from __future__ import annotations

import os
import pathlib
import sys

import jax

from anatcl_jax.errors import UserError


def use_cache(setting: str) -> pathlib.Path | None:
  """Sets where JAX keeps what it compiles; call it before anything is compiled.

  Entries that a killed process left half written are compiled anew, with a warning of JAX.

  Args:
    setting: a folder; `none`; or `auto`, which is JAX's own setting where there is one
      (JAX_COMPILATION_CACHE_DIR), and otherwise `anatcl_jax` in the user's cache folder.

  Returns:
    The folder, or None.

  Raises:
    UserError: a folder that was named can't be written.
  """
  if setting == 'none':
    jax.config.update('jax_compilation_cache_dir', None)
    return None
  if setting == 'auto' and jax.config.jax_compilation_cache_dir:
    return pathlib.Path(jax.config.jax_compilation_cache_dir)
  try:
    directory = _user_cache() / 'anatcl_jax' if setting == 'auto' else pathlib.Path(setting)
    directory.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError) as error:
    if setting == 'auto':   # no home, or one that is read-only, must not stop a run
      return None
    raise UserError(f'compilation_cache {setting!r} can\'t be written ({error.strerror}); name '
                    'another folder, or none') from None
  jax.config.update('jax_compilation_cache_dir', str(directory))
  return directory


def _user_cache() -> pathlib.Path:
  if sys.platform == 'darwin':
    return pathlib.Path.home() / 'Library' / 'Caches'
  return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
