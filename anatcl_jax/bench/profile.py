"""Where the time of a program on a GPU goes, by its kernels."""

from __future__ import annotations

import collections
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import jax

STEPS = 3
# By parts of the names of kernels, in this order: first XLA's own, then those of libraries.
_KINDS = (
    ('reductions', ('reduce_fusion', 'reduce_select_fusion', 'reduction')),
    ('transposes and copies', ('transpose', 'concatenate', 'copy', 'Memcpy', 'memcpy')),
    ('elementwise', ('fusion', 'wrapped_', 'Memset', 'memset')),
    ('layouts turned around', ('nchwToNhwc', 'nhwcToNchw')),
    ('convolutions and products', ('xmma', 'cudnn', 'cutlass', 'gemm', 'conv', 'nvjet')),
)
REST = 'others'


def kernels(call: Callable[[], Any]) -> dict[str, Any]:
  """As `summed`, of a call; empty on a CPU, which has no kernels."""
  jax.block_until_ready(call())
  with tempfile.TemporaryDirectory(prefix='anatcl-profile-') as folder:
    with jax.profiler.trace(folder):
      for _ in range(STEPS):
        result = call()
      jax.block_until_ready(result)
    found = sorted(pathlib.Path(folder).rglob('*.xplane.pb'))
    if not found:
      return {}
    return summed(_events(jax.profiler.ProfileData.from_file(str(found[0]))), STEPS)


def _events(data: Any) -> Iterable[tuple[str, float]]:
  for plane in data.planes:
    if plane.name.startswith('/device:GPU'):
      for line in plane.lines:
        if line.name.startswith('Stream'):
          for event in line.events:
            yield event.name, event.duration_ns


def summed(events: Iterable[tuple[str, float]], steps: int, most: int = 40) -> dict[str, Any]:
  """Milliseconds a step by kind and of the longest kernels, from names and nanoseconds."""
  by_kind, by_name, count = (collections.Counter() for _ in range(3))
  for name, duration in events:
    by_kind[kind_of(name)] += duration / 1e6 / steps
    by_name[name] += duration / 1e6 / steps
    count[name] += 1 / steps
  return {'kinds_ms': dict(by_kind.most_common()),
          'longest': [[ms, round(count[name], 2), name[:120]]
                      for name, ms in by_name.most_common(most)]}


def kind_of(name: str) -> str:
  """What a kernel does, by its name."""
  for kind, parts in _KINDS:
    if any(part in name for part in parts):
      return kind
  return REST
