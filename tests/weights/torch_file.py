"""Files as `torch.save` writes them, by hand, so that reading them is tested without PyTorch."""

from __future__ import annotations

import pathlib
import struct
import zipfile
from collections.abc import Callable

import numpy as np

KINDS = {'float32': 'FloatStorage', 'float16': 'HalfStorage', 'int64': 'LongStorage'}


def text(value: str) -> bytes:
  return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def number(value: int) -> bytes:
  return b'J' + struct.pack('<i', value)


def pair(key: str, value: bytes) -> bytes:
  return text(key) + value + b's'


def tensor(key: str, array: np.ndarray, kind: str = 'FloatStorage') -> bytes:
  """What the pickle says of a tensor that is alone in its storage."""
  strides = [stride // array.itemsize for stride in array.strides]
  shape, strides = (b'(' + b''.join(map(number, sizes)) + b't' for sizes in (array.shape, strides))
  storage = (b'(' + text('storage') + f'ctorch\n{kind}\n'.encode() + text(key) + text('cpu')
             + number(array.size) + b'tQ')
  return (b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + number(0) + shape + strides
          + b'\x89ccollections\nOrderedDict\n)RtR')


def save_content(path: pathlib.Path, content: dict) -> pathlib.Path:
  """Writes dicts in dicts of arrays and whole numbers."""
  arrays: list[np.ndarray] = []

  def pickled(value) -> bytes:
    if isinstance(value, dict):
      return b'}' + b''.join(pair(key, pickled(inner)) for key, inner in value.items())
    if isinstance(value, int):
      return number(value)
    arrays.append(value)
    return tensor(str(len(arrays) - 1), value, KINDS[str(value.dtype)])

  _write(path, b'\x80\x02' + pickled(content) + b'.', arrays)
  return path


def _write(path: pathlib.Path, pickle: bytes, arrays: list[np.ndarray]) -> None:
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickle)
    for i, array in enumerate(arrays):
      archive.writestr(f'archive/data/{i}', array.tobytes())
    archive.writestr('archive/version', b'3\n')


def save(path: pathlib.Path, state: dict[str, np.ndarray], *more: bytes,
         change: Callable[[bytes], bytes] = lambda pickle: pickle) -> pathlib.Path:
  """Writes {'model': state, ...}; `more` are further pairs, `change` spoils its pickle."""
  body = b''.join(pair(name, tensor(str(i), array, KINDS[str(array.dtype)]))
                  for i, (name, array) in enumerate(state.items()))
  pickle = (b'\x80\x02}' + text('model') + b'ccollections\nOrderedDict\n)R' + body + b's'
            + b''.join(more) + b'.')
  _write(path, change(pickle), list(state.values()))
  return path
