"""Speed on the GPU or TPU at hand: encoder, step and whole loop of a config, beside PyTorch's.

  python -m anatcl_jax.bench accelerator --config=configs/pretrain.py --json=h100.json
  python -m anatcl_jax.bench accelerator --config=configs/pretrain.py:encoder=tiny \\
      --config.crop=24,28,24 --batches=2,4 --scans=40        a try on a CPU

Runs what fits into --minutes, the most important first: the rate of one product of matrices; the
step of config.batch_size subjects with identical views, its memory and where its time goes; the
released PyTorch module's, in turn, where PyTorch and the package anatcl are installed; the loop of
`main` on SYNTHETIC scans of the volumes' size with each cache; different views; then frozen forward
and step by batch and precision. Prints the tables of docs/accelerators.md; the file that --json
names is written after each case. What does not fit, or fails, is said in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from anatcl_jax import command_line, errors
from anatcl_jax.bench.command import Figures
from anatcl_jax.config import crop_sizes
from anatcl_jax.errors import UserError

PRECISIONS = ('bfloat16', 'float32')
CACHES = ('device', 'memory', 'none')
SUBJECTS, EPOCHS = 3187, 300     # OpenBHB's, to train on; of the published recipe
_SHAPE = (121, 145, 121)         # where nothing is cropped
_SECONDS = 1.0                   # that a thing is timed for, about
_TRAINED = 0.8                   # share of the scans; the rest is held out


def cases(config: ml_collections.ConfigDict, batches: list[int]) -> Iterator[dict[str, Any]]:
  """What is measured, in order; `seconds` is what it may take on a GPU, compiling included."""
  own = {'batch': config.batch_size, 'precision': config.precision}
  yield {'part': 'rates', 'seconds': 15}
  yield {'part': 'step', **own, 'views': 'identical', 'profile': True, 'seconds': 60}
  yield {'part': 'forward', **own, 'seconds': 20}
  yield {'part': 'torch', **own, 'compiled': False, 'seconds': 45}
  for cache in CACHES:
    yield {'part': 'loop', **own, 'cache': cache, 'seconds': 60}
  yield {'part': 'step', **own, 'views': 'different', 'seconds': 40}
  for precision in sorted(PRECISIONS, key=lambda name: name != config.precision):
    for batch in sorted(batches, key=lambda batch: abs(batch - config.batch_size)):
      grid = {'batch': batch, 'precision': precision}
      if grid != own:
        yield {'part': 'step', **grid, 'views': 'identical', 'seconds': 30}
        yield {'part': 'forward', **grid, 'seconds': 15}
  yield {'part': 'torch', **own, 'compiled': True, 'seconds': 70}


def run(config: ml_collections.ConfigDict, chosen: list[dict[str, Any]], minutes: float, scans: int,
        note: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
  """The cases with their figures; with `skipped` or `failed` instead, where there are none.

  Args:
    scans: in the loop's SYNTHETIC shards.
    note: told of all so far after each.
  """
  deadline = time.monotonic() + 60 * minutes
  results = []
  with tempfile.TemporaryDirectory(prefix='anatcl-bench-') as name, _compiled_once(name):
    bench = _Bench(config, pathlib.Path(name), scans)
    for case in chosen:
      left = deadline - time.monotonic()
      start = time.monotonic()
      if left < case['seconds']:
        figures = {'skipped': f'{max(left, 0):.0f} s of {minutes:g} minutes were left'}
      else:
        try:
          figures = bench.measure(case)
        except Exception as error:   # one case, such as a batch that is too large, ends alone
          text = str(error).strip() or type(error).__name__
          figures = {'failed': text.splitlines()[0][:200]}
      results.append(case | figures | {'took_s': time.monotonic() - start})
      note(results)
  return results


@contextlib.contextmanager
def _compiled_once(folder: str) -> Iterator[None]:
  """The loop's programs are those of the step alone: they need not be compiled again."""
  import jax
  before = jax.config.jax_compilation_cache_dir
  if not before:
    jax.config.update('jax_compilation_cache_dir', os.path.join(folder, 'compiled'))
  yield
  jax.config.update('jax_compilation_cache_dir', before)


