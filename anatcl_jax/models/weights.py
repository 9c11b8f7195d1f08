"""Weights of an encoder with a card that says what they are, by the path of whatever holds them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np

from anatcl_jax import __version__, checkpoint, models
from anatcl_jax.config import crop_sizes
from anatcl_jax.errors import UserError, listed

AXES = 'RAS'   # where the axes of a volume point to, as shards and training have them


@dataclasses.dataclass(frozen=True)
class Weights:
  """An encoder's parameters as float32 NumPy, and its card, which is plain JSON.

  The card always has: encoder, head (mlp, linear or None), descriptor, fold, grid ({shape, affine},
  or None where it is not known), crop (three sizes or None), axes, source, made_by, synthetic and
  notes (a list of sentences). A run's also has seed, precision, epochs, step, data_dir; that of a
  file its sha256. `features_range` {low [F], high [F]} of the training set may be there.
  """

  encoder: str                  # name in the registry
  variables: dict[str, Any]     # {'params': ..., 'batch_stats': ...}
  head: dict[str, Any] | None   # {'params': ...} of the projection head
  card: dict[str, Any]


def load_weights(path: str | pathlib.Path) -> Weights:
  """Weights of a workdir of `python -m anatcl_jax.main`: those of its newest checkpoint.

  Raises:
    UserError: nothing of the kind is there, it is damaged, or its parts do not fit the encoder.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise UserError(f'{path}: no such weights')
  if not (path / 'config.json').is_file():
    raise UserError(f'{path} is no workdir of `python -m anatcl_jax.main` (config.json)')
  weights = _of_workdir(path)
  check(weights, path)
  return weights


def untrained(weights: Weights, seed: int) -> Weights:
  """The same encoder as a run with this seed has it before its first step; the card says so."""
  encoder_key, _ = jax.random.split(jax.random.key(seed))
  encoder = models.get_encoder(weights.encoder)
  variables = jax.jit(lambda key: encoder.init(key, _VOLUME, False))(encoder_key)
  notes = [*weights.card['notes'], f'Untrained: parameters drawn with seed {seed}.']
  card = weights.card | {'untrained': True, 'seed': seed, 'step': 0, 'head': None, 'notes': notes}
  card.pop('features_range', None)
  return Weights(weights.encoder, jax.tree.map(np.asarray, variables), None, card)


def check(weights: Weights, path: pathlib.Path) -> None:
  """Raises UserError where variables are not the encoder's, by name and shape, or not finite."""
  found = _by_name(weights.variables)
  wanted = _by_name(encoder_shapes(weights.encoder))
  problems = [f'{name} is missing' for name in wanted if name not in found]
  problems += [f'{name} is not of {weights.encoder}' for name in found if name not in wanted]
  problems += [f'{name} has shape {found[name].shape}, not {wanted[name].shape}' for name in wanted
               if name in found and found[name].shape != wanted[name].shape]
  found |= _by_name(weights.head or {})
  problems += [f'{name} is not finite' for name, values in found.items()
               if not np.isfinite(values).all()]
  if problems:
    raise UserError(f'{path}: not weights of {weights.encoder}: {listed(problems, len(problems))}')


def encoder_shapes(name: str) -> dict[str, Any]:
  """Variables of an encoder as shapes and dtypes, without computing any."""
  return jax.eval_shape(lambda key: models.get_encoder(name).init(key, _VOLUME, False),
                        jax.random.key(0))


# Parameters do not depend on it.
_VOLUME = np.zeros((1, 64, 64, 64, 1), np.float32)   # NumPy: importing must not start JAX


def _by_name(tree: dict[str, Any]) -> dict[str, Any]:
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _of_workdir(workdir: pathlib.Path) -> Weights:
  try:
    config = json.loads((workdir / 'config.json').read_text(encoding='utf-8'))
    morphometry = [term for term in config['loss']['terms'].values()
                   if term['attribute'] == 'morphometry' and term['weight']]
    encoder, crop, head = config['encoder'], crop_sizes(config['crop']), config['head']
    card = {name: config[name] for name in ('fold', 'seed', 'precision', 'epochs', 'data_dir')}
    data = config.get('data') or {'grid': None, 'synthetic': 'phantom' in config}
    card |= {'grid': data['grid'], 'synthetic': data['synthetic'],
             'descriptor': '+'.join(term['kernel'] for term in morphometry) or None}
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{workdir}/config.json is damaged or of another program ({error})') from None
  step, params, batch_stats = checkpoint.read_parameters(workdir)
  notes = ['Trained on SYNTHETIC subjects.'] if data['synthetic'] else []
  if data['grid'] is None:
    notes.append('The run did not note the grid of its shards.')
  card = {'encoder': encoder, 'head': None if head == 'none' else head, **card,
          'crop': crop and list(crop), 'axes': AXES, 'step': step, 'source': str(workdir),
          'made_by': f'anatcl_jax {__version__}', 'notes': notes}
  return Weights(encoder, {'params': params['encoder'], 'batch_stats': batch_stats},
                 None if head == 'none' else {'params': params['head']}, card)
