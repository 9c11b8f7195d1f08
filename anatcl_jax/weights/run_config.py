"""The config of a run beside its checkpoints: written once, and compared when the run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import Any

from anatcl_jax.cohorts.volumes import first_line
from anatcl_jax.config import flat
from anatcl_jax.devices import processes
from anatcl_jax.errors import UserError, listed
from anatcl_jax.weights import stored

# A run may be resumed with other values of these: they do not change what the state means.
HARMLESS = {'epochs', 'log_every_steps', 'checkpoint_every_epochs', 'checkpoint_every_seconds',
             'keep_checkpoints', 'keep_every_epochs', 'keep_best_metric', 'keep_best_mode',
             'heldout_every_epochs', 'mapper', 'reader_threads', 'data_dir', 'data',
             'probe_every_epochs', 'report_at_end', 'remat', 'cache', 'compilation_cache',
             'profile_steps', 'heartbeat_seconds'}

# Keys that runs of earlier versions lack, and what they were as good as.
_ADDED = {'init': '', 'effective_positives': 0.0, 'without': '', 'keeping': ''}

_TYPES = {'encoder': str, 'head': str, 'crop': str, 'precision': str, 'data_dir': str, 'fold': int,
          'num_folds': int, 'seed': int, 'epochs': int, 'encoder_width': int, 'small_input': bool,
          'keep_best_metric': str, 'keep_best_mode': str, 'data_identity': str, 'init': str,
          'loss': dict, 'data': dict}


def check_config(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Writes config.json to a workdir; where it holds checkpoints, checks that they are of this run.

  Raises:
    UserError: values differ that change what the checkpoints mean; the text shows them.
  """
  path = workdir / 'config.json'
  if path.is_file() and stored.steps(workdir):
    new = flat(json.loads(json.dumps(config)))
    old = {key: _ADDED[last] for key in new if (last := key.split('.')[-1]) in _ADDED}
    old |= flat(read_config(workdir))
    changed = [f'{key} {old.get(key)!r} -> {new.get(key)!r}' for key in sorted({*old, *new})
               if old.get(key) != new.get(key) and key.split('.')[0] not in HARMLESS]
    if changed:
      raise UserError(f'{workdir} holds a run with another config ({"; ".join(changed)}); '
                      'choose another --workdir')
  if not processes.is_first():
    return
  temporary = path.with_suffix('.writing')
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(config, indent=1) + '\n')
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise UserError(f'{workdir}: can\'t be written ({error.strerror}); choose another --workdir'
                    ) from None


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """config.json of a workdir.

  Raises:
    UserError: it can't be read, or values that others rely on are not of their types.
  """
  path = workdir / 'config.json'
  try:
    config = json.loads(path.read_text(encoding='utf-8'))
    wrong = ['no object of JSON'] if not isinstance(config, dict) else [
        name for name, kind in _TYPES.items() if name in config and type(config[name]) is not kind]
  except (OSError, ValueError, TypeError, RecursionError) as error:
    wrong = [first_line(error)]
  if wrong:
    raise UserError(f'{path} is damaged or of another program ({listed(wrong)}); restore it from a '
                    'copy, or use another workdir')
  return config
