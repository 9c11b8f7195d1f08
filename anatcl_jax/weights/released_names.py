"""How the released PyTorch module names and lays out what our ResNets and heads hold.

`encoder.layer2.0.bn1.weight` there is `params/layer2_0/bn1/scale` here; kernels there are
[out, in, ...] and here [..., in, out]. Values are the same, so that there and back changes no bit.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from anatcl_jax import models
from anatcl_jax.errors import UserError, listed
from anatcl_jax.models.resnet3d import Bottleneck, ResNet3D
from anatcl_jax.models.variables import encoder_shapes, nested
from anatcl_jax.weights import stored

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean',
           'var': 'running_var'}
_MODULES = {'downsample_conv': 'downsample.0', 'downsample_bn': 'downsample.1'}
_HEADS = {'mlp': {'hidden': 'head.0', 'output': 'head.2'}, 'linear': {'output': 'head'}}
_COUNTER = 'num_batches_tracked'
_STATES = ('model', 'state_dict', 'model_state_dict')   # of a file, the first that is there


def to_released(encoder: str, variables: dict[str, Any], head: dict[str, Any] | None,
                batches_tracked: int | dict[str, int] = 0) -> dict[str, np.ndarray]:
  """The state dict that the released module would have with these values.

  Args:
    batches_tracked: BatchNorm's counters, which here are not part of a model: one number for all,
      or one by their key.

  Raises:
    UserError: the encoder is no ResNet.
  """
  if not isinstance(models.get_encoder(encoder), ResNet3D):
    raise UserError(f'{encoder} has no counterpart in the released module; of the encoders only '
                    'ResNets can be written for PyTorch')
  leaves = {_encoder_key(name): value for name, value in stored.by_name(variables).items()}
  for name, value in stored.by_name(head or {}).items():
    leaves[_head_key(name, 'mlp' if 'hidden' in head['params'] else 'linear')] = value
  state = {}
  for key, value in leaves.items():
    state[key] = _there(value)
    if key.endswith('running_var'):
      counter = key.removesuffix('running_var') + _COUNTER
      count = batches_tracked.get(counter, 0) if isinstance(batches_tracked, dict) else (
          batches_tracked)
      state[counter] = np.array(count, np.int64)
  return state


def from_released(state: dict[str, np.ndarray]) -> tuple[str, dict[str, Any], dict[str, Any] | None,
                                                         int | dict[str, int]]:
  """Encoder, its variables, its head and BatchNorm's counters from a state dict, as float32.

  The encoder is recognised by its blocks. Prefixes that wrappers put into keys are ignored (see
  `below_root`).

  Raises:
    UserError: it is of no ResNet that is known; all keys that lack, are too many or misshapen are
      listed.
  """
  _, names = below_root(state)
  state = {names[key]: value for key, value in state.items() if key in names} or state
  counters = {key: int(value.item()) for key, value in state.items()
              if key.endswith(f'.{_COUNTER}') and value.size == 1 and np.isfinite(value).all()}
  found = {key: value for key, value in state.items() if key not in counters}
  encoder = _recognised(found)
  wanted = {_encoder_key(name): (name, _shape_there(leaf.shape))
            for name, leaf in stored.by_name(encoder_shapes(encoder)).items()}
  surplus = [key for key in counters
             if key.removesuffix(_COUNTER) + 'running_var' not in wanted]
  kind = next((kind for kind, layers in _HEADS.items() for layer in layers.values()
               if f'{layer}.weight' in found), None)
  if kind:
    wanted |= _head_wanted(kind, found, max(shape[0] for _, shape in wanted.values()))
  problems = [f'{key} is missing' for key in wanted if key not in found]
  problems += [f'{key} is not of {encoder}' for key in [*found, *surplus]
               if key not in wanted]
  problems += [f'{key} has shape {found[key].shape}, not {shape}'
               for key, (_, shape) in wanted.items()
               if key in found and found[key].shape != shape]
  if problems:
    raise UserError(f'not weights of {encoder}: {listed(problems, len(problems))}')
  variables = nested({name: _here(found[key]) for key, (name, _) in wanted.items()})
  head = variables.pop('head', None)
  same = set(counters.values())
  batches_tracked = counters if len(same) > 1 else next(iter(same), 0)
  return encoder, variables, head, batches_tracked


def below_root(keys: Iterable[str]) -> tuple[str, dict[str, str]]:
  """Where the encoder and its head lie among keys, and their released names by key.

  Wrappers put names before them or in between: `module.` of DataParallel, `_orig_mod.` of
  torch.compile, `model.` or `net.` of Lightning, `backbone.` of the package's class AnatCL. The
  encoder is known by its first convolutions. '' and {} where there is none.

  Raises:
    UserError: there are several, or two keys mean the same.
  """
  plain = {key: re.sub(r'(^|\.)(?:(?:module|_orig_mod)\.)+', r'\1', key) for key in keys}
  there = set(plain.values())
  roots = sorted({name.removesuffix('layer1.0.conv1.weight') for name in there
                  if name.endswith('layer1.0.conv1.weight')
                  and name.replace('layer1.0.conv1', 'conv1') in there})
  if len(roots) > 1:   # of a training: the model, and its average or teacher
    roots = next((own for first in _STATES
                  if len(own := [one for one in roots if one.startswith(f'{first}.')]) == 1), roots)
  if not roots:
    return '', {}
  if len(roots) > 1:
    raise UserError(f'it holds several encoders ({listed(roots)}); save the state dict of one')
  root, = roots
  parent = root.removesuffix('encoder.')
  names: dict[str, str] = {}
  taken: set[str] = set()
  for key, name in plain.items():
    if name.startswith(parent):
      inside = name.removeprefix(parent)
      named = inside if root != parent or inside.startswith('head.') else f'encoder.{inside}'
      if named in taken:
        raise UserError(f'two of its keys mean {named}')
      taken.add(named)
      names[key] = named
  return parent, names


def _recognised(state: dict[str, np.ndarray]) -> str:
  """The ResNet whose blocks are nearest to those of the keys."""
  blocks = {match[0]: match[1] for key in state
            if (match := re.match(r'encoder\.layer(\d+)\.\d+\.', key))}
  if not blocks:
    raise UserError(f'no weights of a ResNet; its keys are {listed(list(state)) or "none"}')
  stages = collections.Counter(blocks.values())
  block = 'conv3' in {key.split('.')[3] for key in state if key.startswith('encoder.layer')
                      and key.count('.') > 3}

  def distance(name: str) -> int:
    sizes = models.get_encoder(name).stage_sizes
    return sum(abs(stages[str(stage + 1)] - size) for stage, size in
               enumerate((*sizes, *[0] * (4 - len(sizes)))))

  resnets = [name for name in models.encoder_names()
             if isinstance(module := models.get_encoder(name), ResNet3D)
             and (module.block is Bottleneck) == block]
  return min(resnets, key=distance)


def _head_wanted(kind: str, state: dict[str, np.ndarray], width: int
                 ) -> dict[str, tuple[str, tuple[int, ...]]]:
  """Name here and shape there of a head's parameters by their key; its output may have any size."""
  wanted = {}
  for layer, there in _HEADS[kind].items():
    weight = state.get(f'{there}.weight', np.zeros((width, width)))
    size = width if layer == 'hidden' or not weight.ndim else weight.shape[0]
    wanted |= {f'{there}.weight': (f'head/params/{layer}/kernel', (size, width)),
               f'{there}.bias': (f'head/params/{layer}/bias', (size,))}
  return wanted


def _encoder_key(name: str) -> str:
  _, *modules, leaf = name.split('/')
  path = [_MODULES.get(module, re.sub(r'^(layer\d+)_', r'\1.', module)) for module in modules]
  return '.'.join(['encoder', *path, _LEAVES[leaf]])


def _head_key(name: str, kind: str) -> str:
  _, layer, leaf = name.split('/')
  return f'{_HEADS[kind][layer]}.{_LEAVES[leaf]}'


def _shape_there(shape: tuple[int, ...]) -> tuple[int, ...]:
  return (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else shape


def _there(value: np.ndarray) -> np.ndarray:
  """[..., in, out] as [out, in, ...], in an array of its own."""
  axes = (value.ndim - 1, value.ndim - 2, *range(value.ndim - 2)) if value.ndim > 1 else (0,)
  return np.array(value.transpose(axes), np.float32, order='C')


def _here(value: np.ndarray) -> np.ndarray:
  axes = (*range(2, value.ndim), 1, 0) if value.ndim > 1 else (0,)
  return np.array(value.transpose(axes), np.float32, order='C')
