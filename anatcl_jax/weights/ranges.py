"""The range that features of scans trained on take: noted by a run, kept in its weights' card."""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np

from anatcl_jax.devices import processes

RANGE_FILE = 'features_range.json'


def note_range(workdir: pathlib.Path, features: np.ndarray, step: int) -> None:
  """Writes the lowest and highest value of each feature [records, F] at a step to the workdir."""
  if processes.is_first():
    temporary = workdir / f'{RANGE_FILE}.writing'
    temporary.write_text(json.dumps({'step': step, 'low': features.min(0).tolist(),
                                     'high': features.max(0).tolist()}))
    os.replace(temporary, workdir / RANGE_FILE)


def read_range(workdir: pathlib.Path, step: int) -> dict[str, list[float]] | None:
  """What note_range wrote at this step; None where it did not, or the file is damaged."""
  try:
    noted = json.loads((workdir / RANGE_FILE).read_text())
    return {side: noted[side] for side in ('low', 'high')} if noted['step'] == step else None
  except (OSError, ValueError, KeyError, TypeError):
    return None
