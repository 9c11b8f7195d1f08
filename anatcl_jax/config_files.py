"""Config files: found, run, compared with what the program needs, changed, and explained."""

from __future__ import annotations

import ast
import itertools
import numbers
import pathlib
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from anatcl_jax import paths, user_code
from anatcl_jax.config import LISTS_OF_PATHS, PATHS, flat
from anatcl_jax.errors import UserError, check_name, listed

_ROOT = pathlib.Path(__file__).parent
# In the package where it is installed, at the top of a checkout.
FOLDER = next((folder for folder in (_ROOT / 'configs', _ROOT.parent / 'configs')
               if folder.is_dir()), _ROOT / 'configs')

_KINDS = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'text in quotes'}
_BOOLEANS = {'true': True, 't': True, '1': True, 'false': False, 'f': False, '0': False}
# Keys of earlier versions, which scripts and files may still set, and why nothing reads them.
_RETIRED = {'bootstrap': 'intervals are by the jackknife over people, without samples'}
_TERM = re.compile(r'loss\.terms\.[^.]+\.')
_OBJECTIVE = 'objectives.'     # keys that a file of one's own names as it likes


def load(text: str, like: str | None = None) -> ml_collections.ConfigDict:
  """The config of `FILE` or `FILE:arguments`; `pretrain` is the one that comes with the program.

  Args:
    like: the name of the config that comes with the program whose keys, and types of values, it
      must have.

  Raises:
    UserError: no such file, arguments that it does not know, a mistake in it (with its line), or a
      key too many, too few or of another type.
  """
  name, _, arguments = text.partition(':')
  path = find(name)
  config = _run(path, arguments)
  if like and not path.samefile(FOLDER / f'{like}.py'):
    config = _checked(config, like, path)
  return _with_paths(config)


def find(name: str) -> pathlib.Path:
  """The config file of that path, or of that name among those that come with the program."""
  path, own = pathlib.Path(paths.expanded(name)), FOLDER / f'{name}.py'
  if path.is_file():
    return path
  if re.fullmatch(r'\w+', name) and own.is_file():
    return own
  if path.exists():
    raise UserError(f'{path} is no config file')
  raise UserError(f'{path}: no such config file; those that come with the program are given by '
                  'their names alone: --config=pretrain, --config=probe')


def split(arguments: Sequence[str], config: ml_collections.ConfigDict
          ) -> tuple[dict[str, str], list[str]]:
  """Values by key of `--config.KEY=VALUE` and `--config.KEY VALUE`, and what is neither.

  Of a key that is given twice the last value counts, and stderr says so.

  Raises:
    UserError: no such key (the nearest is named), or one without a value.
  """
  values, changes, unknown = flat(config), {}, []
  rest = list(arguments)
  while rest:
    argument = rest.pop(0)
    match = re.match(r'--config\.([^=]+)(=?)(.*)', argument, re.DOTALL)
    if not match:
      unknown.append(argument)
      continue
    key, given, value = match.groups()
    if key in _RETIRED and key not in values:
      _note_retired(f'--config.{key}', key)
      if not given and rest and not rest[0].startswith('--'):
        del rest[0]
      continue
    check_name(key, values, 'config key')
    if not given and isinstance(values[key], bool) and (
        not rest or rest[0].lower() not in _BOOLEANS):
      value = 'true'
    elif not given:
      if not rest or rest[0].startswith('--'):
        raise UserError(f'--config.{key} needs a value: --config.{key}=...')
      value = rest.pop(0)
    if changes.get(key, value) != value:   # scripts add what differs to a line that they share
      print(f'note: --config.{key} is given as {changes[key]} and as {value}; the last one counts',
            file=sys.stderr)
    changes[key] = value
  return changes, unknown


def override(config: ml_collections.ConfigDict, changes: Mapping[str, str]
             ) -> ml_collections.ConfigDict:
  """The config with other values, given as text, of the types of those that are there.

  Raises:
    UserError: a text that is no value of the type.
  """
  values = flat(config)
  for key, text in changes.items():
    kind = type(values[key])
    try:
      values[key] = _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
      raise UserError(f'--config.{key}={text}: must be {_KINDS[kind]}') from None
  return _with_paths(_nested(values))


def explained(name: str) -> str:
  """Arguments and keys of a config that comes with the program, with what its comments say."""
  values, text = flat(load(name)), (FOLDER / f'{name}.py').read_text(encoding='utf-8')
  arguments = itertools.takewhile(
      lambda part: part.startswith(' '),
      ast.get_docstring(ast.parse(text)).partition('joined by commas:\n\n')[2].split('\n\n'))
  lines = ['arguments behind the colon of the config, joined by commas:', '',
           '\n\n'.join(arguments), '',
           f'keys of the config, as --config.KEY=VALUE, with their values in {name}.py:']
  lead, source = [], text.splitlines()
  for before, line in zip([''] + source, source):
    if match := re.fullmatch(r'  # (.*)', line):
      if before:
        lead.append(match[1])
      else:
        lines += ['', match[1]]
        lead = []
    elif match := re.fullmatch(r'  config\.(\S+) = .*?(?:  +# (.*))?', line):
      if match[1] in values:
        lines.append((match[1], [*lead, match[2] or '']))
      lead = []
    elif isinstance(lines[-1], tuple) and (match := re.fullmatch(r' {20,}# (.*)', line)):
      lines[-1][1].append(match[1])
    elif line.startswith('  if '):
      break
  return '\n'.join(line if isinstance(line, str) else _entry(line[0], values[line[0]], line[1])
                   for line in lines)


