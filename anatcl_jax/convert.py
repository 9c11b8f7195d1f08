"""Weights from one form to another: released PyTorch files, runs, safetensors and Flax.

  python -m anatcl_jax.convert released/model.pth weights/global-fold0
  python -m anatcl_jax.convert runs/mine weights/mine
  python -m anatcl_jax.convert weights/mine mine.pth

The first two write a folder: card.json (what the weights are: encoder, descriptor, fold, input
grid, crop, sha256 of the source), model.safetensors, and flax/, an Orbax checkpoint of {params,
batch_stats, head}. Whatever takes a workdir takes such a folder, and a released .pth itself.
A destination that ends in .pth is written for PyTorch, as {'model': state_dict} with the keys of the
released module, bit for bit the values of the source; that alone needs PyTorch.

No code in a .pth is run: it is read as tensors, containers and plain arguments. Objects of other
classes are left out with a note, and a file that would call anything is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile

import orbax.checkpoint as ocp
import safetensors.numpy
from absl import logging

from anatcl_jax import errors, models
from anatcl_jax.errors import UserError
from anatcl_jax.weights.load import CARD, TENSORS, Weights, by_name, encoder_options, load_weights
from anatcl_jax.weights.released_names import to_released

FLAX = 'flax'


def write_folder(weights: Weights, destination: pathlib.Path) -> None:
  """Writes card.json, model.safetensors and flax/; the folder appears when it is whole.

  Raises:
    UserError: something is there already, or the folder can't be made.
  """
  _check_free(destination)
  with _staging(destination) as staging:
    staging = pathlib.Path(staging) / 'whole'
    staging.mkdir()
    (staging / CARD).write_text(json.dumps(weights.card, indent=2, allow_nan=False) + '\n')
    safetensors.numpy.save_file(by_name(weights), staging / TENSORS, {'format': 'flax'})
    tree = weights.variables | ({'head': weights.head} if weights.head else {})
    with ocp.PyTreeCheckpointer() as checkpointer:
      checkpointer.save((staging / FLAX).resolve(), tree)
    os.replace(staging, destination)


def write_released(weights: Weights, destination: pathlib.Path) -> None:
  """Writes {'model': state_dict} with the released module's keys, through PyTorch.

  Raises:
    UserError: PyTorch is not installed, the encoder is no ResNet as released, or something
      is there already.
  """
  _check_free(destination)
  if models.get_encoder(weights.encoder, **encoder_options(weights.card)) != (
      models.get_encoder(weights.encoder)):
    raise UserError(f'{destination}: the released module has no {weights.encoder} of another width '
                    'or for small inputs; convert to a folder instead')
  state = to_released(weights.encoder, weights.variables, weights.head,
                      weights.card.get('batches_tracked', 0))
  try:
    import torch
  except ImportError:
    raise UserError(f'{destination}: writing a .pth needs PyTorch: pip install torch') from None
  tensors = {key: torch.from_numpy(value) for key, value in state.items()}
  with _staging(destination) as staging:
    whole = pathlib.Path(staging) / 'whole.pth'
    torch.save({'model': tensors}, whole)
    os.replace(whole, destination)


def _check_free(destination: pathlib.Path) -> None:
  if destination.exists():
    raise UserError(f'{destination} is there already; choose another destination, or remove it')


def _staging(destination: pathlib.Path) -> tempfile.TemporaryDirectory:
  """A folder beside the destination, so that what is whole is only renamed."""
  try:
    destination.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix='.converting-', dir=destination.parent)
  except OSError as error:
    raise UserError(f'{destination}: can\'t be written ({error.strerror})') from None


def command_line() -> errors.Parser:
  """The parser of the command's arguments."""
  parser = errors.Parser(prog='python -m anatcl_jax.convert', description=__doc__,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('source', type=pathlib.Path, metavar='SOURCE',
                      help='a released .pth, a workdir of a run (its newest checkpoint), a folder '
                           'that this command wrote, or a .safetensors beside its card.json')
  parser.add_argument('destination', type=pathlib.Path, metavar='DESTINATION',
                      help='a new folder, or a new file that ends in .pth')
  return parser


def main(arguments: list[str] | None = None) -> None:
  """Converts as the arguments say."""
  logging.set_verbosity(logging.ERROR)    # Orbax warns of what is no fault
  with errors.reported():
    options = command_line().parse_args(arguments)
    _check_free(options.destination)
    weights = load_weights(options.source)
    for note in weights.card['notes']:
      print(f'note: {note}', file=sys.stderr)
    if options.destination.suffix in ('.pth', '.pt'):
      write_released(weights, options.destination)
    else:
      write_folder(weights, options.destination)
    numbers = sum(array.size for array in by_name(weights).values())
    print(f'{weights.encoder}, head {weights.card["head"] or "none"}, {numbers:,} numbers: '
          f'{options.destination}')


if __name__ == '__main__':
  main()
