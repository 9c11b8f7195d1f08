"""Reading what torch.save wrote: values are those that were saved, and no code of a file runs."""

from __future__ import annotations

import copyreg
import pickle
import sys
import zipfile

import numpy as np
import pytest

from anatcl_jax.errors import UserError
from anatcl_jax.weights import released
from tests.weights import torch_file
from tests.weights.torch_file import pair, text

RNG = np.random.default_rng(0)
STATE = {'a.weight': RNG.normal(size=(3, 2, 2)).astype(np.float32), 'a.bias': np.float16([1, -2]),
         'a.count': np.array(7, np.int64)}
NAMESPACE = (b'cargparse\nNamespace\n)\x81}' + pair('fold', torch_file.number(3))
             + pair('lr', b'G?\x1a6\xe2\xeb\x1cC-') + b'b')


def test_values_are_those_of_the_file(tmp_path):
  """Also of a storage that another order of axes views."""
  turned = STATE | {'turned': STATE['a.weight'].T.copy().T}
  path = torch_file.save(tmp_path / 'a.pth', turned | {'turned': np.zeros(12, np.float32)},
                         pair('opts', NAMESPACE), pair('epoch', torch_file.number(300)))
  read = released.read(path)
  for name, array in STATE.items():
    np.testing.assert_array_equal(read.state[name], array)
    assert read.state[name].dtype == array.dtype and read.state[name].shape == array.shape
  assert read.options == {'fold': 3, 'lr': 1e-4} and read.epoch == 300 and not read.left_out


CANARY = '''
import pathlib
def fire(*_):
  pathlib.Path(__file__).with_name('fired').touch()
class Bird:
  def __new__(cls, *_):
    fire()
    return object.__new__(cls)
  def __setstate__(self, state):
    fire()
fire()
'''
FOREIGN = 'a name from outside'
# The last bytes of a pickle whose value is dropped; what of it is refused.
FIRING = {
    'REDUCE': (b'ccanary\nfire\n)R', 'would call canary.fire'),
    'REDUCE of a class': (b'ccanary\nBird\n)R', 'would call canary.Bird'),
    'STACK_GLOBAL': (text('canary') + text('fire') + b'\x93)R', 'would call canary.fire'),
    'INST': (b'(icanary\nfire\n', 'would call canary.fire'),
    'OBJ': (b'(ccanary\nfire\no', 'would call canary.fire'),
    'EXT1': (b'\x82\xf0)R', 'extension registry'),
    'eval': (b'cbuiltins\neval\n(' + text('__import__("canary")') + b'tR', 'names builtins.eval'),
    'py2': (b'c__builtin__\neval\n(' + text('__import__("canary")') + b'tR', 'builtins.eval'),
    'import': (b'cimportlib\nimport_module\n(' + text('canary') + b'tR', 'names importlib'),
    'dotted': (b'\x8c\x06canary\x8c\x0cBird.__new__\x93(ccanary\nBird\ntR', 'by attributes of'),
    'getattr': (b'cbuiltins\ngetattr\n(ccanary\nfire\n' + text('__call__') + b'tR)R',
                'names builtins.getattr'),
    '_reconstructor': (b'ccopy_reg\n_reconstructor\n(ccanary\nBird\nccanary\nBird\nNtR',
                       'would construct canary.Bird'),
    'NEWOBJ': (b'ccanary\nBird\n)\x81', FOREIGN),
    'NEWOBJ_EX': (b'ccanary\nBird\n)}\x92', FOREIGN),
    'BUILD': (b'ccanary\nBird\n)\x81}b', FOREIGN),
}


@pytest.mark.parametrize('kind', FIRING)
def test_nothing_runs(kind, tmp_path, monkeypatch):
  """Python's own reader fires; ours refuses, or leaves out what is only an object of a class."""
  code, refusal = FIRING[kind]
  (tmp_path / 'canary.py').write_text(CANARY)
  fired = tmp_path / 'fired'
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setattr(sys, 'dont_write_bytecode', True)
  if kind == 'EXT1':
    copyreg.add_extension('canary', 'fire', 240)
  try:
    try:
      pickle.loads((b'\x80\x04' if kind == 'dotted' else b'\x80\x02') + code + b'.')
    except TypeError:
      pass
    assert fired.exists()
  finally:
    fired.unlink(missing_ok=True)
    sys.modules.pop('canary', None)
    if kind == 'EXT1':
      copyreg.remove_extension('canary', 'fire', 240)
  path = torch_file.save(tmp_path / 'a.pth', STATE, pair('estimator', code))
  if refusal == FOREIGN:
    read = released.read(path)
    assert read.left_out == ('canary.Bird',) and list(read.state) == list(STATE)
  else:
    with pytest.raises(UserError, match=f'a.pth: refused.*{refusal}'):
      released.read(path)
  assert not fired.exists() and 'canary' not in sys.modules


def nested(depth: int) -> bytes:
  """A list of the same list twice, and so on: 2^depth when it is written out."""
  return b'](' + text('x') + b'e' + b'q\x00' + b''.join(
      b'0](' + b'h' + bytes([i % 250]) + b'h' + bytes([i % 250]) + b'eq' + bytes([(i + 1) % 250])
      for i in range(depth))


