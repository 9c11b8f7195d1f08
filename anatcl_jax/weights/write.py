"""Weights written: as a folder that all commands take, or as a .pth for PyTorch."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile

import safetensors.numpy

from anatcl_jax import models
from anatcl_jax.errors import UserError
from anatcl_jax.weights import stored
from anatcl_jax.weights.load import CARD, TENSORS, Weights, by_name, encoder_options
from anatcl_jax.weights.model_card import model_card
from anatcl_jax.weights.released_names import to_released

FLAX, MODEL_CARD = 'flax', 'README.md'


def write_folder(weights: Weights, destination: pathlib.Path) -> None:
  """Writes card.json, model.safetensors, flax/ and README.md; the folder appears when it is whole.

  Raises:
    UserError: something is there already, or the folder can't be made.
  """
  check_free(destination)
  with _staging(destination) as staging:
    staging = pathlib.Path(staging) / 'whole'
    staging.mkdir()
    (staging / CARD).write_text(json.dumps(weights.card, indent=2, allow_nan=False) + '\n')
    (staging / MODEL_CARD).write_text(model_card(weights, destination.resolve().name),
                                      encoding='utf-8')
    safetensors.numpy.save_file(by_name(weights), staging / TENSORS, {'format': 'flax'})
    tree = weights.variables | ({'head': weights.head} if weights.head else {})
    stored.save_tree(staging / FLAX, tree)
    os.replace(staging, destination)


def write_released(weights: Weights, destination: pathlib.Path) -> None:
  """Writes the released module's keys: as a .safetensors, or as {'model': state_dict}.

  Raises:
    UserError: the encoder is no ResNet as released, something is there already, or it is not a
      .safetensors and PyTorch is not installed.
  """
  check_free(destination)
  if models.get_encoder(weights.encoder, **encoder_options(weights.card)) != (
      models.get_encoder(weights.encoder)):
    raise UserError(f'{destination}: the released module has no {weights.encoder} of another width '
                    'or for small inputs; convert to a folder instead')
  state = to_released(weights.encoder, weights.variables, weights.head,
                      weights.card.get('batches_tracked', 0))
  if destination.suffix == '.safetensors':
    with _staging(destination) as staging:
      whole = pathlib.Path(staging) / 'whole.safetensors'
      safetensors.numpy.save_file(state, whole, {'format': 'pt'})
      os.replace(whole, destination)
    return
  try:
    import torch
  except ImportError:
    raise UserError(f'{destination}: writing a .pth needs PyTorch: pip install torch') from None
  tensors = {key: torch.from_numpy(value) for key, value in state.items()}
  with _staging(destination) as staging:
    whole = pathlib.Path(staging) / 'whole.pth'
    torch.save({'model': tensors}, whole)
    os.replace(whole, destination)


def check_free(destination: pathlib.Path) -> None:
  """Raises UserError where something is there already."""
  if destination.exists():
    raise UserError(f'{destination} is there already; choose another destination, or remove it')


def _staging(destination: pathlib.Path) -> tempfile.TemporaryDirectory:
  """A folder beside the destination, so that what is whole is only renamed."""
  try:
    destination.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix='.converting-', dir=destination.parent)
  except OSError as error:
    raise UserError(f'{destination}: can\'t be written ({error.strerror})') from None
