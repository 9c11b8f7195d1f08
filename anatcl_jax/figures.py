"""matplotlib's Figure, which draws into files without any backend, and takes text as it is.

A notebook's kernel names its own backend in MPLBACKEND, for every command that a cell starts. Where
that backend is not installed, `import matplotlib` itself fails, and can't be tried again: so it is
imported without the name, which is taken up afterwards for others in this process if it is valid.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys

from anatcl_jax import outputs

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

# The same picture is the same file.
matplotlib.rcParams['svg.hashsalt'] = outputs.MARK
# Names of classes and people are no formulas: `$a_b$` would become one, and `$\frac$` an error.
matplotlib.rcParams['text.parse_math'] = False

__all__ = ['Figure', 'save']


def save(figure: Figure, path: pathlib.Path, dpi: float) -> None:
  """Writes a figure with the mark of this program: as SVG where the path says so, else as PNG."""
  kind = 'svg' if path.suffix == '.svg' else 'png'
  made_by = ({'Creator': outputs.MADE_BY, 'Date': None} if kind == 'svg'
             else {'Software': outputs.MADE_BY})
  figure.savefig(path, dpi=dpi, format=kind, metadata=made_by)
