"""Configs: arguments behind the colon, names of keys, and values that are more than one word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from anatcl_jax.errors import UserError, check_name

PRECISIONS = ('float32', 'bfloat16')

# Keys of configs that hold a path, and those that hold several, as PATH,NAME=PATH: home folders and
# variables in them are replaced.
PATHS = ('data_dir', 'init', 'compilation_cache', 'report_at_end', 'participants', 'task_file',
         'splits', 'out')
LISTS_OF_PATHS = ('checkpoint', 'features', 'morphometry', 'trained_on')


def parse_arguments(text: str | None, **defaults: Any) -> ml_collections.ConfigDict:
  """Reads `demo,variant=local` against the defaults, whose types the values take.

  A name alone sets a flag.

  Raises:
    UserError: an unknown name (the nearest is named), a flag with a value, a name without one, or
      text where a number is needed.
  """
  chosen = dict(defaults)
  for part in filter(None, (text or '').split(',')):
    name, given, value = part.partition('=')
    check_name(name, defaults, 'config argument')
    if isinstance(defaults[name], bool) != (not given):
      raise UserError(f'config argument {name!r} '
                      + ('takes no value' if given else f'needs a value: {name}=...'))
    try:
      chosen[name] = True if not given else type(defaults[name])(value)
    except ValueError:
      raise UserError(f'config argument {name}={value}: must be a number') from None
  return ml_collections.ConfigDict(chosen)


def flat(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """All values of a config, or of what json made of it, by their dotted names."""
  values = {}
  for key, value in config.items():
    inner = isinstance(value, (dict, ml_collections.ConfigDict))
    values |= flat(value, f'{prefix}{key}.') if inner else {f'{prefix}{key}': value}
  return values


def check_seed(seed: int, name: str) -> int:
  """The seed; UserError where it is none.

  Beyond 32 bits JAX takes the lower ones without a word, scikit-learn refuses.
  """
  if not 0 <= seed < 2**32:
    raise UserError(f'{name} is {seed}, must be from 0 to {2**32 - 1}')
  return seed


def crop_sizes(text: str, name: str = 'crop') -> tuple[int, int, int] | None:
  """The config's `crop`: `121,128,121` as three sizes, `none` as None.

  Raises:
    UserError: neither.
  """
  if text.strip().lower() == 'none':
    return None
  sizes = re.findall(r'[-\d.]+', text)
  if len(sizes) != 3 or not all(size.isdigit() and int(size) > 0 for size in sizes):
    raise UserError(f'{name} {text!r} is neither three sizes such as 121,128,121 nor none')
  return tuple(int(size) for size in sizes)


def encoder_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The options of models.get_encoder that a config gives."""
  return {'width': config.encoder_width, 'small_input': config.small_input}
