"""Reads what `torch.save` wrote, such as the released AnatCL weights, without PyTorch.

Since PyTorch 1.6 that is a zip archive, before it a sequence of pickles and raw numbers; in both a
pickle refers to storages, flat runs of numbers, as strided tensors. No code in the file is run (see
`safe_pickle`), and nothing is allocated that is larger than the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import mmap
import pathlib
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from anatcl_jax.errors import UserError, listed
from anatcl_jax.weights import plain_objects, released_names, safe_pickle

_DTYPES = {'Float': np.float32, 'Double': np.float64, 'Half': np.float16,
           'BFloat16': ml_dtypes.bfloat16, 'Long': np.int64, 'Int': np.int32, 'Short': np.int16,
           'Char': np.int8, 'Byte': np.uint8, 'Bool': np.bool_}
_MOST_PICKLE = 2**28
_LEGACY_MAGIC = 0x1950a86a20f9469cfc6c


@dataclasses.dataclass(frozen=True)
class Released:
  """What a file of PyTorch weights holds, apart from its optimizer."""

  state: dict[str, np.ndarray]      # the state dict, in the file's dtypes
  options: dict[str, Any]           # numbers and texts of the command that trained it
  left_out: tuple[str, ...]         # classes whose content was not read
  epoch: int | None
  passed_over: tuple[str, ...] = ()   # keys of tensors that are not below the encoder's prefix


@dataclasses.dataclass(frozen=True)
class _Storage:
  key: str
  kind: str
  count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


_Reader = Callable[[_Storage], np.ndarray]


def read(path: pathlib.Path) -> Released:
  """The state dict in a `.pth` file, and what else of it is plain data.

  Raises:
    UserError: it is no such file, is damaged, would run code, or holds no state dict.
  """
  try:
    with _opened(path) as (content, left_out, storages):
      return _state(content, left_out, storages, most=4 * path.stat().st_size)
  except UserError as error:
    raise UserError(f'{path}: {error}') from None
  except OSError as error:
    raise UserError(f'{path}: can\'t be read ({error.strerror or error})') from None
  except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
    raise UserError(f'{path}: it is damaged ({str(error)[:80]}); download it again') from None


def _state(content: Any, left_out: list[str], storages: _Reader, most: int) -> Released:
  if not isinstance(content, dict):
    content = {'model': content}
  flat = _flat(content)
  parent, names = released_names.below_root(flat)
  if names and parent == '' and isinstance(content.get('encoder'), dict):   # dicts of its parts
    names = {key: name for key, name in names.items() if key.split('.')[0] in ('encoder', 'head')}
  if names:
    state = {name: flat[key] for key, name in names.items()}
  else:
    state = next((content[name] for name in ('model', 'state_dict') if name in content), content)
  if isinstance(state, plain_objects.LeftOut):
    raise UserError(f'it holds a pickled {state.text} instead of a state dict, and can\'t be read '
                    'without running its code; save model.state_dict() where that is there')
  if not isinstance(state, dict) or not state:
    raise UserError('it holds no state dict; a released file is {\'model\': state dict, ...}')
  arrays, problems = {}, []
  for key, value in state.items():
    if isinstance(key, str) and isinstance(value, _Tensor):
      arrays[key] = _array(value, storages)
      most -= arrays[key].nbytes    # tensors may share a storage, but not a million of them
      if most < 0:
        raise UserError('refused, because its tensors are many times larger than the file')
    elif isinstance(key, str) and plain_objects.is_numbers(value):
      arrays[key] = value.value
    else:
      problems.append(str(key)[:80])
  if problems:
    raise UserError(f'no tensors in its state dict: {listed(problems, 20)}')
  options = next((content[name] for name in ('opts', 'args', 'config') if name in content
                  and isinstance(content[name], dict)), {})
  passed = tuple(key for key, value in flat.items() if isinstance(value, _Tensor) and names
                 and key not in names and not key.startswith('optimizer'))
  epoch = content.get('epoch')
  return Released(arrays, {key: value for key, value in options.items() if _is_small(key)
                           and _is_small(value)},
                  tuple(left_out), epoch if type(epoch) is int and abs(epoch) < 2**53 else None,
                  passed)


def _flat(content: dict[Any, Any], prefix: str = '', depth: int = 4) -> dict[str, Any]:
  """Values of dicts in dicts, by their keys joined with dots."""
  found = {}
  for key, value in content.items():
    name = f'{prefix}{str(key)[:200]}'
    if isinstance(value, dict) and depth:
      found |= _flat(value, f'{name}.', depth - 1)
    else:
      found[name] = value
  return found


def _is_small(value: Any) -> bool:
  return isinstance(value, float | bool | type(None)) or (
      isinstance(value, int) and abs(value) < 2**53) or (
      isinstance(value, str) and len(value) < 1000)


def _array(tensor: _Tensor, storages: _Reader) -> np.ndarray:
  flat = storages(tensor.storage)
  strides = [step * flat.itemsize for step in tensor.strides]
  view = np.lib.stride_tricks.as_strided(flat[tensor.offset:], tensor.shape, strides)
  return np.array(view, order='C')


# ---- What a pickle of PyTorch may call -----------------------------------------------------------


def _storage(reference: Any) -> _Storage:
  if reference[0] == 'module':   # the class of a module and its source text, before PyTorch 1.6
    return reference[1]
  word, kind, key, _, count, *view = reference
  name = re.fullmatch(r'torch\.(\w+)Storage', kind.text)
  if word != 'storage' or not name or name[1] not in _DTYPES:
    raise ValueError(f'a storage of unknown kind {plain_objects.described(kind)}')
  if any(part is not None for part in view) or not isinstance(key, str) or len(key) > 200:
    raise ValueError('a storage that is part of another')
  if not plain_objects.is_shape((count,)):
    raise ValueError('a storage of no size')
  return _Storage(key, name[1], count)


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...],
            *_) -> _Tensor:
  """torch._utils._rebuild_tensor_v2: a tensor that lies within its storage."""
  shape, strides = tuple(shape), tuple(strides)
  if not isinstance(storage, _Storage) or len(shape) != len(strides) or not all(
      map(plain_objects.is_shape, (shape, strides, (offset,)))):
    raise ValueError('a tensor without sizes')
  elements = int(np.prod(shape, dtype=object))
  last = offset + sum((size - 1) * step for size, step in zip(shape, strides))
  if elements > storage.count or (elements and last >= storage.count) or offset > storage.count:
    raise ValueError(f'a tensor of shape {shape} in a storage of {storage.count}')
  return _Tensor(storage, offset, shape, strides)


def _device(*text: Any) -> str:
  return ':'.join(str(part)[:20] for part in text if isinstance(part, str | int))


_CALLS = {'torch._utils._rebuild_tensor_v2': _tensor, 'torch._utils._rebuild_tensor': _tensor,
          'torch._utils._rebuild_parameter': lambda tensor, *_: tensor,
          'torch.Size': lambda sizes=(): tuple(sizes), 'torch.device': _device}


# ---- The two formats -----------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[Any, list[str], _Reader]]:
  """The file's pickled value, the classes left out of it, and a reader of its storages."""
  with path.open('rb') as file:
    start = file.read(4)
    if start[:4] == b'PK\x03\x04':
      with _archive(file) as archive:
        yield _from_archive(archive)
    elif start[:1] == b'\x80':
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        yield _from_sequence(stream)
    else:
      raise UserError('it is no file that torch.save wrote'
                      + (' (it is empty)' if not start else ''))


