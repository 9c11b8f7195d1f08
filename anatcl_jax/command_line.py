"""Command lines: one parser for all commands, and commands that are chosen by a first word."""

from __future__ import annotations

import argparse
import difflib
import importlib
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

import ml_collections

from anatcl_jax import config_files, errors, paths
from anatcl_jax.config import check_seed
from anatcl_jax.errors import UserError, check_name


class Parser(argparse.ArgumentParser):
  """argparse with this project's errors (one line), paths and habits.

  An option that is given twice is an error, unless its action adds (append, extend); names are not
  cut short; `~` and variables are replaced where the type is pathlib.Path.
  """

  def __init__(self, *, description: str, prog: str | None = None, **settings):
    super().__init__(prog=prog, description=description, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
    self.register('type', pathlib.Path, lambda text: pathlib.Path(paths.expanded(text)))
    self._args: list[str] = []
    self.keeps_unknown = False    # what parse_known_args does not know is somebody else's

  def parse_known_args(self, args=None, namespace=None):
    """Raises UserError for an option that is given twice, or that is unknown."""
    args = list(sys.argv[1:] if args is None else args)
    self._check_repeated(args)
    self._args = args
    chosen, unknown = super().parse_known_args(args, namespace)
    if unknown and not self.keeps_unknown:
      self.refuse(unknown)
    return chosen, unknown

  def refuse(self, unknown: Sequence[str]) -> None:
    """Raises UserError that names the first unknown argument and the nearest option."""
    name = unknown[0].partition('=')[0]
    if not name.startswith('-'):
      raise UserError(f'unexpected argument {unknown[0]!r}; see {self.prog} --help')
    near = difflib.get_close_matches(name, self._option_string_actions, n=1)
    raise UserError(f'unknown option {name}' + (f': did you mean {near[0]}?' if near else '')
                    + f'; see {self.prog} --help')

  def error(self, message: str):
    """Raises UserError in place of a usage text and exit; a mistyped option goes before others."""
    if unknown := [text for text in self._args if text.startswith('--') and text != '--'
                   and text.partition('=')[0] not in self._option_string_actions]:
      self.refuse(unknown)
    raise UserError(f'{message}; see {self.prog} --help')

  def _check_repeated(self, args: Sequence[str]) -> None:
    seen = set()
    for argument in args[:args.index('--')] if '--' in args else args:
      action = self._option_string_actions.get(argument.partition('=')[0])
      if isinstance(action, argparse._AppendAction) or action is None:   # extend is a kind of it
        continue
      if action.dest in seen:
        raise UserError(f'{action.option_strings[0]} is given twice; give it once')
      seen.add(action.dest)


class ConfigParser(Parser):
  """The parser of a command with a config: its own options, --config and --config.KEY=VALUE."""

  def __init__(self, *, description: str, config: str, example: str = '', prog: str | None = None):
    super().__init__(prog=prog, description=description, epilog=config_files.explained(config),
                     usage='%(prog)s --config=FILE [--config.KEY=VALUE ...] [options]')
    self.keeps_unknown = True
    self._like, self._example = config, example or f'configs/{config}.py'
    self.add_argument('--config', metavar='FILE',
                      help=f'config file, perhaps with arguments behind a colon, such as '
                           f'{self._example}; {config} alone is the one that comes with the '
                           'program (needed)')

  def parse(self, arguments: Sequence[str] | None
            ) -> tuple[argparse.Namespace, ml_collections.ConfigDict]:
    """The options, and the config with the values that the arguments give.

    Raises:
      UserError: an unknown option or key (the nearest is named), a value that a key can't have, a
        config file that can't be used.
    """
    options, rest = self.parse_known_args(arguments)
    if options.config is None:
      if rest and not rest[0].startswith('--config.'):
        self.refuse(rest)
      raise UserError(f'give --config={self._example}, or --config={self._like}, which comes with '
                      'the program; see --help')
    config = config_files.load(options.config, self._like)
    changes, unknown = config_files.split(rest, config)
    if unknown:
      self.refuse(unknown)
    return options, config_files.override(config, changes)


def at_least(least: int) -> Callable[[str], int]:
  """The type of an option that is a whole number from `least` on."""
  def number(text: str) -> int:
    if not re.fullmatch(r'-?\d+', text) or int(text) < least:
      raise argparse.ArgumentTypeError(f'{text!r} is no whole number from {least} on')
    return int(text)
  return number


def seed(text: str) -> int:
  """The type of an option that is a seed."""
  if not re.fullmatch(r'-?\d+', text):
    raise argparse.ArgumentTypeError(f'{text!r} is no whole number')
  return check_seed(int(text), 'the seed')


def program() -> str:
  """How this process was started, for usage lines and what is noted of a run."""
  return ('anatcl-jax' if pathlib.Path(sys.argv[0]).name == 'anatcl-jax'
          else 'python -m anatcl_jax')


def run(commands: Mapping[str, tuple[str, str]], arguments: Sequence[str] | None, prog: str,
        description: str, version: str | None = None,
        otherwise: Callable[[list[str], str], None] | None = None) -> None:
  """Runs the command that the first argument names; only its module is imported.

  Args:
    commands: by name, the module with its `main(arguments, prog)`, and what it does in a line.
    otherwise: what is run where the first argument names none of them.
  """
  arguments = list(sys.argv[1:] if arguments is None else arguments)
  if arguments and arguments[0] in commands:
    module, _ = commands[arguments[0]]
    importlib.import_module(module).main(arguments[1:], f'{prog} {arguments[0]}')
    return
  if otherwise:
    otherwise(arguments, prog)
    return
  with errors.reported():
    width = max(map(len, commands)) + 2
    lines = [f'  {name:{width}}{summary}' for name, (_, summary) in commands.items()]
    parser = Parser(prog=prog, description=description, usage=f'{prog} COMMAND ...',
                    epilog='commands:\n' + '\n'.join(lines)
                           + f'\n\n{prog} COMMAND --help says more of each.')
    if version:
      parser.add_argument('--version', action='version', version=version)
    parser.add_argument('command', nargs='?', help=argparse.SUPPRESS)
    parser.keeps_unknown = True
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
      parser.refuse(unknown)
    if (command := chosen.command) is None:
      raise UserError(f'give a command: {", ".join(commands)}; see {prog} --help')
    check_name(command, commands, 'command')


def say_next(purpose: str, *command: str) -> None:
  """Prints, as the last line of a command, the command that most people want next, and what for."""
  print(f'next, {purpose}: {program()} {shlex.join(command)}')


def add_reading(parser: argparse.ArgumentParser) -> None:
  """Adds the options of how files of volumes are read where they leave it open."""
  parser.add_argument('--geometry', choices=('agreed', 'sform', 'qform'), default='agreed',
                      help='which half of a NIfTI header says where voxels lie where its halves '
                           'contradict each other; agreed: such a file is refused (default: '
                           '%(default)s)')
  parser.add_argument('--nan', choices=('background', 'zero'), default='background',
                      help='which NaN voxels are read as 0: those of a volume whose NaN is just '
                           'what lies around the head, or all (default: %(default)s)')


def add_id_pattern(parser: argparse.ArgumentParser) -> None:
  """Adds the option of whose scans are in files that no table names."""
  parser.add_argument('--id-pattern', metavar='REGEX',
                      help='regular expression that finds (?P<participant>...) and, if there are '
                           'any, (?P<session>...) in the path of a volume (default: by name, as '
                           'BIDS and CAT12 name them, else the whole file name)')


def add_weights_cache(parser: argparse.ArgumentParser) -> None:
  """Adds the option of where released weights that are named are kept."""
  parser.add_argument('--weights-cache', type=pathlib.Path, metavar='DIR',
                      help='where released weights given by name are kept (default: '
                           'ANATCL_JAX_WEIGHTS_CACHE, or anatcl_jax/weights in the user\'s cache '
                           'folder)')
