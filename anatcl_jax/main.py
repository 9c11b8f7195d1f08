"""Pretrains an AnatCL encoder on shards of brain maps.

  python -m anatcl_jax.main --config=configs/pretrain.py:demo            synthetic, a few minutes
  python -m anatcl_jax.main --config=configs/pretrain.py --config.data_dir=data/openbhb

The config file lists every key and the arguments after its colon; any key can be set from here, as
in --config.batch_size=64. A workdir holds config.json, metrics.jsonl, TensorBoard events,
checkpoints and pictures; the same workdir again goes on where it stopped. SIGTERM and SIGINT
(Ctrl-C) finish the step, save and exit with code 75: the same command goes on. Shards are made by
`python -m anatcl_jax.prepare`. The demo ends with what its frozen features know of the subjects
held out (`python -m anatcl_jax.probe`), as does a run with --config.report_at_end=configs/probe.py.

All devices of the machine are used. Several processes, one a machine or one a GPU, share workdir
and data_dir and run the same command; SLURM, Open MPI and GKE say which is which, elsewhere flags:

  python -m anatcl_jax.main --config=... --coordinator_address=host0:9871 --num_processes=2 \\
      --process_id=0
"""

from __future__ import annotations

import pathlib

from absl import app, flags, logging

from anatcl_jax import command_line, errors, probe
from anatcl_jax.devices import compilation, processes, signals
from anatcl_jax.training import train

_CONFIG, _PARSER = command_line.define_config('configs/pretrain.py:demo')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results go, or the run to go on with (default: runs/ and the names of '
    'config, descriptor, encoder and fold)')
_COORDINATOR = flags.DEFINE_string(
    'coordinator_address', None, 'Several processes: host:port of process 0, where all of them '
    'meet (default: JAX_COORDINATOR_ADDRESS, or found on SLURM, Open MPI and TPU)')
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'Several processes: how many (default: JAX_NUM_PROCESSES, or found)',
    lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Several processes: which one this is, from 0 (default: JAX_PROCESS_ID, or '
    'found)', lower_bound=0)
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'Several processes: ask the machine itself for them, as a Cloud TPU VM '
    'needs; SLURM, Open MPI and GKE are noticed without')
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    'heartbeat_timeout', 30, 'Several processes: seconds after which a silent one counts as dead '
    'and the others stop with exit code 75', lower_bound=1)


def main(argv: list[str]) -> None:
  """Trains as the flags say."""
  del argv
  if not flags.FLAGS['verbosity'].present:
    # Orbax writes a dozen lines a checkpoint, and tracebacks of errors that it raises as well.
    logging.set_verbosity(logging.FATAL)
  signals.stop_at_once()
  config = _CONFIG.value
  workdir = pathlib.Path(_WORKDIR.value or _default_workdir())
  report = command_line.load_config(config.report_at_end) if config.report_at_end else None
  processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value,
                  detect=_DISTRIBUTED.value, heartbeat_timeout=_HEARTBEAT_TIMEOUT.value)
  compilation.use_cache(config.compilation_cache)
  with processes.together():
    train.train(config, workdir)
  if report is not None:
    logging.set_verbosity(logging.ERROR)    # Orbax warns of what is no fault
    probe.probe_run(report, workdir)


def _default_workdir() -> str:
  path, arguments = command_line.config_argument()
  demo = '-demo' if 'demo' in arguments.split(',') else ''
  config = _CONFIG.value
  kernels = [term.kernel for term in config.loss.terms.values() if term.attribute == 'morphometry']
  return '-'.join([f'runs/{pathlib.Path(path).stem}{demo}', *kernels, config.encoder,
                   f'fold{config.fold}'])


def command() -> None:
  """The whole program, with the arguments of this process; ends it."""
  with processes.leaving(), errors.reported():
    app.run(main, flags_parser=_PARSER)


if __name__ == '__main__':
  command()