@contextlib.contextmanager
def _archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
  try:
    with zipfile.ZipFile(file) as archive:
      yield archive
  except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError,
          struct.error) as error:
    raise UserError(f'it is damaged or not whole ({str(error)[:80]}); download it again') from None


def _from_archive(archive: zipfile.ZipFile) -> tuple[Any, list[str], _Reader]:
  names = set(archive.namelist())
  pickles = [name for name in names if re.fullmatch(r'[^/]*/data\.pkl', name)]
  if len(pickles) != 1:
    raise UserError('it is a zip archive that torch.save did not write (data.pkl)')
  folder = pickles[0].removesuffix('data.pkl')
  if f'{folder}constants.pkl' in names:
    raise UserError('refused, because it is a TorchScript program; save model.state_dict() instead')
  size = archive.fp.seek(0, io.SEEK_END)
  spent = 0

  def member(name: str, most: int) -> bytes:
    """Its bytes; none are compressed, so that all members are no more than the file."""
    nonlocal spent
    info = archive.getinfo(folder + name)
    spent += info.file_size
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
      raise UserError(f'{name} in it is compressed or encrypted, as torch.save never does')
    if info.file_size > most or spent > size:
      raise UserError(f'{name} in it claims {info.file_size:,} bytes, more than it can have')
    return archive.read(info)

  written = member('byteorder', 10) if f'{folder}byteorder' in names else b'little'
  if written not in (b'little', b'big'):
    raise UserError('it is of an unknown byte order')
  content, left_out = safe_pickle.load(io.BytesIO(member('data.pkl', _MOST_PICKLE)), _CALLS,
                                       _storage)
  read_before: dict[_Storage, np.ndarray] = {}

  def storage(wanted: _Storage) -> np.ndarray:
    if wanted not in read_before:
      if f'{folder}data/{wanted.key}' not in names:
        raise UserError(f'it is damaged: data/{wanted.key} is missing; download it again')
      read_before[wanted] = _numbers(member(f'data/{wanted.key}', size), wanted,
                                     '<' if written == b'little' else '>')
    return read_before[wanted]

  return content, left_out, storage


