"""No memory left is one line with what was asked, what is there, and what helps."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys

import jax.errors
import numpy as np
import pytest

from anatcl_jax import errors
from anatcl_jax.data import shards


def _line(capsys, error: BaseException) -> str:
  with pytest.raises(SystemExit) as stop, errors.reported():
    raise error
  assert stop.value.code == 1
  line, = capsys.readouterr().err.splitlines()
  return line


@pytest.mark.parametrize('error, asked', [
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.\n'
                                'BufferAssignment OOM Debugging.'), '68.7 GB were asked for'),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate '
                                '12.5GiB.'), '13.4 GB were asked for'),
    (MemoryError('Unable to allocate 2.00 TiB for an array'), '2.2e+03 GB were asked for'),
    (MemoryError(), 'no size is told'),
    (RuntimeError('std::bad_alloc'), 'std::bad_alloc'),
    (OSError(errno.ENOMEM, 'Cannot allocate memory'), 'Cannot allocate memory')])
def test_out_of_memory(capsys, error, asked):
  line = _line(capsys, error)
  assert line.startswith('error: out of memory: ') and asked in line
  assert re.search(r'the host has [\d.]+ GB free', line)
  assert 'batch_size' in line and 'remat=blocks' in line and 'cache=none' in line


def test_numpy_and_jax_in_earnest(capsys):
  with pytest.raises(SystemExit), errors.reported():
    np.empty(1 << 60, np.int8)
  assert '1.15e+09 GB were asked for' in capsys.readouterr().err
  with pytest.raises(SystemExit), errors.reported():
    jax.numpy.zeros((1 << 20, 1 << 27), np.float32).block_until_ready()
  assert '5.63e+05 GB were asked for' in capsys.readouterr().err


def test_no_other_error_is_taken_for_it():
  for error in (RuntimeError('a shape does not fit'), ValueError('out of memory'), OSError('x')):
    with pytest.raises(type(error)), errors.reported():
      raise error


def test_a_record_is_not_damaged_where_memory_ends(shard_set, monkeypatch):
  def without_memory(_):
    raise MemoryError

  monkeypatch.setattr(shards, 'decode_record', without_memory)
  with pytest.raises(MemoryError):
    shard_set.read_volume(0)


@pytest.mark.parametrize('tail', ['', '; print(1, flush=True); print(2, flush=True)'])
def test_a_reader_that_has_enough_ends_a_command_without_a_traceback(tail):
  """As `head` does: noticed while the body prints, or when it is done."""
  code = f'from anatcl_jax import errors\nwith errors.reported(): print(0){tail}'
  process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
  process.stdout.close()
  assert process.wait() == 128 + signal.SIGPIPE and process.stderr.read() == b''


def test_another_pipe_that_breaks_is_an_error():
  with pytest.raises(BrokenPipeError), errors.reported():
    raise BrokenPipeError('of a worker')
