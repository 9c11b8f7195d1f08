"""Checkpoints of a run with Orbax: the training state, and what the state means."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from anatcl_jax.data.attributes import Statistics
from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.step import TrainState

# A run may be resumed with other values of these: they do not change what the state means.
_HARMLESS = {'epochs', 'log_every_steps', 'checkpoint_every_epochs', 'keep_checkpoints', 'mapper',
             'reader_threads', 'data_dir', 'data', 'probe_every_epochs', 'report_at_end'}


class Checkpoints:
  """The checkpoints of a workdir, saved in the background; use as a context manager."""

  def __init__(self, workdir: pathlib.Path, keep: int):
    self._manager = ocp.CheckpointManager(
        (workdir / 'checkpoints').resolve(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep)))

  @property
  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def save(self, state: TrainState, statistics: Statistics) -> None:
    """Saves state and the statistics of the attributes under the state's step."""
    step = int(state.step)
    if step != self.latest_step:
      self._manager.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          statistics=ocp.args.JsonSave(jax.tree.map(np.ndarray.tolist, statistics))))

  def restore(self, like: TrainState) -> tuple[TrainState, Statistics]:
    """The latest state, placed as `like` is, and the statistics saved with it."""
    try:
      restored = self._manager.restore(self.latest_step, args=ocp.args.Composite(
          state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
          statistics=ocp.args.JsonRestore()))
    except Exception as error:  # whatever Orbax and TensorStore make of damaged files
      raise RunFailure(f'checkpoint {self.latest_step} in {self._manager.directory} can\'t be read '
                       f'({(str(error).splitlines() or [""])[0][:120]}); remove it to go on from '
                       'the one before it') from None
    statistics = {term: {name: np.asarray(values, np.float32) for name, values in own.items()}
                  for term, own in restored['statistics'].items()}
    return restored['state'], statistics

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *_) -> None:
    self._manager.wait_until_finished()
    self._manager.close()


def read_parameters(workdir: pathlib.Path) -> tuple[int, Any, Any]:
  """Step, parameters {encoder, head} and BatchNorm's statistics of the newest checkpoint, as NumPy.

  Needs neither the run's devices nor its optimizer.

  Raises:
    UserError: the workdir has no checkpoint.
    RunFailure: the newest is damaged.
  """
  directory = (workdir / 'checkpoints').resolve()
  steps = ocp.utils.checkpoint_steps(directory) if directory.is_dir() else []
  if not steps:
    raise UserError(f'{workdir} has no checkpoint yet; its run saves the first one at the end of '
                    'an epoch')
  state = directory / str(max(steps)) / 'state'
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      shapes = reader.metadata(state).item_metadata.tree
      wanted = {name: shapes[name] for name in ('params', 'batch_stats')}
      restored = reader.restore(state, args=ocp.args.PyTreeRestore(
          item=wanted, partial_restore=True, restore_args=jax.tree.map(
              lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)))
  except Exception as error:  # whatever Orbax and TensorStore make of damaged files
    raise RunFailure(f'{state} can\'t be read ({(str(error).splitlines() or [""])[0][:120]}); '
                     'remove that checkpoint to use the one before it') from None
  return max(steps), restored['params'], restored['batch_stats']


def check_config(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Writes config.json to a workdir; where it holds checkpoints, checks that they are of this run.

  Raises:
    UserError: values differ that change what the checkpoints mean; the text shows them.
  """
  path = workdir / 'config.json'
  if path.is_file() and any(
      step.name.isdigit() for step in (workdir / 'checkpoints').glob('*')):
    old, new = _flat(_read_json(path)), _flat(json.loads(json.dumps(config)))
    changed = [f'{key} {old.get(key)!r} -> {new.get(key)!r}' for key in sorted({*old, *new})
               if old.get(key) != new.get(key) and key.split('.')[0] not in _HARMLESS]
    if changed:
      raise UserError(f'{workdir} holds a run with another config ({"; ".join(changed)}); '
                      'choose another --workdir')
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.writing')
    temporary.write_text(json.dumps(config, indent=1) + '\n')
    os.replace(temporary, path)
  except OSError as error:
    raise UserError(f'{workdir}: can\'t be written ({error.strerror}); choose another --workdir'
                    ) from None


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    raise UserError(f'{path} is damaged, so that the run can\'t be gone on with; restore it or '
                    'choose another --workdir') from None


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat
