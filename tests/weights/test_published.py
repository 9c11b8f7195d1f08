"""Released weights by name, from a server on loopback that is slow, breaks off, lies or is gone."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import socket
import threading
import time

import numpy as np
import pytest

from anatcl_jax import convert
from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.evaluation import cohort
from anatcl_jax.training import opening
from anatcl_jax.weights import download, published
from anatcl_jax.weights.choice import named_paths
from anatcl_jax.weights.download import Patience
from anatcl_jax.weights.load import load_weights
from configs.pretrain import get_config
from tests.test_convert import named
from tests.weights import torch_file

NAME = 'anatcl-global-0'
QUICK = Patience(silence=0.5, pause=0.01, tries=3)


@dataclasses.dataclass
class Server:
  """What the server does, and what it was asked."""

  content: bytes = b''
  tag: str = '"one"'
  kind: str = 'application/octet-stream'
  status: int = 200
  ranges: bool = True
  breaks: int = 0              # bytes after which an answer ends
  breaking: int = 10**6        # how many answers do
  silent: float = 0.0          # seconds between the halves of an answer
  pauses: int = 10**6          # how many answers have them
  redirect: str = ''
  length: bool = True
  asked: list = dataclasses.field(default_factory=list)
  address: str = ''


@pytest.fixture(scope='module')
def file(tmp_path_factory) -> bytes:
  """A released file of a small encoder."""
  return torch_file.save(tmp_path_factory.mktemp('file') / 'a.pth', named('tiny')).read_bytes()


@pytest.fixture
def server(file, tmp_path, monkeypatch):
  state = Server(file)

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      state.asked.append((self.path, dict(self.headers)))
      if state.redirect and not self.path.startswith('/there'):
        self.send_response(302)
        self.send_header('Location', state.redirect)
        self.end_headers()
        return
      wanted = self.headers.get('Range')
      start = int(wanted[6:-1]) if wanted and state.ranges and (
          self.headers.get('If-Range') in (None, state.tag)) else 0
      body = state.content[start:]
      self.send_response(206 if start else state.status)
      self.send_header('Content-Type', state.kind)
      self.send_header('ETag', state.tag)
      if start:
        size = len(state.content)
        self.send_header('Content-Range', f'bytes {start}-{size - 1}/{size}')
      if state.length:
        self.send_header('Content-Length', str(len(body)))
      self.end_headers()
      if state.breaks and state.breaking > 0:
        state.breaking -= 1
        body = body[:state.breaks]
      self.wfile.write(body[:len(body) // 2])
      self.wfile.flush()
      state.pauses -= 1
      time.sleep(state.silent if state.pauses >= 0 else 0)
      self.wfile.write(body[len(body) // 2:])

    def log_message(self, *_):
      pass

  class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
      pass

  with Quiet(('127.0.0.1', 0), Handler) as running:
    threading.Thread(target=running.serve_forever, kwargs={'poll_interval': 0.02},
                     daemon=True).start()
    state.address = f'http://127.0.0.1:{running.server_port}'
    monkeypatch.setenv(published.BASE_VARIABLE, state.address)
    monkeypatch.setenv(published.CACHE_VARIABLE, str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '*')
    yield state
    running.shutdown()


def fetch(name=NAME, readable=lambda path: None) -> pathlib.Path:
  return published.fetch(name, readable, patience=QUICK, show=False)


def left(path: pathlib.Path) -> list[str]:
  return sorted(one.name for one in path.iterdir())


def test_by_name_it_comes_once_and_is_noted(server, file, tmp_path, capsys):
  weights = load_weights(NAME)
  np.testing.assert_array_equal(weights.variables['params']['bn1']['scale'],
                                named('tiny')['encoder.bn1.weight'])
  digest = hashlib.sha256(file).hexdigest()
  card = weights.card
  assert (card['source'], card['descriptor'], card['fold'], card['sha256']) == (
      NAME, 'global', 0, digest)
  place = ('/0_obhn64_resnet18_amp_yaware_adam_tf_none_lr0.0001_step_step10_rate0.9_wd5e-05_bsz32_'
           'trainall_False_temp0.1_views2_kernel_rbf_sigma2.0_alpha1.0_anat_desikan_normTrue_'
           'subsetTrue_global_lambd1.0_fold0_splits5_trial0/weights.pth')
  assert [path for path, _ in server.asked] == [place]
  cache = tmp_path / 'cache'
  assert left(cache) == [f'{NAME}.pth', 'sha256.json']
  noted = json.loads((cache / 'sha256.json').read_text())[NAME]
  assert noted['sha256'] == digest and noted['address'] == server.address + place
  assert 'downloading http' in capsys.readouterr().err
  assert load_weights(NAME).card == card and len(server.asked) == 1
  convert.main([NAME, str(tmp_path / 'folder')])
  assert load_weights(tmp_path / 'folder').card == card and len(server.asked) == 1


def test_the_older_set_and_another_folder(server, tmp_path):
  for name, place in (('anatcl-old-local-3', '/resnet18-anatcl-l3/fold3.pth'),
                      ('anatcl-old-global-4', '/resnet18-anatcl-g3/fold4.pth')):
    card = load_weights(name, cache=tmp_path / 'mine').card
    assert server.asked[-1][0] == place
    assert (card['descriptor'], card['fold']) == (name.split('-')[2], int(name[-1]))
  assert not (tmp_path / 'cache').exists()
  convert.main(['anatcl-old-local-3', str(tmp_path / 'folder'), '--weights-cache',
                str(tmp_path / 'mine')])
  assert len(server.asked) == 2


def test_a_run_begins_with_them_and_the_probe_takes_them(server):
  config = get_config('encoder=tiny')
  config.init = 'anatcl-local-1'
  weights = opening.initial_weights(config)
  assert weights.card['source'] == 'anatcl-local-1' and len(server.asked) == 1
  paths = named_paths('anatcl-local-1,x=anatcl-global-2', 'config.checkpoint')
  assert {name: str(path) for name, path in paths.items()} == {
      'anatcl-local-1': 'anatcl-local-1', 'x': 'anatcl-global-2'}
  assert cohort.read_run(paths['anatcl-local-1']) is None    # whom they saw is not known


def test_a_cache_that_can_not_be_used(server, tmp_path):
  (tmp_path / 'file').write_text('')
  for place in (tmp_path / 'file', tmp_path / 'file' / 'below'):
    with pytest.raises(UserError, match=f"{place}: can't be written .*--weights-cache"):
      load_weights(NAME, cache=place)
  assert not server.asked


@pytest.mark.parametrize('text, descriptor, fold', [
    ('resnet18-anatcl-g3/fold2.pth', 'global', 2), ('resnet18-anatcl-l3/fold0.pth', 'local', 0),
    ('resnet18-anatcl-L7/fold1.pth', 'local', 1), ('anatcl-old-local-4.pth', 'local', 4),
    ('anatcl-global-1.pth', 'global', 1), ('x/fold12.pth', None, 12),
    ('global/local_fold1.pth', None, 1), ('locality/g30.pth', None, None),
    (published.RELEASED['anatcl-local-3'].place, 'local', 3)])
def test_what_a_path_tells(text, descriptor, fold):
  assert published.described(text) == (descriptor, fold)


def test_names_that_are_nearly_right_and_paths_that_are_there(server, tmp_path, monkeypatch):
  for name in ('anatcl-global-5', 'anatcl_global_0', 'AnatCL-local-1'):
    with pytest.raises(UserError, match=r"unknown released weights .*did you mean 'anatcl-\w+-\d'"):
      load_weights(name)
  monkeypatch.chdir(tmp_path)
  pathlib.Path(NAME).mkdir()
  with pytest.raises(UserError, match='is no workdir'):
    load_weights(NAME)
  assert not server.asked


def test_a_connection_that_breaks_off_goes_on(server, file):
  """Each answer ends after a third; the next ones ask for the rest of this very file."""
  server.breaks = len(file) // 3 + 1
  assert fetch().read_bytes() == file
  ranges = [headers.get('Range') for _, headers in server.asked]
  assert ranges == [None, f'bytes={server.breaks}-', f'bytes={2 * server.breaks}-']
  assert server.asked[1][1]['If-Range'] == '"one"'


def test_a_stopped_download_goes_on_in_another_process(server, file, tmp_path):
  server.breaks = len(file) // 2
  server.ranges = False      # so that no try gets further
  with pytest.raises(RunFailure, match=f'again and again .* {server.breaks:,} bytes are kept'):
    fetch()
  assert left(tmp_path / 'cache') == [f'{NAME}.pth.part', f'{NAME}.pth.part.json']
  server.breaks, server.ranges = 0, True
  server.asked.clear()
  assert fetch().read_bytes() == file
  assert [headers.get('Range') for _, headers in server.asked] == [f'bytes={len(file) // 2}-']
  assert left(tmp_path / 'cache') == [f'{NAME}.pth', 'sha256.json']


@pytest.mark.parametrize('change', ['tag', 'size', 'no tag', 'shorter'])
def test_a_file_that_changed_in_between_begins_anew(change, server, file, tmp_path):
  """Halves of two files are never one: by its name, else by its size."""
  if change == 'no tag':
    server.tag = 'W/"weak"'
  server.breaks, server.breaking = len(file) // 2, 1
  cache = tmp_path / 'cache'
  cache.mkdir()
  with pytest.raises(download._Broken):   # as a process that is killed leaves it
    opener = download.urllib.request.build_opener()
    with download.progress_bar(None, '', '', show=False) as bar:
      download._transfer(opener, published.RELEASED[NAME].address, cache / f'{NAME}.pth.part', 1,
                         bar)
  other = file[:100] if change == 'shorter' else b'other' + file[5:] + (
      b'' if change == 'tag' else b'more')
  server.content = other
  if change in ('tag', 'size'):
    server.tag = '"two"'
  assert fetch().read_bytes() == other


def test_a_slow_server(server, file, capsys):
  """Silence for longer than the patience breaks a try off; the next one goes on."""
  server.silent = 0.2
  assert fetch().read_bytes() == file and len(server.asked) == 1
  server.silent, server.pauses = 1.0, 2
  assert fetch('anatcl-global-1').read_bytes() == file
  assert 'going on after' in capsys.readouterr().err


def test_redirects(server, file):
  server.redirect = f'{server.address}/there'
  assert fetch().read_bytes() == file
  for target, message in ((f'{server.address}/around', 'the server answers 302'),
                          ('file:///etc/passwd', 'the server answers 302'),
                          ('ftp://127.0.0.1/x', 'is no address of http or https')):
    server.redirect = target
    with pytest.raises(RunFailure, match=message):
      fetch('anatcl-global-1')
  request = download.urllib.request.Request('https://a.example/x')
  with pytest.raises(RunFailure, match='which is not encrypted'):
    download._Redirects().redirect_request(request, None, 302, '', {}, 'http://a.example/x')


@pytest.mark.parametrize('changes, message', [
    ({'content': b'<!DOCTYPE html><html>sign in', 'kind': 'text/html; charset=utf-8'},
     'a web page in place of the file'),
    ({'content': b'\n <html>moved</html>'}, 'a web page in place of the file'),
    ({'content': b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n'},
     'pointer of Git LFS'),
    ({'content': b''}, 'gave 0 bytes'),
    ({'content': b'PK\x03\x04 half an archive'}, 'no file of weights: it is damaged'),
    ({'content': b'{"error": "quota"}'}, 'no file of weights: it is no file that torch.save'),
    ({'status': 404}, 'the server answers 404 Not Found'),
    ({'status': 403}, 'the server answers 403'),
    ({'status': 503}, r'again and again \(the server answers 503')])
def test_what_is_no_file_of_weights(changes, message, server, tmp_path):
  """Each is one line, and nothing of it stays."""
  for name, value in changes.items():
    setattr(server, name, value)
  with pytest.raises(UserError, match=message) as error:
    published.fetch(NAME, load_weights, patience=QUICK, show=False)
  assert '\n' not in str(error.value) and server.address in str(error.value)
  assert not (tmp_path / 'cache').exists()


def test_weights_of_another_network_are_not_kept(server, tmp_path):
  state = named('tiny')
  del state['encoder.bn1.weight']
  server.content = torch_file.save(tmp_path / 'a.pth', state).read_bytes()
  with pytest.raises(UserError, match=r'no file of weights: .*encoder\.bn1\.weight is missing'):
    load_weights(NAME)
  assert not (tmp_path / 'cache').exists()


def test_another_file_than_the_one_noted_is_refused(server, file, tmp_path, monkeypatch):
  """One whose bytes changed on disk, one that the server gives later, one that is known."""
  path = fetch()
  path.write_bytes(file[:-1] + b'x')
  with pytest.raises(UserError, match=f'{path} is another file than .* remove {path}'):
    fetch()
  path.unlink()
  server.content = torch_file.save(tmp_path / 'b.pth', named('tiny', 1)).read_bytes()
  with pytest.raises(UserError, match='gave another file than .* a line of .*sha256.json'):
    load_weights(NAME)
  assert left(tmp_path / 'cache') == ['sha256.json']
  server.content = file
  assert fetch() == path
  monkeypatch.setitem(published.KNOWN, 'anatcl-local-0', '0' * 64)
  with pytest.raises(UserError, match='another file .* and not 000000000000... as this program'):
    fetch('anatcl-local-0')


def test_offline_it_says_where_the_file_comes_from_and_goes(tmp_path, monkeypatch):
  with socket.socket() as closed:
    closed.bind(('127.0.0.1', 0))
    address = f'http://127.0.0.1:{closed.getsockname()[1]}/base'
  monkeypatch.setenv(published.BASE_VARIABLE, address)
  monkeypatch.setenv('no_proxy', '*')
  cache = tmp_path / 'cache'
  with pytest.raises(RunFailure) as error:
    load_weights('anatcl-old-local-2', cache=cache)
  place = f'{address}/resnet18-anatcl-l3/fold2.pth'
  assert re.search(f"{place} can't be reached .*Connection refused.*fetch that address where .* "
                   f'save the file as {cache}/anatcl-old-local-2.pth', str(error.value))
  cache.mkdir()     # and what was put there by hand is read, noted, and compared from then on
  torch_file.save(cache / 'anatcl-old-local-2.pth', named('tiny'))
  assert load_weights('anatcl-old-local-2', cache=cache).card['descriptor'] == 'local'
  torch_file.save(cache / 'anatcl-old-local-2.pth', named('tiny', 1))
  with pytest.raises(UserError, match='is another file than'):
    load_weights('anatcl-old-local-2', cache=cache)


def test_by_hand_but_no_weights(server, tmp_path):
  (tmp_path / 'cache').mkdir()
  (tmp_path / 'cache' / f'{NAME}.pth').write_text('<html>')
  with pytest.raises(UserError, match=f'{NAME}.pth is no file of weights: '):
    load_weights(NAME)
  assert left(tmp_path / 'cache') == [f'{NAME}.pth'] and not server.asked


def test_digests_that_can_not_be_read_are_said(server, tmp_path):
  fetch()
  for text in ('{', '[]', '{"x": 1}', '{"x": {"sha256": 5}}', '{"x": {"sha256": "short"}}'):
    (tmp_path / 'cache' / 'sha256.json').write_text(text)
    with pytest.raises(UserError, match='sha256.json, the digests .*damaged'):
      fetch()


def test_two_at_once_fetch_it_once(server, file):
  server.silent = 0.3
  found = []
  threads = [threading.Thread(target=lambda: found.append(fetch().read_bytes())) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == [file] * 3 and len(server.asked) == 1


@pytest.mark.parametrize('length', [True, False])
def test_progress_is_told(length, server, capsys, file):
  server.length = length
  published.fetch(NAME, lambda path: None, patience=QUICK)
  last = capsys.readouterr().err.split('\r')[-1]
  assert last.startswith(NAME) and f'{len(file) / 1e3:.0f}k' in last


def test_the_folder_of_the_user(tmp_path, monkeypatch):
  monkeypatch.delenv(published.CACHE_VARIABLE, raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'x'))
  assert published.cache_folder() == tmp_path / 'x' / 'anatcl_jax' / 'weights'
  assert (tmp_path / 'x' / 'anatcl_jax').stat().st_mode & 0o777 == 0o700
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  for platform, place in (('linux', '.cache'), ('darwin', 'Library/Caches')):
    monkeypatch.setattr('sys.platform', platform)
    assert published.cache_folder() == tmp_path / place / 'anatcl_jax' / 'weights'
  monkeypatch.setenv(published.CACHE_VARIABLE, '~/mine')
  assert published.cache_folder() == tmp_path / 'mine'