class _Bench:
  """Measures one case after the other, and keeps what several need."""

  def __init__(self, config: ml_collections.ConfigDict, folder: pathlib.Path, scans: int):
    self._config, self._folder, self._scans = config, folder, scans
    self._shape = crop_sizes(config.crop) or _SHAPE
    self._step: Callable[[], Any] | None = None     # of the config itself, for comparisons
    self._shards: pathlib.Path | None = None

  def measure(self, case: dict[str, Any]) -> Figures:
    """The figures of a case."""
    return getattr(self, f'_{case["part"]}_figures')(case)

  def _with(self, case: dict[str, Any], **changes: Any) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(self._config.to_dict())
    config.update({'batch_size': case['batch'], 'precision': case['precision'], **changes})
    return config

  def _rates_figures(self, case: dict[str, Any]) -> Figures:
    import jax

    from anatcl_jax.bench import timing
    size = 8192 if jax.default_backend() != 'cpu' else 512
    return {f'product_{name}': timing.product_rate(name, size) for name in PRECISIONS} | {
        'copy': timing.copy_rate(2**30 if jax.default_backend() != 'cpu' else 2**20)}

  def _step_figures(self, case: dict[str, Any]) -> Figures:
    import jax

    from anatcl_jax.bench import counts, plan, profile, steps, timing
    from anatcl_jax.devices import parallel
    from anatcl_jax.training import train
    config = self._with(case, augment='none' if case['views'] == 'identical' else 'flip')
    mesh = parallel.make_mesh(config.batch_size)
    program = train.compile_program(config, mesh, steps_per_epoch=1)
    state = parallel.replicate(program.init(jax.random.key(0), self._shape), mesh)
    batch = parallel.shard_rows(steps.random_batch(config, self._shape, case['batch']), mesh)
    start = time.perf_counter()
    compiled = program.train_step.lower(state, batch).compile()
    figures = {'compile_s': time.perf_counter() - start}

    def take_step():
      nonlocal state   # its buffers are given to the next one
      state, metrics = compiled(state, batch)
      return metrics['loss']

    figures |= {'s': timing.queued(take_step, _SECONDS), **_memory_gb(compiled)}
    on_one = case['batch'] // mesh.size
    figures['planned_gb'] = sum(plan.memory(config, self._shape, on_one).values()) / 1e9
    passes = case['batch'] * (1 if case['views'] == 'identical' else config.views)
    figures['flops'] = passes * counts.train_flops(self._layers())
    if case.get('profile'):
      self._step = take_step
      try:
        figures['profile'] = profile.kernels(take_step)
      except Exception as error:   # profilers need rights that a machine may not give
        figures['profile'] = {'failed': str(error)[:200]}
    return figures

  def _forward_figures(self, case: dict[str, Any]) -> Figures:
    import jax

    from anatcl_jax.bench import steps, timing
    from anatcl_jax.devices import parallel
    from anatcl_jax.training import train
    config = self._with(case)
    mesh = parallel.make_mesh(config.batch_size)
    program = train.compile_program(config, mesh, steps_per_epoch=1)
    state = parallel.replicate(program.init(jax.random.key(0), self._shape), mesh)
    batch = parallel.shard_rows(steps.random_batch(config, self._shape, case['batch']), mesh)
    # As frozen/extract.py: float32 is full float32.
    with jax.default_matmul_precision('highest' if case['precision'] == 'float32' else 'default'):
      start = time.perf_counter()
      compiled = program.encode_step.lower(state, batch).compile()
      compile_s = time.perf_counter() - start
    flops = case['batch'] * sum(layer.flops for layer in self._layers())
    return {'compile_s': compile_s, 's': timing.queued(lambda: compiled(state, batch), _SECONDS),
            'flops': flops, **_memory_gb(compiled)}

  def _torch_figures(self, case: dict[str, Any]) -> Figures:
    from anatcl_jax.bench import accelerator_torch, steps, timing
    if self._step is None:
      raise UserError('the step was not measured')
    config = self._with(case)
    batch = steps.random_batch(config, self._shape, case['batch'])
    theirs = accelerator_torch.make_step(config, batch, case['compiled'])
    pairs = timing.in_turn({'torch': theirs, 'ours': self._step}, rounds=5, seconds=0.5)
    ratios = timing.ratio(pairs['ours'], pairs['torch'])
    return {'torch_s': timing.summary(pairs['torch']), 'ours_s': timing.summary(pairs['ours']),
            'torch': accelerator_torch.version(),
            **{f'ratio_{name}': value for name, value in ratios.items()}}

  def _loop_figures(self, case: dict[str, Any]) -> Figures:
    from anatcl_jax.bench import loop, shards_of_size
    if self._shards is None:
      shards_of_size.make(self._folder / 'shards', self._scans, self._shape)
      self._shards = self._folder / 'shards'
    # As many steps from one checkpoint to the next as an epoch of the published recipe has, unless
    # a try has few scans.
    every = min(10, max(1, round(SUBJECTS / (_TRAINED * self._scans))))
    config = self._with(case, data_dir=str(self._shards), cache=case['cache'],
                        checkpoint_every_epochs=every, compilation_cache='none',
                        reader_threads=min(16, os.cpu_count() or 1))
    # From the first checkpoint on, which compiles, over one more.
    return loop.run(config, epochs=2 * every + 2, rounds=1, warm=every + 1)

  def _layers(self):
    from anatcl_jax import models
    from anatcl_jax.bench import counts
    from anatcl_jax.config import encoder_options
    return counts.layers(models.get_encoder(self._config.encoder,
                                            **encoder_options(self._config)), self._shape)


