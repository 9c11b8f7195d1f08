"""What the objects of a pickle become: containers, numbers, arrays, names, and what is left out.

These functions stand for the calls that a pickle may make (see `safe_pickle`). They are given
whatever it says and make nothing larger than it is.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from anatcl_jax.errors import UserError

_SCALARS = (str, int, float, bool, bytes, type(None))


@dataclasses.dataclass(frozen=True)
class Name:
  """A function or class by its name; which of the two is not known."""

  text: str


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """Stands for an object of a class that is not known; nothing of its content is kept."""

  text: str


class Namespace(dict):
  """The attributes of an argparse.Namespace."""


@dataclasses.dataclass
class _DType:
  text: str


@dataclasses.dataclass
class Array:
  """A NumPy array; None where its values are no numbers or texts."""

  value: np.ndarray | None = None


def is_numbers(value: Any) -> bool:
  """Whether a value is an array of numbers or truth values."""
  return isinstance(value, Array) and value.value is not None and value.value.dtype.kind in 'biuf'


def refused(what: str) -> UserError:
  """The error for a pickle that does what no plain data does."""
  return UserError(f'refused, because its pickle {what}; nothing of it was run')


def described(value: Any) -> str:
  """A value for an error line: its name where it has one, else its type."""
  return value.text if isinstance(value, Name | LeftOut) else f'a {type(value).__name__}'


def _key(key: Any) -> Any:
  """A key whose hash and comparison cost nothing: nested tuples can be made to take for ever."""
  parts = key if isinstance(key, tuple) else (key,)
  if len(parts) > 8 or not all(isinstance(part, _SCALARS) for part in parts) or any(
      isinstance(part, int) and abs(part) >= 2**64 for part in parts):
    raise ValueError('a key is neither text nor a number')
  return key


def paired(items: list[Any]) -> dict[Any, Any]:
  """A dictionary of alternating keys and values; ValueError for a key that is no plain one."""
  if len(items) % 2:
    raise ValueError('a key has no value')
  return {_key(key): value for key, value in zip(items[::2], items[1::2])}


def as_set(items: Any = ()) -> set[Any]:
  """A set of plain keys; ValueError for others."""
  return {_key(item) for item in items}


def extend(target: Any, items: list[Any]) -> None:
  """Adds items to a list or a set; what is added to an object that was left out is left out."""
  if isinstance(target, list):
    target.extend(items)
  elif isinstance(target, set):
    target.update(as_set(items))
  elif not isinstance(target, LeftOut):
    raise refused(f'would add to {described(target)}')


def update(target: Any, items: list[Any]) -> None:
  """Sets alternating keys and values in a dictionary, or leaves them out with its object."""
  if isinstance(target, dict):
    target.update(paired(items))
  elif not isinstance(target, LeftOut):
    raise refused(f'would set items of {described(target)}')


def build(target: Any, state: Any) -> None:
  """Gives an object its state, which of an OrderedDict is attributes that nobody needs."""
  if isinstance(target, Namespace):
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
      raise ValueError('a Namespace without attributes')
    target.update(state)
  elif isinstance(target, Array):
    _, shape, dtype, fortran, data = state
    if isinstance(dtype, _DType) and isinstance(data, bytes) and is_shape(shape):
      kind = np.dtype(dtype.text)
      if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError('an array whose size is not that of its data')
      target.value = np.frombuffer(data, kind).reshape(shape, order='F' if fortran else 'C')
  elif isinstance(target, _DType):
    if state[1] in ('<', '>'):
      target.text = state[1] + target.text
  elif not isinstance(target, dict | LeftOut):
    raise refused(f'would set the state of {described(target)}')


def is_shape(sizes: Any) -> bool:
  """Whether these are sizes of axes, or strides, that can be multiplied without harm."""
  return isinstance(sizes, tuple) and len(sizes) <= 32 and all(
      type(size) is int and 0 <= size < 2**48 for size in sizes)


def _dtype(text: str, *_) -> _DType | LeftOut:
  plain = re.fullmatch(r'[biufSU]\d{1,9}', text)
  return _DType(text) if plain else LeftOut(f'numpy.dtype {text[:20]}')


def _scalar(dtype: _DType, data: bytes) -> Any:
  if not isinstance(dtype, _DType):
    return LeftOut('numpy.generic')
  value, = np.frombuffer(data, np.dtype(dtype.text))
  return value.item()


def _bytes(text: str = '', encoding: str = 'latin1') -> bytes:
  if encoding not in ('latin1', 'latin-1'):
    raise ValueError(f'bytes in {encoding[:20]}')
  return text.encode('latin1')


def _path(*parts: str) -> str:
  if sum(map(len, parts)) > 10_000:
    raise ValueError('a long path')
  return str(pathlib.PurePosixPath(*parts))


# Names of Python's library that may be given as a value or constructed empty.
CLASSES = {'argparse.Namespace', 'builtins.object', 'builtins.dict', 'builtins.list',
           'builtins.int', 'builtins.float', 'builtins.str', 'builtins.bool', 'builtins.tuple'}

CALLS: dict[str, Callable[..., Any]] = {
    'argparse.Namespace': lambda: Namespace(),
    'collections.OrderedDict': lambda pairs=(): paired([x for k, v in pairs for x in (k, v)]),
    'collections.defaultdict': lambda *factory: {},
    'builtins.set': as_set,
    'builtins.frozenset': as_set,
    'builtins.bytes': _bytes,
    '_codecs.encode': _bytes,
    'copyreg._reconstructor': None,   # done by the machine
    'numpy.dtype': _dtype,
    'numpy.ma.core._mareconstruct': lambda *_: LeftOut('numpy.ma.MaskedArray'),
    **{f'numpy.{core}.multiarray.{name}': function for core in ('core', '_core')
       for name, function in (('_reconstruct', lambda *_: Array()), ('scalar', _scalar))},
    **{f'pathlib.{name}': _path for name in ('PosixPath', 'WindowsPath', 'PurePosixPath',
                                             'PureWindowsPath', 'Path')},
}
