"""Time and memory of a config's step on random volumes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from anatcl_jax import losses, models
from anatcl_jax.bench import counts, timing
from anatcl_jax.bench.command import Figures, peak_memory
from anatcl_jax.cohorts.atlas import regions
from anatcl_jax.config import encoder_options
from anatcl_jax.devices import parallel
from anatcl_jax.training import step, train

MEASURES = 3


def random_batch(config: ml_collections.ConfigDict, shape: tuple[int, ...], batch: int
                 ) -> step.Batch:
  """Volumes and the attributes that the config's loss compares, drawn; values mean nothing."""
  rng = np.random.default_rng(0)
  region_count = len(regions(config.atlas))
  attributes = {
      name: (rng.uniform(size=(batch, region_count, MEASURES))
             if term.attribute == 'morphometry' else rng.uniform(6, 90, batch)).astype(np.float32)
      for name, term in config.loss.terms.items()}
  return {'volume': rng.random((batch, *shape), np.float32), 'attributes': attributes}


def run(config: ml_collections.ConfigDict, shape: tuple[int, ...], rounds: int) -> Figures:
  """Seconds of forward, step and loss at config.batch_size, counted operations and peak memory.

  Forward is the frozen encoder; the loss is with its gradient, on features alone. Operations are
  those of convolutions as they are defined, whatever computes them. Memory is the whole process's.
  """
  batch = config.batch_size
  mesh = parallel.make_mesh(batch)
  program = train.compile_program(config, mesh, steps_per_epoch=1)
  state = parallel.replicate(program.init(jax.random.key(0), shape), mesh)
  sent = parallel.shard_rows(random_batch(config, shape, batch), mesh)
  embeddings = jax.random.normal(jax.random.key(1), (batch, config.views, config.feature_dim))
  loss = jax.jit(jax.grad(
      lambda x, attributes: losses.combined_loss(x, attributes, config.loss)[0]))

  def take_step():
    nonlocal state   # its buffers are given to the next one
    state, metrics = program.train_step(state, sent)
    return metrics

  forward_s = timing.summary(timing.interleaved({'': lambda: program.encode_step(state, sent)},
                                                rounds)[''])
  alone = jax.device_get((embeddings, sent['attributes']))
  loss_s = timing.summary(timing.interleaved({'': lambda: loss(*alone)}, rounds)[''])
  step_s = timing.summary(timing.interleaved({'': take_step}, rounds)[''])
  counted = counts.layers(models.get_encoder(config.encoder, **encoder_options(config)), shape)
  passes = batch * (1 if config.augment == 'none' else config.views)
  rate = timing.product_rate(config.precision if jax.default_backend() != 'cpu' else 'float32')
  flops = passes * counts.train_flops(counted)
  forward_flops = batch * sum(layer.flops for layer in counted)
  return {
      'batch': batch, 'devices': mesh.size, 'voxels': int(np.prod(shape)),
      'forward_s': forward_s, 'loss_s': loss_s, 'step_s': step_s,
      'subjects_per_s': batch / step_s,
      'forward_flops': forward_flops, 'step_flops': flops,
      'xla_forward_flops': xla_flops(config, shape, batch),
      'product_flops_per_s': rate,
      'forward_share': forward_flops / forward_s / rate, 'step_share': flops / step_s / rate,
      'peak_mb': peak_memory()}


def xla_flops(config: ml_collections.ConfigDict, shape: tuple[int, ...], batch: int) -> float:
  """XLA's own count for the forward pass, which leaves out products with padding.

  Of the program for a GPU, which need not be here: in a CPU's program XLA counts the body of a
  loop once.
  """
  encoder = models.get_encoder(config.encoder, **encoder_options(config))
  volume = jax.ShapeDtypeStruct((batch, *shape, 1), jnp.float32)
  variables = jax.eval_shape(encoder.init, jax.random.key(0), volume)
  forward = jax.jit(lambda variables, volume: encoder.apply(variables, volume, False))
  lowered = forward.trace(variables, volume).lower(lowering_platforms=('cuda',))
  return lowered.cost_analysis()['flops']
