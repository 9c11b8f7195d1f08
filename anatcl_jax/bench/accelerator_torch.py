"""The released PyTorch module's training step at its best on a GPU.

Autocast to bfloat16 (TF32 where the config computes in float32), channels last, cuDNN's own search
for kernels, fused Adam, and torch.compile where that is asked for. The released recipe encodes both
views.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_collections

from anatcl_jax.bench import versus_torch
from anatcl_jax.training.step import Batch


def make_step(config: ml_collections.ConfigDict, batch: Batch, compiled: bool
              ) -> Callable[[], object]:
  """A step that gives its loss, which may be on its way still: fetching it waits.

  Raises:
    UserError: PyTorch or the package anatcl is missing, or has no such encoder.
  """
  torch, model = versus_torch.released(config)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.backends.cudnn.benchmark = True
  torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
  model = model.to(device, memory_format=torch.channels_last_3d).train()
  encode = torch.compile(model) if compiled else model
  optimizer = torch.optim.Adam(model.parameters(), config.learning_rate,
                               weight_decay=config.weight_decay, fused=device == 'cuda')
  volume = torch.from_numpy(batch['volume'][:, None]).to(device)
  views = torch.cat([volume] * versus_torch.VIEWS).contiguous(
      memory_format=torch.channels_last_3d)
  attributes = {name: torch.from_numpy(values).to(device)
                for name, values in batch['attributes'].items()}

  def take_step():
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == 'bfloat16'):
      embeddings = encode(views)
    embeddings = embeddings.float().reshape(versus_torch.VIEWS, len(volume), -1).transpose(0, 1)
    loss = versus_torch.torch_loss(torch, embeddings, attributes, config.loss)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()

  return take_step


def version() -> str:
  """Of PyTorch."""
  import torch
  return torch.__version__
