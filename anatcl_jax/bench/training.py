"""Speed of a config on the machine at hand: encoder, training step, loss, input pipeline.

  python -m anatcl_jax.bench --config=configs/pretrain.py --config.batch_size=2
  python -m anatcl_jax.bench --config=configs/pretrain.py --config.batch_size=2 --against-torch
  python -m anatcl_jax.bench --config=configs/pretrain.py:encoder=tiny --config.crop=40,48,40 \\
      --scaling

`bench loop`, `bench loss` and `bench prepare` measure parts of it; each has its --help.

Volumes are random ones of the size config.crop (121,145,121 where that is none), maps on disk are
SYNTHETIC. Prints Markdown tables; --json also writes every figure. Each case runs in a process of
its own, whose peak memory is its own. --against-torch runs the released module (pip install -e
'.[torch]') and ours in turn in one process, in float32 with all cores, and gives the ratios of the
pairs. --scaling gives time and memory of the step by batch, by volume and by devices, and a plot.
--plan computes what a run needs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from typing import Any

from anatcl_jax import command_line, errors, outputs
from anatcl_jax.bench.command import Figures, in_own_process
from anatcl_jax.config import crop_sizes, encoder_options
from anatcl_jax.devices.machine import cpu
from anatcl_jax.errors import UserError

_OPENBHB = (121, 145, 121)


def command_line_parser(prog: str) -> command_line.ConfigParser:
  """The parser of the command's arguments."""
  parser = command_line.ConfigParser(prog=prog, description=__doc__, config='pretrain')
  parser.add_argument('--against-torch', action='store_true',
                      help='only compare with the released PyTorch module: forward and step with '
                           'batch 1 and config.batch_size, and images to features')
  parser.add_argument('--scaling', action='store_true',
                      help='only time and memory of the step by batch, volume and devices')
  parser.add_argument('--plan', action='store_true',
                      help='only compute what a run needs, and measure nothing: memory a device, '
                           'volumes a second, storage (docs/scaling.md)')
  parser.add_argument('--plot', type=pathlib.Path, metavar='FILE', default='speed-scaling.png',
                      help='where --scaling draws its plot (default: %(default)s)')
  parser.add_argument('--rounds', type=command_line.at_least(1), default=7, metavar='N',
                      help='how often each thing is timed, after a first time that does not count '
                           '(default: %(default)s)')
  parser.add_argument('--spacing', type=float, default=1.5, metavar='MM',
                      help='voxel size of the SYNTHETIC maps on disk, from 0.5 '
                           '(default: %(default)s)')
  parser.add_argument('--json', type=pathlib.Path, metavar='FILE',
                      help='also write every figure here')
  parser.add_argument('--case', help=argparse.SUPPRESS)   # one case, as JSON, in this process
  return parser


def main(arguments: list[str], prog: str) -> None:
  """Runs the cases that the arguments ask for and prints their tables."""
  with errors.reported():
    options, config = command_line_parser(prog).parse(arguments)
    if not options.spacing >= 0.5:
      raise UserError(f'--spacing {options.spacing} must be at least 0.5 mm')
    from absl import logging

    from anatcl_jax.bench import plan, versus_torch
    from anatcl_jax.devices import presence
    from anatcl_jax.progress import progress_bar
    from anatcl_jax.training.checks import check_values
    logging.set_verbosity(logging.WARNING)
    check_values(config)
    if not options.plan:
      presence.warn_of_unused_gpu()
    if options.case:
      figures = _run_case(config, json.loads(options.case), options)
      print(json.dumps(figures))
      return
    if options.plan:
      print('\n'.join(plan.tables(config, crop_sizes(config.crop) or _OPENBHB)))
      return
    for path in filter(None, (options.json, options.scaling and options.plot)):
      if not path.absolute().parent.is_dir():
        raise UserError(f'{path}: its folder is not there')
      outputs.check_file(path, '--json' if path == options.json else '--plot')
    if options.against_torch:
      versus_torch.released(config)   # stops early where it is missing
    results = []
    cases = _cases(config, options)
    with progress_bar(len(cases), 'bench', 'cases') as progress:
      for case in cases:
        results.append(case | _in_own_process(case, arguments))
        progress.update()
    print('\n'.join(_report(config, results, options)))
    if options.json:
      figures = {'machine': cpu(), 'config': config.to_dict(), 'cases': results}
      outputs.write_json(options.json, figures)
      print(f'results: {options.json}')


def _cases(config: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
  from anatcl_jax.bench import versus_torch
  shape, batch = crop_sizes(config.crop) or _OPENBHB, config.batch_size
  if options.against_torch:
    return [{'part': 'torch', 'case': case, 'batch': n}
            for case in versus_torch.CASES for n in sorted({1, batch})] + [{'part': 'images'}]
  if not options.scaling:
    return [{'part': 'step', 'shape': shape, 'batch': batch}] + [
        {'part': 'input', 'stored_as': dtype} for dtype in ('float16', 'uint8')] + [
        {'part': 'end to end'}]
  by_batch = [{'by': 'batch', 'batch': n} for n in (2, 4, 8)]
  by_volume = [{'by': 'volume', 'shape': tuple(max(8, round(n * part)) for n in shape)}
               for part in (0.25, 0.5, 0.75, 1)]
  by_devices = [{'by': 'devices', 'devices': n, 'batch': 8} for n in (1, 2, 4)]
  smaller = {'part': 'step', 'shape': tuple(max(8, n // 2) for n in shape), 'batch': batch}
  return [smaller | case for case in by_batch + by_volume + by_devices]


def _run_case(config: Any, case: dict[str, Any], options: argparse.Namespace) -> Figures:
  from anatcl_jax.bench import images, inputs, steps, versus_torch
  shape = tuple(case.get('shape', crop_sizes(config.crop) or _OPENBHB))
  config.batch_size = case.get('batch', config.batch_size)
  if case['part'] == 'torch':
    return versus_torch.run(config, shape, case['case'], options.rounds)
  if case['part'] == 'images':
    return images.run(config, options.spacing, options.rounds)
  if case['part'] == 'input':
    return inputs.run(config, case['stored_as'], options.spacing, options.rounds)
  if case['part'] == 'end to end':
    return inputs.end_to_end(config, options.spacing, options.rounds)
  return steps.run(config, shape, options.rounds)


def _in_own_process(case: dict[str, Any], arguments: list[str]) -> Figures:
  environment = dict(os.environ)
  if 'devices' in case:
    environment['JAX_NUM_CPU_DEVICES'] = str(case['devices'])
  command = [sys.executable, '-m', 'anatcl_jax.bench', *arguments, f'--case={json.dumps(case)}']
  return in_own_process(command, str(case), environment)


def _report(config: Any, results: list[dict[str, Any]], options: argparse.Namespace) -> list[str]:
  """The tables' lines."""
  from anatcl_jax import models
  from anatcl_jax.bench import counts, tables
  if options.against_torch:
    return tables.against_torch(results, config, crop_sizes(config.crop) or _OPENBHB)
  if options.scaling:
    tables.draw_scaling(results, options.plot, config)
    return tables.scaling(results, config) + [f'plot: {options.plot}']
  counted = counts.layers(models.get_encoder(config.encoder, **encoder_options(config)),
                          crop_sizes(config.crop) or _OPENBHB)
  return (tables.step(results[0], config) + [''] + tables.inputs(results[1:], results[0])
          + [''] + tables.layers(counted) + [''] + tables.estimates(counted, 32))
