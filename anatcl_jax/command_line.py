"""Flags of the commands that take a config file: absl's, with one-line errors for the user."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import config_flags

from anatcl_jax.config import key_names
from anatcl_jax.errors import UserError, check_name


def define_config(example: str) -> tuple[flags.FlagHolder, Callable[[list[str]], list[str]]]:
  """The flag `config`, and the parser for `app.run` that goes with it.

  Args:
    example: a config file, as it is named in --help and in errors.
  """
  holder = config_flags.DEFINE_config_file(
      'config', None, f'Config file, perhaps with arguments after a colon, such as {example}')
  return holder, lambda argv: _parse_flags(argv, holder, example.partition(':')[0])


def config_argument() -> tuple[str, str]:
  """The config file that was given and the arguments behind its colon."""
  path, _, arguments = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  return path, arguments


def _parse_flags(argv: list[str], config: Any, example: str) -> list[str]:
  """absl's parser with one-line errors that name the nearest valid flag or config key."""
  try:
    rest = flags.FLAGS(argv)
    if config.value is None:
      raise UserError(f'give --config={example}, or --help')
    config.value.items()  # a config file that could not be read raises on its first use
  except UserError:
    raise
  except Exception as error:  # absl and ml_collections raise a dozen types
    _check_keys(argv)
    raise UserError(str(error).strip().splitlines()[-1]) from None
  if rest[1:]:
    raise UserError(f'unexpected argument {rest[1]!r}; values are given as --key=value')
  return rest


def _check_keys(argv: list[str]) -> None:
  """Raises UserError for a config file that is not there, and for a KEY that it does not have."""
  position, path = next(((i, a.partition('=')[2]) for i, a in enumerate(argv)
                         if re.match(r'--?config=', a)), (0, None))
  if any(re.match(r'--?config\.', argument) for argument in argv[:position or len(argv)]):
    raise UserError('give --config=FILE before the --config.KEY=VALUE that change it')
  if path and not pathlib.Path(path.partition(':')[0]).is_file():
    raise UserError(f'{path.partition(":")[0]}: no such config file; configs/ has those that come '
                    'with the program')
  if path:
    names = key_names(flags.FLAGS['config'].parser.parse(path))
    for argument in argv:
      if match := re.match(r'--?config\.([^=]+)', argument):
        check_name(match[1], names, 'config key')
