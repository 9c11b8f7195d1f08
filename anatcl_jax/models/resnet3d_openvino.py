"""Frozen ResNet3D for CPUs by OpenVINO, whose convolutions are oneDNN's: the extra `openvino`.

Its weights are constants of one network, so that BatchNorm is in kernels and biases, bias, shortcut
and ReLU are in the last pass of convolutions, and all lies as oneDNN likes it. docs/speed.md has
what that brings. Where the package is not installed, frozen encoders are XLA's programs, as
everywhere else.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import flax.linen as nn
import numpy as np

from anatcl_jax.models.normalization import BatchNorm
from anatcl_jax.models.resnet3d import Bottleneck, ResNet3D

LARGEST = 1e15
_KEPT = 4   # networks, each of one shape of volumes


def can_run(encoder: nn.Module) -> bool:
  """Whether the package is here, and the encoder a ResNet in float32."""
  return (isinstance(encoder, ResNet3D) and np.dtype(encoder.dtype) == np.float32
          and is_installed())


def is_installed() -> bool:
  """Whether the package is here, which is not imported for it."""
  return importlib.util.find_spec('openvino') is not None


def frozen(encoder: ResNet3D, variables: dict[str, Any], with_stages: bool = False
           ) -> Callable[[np.ndarray], list[np.ndarray]]:
  """The encoder as a function of volumes, float32 [N, X, Y, Z], to features, float32 [N, F].

  With stages it also gives what each of them ends with, [N, X', Y', Z', C]. A network is made once
  a shape; calls from several threads go one after another, each on all cores. Values beyond
  LARGEST are none for it: its ReLU makes 0 of NaN, and so hides what overflows.
  """
  lock, request_of = threading.Lock(), functools.lru_cache(_KEPT)(
      functools.partial(request, encoder, variables, with_stages))

  def run(volumes: np.ndarray) -> list[np.ndarray]:
    volumes = np.ascontiguousarray(volumes[:, None], np.float32)
    with lock:
      found = request_of(volumes.shape).infer([volumes])
      return [np.array(value) for value in found.to_tuple()]

  return run


def request(encoder: ResNet3D, variables: dict[str, Any], with_stages: bool, shape: Sequence[int],
            **settings: Any) -> Any:
  """OpenVINO's request of a compiled network for volumes [N, 1, X, Y, Z], with more settings."""
  openvino = _openvino()
  network = _network(openvino, encoder, variables, shape, with_stages)
  # Full float32 where the processor would rather have bfloat16. Threads that are not pinned to
  # cores get along with those of other processes, and with those that read volumes ahead.
  return openvino.Core().compile_model(network, 'CPU', {
      'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY',
      'ENABLE_CPU_PINNING': False, **settings}).create_infer_request()


def version() -> str:
  """Of the package."""
  return _openvino().get_version().partition('-')[0]


def _openvino() -> ModuleType:
  """The package, without the statistics of its use that importing it sends to its makers."""
  telemetry = 'openvino_telemetry'
  if 'openvino' not in sys.modules and telemetry not in sys.modules:
    sys.modules[telemetry] = None     # as if it were not installed
    try:
      import openvino
    finally:
      del sys.modules[telemetry]
  import openvino
  return openvino


def _network(openvino: ModuleType, encoder: ResNet3D, variables: dict[str, Any],
             shape: Sequence[int], with_stages: bool) -> Any:
  """`ResNet3D.__call__` for frozen weights, of volumes [N, 1, X, Y, Z]."""
  ops = openvino.opset13
  params, statistics = variables['params'], variables['batch_stats']

  def convolution(x, convolved, normalized, stride=1):
    """A convolution and the BatchNorm after it, by the path of their names."""
    names = [name.split('/') for name in (convolved, normalized)]
    kernel = _at(params, names[0])['kernel']
    norm = {**_at(params, names[1]), **_at(statistics, names[1])}
    gain = norm['scale'] / np.sqrt(np.asarray(norm['var'], np.float64) + BatchNorm.epsilon)
    bias = norm['bias'] - norm['mean'] * gain
    kernel = np.asarray(kernel * gain, np.float32).transpose(4, 3, 0, 1, 2)
    padding = [kernel.shape[-1] // 2] * 3
    x = ops.convolution(x, ops.constant(kernel), [stride] * 3, padding, padding, [1] * 3,
                        name=convolved)
    return ops.add(x, ops.constant(np.asarray(bias, np.float32).reshape(1, -1, 1, 1, 1)))

  def block(x, name, stride):
    strides, y = (1, stride, 1) if encoder.block is Bottleneck else (stride, 1), x
    for i, own in enumerate(strides, start=1):
      y = convolution(y, f'{name}/conv{i}', f'{name}/bn{i}', own)
      y = ops.relu(y) if i < len(strides) else y
    if 'downsample_conv' in params[name]:
      x = convolution(x, f'{name}/downsample_conv', f'{name}/downsample_bn', stride)
    return ops.relu(ops.add(y, x))

  volumes = ops.parameter(shape, np.float32)
  x = ops.relu(convolution(volumes, 'conv1', 'bn1', 1 if encoder.small_input else 2))
  if not encoder.small_input:
    x = ops.max_pool(x, [2] * 3, [1] * 3, [1] * 3, [1] * 3, [3] * 3).output(0)
  stages = []
  for stage, size in enumerate(encoder.stage_sizes):
    for index in range(size):
      x = block(x, f'layer{stage + 1}_{index}', 2 if stage > 0 and index == 0 else 1)
    if with_stages:
      stages.append(ops.transpose(x, ops.constant(np.array([0, 2, 3, 4, 1]))))
  features = ops.reduce_mean(x, ops.constant(np.array([2, 3, 4])), False)
  return openvino.Model([features, *stages], [volumes])


def _at(tree: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
  return functools.reduce(lambda tree, name: tree[name], names, tree)
