"""What a run needs, as computed: against XLA's own account of memory, and by hand."""

from __future__ import annotations

import jax
import pytest

from anatcl_jax.bench import counts, plan, steps
from anatcl_jax.devices import parallel
from anatcl_jax.training import train
from configs.pretrain import get_config


@pytest.mark.parametrize('batch, shape', [
    (16, (24, 28, 24)), pytest.param(8, (48, 48, 48), marks=pytest.mark.slow)])
def test_memory_is_within_a_factor_of_two_of_what_xla_allots(batch, shape):
  """On a CPU, for which XLA compiles the encoder `tiny`."""
  config = get_config('encoder=tiny')
  config.update({'batch_size': batch, 'precision': 'float32'})
  mesh = jax.sharding.Mesh([jax.devices()[0]], (parallel.AXIS,),
                           axis_types=(jax.sharding.AxisType.Auto,))
  program = train.compile_program(config, mesh, steps_per_epoch=1)
  state = jax.eval_shape(lambda key: program.init(key, shape), jax.random.key(0))
  rows = jax.eval_shape(lambda: steps.random_batch(config, shape, batch))
  allotted = program.train_step.lower(state, rows).compile().memory_analysis()
  xla = allotted.argument_size_in_bytes + allotted.temp_size_in_bytes
  parts = plan.memory(config, shape, batch)
  ours = sum(parts.values()) - parts['volumes'] * 3 / 4   # XLA does not know of the next batches
  assert 0.5 < ours / xla < 2, (ours, xla)


def test_parts_by_hand():
  """ResNet-18 with its head: parameters as released, activations linear in the batch."""
  config = get_config()
  parts = {batch: plan.memory(config, (32, 32, 32), batch) for batch in (1, 4)}
  # The stem, four stages with their projections, scale and bias of 4,800 channels; and the head.
  encoder = (343 * 64 + 27 * 4 * 64**2 + 27 * (64 * 128 + 3 * 128**2) + 64 * 128
             + 27 * (128 * 256 + 3 * 256**2) + 128 * 256 + 27 * (256 * 512 + 3 * 512**2) + 256 * 512
             + 2 * 4_800)
  parameters = encoder + 512 * 512 + 512 + 512 * 128 + 128
  assert parts[1]['gradient'] == 4 * parameters
  statistics = 4 * 2 * 4_800   # mean and variance of 4,800 channels
  assert 0 < parts[1]['state'] - 3 * 4 * parameters - statistics < 16   # the rest are counters
  assert parts[4]['activations'] == 4 * parts[1]['activations']
  assert parts[4]['volumes'] == 4 * 4 * 4 * 32**3
  assert parts[4]['pairs'] == 2 * 4 * 8 * 8


def test_kept_values_by_hand():
  layers = [counts.Layer('conv1', 10, 40, 1, 1), counts.Layer('layer1_0/conv1', 20, 7, 1, 1),
            counts.Layer('layer1_0/conv2', 7, 5, 1, 1), counts.Layer('layer2_0/conv1', 5, 3, 1, 1)]
  assert plan.kept_values(layers, remat=False) == 50 + 27 + 12 + 8
  assert plan.kept_values(layers, remat=True) == 10 + 20 + 5 + 50   # and all of the stem


def test_tables_by_hand():
  lines = plan.tables(get_config('encoder=tiny'), (24, 28, 24))
  assert '| 5,000 | float32 | 14.0 | 4.2 |' in lines            # 5000 x 2.80 MB, times 300
  assert '| 100,000 | float16 | 146.0 | 43.8 |' in lines
  assert '| 1,000,000 | uint8 | 630.0 | 189.0 |' in lines
