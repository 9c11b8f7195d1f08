"""Reading checkpoints: only a whole one counts, and what was read is what was saved."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from anatcl_jax.errors import RunFailure, UserError

STATE, RECORD = 'state', 'record'   # the two items of a checkpoint
_WRITERS = ('orbax-checkpoint', 'tensorstore')   # what lays out the files of a state
_STEP = re.compile('0|[1-9][0-9]{0,17}')
_PLAIN = re.compile(r'[\w/., =+@~-]*', re.ASCII)


class Damaged(Exception):
  """A checkpoint that can't be read, or is not what was saved."""


class TooNew(UserError):
  """A checkpoint that nobody here can judge: newer libraries than these wrote it."""


def steps(workdir: pathlib.Path) -> list[int]:
  """Steps of the finished checkpoints, the newest first; unfinished ones have other names."""
  directory = directory_of(workdir)
  paths = directory.iterdir() if directory.is_dir() else ()
  return sorted((int(path.name) for path in paths if is_step(path.name) and path.is_dir()),
                reverse=True)


def is_step(name: str) -> bool:
  """Whether a folder of this name among checkpoints is one, as saving names them."""
  return bool(_STEP.fullmatch(name))


def directory_of(workdir: pathlib.Path) -> pathlib.Path:
  """Where the checkpoints of a workdir lie."""
  return (workdir / 'checkpoints').resolve()


