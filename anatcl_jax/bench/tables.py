"""Figures of the benchmark as Markdown tables, and a plot."""

from __future__ import annotations

import pathlib
from typing import Any

import ml_collections
import numpy as np

from anatcl_jax.bench import counts
from anatcl_jax.devices.machine import cpu

Results = list[dict[str, Any]]


def _machine(config: ml_collections.ConfigDict) -> str:
  import jax
  return f'{cpu()}; jax {jax.__version__}; {config.encoder}, {config.precision}'


def _size(shape: tuple[int, ...]) -> str:
  return 'x'.join(map(str, shape))


def markdown(header: str, rows: list[str]) -> list[str]:
  """Lines of a table."""
  return [header, '|---' * (header.count('|') - 1) + '|', *rows]


def step(r: dict[str, Any], config: ml_collections.ConfigDict) -> list[str]:
  """Forward, step and loss."""
  rows = [f'| {name} | {r[key + "_s"]:.3f} s | {r["batch"] / r[key + "_s"]:.3g} | {flops} | '
          f'{share} |'
          for name, key, flops, share in (
              ('encoder, frozen', 'forward', f'{r["forward_flops"] / 1e9:.4g}',
               f'{r["forward_share"]:.0%}'),
              ('training step', 'step', f'{r["step_flops"] / 1e9:.4g}', f'{r["step_share"]:.0%}'),
              ('loss and its gradient alone', 'loss', '', ''))]
  return [f'{_machine(config)}; batch {r["batch"]} of {_size(r["shape"])} on {r["devices"]} '
          'device(s); a product of matrices reaches '
          f'{r["product_flops_per_s"] / 1e9:,.0f} GFLOP/s; peak memory {r["peak_mb"]:,.0f} MB; '
          f'XLA counts {r["xla_forward_flops"] / 1e9:.4g} GFLOP forward', '',
          *markdown('| | time | volumes/s | GFLOP | share of the product\'s rate |', rows)]


def inputs(results: Results, of_step: dict[str, Any]) -> list[str]:
  """What the pipeline delivers, beside what the step consumes and the reference's way."""
  consumed = of_step['subjects_per_s']
  rows = [f'| {r["stored_as"]} | {r["pipeline_per_s"]:,.0f} /s | {consumed:.2f} /s | '
          f'{r["pipeline_per_s"] / consumed:,.0f} x | '
          + (f'{r["reference_per_s"]:,.0f} /s | {r["ratio"]:.1f} x ({r["ratio_min"]:.1f} to '
             f'{r["ratio_max"]:.1f}) |' if np.isfinite(r['ratio']) else 'needs nilearn | |')
          for r in results if r['part'] == 'input']
  rates = ', '.join(f'{r["subjects_per_s"]:.2f}' for r in results if r['part'] == 'end to end')
  return ['SYNTHETIC maps; the reference is a row of a memory-mapped matrix, '
          'nilearn.masking.unmask and the predecessor\'s transpose and reshape, in one thread. '
          f'End to end, from shards to updated parameters: {rates} subjects/s.', '',
          *markdown('| stored as | pipeline | the step takes | ratio | reference | ratio |', rows)]


def against_torch(results: Results, config: ml_collections.ConfigDict, shape: tuple[int, ...]
                  ) -> list[str]:
  """Medians of either and the ratios of the pairs."""
  names = {'forward': 'encoder, frozen', 'forward by JAX': 'encoder, frozen, by JAX alone',
           'identical views': 'step, two identical views',
           'different views': 'step, two different views'}

  def row(name: str, torch: str, ours: str, r: dict[str, Any]) -> str:
    return (f'| {name} | {r["batch"]} | {torch} | {ours} | **{r["ratio_median"]:.2f}** '
            f'({r["ratio_min"]:.2f} to {r["ratio_max"]:.2f}) |')

  rows = [row(f'{names[r["case"]]}{", by " * bool(r["engine"])}{r["engine"]}',
              f'{r["torch_s"]:.2f} s', f'{r["ours_s"]:.2f} s', r)
          if r['part'] == 'torch' else
          row(f'.nii.gz to features, by {r["engine"]}', f'{r["torch_per_minute"]:.0f} a minute',
              f'{r["ours_per_minute"]:.0f} a minute', r) for r in results]
  import torch
  return [f'{cpu()}; {config.encoder}, {_size(shape)}, float32; torch '
          f'{torch.__version__}; {results[0]["rounds"]} pairs in turn', '',
          *markdown('| | batch | PyTorch | ours | ours / PyTorch, pair by pair |', rows)]