@pytest.mark.parametrize('code, word', [
    (nested(100) + b'0ctorch\ndevice\n(hdtR', None),
    (nested(100) + b'0hdhd\x93', 'a name that is none'),
    (b'}(' + b'h' * 3 + b'u', 'damaged'),
    (b'\x8e' + b'\xff' * 8, 'damaged'),                         # bytes of 2^64
    (b'cnumpy\ndtype\n(' + text('S999999999') + b'tR', None),
    (b'(' * 1000 + b't' * 1000, None),
], ids=['device', 'name', 'pairs', 'length', 'dtype', 'depth'])
def test_what_would_take_for_ever_or_all_memory(code, word, tmp_path):
  path = torch_file.save(tmp_path / 'a.pth', STATE, pair('x', code))
  if word:
    with pytest.raises(UserError, match=word):
      released.read(path)
  else:
    assert list(released.read(path).state) == list(STATE)


def test_a_storage_that_many_tensors_share(tmp_path):
  state = {'a': np.zeros(10_000, np.float32)} | {str(i): np.zeros(0, np.float32) for i in range(9)}
  again = torch_file.tensor('0', state['a'])
  path = torch_file.save(tmp_path / 'a.pth', state, change=lambda pickle: pickle[:-2] + b''.join(
      pair(f'again{i}', again) for i in range(20)) + b's.')
  with pytest.raises(UserError, match='many times larger than the file'):
    released.read(path)


@pytest.mark.parametrize('array, message', [
    (b'J\x63\x00\x00\x00', 'no tensors in its state dict: x'),
    (torch_file.tensor('0', np.zeros(5, np.float32)), 'storage 0 has 48 bytes, not 20'),
    (torch_file.tensor('9', np.zeros(5, np.float32)), 'data/9 is missing'),
    (torch_file.tensor('0', np.zeros(5, np.float32), 'QUInt8Storage'), 'unknown kind'),
    (torch_file.tensor('0', np.zeros(12, np.float32)).replace(
        b'tQ' + torch_file.number(0), b'tQ' + torch_file.number(1)), 'in a storage of 12')])
def test_tensors_that_do_not_fit(array, message, tmp_path):
  path = torch_file.save(tmp_path / 'a.pth', STATE,
                         change=lambda pickle: pickle[:-2] + pair('x', array) + b's.')
  with pytest.raises(UserError, match=f'a.pth: .*{message}'):
    released.read(path)


def test_other_files(tmp_path):
  path = tmp_path / 'a.pth'
  for content, message in ((b'', 'it is empty'), (b'hello', 'no file that torch.save wrote'),
                           (b'PK\x03\x04rest', 'damaged or not whole'),
                           (b'\x80\x02K\x01.', 'that torch.save did not write')):
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
      released.read(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('word/document.xml', '')
  with pytest.raises(UserError, match='zip archive that torch.save did not write'):
    released.read(path)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('archive/data.pkl', bytes(10**7))
  with pytest.raises(UserError, match='compressed'):
    released.read(path)
  torch_file.save(path, STATE, change=lambda _: b'\x80\x02cmodels.net\nNet\n)\x81.')
  with pytest.raises(UserError, match='pickled models.net.Net instead of a state dict'):
    released.read(path)


def spoilt(whole: bytes, seed: int) -> bytes:
  """A file with bytes changed, most of them in its pickle, or cut."""
  rng = np.random.default_rng(seed)
  if seed % 5 == 0:
    return whole[:rng.integers(len(whole))]
  content = bytearray(whole)
  for _ in range(rng.integers(1, 5)):
    content[rng.integers(len(content) if seed % 2 else min(len(content), 900))] = rng.integers(256)
  return bytes(content)


def fuzz(path, whole, rounds):
  refused = 0
  for seed in range(rounds):
    path.write_bytes(spoilt(whole, seed))
    try:
      released.read(path)
    except UserError as error:
      assert str(error).startswith(f'{path}: ') and len(str(error)) < 1500
      refused += 1
  return refused


def test_damaged_files_give_one_line_or_are_read(tmp_path):
  """Without the checksums of zip, which would notice before the pickle is read."""
  path = torch_file.save(tmp_path / 'a.pth', STATE, pair('opts', NAMESPACE))
  whole = path.read_bytes()
  assert fuzz(path, whole, 300) > 250
  start = whole.index(b'\x80\x02}')
  code = whole[start:whole.index(b'PK\x03\x04', start)]
  for seed in range(400):
    torch_file.save(path, STATE, change=lambda _, seed=seed: spoilt(code, seed))
    try:
      released.read(path)
    except UserError as error:
      assert str(error).startswith(f'{path}: ')


def test_torch_files(tmp_path):
  """Both formats of torch.save, views and half precision, and damage to the older."""
  torch = pytest.importorskip('torch')
  base = torch.randn(4, 6, 5)
  state = {'view': base.transpose(0, 2)[1:, ::2], 'half': base.half(), 'brain': base.bfloat16(),
           'count': torch.tensor(3), 'parameter': torch.nn.Parameter(base[0]), 'empty': base[:0]}
  path = tmp_path / 'a.pth'
  for zipped in (True, False):
    torch.save({'model': state, 'epoch': 4}, path, _use_new_zipfile_serialization=zipped)
    read = released.read(path)
    assert read.epoch == 4 and list(read.state) == list(state)
    for name, value in state.items():
      np.testing.assert_array_equal(read.state[name].astype(np.float64),
                                    value.detach().double().numpy())
  assert fuzz(path, path.read_bytes(), 200) > 50
