"""matplotlib's Figure, which draws into files without any backend.

A notebook's kernel names its own backend in MPLBACKEND, for every command that a cell starts. Where
that backend is not installed, `import matplotlib` itself fails, and can't be tried again: so it is
imported without the name, which is taken up afterwards for others in this process if it is valid.
"""

from __future__ import annotations

import contextlib
import os
import sys

_first = 'matplotlib' not in sys.modules
_backend = os.environ.pop('MPLBACKEND', None)
try:
  import matplotlib
  from matplotlib.figure import Figure
finally:
  if _backend is not None:
    os.environ['MPLBACKEND'] = _backend
if _first and _backend:
  with contextlib.suppress(ValueError):
    matplotlib.rcParams['backend'] = _backend

__all__ = ['Figure']