def layers(counted: list[counts.Layer]) -> list[str]:
  """Operations of one volume, layer by layer."""
  rows = [f'| {layer.name} | {layer.outputs // layer.features:,} x {layer.features} | '
          f'{layer.flops / 1e9:.3g} |' for layer in counted]
  total = sum(layer.flops for layer in counted)
  rows.append(f'| all, forward | | {total / 1e9:.3g} |')
  rows.append(f'| all, step | | {counts.train_flops(counted) / 1e9:.3g} |')
  return markdown('| convolution | outputs | GFLOP a volume |', rows)


def estimates(counted: list[counts.Layer], batch: int) -> list[str]:
  """Steps on accelerators by the roofline, which nobody measured."""
  rows = [f'| {a.name} | {a.flops / 1e12:,.0f} TFLOP/s, {a.bandwidth / 1e12:.2f} TB/s ({a.source}) '
          f'| {1e3 * counts.estimated_step(counted, batch, a):.3g} ms |'
          for a in counts.ACCELERATORS]
  return [f'**Estimates, not measurements**: a bfloat16 step of {batch} subjects encoded once, '
          'from counted operations and bytes at published peaks. A real step is slower.', '',
          *markdown('| chip | peaks | step at least |', rows)]


def _value(r: dict[str, Any]) -> str:
  return _size(r['shape']) if r['by'] == 'volume' else str(r[r['by']])


def scaling(results: Results, config: ml_collections.ConfigDict) -> list[str]:
  """The step by batch, by volume and by devices."""
  rows = [f'| {r["by"]} {_value(r)} | {r["batch"]} | {_size(r["shape"])} | {r["devices"]} | '
          f'{r["step_s"]:.2f} s | {r["subjects_per_s"]:.2f} | {r["peak_mb"]:,.0f} MB |'
          for r in results]
  return [f'{_machine(config)}; devices are simulated and share the cores', '',
          *markdown('| by | batch | volume | devices | step | subjects/s | peak memory |', rows)]


def draw_scaling(results: Results, path: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Time (left axis) and memory (right axis) of the step by batch, volume and devices."""
  from anatcl_jax import figures
  figure = figures.Figure(figsize=(10, 3.2), layout='constrained')
  for axes, by, label in zip(figure.subplots(1, 3), ('batch', 'volume', 'devices'),
                             ('batch', 'million voxels a volume', 'devices, batch 8')):
    chosen = [r for r in results if r['by'] == by]
    x = [r['voxels'] / 1e6 if by == 'volume' else r[by] for r in chosen]
    memory = axes.twinx()
    time, = axes.plot(x, [r['step_s'] for r in chosen], 'o-', color='C0')
    peak, = memory.plot(x, [r['peak_mb'] / 1e3 for r in chosen], 's--', color='C1')
    axes.set(xlabel=label, ylim=(0, None))
    memory.set_ylim(0, None)
    if by != 'volume':
      axes.set_xticks(x)
    if by == 'batch':
      axes.set_ylabel('seconds a step')
      axes.legend([time, peak], ['time', 'peak memory'], loc='lower right', frameon=False)
    if by == 'devices':
      memory.set_ylabel('GB, whole process')
  figure.suptitle(f'{config.encoder}, {config.precision}, {cpu()}', fontsize=10)
  path.parent.mkdir(parents=True, exist_ok=True)
  figures.save(figure, path, dpi=130)
