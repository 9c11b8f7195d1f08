"""Pretrains an AnatCL encoder on shards of brain maps.

  python -m anatcl_jax.main --config=configs/pretrain.py:demo            synthetic, a few minutes
  python -m anatcl_jax.main --config=configs/pretrain.py --config.data_dir=data/openbhb

The config file lists every key and the arguments after its colon; any key can be set from here, as
in --config.batch_size=64. It is Python that is run: use none that you would not run. A workdir
holds config.json, metrics.jsonl, TensorBoard events, checkpoints and pictures; the same workdir
again goes on where it stopped. SIGTERM, SIGINT (Ctrl-C), SIGHUP and SIGUSR1 finish the step, save
and exit with code 75: the same command goes on. Shards are made by `python -m anatcl_jax.prepare`.
The demo ends with what its frozen features know of the subjects held out (`python -m
anatcl_jax.probe`), as does a run with --config.report_at_end=probe.

All devices of the machine are used. Several processes, one a machine or one a GPU, share workdir
and data_dir and run the same command; SLURM, Open MPI and GKE say which is which, elsewhere flags:

  python -m anatcl_jax.main --config=... --coordinator_address=host0:9871 --num_processes=2 \\
      --process_id=0
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import sys

import ml_collections

from anatcl_jax import command_line, config_files, errors


def command_line_parser(prog: str) -> command_line.ConfigParser:
  """The parser of the command's arguments."""
  parser = command_line.ConfigParser(prog=prog, description=__doc__, config='pretrain',
                                     example='configs/pretrain.py:demo')
  parser.add_argument('--workdir', type=pathlib.Path, metavar='DIR',
                      help='where results go, or the run to go on with (default: runs/ and the '
                           'names of config, descriptor, encoder, fold and what differs from the '
                           'config file)')
  several = parser.add_argument_group('several processes')
  several.add_argument('--coordinator_address', metavar='HOST:PORT',
                       help='of process 0, where all of them meet (default: '
                            'JAX_COORDINATOR_ADDRESS, or found on SLURM, Open MPI and TPU)')
  several.add_argument('--num_processes', type=command_line.at_least(1), metavar='N',
                       help='how many (default: JAX_NUM_PROCESSES, or found)')
  several.add_argument('--process_id', type=command_line.at_least(0), metavar='I',
                       help='which one this is, from 0 (default: JAX_PROCESS_ID, or found)')
  several.add_argument('--distributed', action='store_true',
                       help='ask the machine itself for them, as a Cloud TPU VM needs; SLURM, Open '
                            'MPI and GKE are noticed without')
  several.add_argument('--heartbeat_timeout', type=command_line.at_least(1), default=30,
                       metavar='SECONDS',
                       help='after which a silent one counts as dead and the others stop with exit '
                            'code 75 (default: %(default)s)')
  return parser


def main(arguments: list[str] | None = None, prog: str = 'python -m anatcl_jax.main') -> None:
  """Trains as the arguments say; a run that fails ends the process at once."""
  arguments = sys.argv[1:] if arguments is None else arguments
  with errors.reported():
    options, config = command_line_parser(prog).parse(arguments)
    report = config_files.load(config.report_at_end, 'probe') if config.report_at_end else None
    from absl import logging  # here and below, what is heavy: --help need not wait for it

    from anatcl_jax import probe
    from anatcl_jax.devices import compilation, presence, processes, signals
    from anatcl_jax.training import opening, train
    if report is not None:   # not after hours of training
      probe.check(report, report.data_dir or config.data_dir)
  # Orbax writes a dozen lines a checkpoint, and tracebacks of errors that it raises as well.
  logging.set_verbosity(logging.FATAL)
  with processes.leaving(), errors.reported():
    signals.stop_at_once()
    workdir = options.workdir or _default_workdir(options.config, config)
    processes.start(options.coordinator_address, options.num_processes, options.process_id,
                    detect=options.distributed, heartbeat_timeout=options.heartbeat_timeout)
    presence.warn_of_unused_gpu()
    compilation.use_cache(config.compilation_cache)
    with processes.together(), opening.alone(workdir):
      train.train(config, workdir)
    if report is None and processes.is_first():
      command_line.say_next('what it learned', 'probe', '--config=probe',
                            f'--config.checkpoint={workdir}')
    if report is not None:
      logging.set_verbosity(logging.ERROR)    # Orbax warns of what is no fault
      probe.probe_run(report, workdir)


def _default_workdir(given: str, config: ml_collections.ConfigDict) -> pathlib.Path:
  """runs/ and names of what tells runs apart: whatever differs from the config file's own values.

  Not what a run may change when it goes on, so that the same folder is found again.
  """
  from anatcl_jax.config import flat
  from anatcl_jax.weights.run_config import HARMLESS
  path, _, arguments = given.partition(':')
  demo = '-demo' if 'demo' in arguments.split(',') else ''
  kernels = [term.kernel for term in config.loss.terms.values() if term.attribute == 'morphometry']
  usual = flat(config_files.load(f'{path}:demo' if demo else path, 'pretrain'))
  other = [key.split('.')[-1] + re.sub(r'[^\w.+-]+', '_', pathlib.Path(str(value)).name)
           for key, value in flat(config).items()
           if usual.get(key) != value and key not in ('encoder', 'fold')
           and not (key.endswith('.kernel') and value in kernels)
           and (key == 'data_dir' or key.split('.')[0] not in HARMLESS)]
  name = '-'.join([f'{pathlib.Path(path).stem}{demo}', *kernels, config.encoder,
                   f'fold{config.fold}', *other])
  if len(name) > 120:   # file systems take 255 bytes
    name = f'{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}'
  return pathlib.Path('runs', name)


if __name__ == '__main__':
  main()