def _entry(key: str, value: Any, said: list[str]) -> str:
  if isinstance(value, str):
    short = pathlib.Path(value).name if value.startswith(str(FOLDER)) else value
    value = short or "''"
  head = f'  {key}={value}'
  text = textwrap.wrap(' '.join(filter(None, said)), 62)
  if len(head) > 35:
    return '\n'.join([head, *(f'{"":37}{line}' for line in text)])
  return '\n'.join(f'{start:37}{line}'.rstrip()
                   for start, line in zip([head] + [''] * len(text), text or ['']))


def _run(path: pathlib.Path, arguments: str) -> ml_collections.ConfigDict:
  """What get_config of the file returns."""
  if path.suffix == '.json':
    raise UserError(f'{path} is no config file, which is Python; a run\'s config.json is a record: '
                    'the command that began the run goes on with it')
  get_config = user_code.run(path, 'config file').get('get_config')
  if not callable(get_config):
    raise UserError(f'{path} is no config file: it defines no function get_config')
  with user_code.told(path, 'config file'):
    config = get_config(arguments) if arguments else get_config()
    config = ml_collections.ConfigDict(config) if isinstance(config, dict) else config
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(f'{path}: get_config returns {type(config).__name__}, must be a ConfigDict')
  return config


def _checked(config: ml_collections.ConfigDict, like: str, path: pathlib.Path
             ) -> ml_collections.ConfigDict:
  """The config with numbers of the types that the program's own has; UserError for what differs."""
  own = FOLDER / f'{like}.py'
  expected, given = flat(_run(own, '')), flat(config)
  terms = {name.split('.')[-1]: value for name, value in expected.items() if _TERM.match(name)}
  known = flat(_run(own, 'demo')) | expected
  for other in {'pretrain', 'probe'} - {like}:
    shared = len(set(flat(_run(FOLDER / f'{other}.py', ''))) & set(given))
    if shared > len(set(expected) & set(given)):
      raise UserError(f'{path} is a config of `{other}`, not of `{like}`; give one such as '
                      f'configs/{like}.py')
  lacking = [name for name in expected
             if name not in given and not _TERM.match(name) and not name.startswith(_OBJECTIVE)]
  if terms and not any(map(_TERM.match, given)):
    lacking.append('loss.terms')
  if lacking:
    unknown = [f'config.{name}' for name in given if name not in known and not _TERM.match(name)]
    raise UserError(f'{path} lacks ' + listed([f'config.{name}' for name in lacking])
                    + f', which configs/{like}.py of this version has and explains'
                    + (f'; unknown is {listed(unknown)}' if unknown else ''))
  values = {}
  for name, value in given.items():
    known_as = name.split('.')[-1] if _TERM.match(name) else name
    candidates = terms if _TERM.match(name) else known
    where = _where(path, name)
    if like == 'study' and name.startswith(_OBJECTIVE):
      values[name] = _typed(value, '', name, where)
      continue
    if known_as in _RETIRED and known_as not in candidates:
      _note_retired(where, name)
      continue
    try:
      check_name(known_as, candidates, 'config key')
    except UserError as error:
      raise UserError(f'{where}: {error}') from None
    values[name] = _typed(value, candidates[known_as], name, where)
  return _nested(values)


def _typed(value: Any, like: Any, name: str, where: str) -> Any:
  """The value as the type of `like`: whole numbers serve as numbers, paths as text."""
  kind = type(like)
  if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
    return float(value)
  if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
    return int(value)
  if kind is str and name in (*PATHS, *LISTS_OF_PATHS) and isinstance(value, pathlib.PurePath):
    return str(value)
  if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
    raise UserError(f'{where}: config.{name} is {value!r}, must be {_KINDS[kind]}'
                    + (f', such as {like!r}' if like not in ('', None) else ''))
  return value


def _note_retired(where: str, key: str) -> None:
  print(f'note: {where}: nothing reads {key} any more, since {_RETIRED[key]}', file=sys.stderr)


def _where(path: pathlib.Path, name: str) -> str:
  """`FILE, line N` of the line that sets a key, where there is one."""
  lines = [node.lineno for node in ast.walk(ast.parse(path.read_bytes()))
           if isinstance(node, ast.Assign)
           for target in node.targets if ast.unparse(target).partition('.')[2] == name]
  return f'{path}, line {max(lines)}' if lines else str(path)


def _with_paths(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with home folders and variables replaced in its paths."""
  values = flat(config)
  for key in PATHS:
    if isinstance(values.get(key), str):
      values[key] = paths.expanded(values[key])
  for key in LISTS_OF_PATHS:
    if isinstance(values.get(key), str):
      values[key] = paths.expanded_list(values[key])
  return _nested(values)


def _nested(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
  config: dict[str, Any] = {}
  for name, value in values.items():
    *groups, key = name.split('.')
    group = config
    for part in groups:
      group = group.setdefault(part, {})
    group[key] = value
  return ml_collections.ConfigDict(config)
