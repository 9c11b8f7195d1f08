"""The released PyTorch module and ours with the same recipe, run in turn in one process.

Both have all cores and float32. The released recipe concatenates the views and encodes them all
(2 N volumes), whether they differ or not; ours encodes identical views once.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from anatcl_jax import models
from anatcl_jax.bench import steps, timing
from anatcl_jax.errors import UserError
from anatcl_jax.frozen import extract
from anatcl_jax.training import optim, step
from anatcl_jax.weights import load

VIEWS = 2
CASES = ('forward', 'forward by JAX', 'identical views', 'different views')


def run(config: ml_collections.ConfigDict, shape: tuple[int, ...], case: str, rounds: int
        ) -> dict[str, float]:
  """Median seconds of either, and the ratio ours / PyTorch pair by pair, for config.batch_size.

  Cases: the frozen encoder as `features` runs it, and by JAX alone, which training uses; the
  training step with two views.

  Raises:
    UserError: PyTorch or the package anatcl is missing, or has no such encoder.
  """
  batch = steps.random_batch(config, shape, config.batch_size)
  make = {'forward': (_frozen, _torch_forward),
          'forward by JAX': (_forward, _torch_forward), 'identical views': (_step, _torch_step),
          'different views': (_two_view_step, _torch_step)}[case]
  ours, theirs = (function(config, batch) for function in make)
  seconds = timing.interleaved({'torch': theirs, 'ours': ours}, rounds)
  ratios = timing.ratio(seconds['ours'], seconds['torch'])
  return {'batch': config.batch_size, 'ours_s': timing.summary(seconds['ours']),
          'torch_s': timing.summary(seconds['torch']), 'rounds': rounds,
          'engine': extract.engine(load.fresh(config.encoder, 0)) if case == 'forward' else '',
          **{f'ratio_{name}': value for name, value in ratios.items()}}


# ---- Ours ----------------------------------------------------------------------------------------


def _frozen(config, batch) -> Callable[[], object]:
  encode = extract.frozen(load.fresh(config.encoder, 0))
  return lambda: encode(batch['volume'])


def _forward(config, batch) -> Callable[[], object]:
  encoder = models.get_encoder(config.encoder)
  volume = jnp.asarray(batch['volume'])[..., None]
  variables = jax.jit(lambda key: encoder.init(key, volume[:1, :16, :16, :16], False))(
      jax.random.key(0))
  apply = jax.jit(lambda variables, volume: encoder.apply(variables, volume, False))
  return lambda: apply(variables, volume)


def _step(config, batch, make_views=None) -> Callable[[], object]:
  encoder = models.get_encoder(config.encoder, repeats=1 if make_views else VIEWS)
  head = models.get_head(config.head, config.feature_dim)
  optimizer = optim.adam_with_l2(optim.step_schedule(config.learning_rate, 1.0, 1, 1),
                                 config.weight_decay)
  state = step.init_state(encoder, head, optimizer, jax.random.key(0), (16, 16, 16))
  train_step = jax.jit(step.make_train_step(encoder, head, optimizer, config.loss, VIEWS, None,
                                            make_views=make_views), donate_argnums=0)
  sent = jax.device_put(batch)

  def take_step():
    nonlocal state   # its buffers are given to the next one
    state, metrics = train_step(state, sent)
    return metrics
  return take_step


def _two_view_step(config, batch) -> Callable[[], object]:
  """The step with both views encoded, here a volume and its mirror image."""
  return _step(config, batch, lambda count, index, volume: jnp.stack([volume, volume[:, ::-1]], 1))


# ---- PyTorch -------------------------------------------------------------------------------------


def released(config: ml_collections.ConfigDict) -> tuple:
  """PyTorch and the released module with the config's encoder, random weights.

  Raises:
    UserError: PyTorch or the package anatcl is missing, or has no such encoder.
  """
  try:
    import torch
    from anatcl.models import SupConResNet
  except ImportError as error:
    raise UserError(f'--against-torch needs PyTorch and the package anatcl ({error}): '
                    "pip install -e '.[torch]'") from None
  if not config.encoder.startswith('resnet'):
    raise UserError(f'--against-torch: the package anatcl has no encoder {config.encoder!r}; '
                    'choose a resnet')
  if config.encoder_width or config.small_input:
    raise UserError('--against-torch: the package anatcl has encoders of their own width and stem '
                    'only; leave encoder_width and small_input as they are')
  torch.set_num_threads(len(_cores()))
  return torch, SupConResNet(config.encoder, feat_dim=config.feature_dim)


def _cores() -> set[int] | range:
  return os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else range(os.cpu_count())


def _torch_forward(config, batch) -> Callable[[], object]:
  torch, model = released(config)
  encoder = model.encoder.eval()
  volume = torch.from_numpy(batch['volume'][:, None])

  def forward():
    with torch.no_grad():
      encoder(volume)
  return forward


def _torch_step(config, batch) -> Callable[[], object]:
  torch, model = released(config)
  model.train()
  optimizer = torch.optim.Adam(model.parameters(), config.learning_rate,
                               weight_decay=config.weight_decay)
  volume = torch.from_numpy(batch['volume'][:, None])
  attributes = {name: torch.from_numpy(value) for name, value in batch['attributes'].items()}

  def take_step():
    embeddings = model(torch.cat([volume] * VIEWS)).reshape(VIEWS, len(volume), -1).transpose(0, 1)
    loss = torch_loss(torch, embeddings, attributes, config.loss)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
  return take_step


def torch_loss(torch, embeddings, attributes, loss_config):
  """The published recipe's loss: y-aware terms by age (rbf) and morphometry (global or local).

  Args:
    embeddings: [N, V, D], normalised.
    attributes: by term, [N] or [N, R, M].
  """
  subjects, views, _ = embeddings.shape
  rows = embeddings.transpose(0, 1).reshape(views * subjects, -1)
  scores = rows @ rows.T / loss_config.temperature
  others = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
  log_probability = scores - torch.logsumexp(scores.masked_fill(~others, -np.inf), 1, keepdim=True)
  total = 0
  for name, term in loss_config.terms.items():
    x = attributes[name]
    if x.ndim == 1:
      weights = torch.exp(-(x[:, None] - x[None])**2 / (2 * term.sigma**2))
    else:
      unit = torch.nn.functional.normalize(x, dim=1 if term.kernel == 'global' else 2)
      shared = x.shape[2 if term.kernel == 'global' else 1]
      weights = torch.einsum('nrm,krm->nk', unit, unit) / shared
    weights = weights.repeat(views, views) * others
    loss = -(weights * log_probability).sum(1) / weights.sum(1)
    total = total + term.weight * loss.mean()
  return total * loss_config.temperature / loss_config.base_temperature
