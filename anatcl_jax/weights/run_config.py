"""The config of a run beside its checkpoints: written once, and compared when the run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import Any

from anatcl_jax.config import flat
from anatcl_jax.devices import processes
from anatcl_jax.errors import UserError

# A run may be resumed with other values of these: they do not change what the state means.
_HARMLESS = {'epochs', 'log_every_steps', 'checkpoint_every_epochs', 'keep_checkpoints',
             'keep_every_epochs', 'keep_best_metric', 'keep_best_mode', 'heldout_every_epochs',
             'mapper', 'reader_threads', 'data_dir', 'data', 'probe_every_epochs', 'report_at_end',
             'remat', 'cache', 'compilation_cache', 'profile_steps', 'heartbeat_seconds'}


def check_config(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Writes config.json to a workdir; where it holds checkpoints, checks that they are of this run.

  Raises:
    UserError: values differ that change what the checkpoints mean; the text shows them.
  """
  path = workdir / 'config.json'
  if path.is_file() and any(
      step.name.isdigit() for step in (workdir / 'checkpoints').glob('*')):
    old, new = flat(_read_json(path)), flat(json.loads(json.dumps(config)))
    changed = [f'{key} {old.get(key)!r} -> {new.get(key)!r}' for key in sorted({*old, *new})
               if old.get(key) != new.get(key) and key.split('.')[0] not in _HARMLESS]
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


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    raise UserError(f'{path} is damaged, so that the run can\'t be gone on with; restore it or '
                    'choose another --workdir') from None
