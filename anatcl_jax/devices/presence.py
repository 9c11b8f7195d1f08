"""Which devices there are, and a word where the best of them is not used."""

from __future__ import annotations

import pathlib
import sys

import jax

from anatcl_jax.devices import processes

_LINE = ('WARNING: an NVIDIA GPU is here, and JAX uses the CPU, which is far slower: '
         'pip install "jax[cuda13]" (or "jax[cuda12]" for a driver older than 580) into this '
         'environment; JAX_PLATFORMS=cpu says that the CPU is meant')


def warn_of_unused_gpu() -> None:
  """A line on stderr where an NVIDIA driver is there, and JAX finds only the CPU by itself."""
  if (not jax.config.jax_platforms and jax.default_backend() == 'cpu' and processes.is_first()
      and has_nvidia_gpu()):
    print(_LINE, file=sys.stderr)


def has_nvidia_gpu() -> bool:
  """Whether the driver shows a GPU, as JAX sees it; its own warning is hidden by the log level."""
  try:
    from jax._src import hardware_utils  # of no public module
    return bool(hardware_utils.has_visible_nvidia_gpu())
  except (ImportError, AttributeError):
    return any(pathlib.Path('/dev').glob('nvidia[0-9]*'))
