"""What a command ran on, in the words of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import re

from anatcl_jax import __version__


def cpu() -> str:
  """The processor and its cores, as they call themselves."""
  try:
    model = re.search(r'model name\s*: (.*)', pathlib.Path('/proc/cpuinfo').read_text())[1]
  except (OSError, TypeError):
    model = platform.processor() or platform.machine()
  return f'{model}, {os.cpu_count()} cores'


def accelerator() -> str:
  """The devices that JAX computes on; of a CPU its processor."""
  import jax
  first = jax.devices()[0]
  return cpu() if first.platform == 'cpu' else f'{jax.device_count()} x {first.device_kind}'


def versions(*packages: str) -> dict[str, str]:
  """Of this program, of Python and of packages."""
  return {'anatcl_jax': __version__, 'python': platform.python_version(),
          **{name: importlib.metadata.version(name) for name in packages}}
