"""What each operation of an encoder takes on a CPU: ours, PyTorch's and OpenVINO's."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from anatcl_jax import models
from anatcl_jax.bench import counts, tables, timing
from anatcl_jax.config import crop_sizes, encoder_options
from anatcl_jax.devices.machine import cpu
from anatcl_jax.models import resnet3d_openvino
from anatcl_jax.models.convolution import conv3d
from anatcl_jax.models.normalization import BatchNorm

_HEADER = ('| operation | calls | GFLOP | PyTorch | JAX | OpenVINO | train: PyTorch | JAX '
           '| product: JAX | NumPy | PyTorch |')


def convolution_row(layer: counts.Layer, first: bool, rounds: int) -> dict[str, float]:
  """Milliseconds of a convolution, by the column of the table."""
  rng = np.random.default_rng(0)
  (*sizes, channels), size, stride, padding = layer.geometry
  x = rng.normal(size=(1, *sizes, channels)).astype(np.float32)
  kernel = (rng.normal(size=(size,) * 3 + (channels, layer.features))
            / math.sqrt(size**3 * channels)).astype(np.float32)
  ours = lambda x, kernel: conv3d(x, kernel, stride, padding)
  torch_kernel = kernel.transpose(4, 3, 0, 1, 2)

  def theirs(torch, x, kernel):
    return torch.nn.functional.conv3d(x, kernel, None, stride, padding)

  wanted = (1,) if first else (0, 1)      # the volume needs no gradient
  found = _seconds(ours, theirs, (x, kernel), (_channels_first(x), torch_kernel), wanted, rounds)
  m, k, n = layer.outputs // layer.features, size**3 * channels, layer.features
  a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((m, k), (k, n)))
  product = jax.jit(jnp.matmul)
  on_device = jax.device_put((a, b))
  runs = {'product JAX': lambda: product(*on_device), 'product NumPy': lambda: a @ b}
  if torch := _torch():
    tensors = torch.from_numpy(a), torch.from_numpy(b)
    runs['product PyTorch'] = lambda: tensors[0] @ tensors[1]
  rates = timing.interleaved(runs, rounds)
  return found | {name: 2e-9 * m * k * n / min(seconds) for name, seconds in rates.items()}


def normalization_row(shape: tuple[int, ...], pool: bool, rounds: int) -> dict[str, float]:
  """Milliseconds of BatchNorm and ReLU of x[1, X, Y, Z, C], with the max-pool too."""
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  module = BatchNorm(relu=True, pool=pool)
  variables = jax.jit(module.init)(jax.random.key(0), x[:, :4, :4, :4])
  parameters = [np.ones(shape[-1], np.float32), np.zeros(shape[-1], np.float32)]

  def ours(x, scale, bias, train=False):
    own = {'params': {'scale': scale, 'bias': bias}, 'batch_stats': variables['batch_stats']}
    return module.apply(own, x, train, mutable=['batch_stats'])[0]

  def theirs(torch, x, scale, bias, train=False):
    statistics = [torch.zeros(shape[-1]), torch.ones(shape[-1])]
    y = torch.nn.functional.batch_norm(x, *statistics, scale, bias, train)
    y = torch.relu_(y)
    return torch.nn.functional.max_pool3d(y, 3, 2, 1) if pool else y

  return _seconds(ours, theirs, (x, *parameters), (_channels_first(x), *parameters), (0, 1, 2),
                  rounds, train=True)


def _seconds(ours: Callable, theirs: Callable, values: tuple, torch_values: tuple,
             wanted: tuple[int, ...], rounds: int, **train: bool) -> dict[str, float]:
  """Least milliseconds of either, forward and with gradients of the arguments `wanted`."""
  on_device = jax.device_put(values)
  forward = jax.jit(ours)

  def with_gradients(g, *values):
    def of_wanted(*some):
      given = dict(zip(wanted, some))
      return ours(*(given.get(i, value) for i, value in enumerate(values)), **train)
    y, pullback = jax.vjp(of_wanted, *(values[i] for i in wanted))
    return y, pullback(g)

  g = jnp.ones(jax.eval_shape(ours, *values).shape)
  both = jax.jit(with_gradients)
  runs = {'JAX': lambda: forward(*on_device), 'train JAX': lambda: both(g, *on_device)}
  if torch := _torch():
    tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in torch_values]
    leaves = [tensor.clone().requires_grad_(i in wanted) for i, tensor in enumerate(tensors)]

    def torch_forward():
      with torch.no_grad():
        theirs(torch, *tensors)

    def torch_both():
      y = theirs(torch, *leaves, **train)
      torch.autograd.grad(y, [leaves[i] for i in wanted], torch.ones_like(y))

    runs |= {'PyTorch': torch_forward, 'train PyTorch': torch_both}
  return {name: 1e3 * min(seconds)
          for name, seconds in timing.interleaved(runs, rounds).items()}


def openvino_milliseconds(encoder, shape: tuple[int, ...], rounds: int) -> dict[str, float]:
  """Least milliseconds of each operation of the whole frozen network, by its name there."""
  variables = jax.jit(lambda key: encoder.init(key, jnp.zeros((1, 16, 16, 16, 1)), False))(
      jax.random.key(0))
  request = resnet3d_openvino.request(encoder, jax.device_get(variables), False, (1, 1, *shape),
                                      PERF_COUNT=True)
  volume = np.random.default_rng(0).random((1, 1, *shape), np.float32)
  least = collections.defaultdict(lambda: math.inf)
  for _ in range(rounds + 1):
    request.infer([volume])
    for node in request.get_profiling_info():
      least[node.node_name] = min(least[node.node_name], 1e3 * node.real_time.total_seconds())
  return dict(least)


def _torch():
  if importlib.util.find_spec('torch') is None:
    return None
  import torch
  return torch


def _channels_first(x: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def show(config: ml_collections.ConfigDict, rounds: int) -> None:
  """Prints the table of `bench operations`, a row as soon as it is timed."""
  shape = crop_sizes(config.crop) or (121, 145, 121)
  encoder = models.get_encoder(config.encoder, **encoder_options(config))
  counted = counts.layers(encoder, shape)
  inside = (openvino_milliseconds(encoder, shape, rounds)
            if resnet3d_openvino.can_run(encoder) else {})
  alike = collections.defaultdict(list)
  for layer in counted:
    alike[dataclasses.replace(layer, name=''), layer.geometry].append(layer)
  print(f'{cpu()}; jax {jax.__version__}; {config.encoder}, float32, one volume of '
        f'{"x".join(map(str, shape))}; milliseconds a call, GFLOP/s of products\n')
  print('\n'.join(tables.markdown(_HEADER, [])), flush=True)
  sums: collections.Counter = collections.Counter()

  def add(name: str, calls: int, flops: float, row: dict[str, float]) -> None:
    columns = ['PyTorch', 'JAX', 'OpenVINO', 'train PyTorch', 'train JAX']
    sums.update({column: calls * row[column] for column in columns if column in row})
    sums['GFLOP'] += calls * flops / 1e9
    shown = [f'{row[column]:.3g}' if column in row else '' for column in (
        *columns, 'product JAX', 'product NumPy', 'product PyTorch')]
    gflop = f'{flops / 1e9:.3g}' if flops else ''
    print(f'| {name} | {calls} | {gflop} | ' + ' | '.join(shown) + ' |', flush=True)

  normalized = collections.Counter()
  for (layer, (_, size, stride, _)), layers in alike.items():
    row = convolution_row(layers[0], layers[0] is counted[0], rounds)
    times = [inside[one.name] for one in layers if one.name in inside]
    row |= {'OpenVINO': sum(times) / len(times)} if times else {}
    add(f'{size}^3{", stride 2" if stride == 2 else ""}, {layers[0].geometry[0][-1]} to '
        f'{layer.features}', len(layers), layer.flops, row)
    outputs = tuple(-(-n // stride) for n in layers[0].geometry[0][:3])
    normalized[1, *outputs, layer.features] += len(layers)
  for index, (shape, calls) in enumerate(normalized.items()):
    pool = index == 0 and not config.small_input
    add(f'BatchNorm, ReLU{", max-pool" if pool else ""}: {"x".join(map(str, shape[1:]))}',
        calls, 0, normalization_row(shape, pool, rounds))
  print(f'| all | | {sums["GFLOP"]:.3g} | ' + ' | '.join(
      f'{sums[column]:.0f}' if column in sums else '' for column in (
          'PyTorch', 'JAX', 'OpenVINO', 'train PyTorch', 'train JAX')) + ' | | | |')
