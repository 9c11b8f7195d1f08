"""Pretrains an AnatCL encoder on shards of brain maps.

  python -m anatcl_jax.main --config=configs/pretrain.py:demo            synthetic, a few minutes
  python -m anatcl_jax.main --config=configs/pretrain.py --config.data_dir=data/openbhb

The config file lists every key and the arguments after its colon; any key can be set from here, as
in --config.batch_size=64. A workdir holds config.json, metrics.jsonl, TensorBoard events,
checkpoints and pictures; the same workdir again goes on where it stopped. SIGTERM and SIGINT (Ctrl-C)
finish the step, save and exit with code 75: the same command goes on. Shards are made by
`python -m anatcl_jax.prepare`.
"""

from __future__ import annotations

import pathlib
import re

from absl import app, flags, logging
from ml_collections import config_flags

from anatcl_jax import errors, signals, train
from anatcl_jax.config import key_names
from anatcl_jax.errors import UserError, check_name

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, perhaps with arguments: configs/pretrain.py:demo')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results go, or the run to go on with (default: runs/ and the names of '
    'config, descriptor, encoder and fold)')


def main(argv: list[str]) -> None:
  """Trains as the flags say."""
  del argv
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax writes a dozen lines of INFO a checkpoint
  signals.stop_at_once()
  train.train(_CONFIG.value, pathlib.Path(_WORKDIR.value or _default_workdir()))


def _default_workdir() -> str:
  path, _, arguments = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  demo = '-demo' if 'demo' in arguments.split(',') else ''
  config = _CONFIG.value
  kernels = [term.kernel for term in config.loss.terms.values() if term.attribute == 'morphometry']
  return '-'.join([f'runs/{pathlib.Path(path).stem}{demo}', *kernels, config.encoder,
                   f'fold{config.fold}'])


def _parse_flags(argv: list[str]) -> list[str]:
  """absl's parser with one-line errors that name the nearest valid flag or config key."""
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is None:
      raise UserError('give --config=configs/pretrain.py, or --help')
    _CONFIG.value.items()  # a config file that could not be read raises on its first use
  except UserError:
    raise
  except Exception as error:  # absl and ml_collections raise a dozen types
    _check_keys(argv)
    raise UserError(str(error).strip().splitlines()[-1]) from None
  if rest[1:]:
    raise UserError(f'unexpected argument {rest[1]!r}; values are given as --key=value')
  return rest


def _check_keys(argv: list[str]) -> None:
  """Raises UserError for a config file that is not there, and for a KEY that it does not have."""
  position, path = next(((i, a.partition('=')[2]) for i, a in enumerate(argv)
                         if re.match(r'--?config=', a)), (0, None))
  if any(re.match(r'--?config\.', argument) for argument in argv[:position or len(argv)]):
    raise UserError('give --config=FILE before the --config.KEY=VALUE that change it')
  if path and not pathlib.Path(path.partition(':')[0]).is_file():
    raise UserError(f'{path.partition(":")[0]}: no such config file; configs/ has those that come '
                    'with the program')
  if path:
    names = key_names(flags.FLAGS['config'].parser.parse(path))
    for argument in argv:
      if match := re.match(r'--?config\.([^=]+)', argument):
        check_name(match[1], names, 'config key')


if __name__ == '__main__':
  with errors.reported():
    app.run(main, flags_parser=_parse_flags)
