"""A run that compiles and starts in little time: SYNTHETIC subjects and the smallest encoder."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from anatcl_jax import models
from anatcl_jax.training.train import Program
from configs.pretrain import get_config

# Metrics that say how fast and how large a run is, and differ each time.
OF_THE_MACHINE = {'subjects_per_second', 'step_seconds', 'wait_for_data_seconds', 'host_memory_mb'}

# What no program depends on: where a run reads and writes, how far it goes, what watches it.
OF_THE_RUN = {
    'data_dir', 'crop', 'measures', 'atlas', 'num_folds', 'fold', 'reader_threads', 'cache', 'data',
    'init', 'phantom', 'epochs', 'log_every_steps', 'heartbeat_seconds', 'profile_steps',
    'compilation_cache', 'heldout_every_epochs', 'probe_every_epochs', 'report_at_end',
    'checkpoint_every_epochs', 'checkpoint_every_seconds', 'keep_checkpoints', 'keep_every_epochs',
    'keep_best_metric', 'keep_best_mode'}


class Patches(nn.Module):
  """Patches of 5 voxels through a dense layer and BatchNorm: all kinds of state, no convolution."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jnp.ndarray, train: bool) -> jnp.ndarray:
    n, *shape, _ = x.shape
    x = x[:, :shape[0] // 5 * 5, :shape[1] // 5 * 5, :shape[2] // 5 * 5, 0]
    x = x.reshape(n, x.shape[1] // 5, 5, x.shape[2] // 5, 5, x.shape[3] // 5, 5)
    x = nn.Dense(8)(x.transpose(0, 1, 3, 5, 2, 4, 6).reshape(n, -1, 125))
    x = nn.BatchNorm(not train, axis_name=self.axis_name if train else None)(x)
    return nn.relu(x).mean(1)


def get_encoder(name: str, *, axis_name: str | None = None, **settings) -> nn.Module:
  """Stands for models.get_encoder."""
  del name, settings
  return Patches(axis_name)


def small_config(data_dir, **changes) -> ml_collections.ConfigDict:
  """Four epochs of four steps, a row a step and a checkpoint an epoch."""
  config = get_config('encoder=tiny')
  config.update({'data_dir': str(data_dir), 'epochs': 4, 'batch_size': 8, 'precision': 'float32',
                 'feature_dim': 8, 'learning_rate': 1e-3, 'log_every_steps': 1,
                 'checkpoint_every_seconds': 0.0, **changes})
  return config


def once(compile_program: Callable[..., Program]) -> Callable[..., Program]:
  """`compile_program`, which traces and compiles what runs have in common but once a process."""
  made: dict[tuple, Program] = {}

  def program(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, steps_per_epoch: int,
              resident: bool = False) -> Program:
    # The run's own config may change, as tests want; one that asks for what is missing fails.
    own = {name: value for name, value in config.to_dict().items() if name not in OF_THE_RUN}
    rest = mesh, steps_per_epoch, resident
    key = models.get_encoder, json.dumps(own, sort_keys=True), rest
    if key not in made:
      made[key] = compile_program(ml_collections.ConfigDict(own), *rest)
    return made[key]

  return program


@contextlib.contextmanager
def compilation_cache(directory: pathlib.Path) -> Iterator[None]:
  """Keeps what is compiled inside, so that the next run or process needs not compile it again."""
  settings = {'jax_compilation_cache_dir': str(directory),
              'jax_persistent_cache_min_compile_time_secs': 0.0,
              'jax_persistent_cache_min_entry_size_bytes': -1}
  before = {name: getattr(jax.config, name) for name in settings}
  try:
    for name, value in settings.items():
      jax.config.update(name, value)
    jax_cache.reset_cache()
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    jax_cache.reset_cache()
