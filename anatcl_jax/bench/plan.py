"""What a run needs, computed and not measured: memory a device, volumes a second, storage."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import ml_collections

from anatcl_jax import models
from anatcl_jax.bench import counts
from anatcl_jax.config import encoder_options
from anatcl_jax.training import optim, step

# MB a volume, as docs/prepare.md has them for SYNTHETIC maps of 121x145x121.
STORED_MB = {'float32': 2.80, 'float16': 1.46, 'uint8': 0.63}
# XLA allots up to three times what the gradient needs, in float32 on a CPU: gradients of what is
# kept, BatchNorm's copies, patches for convolutions. On an H100 it takes less than half of that.
WORKSPACE = 3
COHORTS = (5_000, 100_000, 1_000_000)


def memory(config: ml_collections.ConfigDict, shape: tuple[int, ...], batch: int
           ) -> dict[str, float]:
  """Bytes that a training step keeps on a device, by what they are for; an estimate.

  - state: parameters, Adam's two moments and BatchNorm's statistics, float32
  - gradient: one float32 a parameter
  - volumes: four batches, at most float32: of the step that runs, the one given, two sent ahead
  - activations: WORKSPACE times what goes into each convolution and what comes out, in the
    precision of compute. With remat, what goes into each block, and all of the largest block.
  - pairs: similarities and their gradient, float32 [views batch]^2, at most loss.memory_budget_mb;
    as on one device, where the global batch is its own.

  Args:
    shape: [X, Y, Z] of a volume.
    batch: subjects on one device.
  """
  dtype = jnp.dtype(config.precision)
  encoder = models.get_encoder(config.encoder, **encoder_options(config), dtype=dtype)
  head = models.get_head(config.head, config.feature_dim, dtype=dtype)
  optimizer = optim.adam_with_l2(config.learning_rate, config.weight_decay)
  state = jax.eval_shape(functools.partial(step.init_state, encoder, head, optimizer,
                                           volume_shape=shape), jax.random.key(0))
  encoded = config.micro_batch_size and min(batch, config.micro_batch_size) or batch
  if config.augment != 'none':
    encoded *= config.views
  pairs = 2 * 4 * (batch * config.views)**2
  return {
      'state': _bytes(state), 'gradient': _bytes(state.params),
      'volumes': 4 * batch * 4 * math.prod(shape),
      'activations': WORKSPACE * encoded * dtype.itemsize * kept_values(
          counts.layers(encoder, shape), config.remat == 'blocks'),
      'pairs': min(pairs, config.loss.memory_budget_mb * 1e6)}


def kept_values(counted: list[counts.Layer], remat: bool) -> int:
  """Values a volume that the gradient needs."""
  if not remat:
    return sum(layer.inputs + layer.outputs for layer in counted)
  blocks = [list(layers) for _, layers in itertools.groupby(
      counted, lambda layer: layer.name.split('/')[0])]
  return sum(block[0].inputs for block in blocks) + max(
      sum(layer.inputs + layer.outputs for layer in block) for block in blocks)


def tables(config: ml_collections.ConfigDict, shape: tuple[int, ...]) -> list[str]:
  """Memory, volumes a second and storage of a config, as Markdown."""
  size = 'x'.join(map(str, shape))
  lines = [f'{config.encoder}, {config.precision}, {size}: computed, not measured', '',
           '| batch a device | state | gradient | batches | activations | pairs | GB together |',
           '|---|---|---|---|---|---|---|']
  for batch in (1, 4, 8, 16, 32):
    parts = memory(config, shape, batch)
    lines.append(f'| {batch} | ' + ' | '.join(f'{part / 1e9:.2f}' for part in parts.values())
                 + f' | {sum(parts.values()) / 1e9:.1f} |')
  counted = counts.layers(models.get_encoder(config.encoder, **encoder_options(config)), shape)
  lines += ['', f'| chip | step of {config.batch_size} at least | volumes/s at most |',
            '|---|---|---|']
  for chip in counts.ACCELERATORS:
    seconds = counts.estimated_step(counted, config.batch_size, chip)
    lines.append(f'| {chip.name} | {1e3 * seconds:.3g} ms | {config.batch_size / seconds:,.0f} |')
  lines += ['', f'| scans | stored as | GB, and read an epoch | TB in {config.epochs} epochs |',
            '|---|---|---|---|']
  for scans, (stored_as, megabytes) in itertools.product(COHORTS, STORED_MB.items()):
    gigabytes = scans * megabytes / 1e3
    lines.append(f'| {scans:,} | {stored_as} | {gigabytes:,.1f} | '
                 f'{gigabytes * config.epochs / 1e3:,.1f} |')
  return lines


def _bytes(tree) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
