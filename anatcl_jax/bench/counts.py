"""Floating-point operations and bytes of an encoder, layer by layer, and their time elsewhere."""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax

from anatcl_jax.models.convolution import Conv3d


@dataclasses.dataclass(frozen=True)
class Layer:
  """A convolution of one volume: values in and out, and its kernel's size."""

  name: str
  inputs: int
  outputs: int
  kernel: int      # K^3 C F
  features: int
  # [X, Y, Z, C] of the input, K, stride and padding
  geometry: tuple = dataclasses.field(default=(), compare=False)

  @property
  def flops(self) -> int:
    """A multiplication and an addition for each output and each value of its filter."""
    return 2 * self.outputs * self.kernel // self.features


def layers(encoder: nn.Module, volume_shape: tuple[int, ...]) -> list[Layer]:
  """The convolutions of an encoder in the order of their calls, for a volume of this shape."""
  found = []

  def record(call, arguments, keywords, context):
    result = call(*arguments, **keywords)
    if isinstance(context.module, Conv3d) and context.method_name == '__call__':
      module, x = context.module, arguments[0]
      kernel = module.kernel_size**3 * x.shape[-1] * module.features
      found.append(Layer('/'.join(module.path), math.prod(x.shape[1:]),
                         math.prod(result.shape[1:]), kernel, module.features,
                         (x.shape[1:], module.kernel_size, module.stride,
                          module.kernel_size // 2 if module.padding is None else module.padding)))
    return result

  with nn.intercept_methods(record):
    jax.eval_shape(lambda: encoder.init(jax.random.key(0), jax.numpy.zeros((1, *volume_shape, 1)),
                                        False))
  return found


def train_flops(counted: list[Layer]) -> int:
  """Forward, kernel gradients, and input gradients of all layers but the first, of one volume."""
  return 3 * sum(layer.flops for layer in counted) - counted[0].flops


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """Published peaks of one chip, dense bfloat16."""

  name: str
  flops: float       # a second
  bandwidth: float   # bytes a second
  source: str


ACCELERATORS = (
    Accelerator('NVIDIA H100 SXM', 989.4e12, 3.35e12, 'NVIDIA H100 Tensor Core GPU datasheet'),
    Accelerator('TPU v5e', 197e12, 819e9, 'Google Cloud, TPU v5e system architecture'),
)


def estimated_step(counted: list[Layer], batch: int, accelerator: Accelerator) -> float:
  """Seconds of a bfloat16 training step at published peaks: a bound from below, no measurement.

  Each layer takes the longer of its arithmetic and its traffic (roofline; Williams et al. 2009).
  Traffic forward, in 2-byte values: inputs once; outputs written, read for BatchNorm's statistics,
  read to normalise, and written. Backward twice that, and three reads of the kernel.
  """
  seconds = 0.0
  for index, layer in enumerate(counted):
    flops = (3 if index else 2) * layer.flops * batch
    traffic = 2 * (3 * batch * (layer.inputs + 4 * layer.outputs) + 3 * layer.kernel)
    seconds += max(flops / accelerator.flops, traffic / accelerator.bandwidth)
  return seconds
