"""The benchmark of accelerators: what fits its minutes, its loop's shards, its tables."""

from __future__ import annotations

import pytest

from anatcl_jax.bench import accelerator, accelerator_tables, profile, shards_of_size, timing
from anatcl_jax.data import shards
from configs.pretrain import get_config


def test_what_does_not_fit_or_fails_is_said_and_the_rest_measured(monkeypatch):
  config = get_config('encoder=tiny')
  cases = list(accelerator.cases(config, [1, 32]))
  own = {'batch': 32, 'precision': 'bfloat16'}
  assert [case['part'] for case in cases[:4]] == ['rates', 'step', 'forward', 'torch']
  assert [case['cache'] for case in cases if case['part'] == 'loop'] == ['device', 'memory', 'none']
  steps = [case for case in cases if case['part'] == 'step' and case['views'] == 'identical']
  assert len(steps) == 4 and own.items() <= steps[0].items()     # none twice

  def measure(bench, case):
    if case['part'] == 'forward':
      raise MemoryError('out of memory\nand more')
    return {'s': 1.0}

  monkeypatch.setattr(accelerator._Bench, 'measure', measure)
  told = []
  chosen = [{'part': part, 'seconds': seconds} for part, seconds in
            (('step', 1), ('forward', 1), ('torch', 100), ('loop', 1))]
  results = accelerator.run(config, chosen, 1.0, 20, lambda so_far: told.append(len(so_far)))
  assert [case.get('s') for case in results] == [1.0, None, None, 1.0] and told == [1, 2, 3, 4]
  assert results[1]['failed'] == 'out of memory' and 'of 1 minutes' in results[2]['skipped']


def test_the_tables_say_what_was_measured_by_hand():
  step = {'part': 'step', 'batch': 32, 'precision': 'bfloat16', 'views': 'identical', 's': 0.02,
          'flops': 8e12, 'memory_gb': 6.25, 'planned_gb': 15.04, 'compile_s': 30.4,
          'profile': {'kinds_ms': {'elementwise': 5.0}, 'longest': [[5.0, 2, 'loop_fusion']]}}
  loop = {'part': 'loop', 'batch': 32, 'cache': 'device', 'loop_s': 0.0204, 'step_s': 0.02,
          'without_s': 0.02, 'checkpoint_s': 0.6, 'share_median': 0.02}
  torch = {'part': 'torch', 'batch': 32, 'precision': 'bfloat16', 'compiled': False, 'torch': '2',
           'torch_s': 0.16, 'ours_s': 0.02, 'ratio_median': 0.125, 'ratio_min': 0.12,
           'ratio_max': 0.13}
  rates = {'part': 'rates', 'product_bfloat16': 800e12, 'product_float32': 400e12, 'copy': 2.8e12}
  text = '\n'.join(accelerator_tables.tables({
      'machine': {'devices': 1, 'device': 'H', 'jax': '1', 'host': 'h'}, 'scans': 1280,
      'config': {'encoder': 'resnet18', 'crop': 'none', 'batch_size': 32,
                 'checkpoint_every_seconds': 30.0},
      'cases': [rates, step, loop, torch, {'part': 'forward', 'batch': 1, 'failed': 'no room'}]}))
  # 8e12 / 0.02 s are 400 TFLOP/s, half of the product's; 300 epochs of 99 steps of 20.4 ms.
  assert '| bfloat16 | identical | 32 | 20.00 ms | 1,600 | 400 | 50% | 6.2 | 15.0 | 30 s |' in text
  assert '| device | 20.00 ms | 20.00 ms | 0.60 s | 20.40 ms | 2.0% | 10.1 min |' in text
  assert 'every 30 s at most' in text and '29,700 steps' in text
  assert '**0.125** (0.120 to 0.130)' in text and '| elementwise | 5.00 ms | 25% |' in text
  assert '- forward, 1: failed: no room' in text


def test_kernels_are_summed_by_kind():
  events = [('sm90_xmma_fprop_implicit_gemm', 4e6), ('loop_convert_fusion', 1e6),
            ('void cudnn::nchwToNhwcKernel', 2e6), ('loop_convert_fusion', 1e6),
            ('input_reduce_fusion_66', 1e6), ('input_concatenate_fusion', 1e6)]
  found = profile.summed(events, steps=2)
  assert found['kinds_ms'] == {'convolutions and products': 2.0, 'elementwise': 1.0,
                               'layouts turned around': 1.0, 'reductions': 0.5,
                               'transposes and copies': 0.5}
  assert found['longest'][0] == [2.0, 0.5, 'sm90_xmma_fprop_implicit_gemm']
  assert profile.summed([], 2) == {'kinds_ms': {}, 'longest': []}


def test_the_loop_s_shards_can_be_trained_on(tmp_path):
  made = shards_of_size.make(tmp_path / 'shards', 20, (10, 12, 11))
  data = shards.open_shards(tmp_path / 'shards')
  assert len(made) == len(data) == 20 and data.synthetic and data.info['dtype'] == 'uint8'
  volume, scale = data.read_volume(3)
  assert volume.shape == (10, 12, 11) and 0 < (volume == 0).mean() < 0.9 and scale > 0
  assert data.table['age'].between(6, 90).all()


def test_queued_calls_are_timed_in_turn(monkeypatch):
  clock, order = iter(range(10**6)), []
  monkeypatch.setattr(timing.time, 'perf_counter', lambda: next(clock))
  found = timing.in_turn({'a': lambda: order.append('a'), 'b': lambda: order.append('b')}, 2, 3.0)
  # A call takes 1 of this clock's seconds: twice to warm up, then rows of 3.
  assert order == ['a', 'a', 'b', 'b'] + 2 * (['a'] * 3 + ['b'] * 3)
  assert found == {'a': [pytest.approx(1 / 3)] * 2, 'b': [pytest.approx(1 / 3)] * 2}
