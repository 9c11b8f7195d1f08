"""The weights that a run began with, and those that they began with, as far as they are here."""

from __future__ import annotations

import json
import pathlib

from anatcl_jax.errors import UserError
from anatcl_jax.weights import choice, run_config


def of_synthetic(source: str, card_name: str) -> bool:
  """Whether weights, or those that they began with, were trained on SYNTHETIC subjects.

  False for what is not here any more, or can't be read.

  Args:
    source: a workdir, or a folder or file of converted weights.
    card_name: of the card in such a folder.
  """
  followed = set()
  while source and source not in followed:
    followed.add(source)
    place, _ = choice.workdir_of(pathlib.Path(source).expanduser())
    try:
      if not (place / 'config.json').is_file():
        card = (place if place.is_dir() else place.parent) / card_name
        return bool(json.loads(card.read_text(encoding='utf-8')).get('synthetic'))
      config = run_config.read_config(place)
    except (OSError, ValueError, AttributeError, RecursionError, UserError):
      return False
    data, source = config.get('data'), config.get('init')
    if data.get('synthetic') if isinstance(data, dict) else 'phantom' in config:
      return True
  return False
