"""The figures of `bench accelerator` as the tables of docs/accelerators.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anatcl_jax.bench.accelerator import EPOCHS, SUBJECTS
from anatcl_jax.bench.tables import markdown

Result = dict[str, Any]


def tables(found: dict[str, Any]) -> list[str]:
  """Lines of Markdown, from what the command writes as JSON."""
  machine, config, cases = found['machine'], found['config'], found['cases']
  measured = [case for case in cases if 's' in case or 'loop_s' in case or 'torch_s' in case]
  rates = next((case for case in cases if 'product_bfloat16' in case), {})
  of = {part: [case for case in measured if case['part'] == part]
        for part in ('step', 'forward', 'torch', 'loop')}
  lines = [f'{machine["devices"]} x {machine["device"]}, jax {machine["jax"]}, host '
           f'{machine["host"]}; {config["encoder"]}, crop {config["crop"]}']
  if rates:
    lines += ['', f'A product of two matrices reaches {_tera(rates["product_bfloat16"])} TFLOP/s '
                  f'in bfloat16 and {_tera(rates["product_float32"])} as JAX computes float32; '
                  f'adding 1 to a large array moves {rates["copy"] / 1e12:.2f} TB/s.']
  for part, title in (('step', 'Training step'), ('forward', 'Frozen forward')):
    if of[part]:
      lines += ['', f'### {title}', '', *_speeds(of[part], rates)]
  if of['torch']:
    lines += ['', '### Beside the released PyTorch module', '', *_beside(of['torch'])]
  if of['loop']:
    lines += ['', '### The whole loop', '', *_loops(of['loop'], found)]
  for case in cases:
    if case.get('profile', {}).get('longest'):
      lines += ['', '### Where a step\'s time goes', '', *_profile(case['profile'], case['s'])]
  return lines + _left_out(cases)


def _speeds(cases: Iterable[Result], rates: Result) -> list[str]:
  rows = []
  for case in sorted(cases, key=lambda c: (c['precision'], c.get('views', ''), c['batch'])):
    rate = case['flops'] / case['s']
    share = rate / rates[f'product_{case["precision"]}'] if rates else float('nan')
    planned = f'{case["planned_gb"]:.1f}' if 'planned_gb' in case else ''
    rows.append(f'| {case["precision"]} | {case.get("views", "")} | {case["batch"]} | '
                f'{1e3 * case["s"]:.2f} ms | {case["batch"] / case["s"]:,.0f} | {_tera(rate)} | '
                f'{share:.0%} | {case["memory_gb"]:.1f} | {planned} | {case["compile_s"]:.0f} s |')
  return markdown('| precision | views | batch | time | subjects/s | TFLOP/s | share of the '
                  'product | GB by XLA | by the formula | compiling |', rows)


def _beside(cases: list[Result]) -> list[str]:
  rows = [f'| {"torch.compile" if case["compiled"] else "as it is"} | {case["batch"]} | '
          f'{1e3 * case["torch_s"]:.1f} ms | {1e3 * case["ours_s"]:.1f} ms | '
          f'**{case["ratio_median"]:.3f}** ({case["ratio_min"]:.3f} to {case["ratio_max"]:.3f}) |'
          for case in cases]
  return [f'torch {cases[0]["torch"]}, {cases[0]["precision"]} by autocast, channels_last_3d, '
          'cudnn.benchmark, fused Adam; the published step of two identical views, in turn', '',
          *markdown('| PyTorch | batch | PyTorch | ours | ours / PyTorch, pair by pair |', rows)]


def _loops(cases: list[Result], found: dict[str, Any]) -> list[str]:
  steps = EPOCHS * (SUBJECTS // found['config']['batch_size'])
  rows = [f'| {case["cache"]} | {1e3 * case["step_s"]:.2f} ms | {1e3 * case["without_s"]:.2f} ms | '
          f'{case["checkpoint_s"]:.2f} s | {1e3 * case["loop_s"]:.2f} ms | '
          f'{case["share_median"]:.1%} | {steps * case["loop_s"] / 60:.1f} min |' for case in cases]
  every = found['config']['checkpoint_every_seconds']
  return [f'On {found["scans"]:,} SYNTHETIC scans stored as uint8, with rows and without held-out '
          f'evaluation; the last three columns are computed, for a checkpoint every {every:g} s at '
          f'most; {EPOCHS} epochs of {SUBJECTS:,} subjects are {steps:,} steps.', '',
          *markdown('| cache | the step alone | a step of the loop | a checkpoint costs | with '
                    'checkpoints | the host\'s share | published recipe |', rows)]


def _profile(profile: Result, seconds: float) -> list[str]:
  rows = [f'| {kind} | {ms:.2f} ms | {ms / 1e3 / seconds:.0%} |'
          for kind, ms in profile['kinds_ms'].items()]
  longest = [f'| {ms:.2f} ms | {count:g} | `{name}` |'
             for ms, count, name in profile['longest'][:12]]
  return [*markdown('| kernels | a step | share of its time |', rows), '',
          *markdown('| time a step | kernels | name |', longest)]


def _left_out(cases: list[Result]) -> list[str]:
  lines = []
  for case in cases:
    if why := case.get('failed') or case.get('skipped'):
      what = ', '.join(str(case[key]) for key in ('part', 'precision', 'batch', 'views', 'cache')
                       if key in case)
      lines.append(f'- {what}: {"failed" if "failed" in case else "left out"}: {why}')
  return ['', 'Not measured:', '', *lines] if lines else []


def _tera(rate: float) -> str:
  return f'{rate / 1e12:,.3g}'
