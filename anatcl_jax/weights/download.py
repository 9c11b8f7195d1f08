"""One file over HTTP: with progress, going on where it broke off, and nothing else in its place."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import tqdm

from anatcl_jax import __version__
from anatcl_jax.errors import RunFailure, remedy
from anatcl_jax.progress import progress_bar

_MOST = 2**33          # bytes; an answer that never ends fills no disk
_PIECE = 2**18
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


class Unreachable(RunFailure):
  """The address gave no file: no connection, or an answer that is none."""


class _Broken(Exception):
  """A transfer that ended too early; it may go on."""


class _Changed(_Broken):
  """What is there is of another file than the one at the address; it begins anew."""


@dataclasses.dataclass(frozen=True)
class Patience:
  """How long a server is waited for, in seconds."""

  silence: float = 30.0     # without a byte
  pause: float = 2.0        # before the second try; twice as long before each one after it
  tries: int = 5            # one after another that bring nothing new


USUAL = Patience()


def download(address: str, part: pathlib.Path, name: str, patience: Patience = USUAL,
             show: bool = True) -> None:
  """Writes the file at an address to `part`; what is there of the same file is not asked for again.

  Args:
    part: is left where the transfer breaks off. The .json beside it, which says of what it is,
      stays until `forget`.
    name: of the file, for the progress bar.
    show: a progress bar.

  Raises:
    Unreachable: no connection, no such file, or a page (HTML) in its place.
    RunFailure: the transfer breaks off again and again, or the disk is full.
  """
  _check_scheme(address)
  opener = urllib.request.build_opener(_Redirects())
  furthest, failures = _size(part), 0
  with progress_bar(None, name, 'B', furthest, show, scale=True) as bar:
    while True:
      try:
        return _transfer(opener, address, part, patience.silence, bar)
      except _Broken as error:
        if isinstance(error, _Changed):
          forget(part)
        reached, why = _size(part), str(error)
      failures = 0 if reached > furthest else failures + 1
      furthest = max(furthest, reached)
      if failures >= patience.tries:
        raise RunFailure(f'{address}: the transfer broke off again and again ({why}; '
                         f'{furthest:,} bytes are kept); the same command goes on from there')
      bar.write(f'{name}: {why}; going on after {reached:,} bytes', file=sys.stderr)
      time.sleep(patience.pause * 2**failures if failures else 0)


def forget(part: pathlib.Path) -> None:
  """Removes what a transfer left."""
  for path in (part, _about(part)):
    path.unlink(missing_ok=True)


def _transfer(opener: urllib.request.OpenerDirector, address: str, part: pathlib.Path,
              silence: float, bar: tqdm.tqdm) -> None:
  """One request, and its answer appended to what is there; raises _Broken where more may come."""
  there, known = _size(part), _read_about(part)
  if not there or known.get('address') != address:
    there, known = 0, {}
  elif there == known.get('total'):
    return
  headers = {'User-Agent': f'anatcl_jax/{__version__}', 'Accept-Encoding': 'identity'}
  if there:
    headers['Range'] = f'bytes={there}-'
    if known.get('validator'):   # another file than before is sent whole
      headers['If-Range'] = known['validator']
  with _opened(opener, urllib.request.Request(address, headers=headers), there, silence
               ) as response:
    start, total = _range(response, there, known)
    if start is None:
      raise _Changed('the file has changed')
    _check_kind(response, address)
    if total is not None and total > _MOST:
      raise Unreachable(f'{address} would send {total:,} bytes: that is no file of weights')
    piece = _read(response)
    if not start:
      _check_beginning(piece, address)
    with _written(part):
      _note(part, {'address': address, 'total': total, 'validator': _validator(response)})
      if total is not None and (free := shutil.disk_usage(part.parent).free) < total - start:
        raise RunFailure(f'{part.parent}: {total - start:,} bytes are needed and {free:,} are '
                         'free; make room')
      with part.open('r+b' if start else 'wb') as file:
        file.seek(start)
        file.truncate()
        bar.reset(total)
        bar.n = bar.initial = start
        while piece:
          file.write(piece)
          bar.update(len(piece))
          if file.tell() > _MOST:
            raise Unreachable(f'{address} sends without an end: that is no file of weights')
          piece = _read(response)
        size = file.tell()
  if total is not None and size < total:
    raise _Broken(f'the connection ended at {size:,} of {total:,} bytes')
  if total is not None and size > total or not size:
    forget(part)
    raise Unreachable(f'{address} gave {size:,} bytes' + (f', not {total:,}' if total else ''))


@contextlib.contextmanager
def _opened(opener: urllib.request.OpenerDirector, request: urllib.request.Request, there: int,
            silence: float):
  """The answer to a request; raises Unreachable, or _Broken where it is worth another try."""
  address = request.full_url
  try:
    response = opener.open(request, timeout=silence)
  except urllib.error.HTTPError as error:
    with error:
      code, why = error.code, f'{error.code} {" ".join(str(error.reason).split())[:80]}'
    if code == 416 and there:   # nothing follows what is there: it is whole, or of another file
      raise _Changed('the file has changed') from None
    if code in _RETRIED:
      raise _Broken(f'the server answers {why}') from None
    raise Unreachable(f'{address}: the server answers {why}') from None
  except (OSError, http.client.HTTPException, ValueError) as error:
    why = getattr(error, 'reason', error)
    why = ' '.join(str(getattr(why, 'strerror', None) or why or type(why).__name__).split())[:120]
    if there and isinstance(error, OSError):
      raise _Broken(f'no connection ({why})') from None
    raise Unreachable(f'{address} can\'t be reached ({why})') from None
  with response:
    yield response


def _read(response: http.client.HTTPResponse) -> bytes:
  try:
    return response.read1(_PIECE)
  except (OSError, http.client.HTTPException) as error:
    why = 'no answer for too long' if isinstance(error, TimeoutError) else (
        getattr(error, 'strerror', None) or type(error).__name__)
    raise _Broken(f'the connection broke off ({why})') from None


def _range(response: http.client.HTTPResponse, there: int, known: dict
           ) -> tuple[int | None, int | None]:
  """Where the answer begins in the file, and the file's size if told; None, None where what is
  there is of another file."""
  length = response.headers.get('Content-Length', '')
  length = int(length) if re.fullmatch('[0-9]{1,15}', length) else None
  if response.status != 206:
    return 0, length
  told = re.fullmatch(r'bytes ([0-9]{1,15})-[0-9]+/([0-9]{1,15}|\*)',
                      response.headers.get('Content-Range', '').strip())
  total = int(told[2]) if told and told[2] != '*' else None
  if not told or int(told[1]) != there or total != known.get('total'):
    return None, None
  validator = _validator(response)
  return (None, None) if validator != known.get('validator') else (there, total)


def _validator(response: http.client.HTTPResponse) -> str | None:
  """What the server calls this very content; a weak name is none."""
  tag = response.headers.get('ETag', '')
  return tag if tag.startswith('"') else response.headers.get('Last-Modified')


def _check_kind(response: http.client.HTTPResponse, address: str) -> None:
  kind = response.headers.get_content_type()
  if 'Content-Type' in response.headers and kind in ('text/html', 'application/xhtml+xml'):
    raise _page(address, response.url)


def _check_beginning(piece: bytes, address: str) -> None:
  if piece.lstrip()[:1] == b'<':
    raise _page(address, address)
  if piece.startswith(b'version https://git-lfs'):
    raise Unreachable(f'{address} gave a pointer of Git LFS, not the file itself')


def _page(address: str, url: str) -> Unreachable:
  where = f' (from {url})' if url != address else ''
  return Unreachable(f'{address} gave a web page in place of the file{where}: a sign-in, or the '
                     'file has moved')


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows addresses of the same or a safer kind alone, never from https to http."""

  def redirect_request(self, request, file, code, message, headers, address):
    _check_scheme(address)
    if request.full_url.startswith('https:') and not address.startswith('https:'):
      raise Unreachable(f'{request.full_url} leads to {address}, which is not encrypted')
    return super().redirect_request(request, file, code, message, headers, address)


def _check_scheme(address: str) -> None:
  try:
    parts = urllib.parse.urlsplit(address)
    known = parts.scheme in ('http', 'https') and bool(parts.hostname)
  except ValueError:
    known = False
  if not known:
    raise Unreachable(f'{address!r} is no address of http or https')


@contextlib.contextmanager
def _written(part: pathlib.Path):
  try:
    yield
  except OSError as error:
    raise RunFailure(f'{part}: can\'t be written ({error.strerror}); '
                     f'{remedy(error) or "name another folder"}') from None


def _size(part: pathlib.Path) -> int:
  try:
    return part.stat().st_size
  except OSError:
    return 0


def _about(part: pathlib.Path) -> pathlib.Path:
  return part.with_name(f'{part.name}.json')


def _note(part: pathlib.Path, about: dict) -> None:
  temporary = part.with_name(f'{part.name}.json.new')
  temporary.write_text(json.dumps(about))
  os.replace(temporary, _about(part))


def _read_about(part: pathlib.Path) -> dict:
  try:
    about = json.loads(_about(part).read_text())
    return about if isinstance(about, dict) else {}
  except (OSError, ValueError, RecursionError):
    return {}
