"""The weights that AnatCL's authors released, by name: fetched once, and the same ever after.

No digest is published, so the sha256 of a file is noted when it first comes, beside it in the
cache, and compared whenever it is used or comes again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator

from anatcl_jax import lock, paths
from anatcl_jax.errors import RunFailure, UserError, check_name
from anatcl_jax.weights import download

CACHE_VARIABLE, BASE_VARIABLE = 'ANATCL_JAX_WEIGHTS_CACHE', 'ANATCL_JAX_WEIGHTS_URL'
# As the package `anatcl` 0.0.3 has them.
_BASE = 'https://gitlab.di.unito.it/barbano/anatcl-pretrained/-/raw/main/'
_LONG = ('0_obhn64_resnet18_amp_yaware_adam_tf_none_lr0.0001_step_step10_rate0.9_wd5e-05_bsz32_'
         'trainall_False_temp0.1_views2_kernel_rbf_sigma2.0_alpha1.0_anat_desikan_normTrue_'
         'subsetTrue_{descriptor}_lambd1.0_fold{fold}_splits5_trial0/weights.pth')
_OLD = 'resnet18-anatcl-{letter}3/fold{fold}.pth'
_DESCRIPTORS = ('global', 'local')
FOLDS = 5
# sha256 by name, of files that are known: none is published.
KNOWN: dict[str, str] = {}
_NOTED = 'sha256.json'


@dataclasses.dataclass(frozen=True)
class Published:
  """A released file."""

  name: str
  descriptor: str      # global or local
  fold: int
  place: str           # below the address of all

  @property
  def address(self) -> str:
    return (os.environ.get(BASE_VARIABLE) or _BASE).rstrip('/') + f'/{self.place}'


RELEASED = {one.name: one for one in (
    Published(f'anatcl-{old}{descriptor}-{fold}', descriptor, fold,
              (_OLD if old else _LONG).format(descriptor=descriptor, letter=descriptor[0],
                                              fold=fold))
    for old in ('', 'old-') for descriptor in _DESCRIPTORS for fold in range(FOLDS))}


def named(text: str) -> Published | None:
  """The released file of a name; None for what is no name of one.

  Raises:
    UserError: it is nearly one.
  """
  if text not in RELEASED and re.fullmatch(r'anatcl[\w-]*', text, re.I):
    check_name(text, RELEASED, 'released weights')
  return RELEASED.get(text)


def described(text: str) -> tuple[str | None, int | None]:
  """Descriptor and fold that a file's name tells with its folder's; None for what it does not.

  The words global and local, the folders `resnet18-anatcl-g3` and `-l3`, `fold0`, and the names
  above.
  """
  text = text.lower()
  words = {*re.findall(r'(?<![a-z])(global|local)(?![a-z])', text)}
  words |= {'global' if letter == 'g' else 'local'
            for letter in re.findall(r'(?<![a-z0-9])([gl])[37](?![a-z0-9])', text)}
  folds = re.findall(r'fold[-_]?(\d+)', text) or re.findall(
      r'anatcl-(?:old-)?(?:global|local)-(\d+)(?!\d)', text)
  return words.pop() if len(words) == 1 else None, int(folds[-1]) if folds else None


def fetch(name: str, readable: Callable[[pathlib.Path], object], *,
          cache: pathlib.Path | None = None, patience: download.Patience = download.USUAL,
          show: bool = True) -> pathlib.Path:
  """The file of released weights in the cache, where it is downloaded to if it is not there.

  Processes that want it at once wait for the first of them.

  Args:
    name: one of RELEASED.
    readable: raises UserError for a file that is none of weights.
    cache: a folder; by default ANATCL_JAX_WEIGHTS_CACHE, or one in the user's cache folder.

  Raises:
    UserError: a file is not the one that was noted, or the cache can't be used.
    RunFailure: it can't be downloaded; the text says where to put the file by hand.
  """
  one, path = RELEASED[name], cache_folder(cache) / f'{name}.pth'
  if path.is_file() and (_expected(path.parent, name) or not os.access(path.parent, os.W_OK)):
    _check(path, path, one, readable)
    return path
  with _alone(path):
    if path.is_file():
      _check(path, path, one, readable)
      return path
    part = path.with_name(f'{path.name}.part')
    print(f'downloading {one.address} to {path}', file=sys.stderr)
    try:
      download.download(one.address, part, name, patience, show)
    except download.Unreachable as error:
      raise RunFailure(f'{error}. By hand: fetch that address where there is a connection, and '
                       f'save the file as {path}') from None
    try:
      _check(part, path, one, readable)
    except UserError:
      download.forget(part)
      raise
    os.replace(part, path)
    download.forget(part)
  return path


def cache_folder(cache: pathlib.Path | None = None) -> pathlib.Path:
  """Where released weights are kept."""
  if named_folder := cache or os.environ.get(CACHE_VARIABLE):
    return pathlib.Path(paths.expanded(str(named_folder)))
  try:
    own = paths.user_cache() / 'anatcl_jax'
    # Programs that are run may be kept in it too (devices.compilation): its user's alone.
    own.parent.mkdir(parents=True, exist_ok=True)
    own.mkdir(mode=0o700, exist_ok=True)
  except (OSError, RuntimeError) as error:
    raise UserError(f'no folder to keep weights in ({getattr(error, "strerror", error)}): name one '
                    f'by {CACHE_VARIABLE}, or --weights-cache') from None
  return own / 'weights'


def _check(file: pathlib.Path, path: pathlib.Path, one: Published,
           readable: Callable[[pathlib.Path], object]) -> None:
  """Compares a file with what is known of it; one that comes first is read, and noted.

  Args:
    file: which is `path`, or will be.
  """
  digest, expected = _digest(file), _expected(path.parent, one.name)
  if expected and digest != expected:
    noted = path.parent / _NOTED
    own = f'a line of {noted}' if one.name not in KNOWN else 'this program'
    what = f'{path} is' if file == path else f'{one.address} gave'
    raise UserError(
        f'{what} another file than the {one.name} that is known (sha256 {digest[:12]}..., and not '
        f'{expected[:12]}... as {own} says); '
        + (f'remove {path}, and it is downloaded again' if file == path else
           'if its authors changed it and you mean the new one, remove that line'))
  if expected:
    return
  try:
    readable(file)
  except UserError as error:
    text = str(error).removeprefix(f'{file}: ')
    where = path if file == path else f'what {one.address} gave'
    raise UserError(f'{where} is no file of weights: {text}') from None
  _note(path.parent, one, digest, file.stat().st_size)


def _expected(folder: pathlib.Path, name: str) -> str | None:
  """The digest that a file must have, None where it has not been seen."""
  return KNOWN.get(name) or _noted(folder).get(name, {}).get('sha256')


def _noted(folder: pathlib.Path) -> dict[str, dict]:
  path = folder / _NOTED
  try:
    noted = json.loads(path.read_text(encoding='utf-8'))
    if not all(re.fullmatch('[0-9a-f]{64}', one['sha256']) for one in noted.values()):
      raise ValueError('no digests')
    return noted
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    why = getattr(error, 'strerror', None) or 'damaged'
    raise UserError(f'{path}, the digests of downloaded weights, can\'t be read ({why}); restore '
                    'it, or remove it to trust the files that are there') from None


def _note(folder: pathlib.Path, one: Published, digest: str, size: int) -> None:
  noted = _noted(folder) | {one.name: {
      'sha256': digest, 'bytes': size, 'address': one.address,
      'noted': time.strftime('%Y-%m-%d %H:%M:%S')}}
  temporary = folder / f'.{_NOTED}.new'
  try:
    temporary.write_text(json.dumps(noted, indent=1) + '\n', encoding='utf-8')
    os.replace(temporary, folder / _NOTED)
  except OSError as error:
    print(f'note: the sha256 of {one.name} is not noted, since {folder} can\'t be written '
          f'({error.strerror})', file=sys.stderr)


def _digest(path: pathlib.Path) -> str:
  try:
    return paths.sha256(path)
  except OSError as error:
    raise UserError(f'{path}: can\'t be read ({error.strerror})') from None


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
  """Holds all of the cache, whose digests are one file; waits where another process does."""
  told = False
  with contextlib.ExitStack() as stack:
    while True:
      try:
        stack.enter_context(lock.alone_in(
            path.parent, f'name another folder by --weights-cache or {CACHE_VARIABLE}'))
        break
      except lock.InUse:
        if not told:
          print(f'waiting for another process, which fetches weights to {path.parent}',
                file=sys.stderr)
        told = True
        time.sleep(1)
    yield
