"""Flags of the commands that take a config file: absl's, with one-line errors for the user."""

from __future__ import annotations

import pathlib
import re
import runpy
import sys
from collections.abc import Callable
from typing import Any

import ml_collections
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
      'config', None, f'Config file, perhaps with arguments after a colon, such as {example}.'
      + _explained_keys(example.partition(':')[0]))
  # absl's --help lists the flags of the program's own file alone.
  flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS['config'])
  return holder, lambda argv: _parse_flags(argv, holder, example.partition(':')[0])


def config_argument() -> tuple[str, str]:
  """The config file that was given and the arguments behind its colon."""
  path, _, arguments = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  return path, arguments


def load_config(text: str) -> ml_collections.ConfigDict:
  """The config of `FILE` or `FILE:arguments`, as --config=... gives it.

  Raises:
    UserError: no such file, or arguments that it does not know.
  """
  path, _, arguments = text.partition(':')
  if not pathlib.Path(path).is_file():
    raise UserError(f'{path}: no such config file; configs/ has those that come with the program')
  return runpy.run_path(path)['get_config'](arguments or None)


def _explained_keys(path: str) -> str:
  """The keys of a config file with what its comments say of them, for --help."""
  if not pathlib.Path(path).is_file():
    return ''
  lines = []
  for line in pathlib.Path(path).read_text(encoding='utf-8').splitlines():
    if match := re.fullmatch(r'  config\.(\S+) = (\S+|\'.*?\')(?: +# (.*))?', line):
      key, value, what = match.groups()
      given = value if not value.startswith(('chosen.', 'ConfigDict', 'str(')) else '...'
      lines.append(f'--config.{key}={given}  {what or ""}'.rstrip())
    elif lines and (match := re.fullmatch(r' {20,}# (.*)', line)):   # a comment that goes on
      lines[-1] += f' {match[1]}'
  return ' Its keys:\n' + '\n'.join(line for line in lines if 'ConfigDict' not in line)


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