def _memory_gb(compiled: Any) -> Figures:
  """What a program takes of a device, by XLA's account."""
  told = compiled.memory_analysis()
  return {'memory_gb': (told.argument_size_in_bytes + told.output_size_in_bytes
                        - told.alias_size_in_bytes + told.temp_size_in_bytes) / 1e9}


def machine() -> dict[str, Any]:
  """The devices and what drives them."""
  import jax

  from anatcl_jax.devices.machine import cpu
  first = jax.devices()[0]
  return {'device': first.device_kind if first.platform != 'cpu' else cpu(),
          'platform': first.platform, 'devices': jax.device_count(), 'host': cpu(),
          'jax': jax.__version__}


def main(arguments: list[str], prog: str) -> None:
  """Measures, and prints the tables."""
  with errors.reported():
    parser = command_line.ConfigParser(prog=prog, description=__doc__, config='pretrain')
    parser.add_argument('--minutes', type=float, default=8.0, metavar='N',
                        help='cases that may not end in time are left out (default: %(default)s)')
    parser.add_argument('--batches', default='1,8,32,64,128', metavar='N,N,...',
                        help='subjects a step or forward pass (default: %(default)s)')
    parser.add_argument('--scans', type=command_line.at_least(20), default=1280, metavar='N',
                        help='SYNTHETIC ones that the loop trains on (default: %(default)s)')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE',
                        help='also write every figure here')
    parser.add_argument('--markdown', type=pathlib.Path, metavar='FILE',
                        help='also write the tables here')
    options, config = parser.parse(arguments)
    batches = _numbers(options.batches)
    if not 0 < options.minutes < float('inf'):
      raise UserError(f'--minutes {options.minutes} must be above 0')
    for path in filter(None, (options.json, options.markdown)):
      if not path.absolute().parent.is_dir():
        raise UserError(f'{path}: its folder is not there')
    # PyTorch needs room on the same device; JAX would take three quarters of it at once.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    from absl import logging

    from anatcl_jax.bench import accelerator_tables
    from anatcl_jax.training.checks import check_values
    logging.set_verbosity(logging.ERROR)
    check_values(config)
    found = {'machine': machine(), 'config': config.to_dict(), 'scans': options.scans}

    def note(results: list[dict[str, Any]]) -> None:
      if options.json:
        options.json.write_text(json.dumps(found | {'cases': results}, indent=1) + '\n')

    chosen = list(cases(config, batches))
    results = run(config, chosen, options.minutes, options.scans, note)
    text = '\n'.join(accelerator_tables.tables(found | {'cases': results}))
    print(text)
    if options.markdown:
      options.markdown.write_text(text + '\n')


def _numbers(text: str) -> list[int]:
  parts = text.split(',')
  if not all(part.isdigit() and int(part) for part in parts):
    raise UserError(f'--batches {text!r} is not numbers such as 1,8,32')
  return sorted({int(part) for part in parts})