@contextlib.contextmanager
def for_orbax(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path of the folder that Orbax can use: where its own has odd characters, a link to it.

  Orbax finds the parts of what it saves by a pattern that begins with the path, and takes some
  paths for addresses: with a bracket in a name, nothing that is saved could be read.

  Raises:
    UserError: there is no place for a link.
  """
  own = folder.resolve()
  if _PLAIN.fullmatch(str(own)):
    yield own
    return
  with contextlib.ExitStack() as stack:
    try:
      place = stack.enter_context(tempfile.TemporaryDirectory(prefix='anatcl-'))
      (link := pathlib.Path(place) / 'folder').symlink_to(own)
    except OSError as error:
      raise UserError(f'{folder}: a name with such characters needs a link among temporary files '
                      f'({error.strerror}); set TMPDIR, or choose another name') from None
    if not _PLAIN.fullmatch(place):
      raise UserError(f'{folder} and TMPDIR ({place}) have characters that Orbax does not take; '
                      'rename one of them')
    yield link


def save_tree(folder: pathlib.Path, tree: Any) -> None:
  """Saves nested dicts of arrays into a new folder, and reads them back.

  Raises:
    RunFailure: it can't be saved, or what is read is not what was written.
  """
  with for_orbax(folder.parent) as parent:
    try:
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone()),
                            multiprocessing_options=_alone()) as checkpointer:
        checkpointer.save(parent / folder.name, tree)
        back = by_name(checkpointer.restore(parent / folder.name, restore_args=jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)))
    except Exception as error:  # whatever Orbax and TensorStore make of a file system
      raise RunFailure(f'{folder} can\'t be saved ({_first_line(error)})') from None
  if {name: _digest_of_array(leaf) for name, leaf in back.items()} != {
      name: _digest_of_array(leaf) for name, leaf in by_name(tree).items()}:
    raise RunFailure(f'{folder}: what is read there is not what was saved')


def by_name(tree: Any) -> dict[str, Any]:
  """Leaves by their path, such as params/encoder/conv1/kernel, alike before and after Orbax."""
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def sealed(content: dict[str, Any], state: Any) -> dict[str, Any]:
  """The record of a checkpoint: content (JSON), its writers, and digests of it and every array."""
  record = {'content': content, 'written_with': {name: _version(name) for name in _WRITERS},
            'arrays': {name: _digest_of_array(leaf) for name, leaf in by_name(state).items()}}
  return record | {'sha256': _digest_of_json(record)}


def read_record(workdir: pathlib.Path, step: int) -> dict[str, Any]:
  """The record of a checkpoint as `sealed` made it.

  Raises:
    Damaged: it is not.
  """
  path = directory_of(workdir) / str(step) / RECORD / 'metadata'
  try:
    record = json.loads(path.read_bytes())
    seal = record.pop('sha256')
    if seal == _digest_of_json(record):
      return record
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise Damaged(f'{path} can\'t be read ({_first_line(error)})') from None
  raise Damaged(f'{path} is not what was saved')


def read(workdir: pathlib.Path, step: int, parts: tuple[str, ...] = ()
         ) -> tuple[dict[str, Any], dict[str, Any]]:
  """The state of a checkpoint, nested dicts of NumPy arrays, and the content of its record.

  Each process reads by itself, without waiting for others.

  Args:
    parts: fields of the state to read; all, if none are named.

  Raises:
    Damaged: any of what was read is not what was saved.
    TooNew: it can't be read, and newer libraries than these wrote it.
  """
  record = read_record(workdir, step)
  path = directory_of(workdir) / str(step) / STATE
  with for_orbax(path.parent) as parent:
    try:
      with contextlib.closing(
          ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())) as reader:
        shapes = reader.metadata(parent / STATE).tree
        wanted = {name: shapes[name] for name in parts or shapes}
        state = reader.restore(parent / STATE, args=ocp.args.PyTreeRestore(
            item=wanted, partial_restore=True, restore_args=jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)))
    except Exception as error:  # whatever Orbax and TensorStore make of damaged files
      # Other reads fail beside the first one; asyncio would print a traceback of each, much later.
      logging.getLogger('asyncio').setLevel(logging.CRITICAL)
      if newer := _newer(record.get('written_with', {})):
        packages = ' '.join(f"'{name}>={version}'" for name, version in newer.items())
        raise TooNew(f'{path} can\'t be read here ({_first_line(error)}). Newer libraries than '
                     'these wrote it, and can tell whether it is whole: '
                     f'pip install {packages}') from None
      raise Damaged(f'{path} can\'t be read ({_first_line(error)})') from None
  found = {name: _digest_of_array(leaf) for name, leaf in by_name(state).items()}
  expected = {name: digest for name, digest in record['arrays'].items()
              if not parts or name.split('/')[0] in parts}
  if found != expected:
    wrong = min(name for name in found | expected if found.get(name) != expected.get(name))
    raise Damaged(f'{path}: {wrong} is not what was saved')
  return state, record['content']


def read_parameters(workdir: pathlib.Path, step: int | None = None) -> tuple[int, Any, Any]:
  """Step, parameters {encoder, head} and BatchNorm's statistics, as NumPy, and writes nothing.

  They are of that step, or of the newest whole checkpoint; that newer ones are damaged is said on
  stderr. Needs neither the run's devices nor its optimizer.

  Raises:
    UserError: the workdir has no checkpoint, or what is asked for is of newer libraries (TooNew).
    RunFailure: it has some, and none is whole, or that of the step is not.
  """
  if step is not None:
    try:
      state, _ = read(workdir, step, ('params', 'batch_stats'))
    except Damaged as error:
      raise RunFailure(f'checkpoint {step} of {workdir} is damaged ({error}); name another step'
                       ) from None
    return step, state['params'], state['batch_stats']
  known = steps(workdir)
  if not known:
    raise UserError(f'{workdir} has no checkpoint yet; its run saves the first one at the end of '
                    'an epoch')
  for step in known:
    try:
      state, _ = read(workdir, step, ('params', 'batch_stats'))
    except Damaged as error:
      print(f'warning: checkpoint {step} is damaged and passed over ({error})', file=sys.stderr)
      continue
    return step, state['params'], state['batch_stats']
  raise RunFailure(f'no checkpoint in {directory_of(workdir)} is whole; restore one from a '
                   'copy, or use another workdir')


def _version(name: str) -> str:
  return importlib.metadata.version(name)


def _newer(written_with: dict[str, str]) -> dict[str, str]:
  """Those of the libraries, with their versions, that are older here."""
  numbers = {name: [[int(n) for n in re.findall(r'\d+', v)] for v in (version, _version(name))]
             for name, version in written_with.items()}
  return {name: written_with[name] for name, (theirs, ours) in numbers.items() if theirs > ours}


def _alone() -> ocp.options.MultiprocessingOptions:
  """Of this process, which waits for no other."""
  own = jax.process_index()
  return ocp.options.MultiprocessingOptions(
      primary_host=own, active_processes={own}, barrier_sync_key_prefix=f'alone{own}')


def _digest_of_array(leaf: Any) -> str:
  array = np.asarray(leaf, order='C')
  digest = hashlib.sha256(f'{array.dtype.str}{array.shape}'.encode())
  digest.update(array.data if array.size else b'')
  return digest.hexdigest()


def _digest_of_json(value: Any) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _first_line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
