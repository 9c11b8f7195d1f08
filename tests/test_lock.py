"""Locks: one holder at a time, named; those that are left behind by crashes are taken over."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from anatcl_jax import lock
from anatcl_jax.errors import UserError

HOLD = '''
import pathlib, sys, time
from anatcl_jax import lock
with lock.alone_in(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(60)
'''


@pytest.fixture
def impatient(monkeypatch):
  monkeypatch.setattr(lock, '_SILENT', 1.2)
  monkeypatch.setattr(lock, '_BEAT', 0.2)


def left_by(folder, machine):
  folder.mkdir(exist_ok=True)
  (folder / '.lock').write_text(json.dumps(
      {'process': 7, 'host': 'node5', 'machine': machine, 'since': 'noon', 'token': ''}))


def test_a_second_process_is_refused_and_a_killed_one_leaves_nothing_in_the_way(tmp_path):
  folder = tmp_path / '[a] b\n*'
  with subprocess.Popen([sys.executable, '-c', HOLD, str(folder)], stdout=subprocess.PIPE) as other:
    other.stdout.readline()
    with pytest.raises(UserError, match=re.escape(
        f'in use by another process (process {other.pid} on {socket.gethostname()}, since 20')):
      with lock.alone_in(folder):
        pass
    other.send_signal(signal.SIGKILL)
  began = time.monotonic()
  with lock.alone_in(folder):
    assert json.loads((folder / '.lock').read_text())['process'] == os.getpid()
  assert time.monotonic() - began < 1
  assert not list(folder.iterdir())


def test_folders_that_were_made_for_it_go_where_nothing_was_written(tmp_path):
  with lock.alone_in(tmp_path / 'a' / 'b'):
    pass
  with lock.alone_with(tmp_path / 'c' / 'table.tsv'):
    pass
  assert not list(tmp_path.iterdir())
  with lock.alone_in(tmp_path / 'a' / 'b'):
    (tmp_path / 'a' / 'result').touch()
  assert [path.name for path in (tmp_path / 'a').iterdir()] == ['result']


def test_files_of_one_folder_are_held_apart(tmp_path):
  with lock.alone_with(tmp_path / 'a.tsv'), lock.alone_with(tmp_path / 'b.tsv'):
    with pytest.raises(UserError, match=r'a\.tsv is in use .* or choose another file'):
      with lock.alone_with(tmp_path / 'a.tsv'):
        pass
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('flock', [True, False])
def test_many_at_once(tmp_path, flock, impatient, monkeypatch):
  """With the kernel's lock, and on a file system without: never two inside."""
  if not flock:
    def none(*_):
      raise OSError(lock.errno.ENOSYS, 'Function not implemented')
    monkeypatch.setattr(lock.fcntl, 'flock', none)
  inside, most, entered = [], [], []

  def work():
    with contextlib.suppress(UserError), lock.alone_in(tmp_path):
      inside.append(1)
      most.append(len(inside))
      entered.append(1)
      time.sleep(1.5)
      inside.pop()

  threads = [threading.Thread(target=work) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(entered) == 1 and max(most) == 1


def test_another_machine_that_still_beats_is_believed(tmp_path, impatient):
  left_by(tmp_path, 'another kernel')
  stop = threading.Event()
  beats = threading.Thread(target=lambda: [os.utime(tmp_path / '.lock')
                                           for _ in iter(lambda: stop.wait(0.1), True)])
  beats.start()
  try:
    with pytest.raises(UserError, match='process 7 on node5, since noon'):
      with lock.alone_in(tmp_path):
        pass
  finally:
    stop.set()
    beats.join()
  assert (tmp_path / '.lock').exists()


def test_another_machine_that_is_silent_is_succeeded(tmp_path, impatient, capsys):
  left_by(tmp_path, 'another kernel')
  began = time.monotonic()
  with lock.alone_in(tmp_path):
    assert time.monotonic() - began > 1.2
  assert 'node5' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['', '{', '[]', '[' * 100000, '{"process": 1}'])
def test_a_damaged_name_holds_nobody_up(tmp_path, text):
  (tmp_path / '.lock').write_text(text)
  with lock.alone_in(tmp_path):
    pass


def test_what_can_not_be_locked_is_one_line(tmp_path):
  (tmp_path / 'file').touch()
  (tmp_path / 'odd' / '.lock').mkdir(parents=True)
  (tmp_path / 'link').mkdir()
  (tmp_path / 'link' / '.lock').symlink_to(tmp_path / 'elsewhere')
  for name in ('file', 'file/below', 'odd', 'link'):
    with pytest.raises(UserError, match='can\'t be written .*; choose another folder'):
      with lock.alone_in(tmp_path / name):
        pass
  assert not (tmp_path / 'elsewhere').exists()
