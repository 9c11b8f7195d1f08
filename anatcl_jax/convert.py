"""Weights from one form to another: released PyTorch files, runs, safetensors and Flax.

  python -m anatcl_jax.convert released/model.pth weights/global-fold0
  python -m anatcl_jax.convert runs/mine weights/mine
  python -m anatcl_jax.convert weights/mine mine.pth
  python -m anatcl_jax.convert anatcl-local-3 weights/local-fold3

The first two write a folder: card.json (what the weights are: encoder, descriptor, fold, input
grid, crop, sha256 of the source), model.safetensors, flax/, an Orbax checkpoint of {params,
batch_stats, head}, and README.md, a model card to be completed by whoever shares them. Whatever
takes a workdir takes such a folder, and a released .pth itself.
runs/mine@best and runs/mine@STEP name another checkpoint of a run than its newest. A destination
that ends in .pth is written for PyTorch, as {'model': state_dict} with the keys of the released
module, bit for bit the values of the source; that alone needs PyTorch. One that ends in
.safetensors has the same keys. anatcl-{global,local}-{0..4} and anatcl-old-{global,local}-{0..4}
are the released files by name, downloaded the first time.

No code in a .pth is run: it is read as tensors, containers and plain arguments. Objects of other
classes are left out with a note, and a file that would call anything is refused.
"""

from __future__ import annotations

import pathlib
import sys

from anatcl_jax import command_line, errors


def command_line_parser(prog: str = 'python -m anatcl_jax.convert') -> command_line.Parser:
  """The parser of the command's arguments."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  parser.add_argument('source', type=pathlib.Path, metavar='SOURCE',
                      help='a .pth, a workdir of a run (its newest checkpoint, or WORKDIR@best, '
                           'WORKDIR@STEP), a folder that this command wrote, a .safetensors '
                           'beside its card.json or with the keys of the released module, or '
                           'the name of a released file')
  parser.add_argument('destination', type=pathlib.Path, metavar='DESTINATION',
                      help='a new folder, or a new file that ends in .pth or .safetensors')
  command_line.add_weights_cache(parser)
  return parser


def main(arguments: list[str] | None = None, prog: str = 'python -m anatcl_jax.convert') -> None:
  """Converts as the arguments say."""
  with errors.reported():
    options = command_line_parser(prog).parse_args(arguments)
    from absl import logging  # here, what is heavy: --help need not wait for it

    from anatcl_jax.weights import load, write
    logging.set_verbosity(logging.ERROR)    # Orbax warns of what is no fault
    write.check_free(options.destination)
    weights = load.load_weights(options.source, options.weights_cache)
    for note in weights.card['notes']:
      print(f'note: {note}', file=sys.stderr)
    if options.destination.suffix in ('.pth', '.pt', '.safetensors'):
      write.write_released(weights, options.destination)
    else:
      write.write_folder(weights, options.destination)
    numbers = sum(array.size for array in load.by_name(weights).values())
    print(f'{weights.encoder}, head {weights.card["head"] or "none"}, {numbers:,} numbers: '
          f'{options.destination}')
    command_line.say_next('features of your images', 'features', '--weights',
                          str(options.destination), '--volumes', 'MAPS', '--out', 'features.tsv')


if __name__ == '__main__':
  main()