def _from_sequence(stream: mmap.mmap) -> tuple[Any, list[str], _Reader]:
  """Before PyTorch 1.6: magic number, version, system, value, keys of storages, storages."""
  magic, _ = safe_pickle.load(stream, {})
  if magic != _LEGACY_MAGIC:
    raise UserError('it is a pickle that torch.save did not write')
  version, _ = safe_pickle.load(stream, {})
  system, _ = safe_pickle.load(stream, {})
  if version != 1001 or not isinstance(system, dict):
    raise UserError('it is of an unknown version of torch.save')
  order = '<' if system.get('little_endian', True) else '>'
  known: dict[str, _Storage] = {}

  def storage(reference: Any) -> _Storage:
    found = _storage(reference)
    if known.setdefault(found.key, found) != found:
      raise ValueError(f'two storages {found.key}')
    return found

  content, left_out = safe_pickle.load(stream, _CALLS, storage)
  keys, _ = safe_pickle.load(stream, {})
  places = {}
  for key in keys if isinstance(keys, list) else ():
    if not isinstance(key, str) or key not in known:
      raise UserError('it is damaged: a storage is of no tensor')
    count = int.from_bytes(stream.read(8), 'little' if order == '<' else 'big')
    bytes_ = count * np.dtype(_DTYPES[known[key].kind]).itemsize
    places[key] = (stream.tell(), bytes_)
    if count != known[key].count or stream.tell() + bytes_ > len(stream):
      raise UserError('it is damaged or not whole; download it again')
    stream.seek(bytes_, io.SEEK_CUR)

  @functools.cache
  def numbers(wanted: _Storage) -> np.ndarray:
    if wanted.key not in places:
      raise UserError('it is damaged or not whole; download it again')
    start, bytes_ = places[wanted.key]
    return _numbers(stream[start:start + bytes_], wanted, order)

  return content, left_out, numbers


def _numbers(data: bytes, storage: _Storage, order: str) -> np.ndarray:
  """A storage in this machine's byte order."""
  dtype = np.dtype(_DTYPES[storage.kind])
  if len(data) != storage.count * dtype.itemsize:
    raise UserError(f'it is damaged: storage {storage.key} has {len(data):,} bytes, not '
                    f'{storage.count * dtype.itemsize:,}')
  if dtype == np.bool_:
    return np.frombuffer(data, np.uint8) != 0
  stored = np.dtype(f'{order}u{dtype.itemsize}')
  return np.frombuffer(data, stored).astype(stored.newbyteorder('=')).view(dtype)
