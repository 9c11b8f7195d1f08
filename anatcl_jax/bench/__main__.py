"""Speed of a config on the machine at hand: encoder, training step, loss, input pipeline.

  python -m anatcl_jax.bench --config=configs/pretrain.py --config.batch_size=2
  python -m anatcl_jax.bench --config=configs/pretrain.py --config.batch_size=2 --against-torch
  python -m anatcl_jax.bench --config=configs/pretrain.py:encoder=tiny --config.crop=40,48,40 --scaling

Volumes are random ones of the size config.crop (121,145,121 where that is none), maps on disk are
SYNTHETIC. Prints Markdown tables; --json also writes every figure. Each case runs in a process of
its own, whose peak memory is its own. --against-torch runs the released module (pip install -e
'.[torch]') and ours in turn in one process, in float32 with all cores, and gives the ratios of the
pairs. --scaling gives time and memory of the step by batch, by volume and by devices, and a plot.
--plan computes what a run needs.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

from absl import app, flags, logging

from anatcl_jax import command_line, errors, models
from anatcl_jax.bench import counts, inputs, plan, steps, tables, versus_torch
from anatcl_jax.bench.command import Figures, cpu, in_own_process
from anatcl_jax.config import crop_sizes, encoder_options
from anatcl_jax.errors import UserError
from anatcl_jax.progress import progress_bar
from anatcl_jax.training.checks import check_values

_CONFIG, _PARSER = command_line.define_config('configs/pretrain.py')
_TORCH = flags.DEFINE_boolean('against-torch', False, 'Only compare with the released PyTorch '
                              'module: forward with batch 1 and config.batch_size, and the step')
_SCALING = flags.DEFINE_boolean('scaling', False, 'Only time and memory of the step by batch, '
                                'volume and devices')
_PLAN = flags.DEFINE_boolean('plan', False, 'Only compute what a run needs, and measure nothing: '
                             'memory a device, volumes a second, storage (docs/scaling.md)')
_PLOT = flags.DEFINE_string('plot', 'speed-scaling.png', 'Where --scaling draws its plot')
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'How often each thing is timed, after a first time that '
                               'does not count', lower_bound=1)
_SPACING = flags.DEFINE_float('spacing', 1.5, 'Voxel size in mm of the SYNTHETIC maps on disk',
                              lower_bound=0.5)
_JSON = flags.DEFINE_string('json', None, 'Also write every figure here')
_CASE = flags.DEFINE_string('case', None, 'One case, as JSON, in this process')

_OPENBHB = (121, 145, 121)


def main(argv: list[str]) -> None:
  """Runs the cases that the flags ask for and prints their tables."""
  del argv
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  config = _CONFIG.value
  check_values(config)
  if _CASE.value:
    print(json.dumps(_run_case(config, json.loads(_CASE.value))))
    return
  if _PLAN.value:
    print('\n'.join(plan.tables(config, crop_sizes(config.crop) or _OPENBHB)))
    return
  for path in filter(None, (_JSON.value, _SCALING.value and _PLOT.value)):
    if not pathlib.Path(path).absolute().parent.is_dir():
      raise UserError(f'{path}: its folder is not there')
  if _TORCH.value:
    versus_torch.released(config)   # stops early where it is missing
  results = []
  cases = _cases(config)
  with progress_bar(len(cases), 'bench', 'cases') as progress:
    for case in cases:
      results.append(case | _in_own_process(case))
      progress.update()
  print('\n'.join(_report(config, results)))
  if _JSON.value:
    figures = {'machine': cpu(), 'config': config.to_dict(), 'cases': results}
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=1) + '\n')
    print(f'results: {_JSON.value}')


def _cases(config: Any) -> list[dict[str, Any]]:
  shape, batch = crop_sizes(config.crop) or _OPENBHB, config.batch_size
  if _TORCH.value:
    forward = [{'part': 'torch', 'case': 'forward', 'batch': n} for n in sorted({1, batch})]
    return forward + [{'part': 'torch', 'case': case, 'batch': batch}
                      for case in versus_torch.CASES[1:]]
  if not _SCALING.value:
    return [{'part': 'step', 'shape': shape, 'batch': batch}] + [
        {'part': 'input', 'stored_as': dtype} for dtype in ('float16', 'uint8')] + [
        {'part': 'end to end'}]
  by_batch = [{'by': 'batch', 'batch': n} for n in (2, 4, 8)]
  by_volume = [{'by': 'volume', 'shape': tuple(max(8, round(n * part)) for n in shape)}
               for part in (0.25, 0.5, 0.75, 1)]
  by_devices = [{'by': 'devices', 'devices': n, 'batch': 8} for n in (1, 2, 4)]
  smaller = {'part': 'step', 'shape': tuple(max(8, n // 2) for n in shape), 'batch': batch}
  return [smaller | case for case in by_batch + by_volume + by_devices]


def _run_case(config: Any, case: dict[str, Any]) -> Figures:
  shape = tuple(case.get('shape', crop_sizes(config.crop) or _OPENBHB))
  config.batch_size = case.get('batch', config.batch_size)
  if case['part'] == 'torch':
    return versus_torch.run(config, shape, case['case'], _ROUNDS.value)
  if case['part'] == 'input':
    return inputs.run(config, case['stored_as'], _SPACING.value, _ROUNDS.value)
  if case['part'] == 'end to end':
    return inputs.end_to_end(config, _SPACING.value, _ROUNDS.value)
  return steps.run(config, shape, _ROUNDS.value)


def _in_own_process(case: dict[str, Any]) -> Figures:
  environment = dict(os.environ)
  if 'devices' in case:
    environment['JAX_NUM_CPU_DEVICES'] = str(case['devices'])
  command = [sys.executable, '-m', 'anatcl_jax.bench', *sys.argv[1:], f'--case={json.dumps(case)}']
  return in_own_process(command, str(case), environment)


def _report(config: Any, results: list[dict[str, Any]]) -> list[str]:
  """The tables' lines."""
  if _TORCH.value:
    return tables.against_torch(results, config, crop_sizes(config.crop) or _OPENBHB)
  if _SCALING.value:
    tables.draw_scaling(results, pathlib.Path(_PLOT.value), config)
    return tables.scaling(results, config) + [f'plot: {_PLOT.value}']
  counted = counts.layers(models.get_encoder(config.encoder, **encoder_options(config)),
                          crop_sizes(config.crop) or _OPENBHB)
  return (tables.step(results[0], config) + [''] + tables.inputs(results[1:], results[0])
          + [''] + tables.layers(counted) + [''] + tables.estimates(counted, 32))


if __name__ == '__main__':
  with errors.reported():
    app.run(main, flags_parser=_PARSER)
