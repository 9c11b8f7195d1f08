"""Pretrains an AnatCL encoder on shards of brain maps.

  python -m anatcl_jax.main --config=configs/pretrain.py:demo            synthetic, a few minutes
  python -m anatcl_jax.main --config=configs/pretrain.py --config.data_dir=data/openbhb

The config file lists every key and the arguments after its colon; any key can be set from here, as
in --config.batch_size=64. A workdir holds config.json, metrics.jsonl, TensorBoard events,
checkpoints and pictures; the same workdir again goes on where it stopped. SIGTERM and SIGINT
(Ctrl-C) finish the step, save and exit with code 75: the same command goes on. Shards are made by
`python -m anatcl_jax.prepare`.
"""

from __future__ import annotations

import pathlib

from absl import app, flags, logging

from anatcl_jax import command_line, errors, signals, train

_CONFIG, _PARSER = command_line.define_config('configs/pretrain.py:demo')
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
  path, arguments = command_line.config_argument()
  demo = '-demo' if 'demo' in arguments.split(',') else ''
  config = _CONFIG.value
  kernels = [term.kernel for term in config.loss.terms.values() if term.attribute == 'morphometry']
  return '-'.join([f'runs/{pathlib.Path(path).stem}{demo}', *kernels, config.encoder,
                   f'fold{config.fold}'])


if __name__ == '__main__':
  with errors.reported():
    app.run(main, flags_parser=_PARSER)
