"""Progress bars: live on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys

import tqdm


def progress_bar(total: int | None, description: str, unit: str, initial: int = 0,
                 show: bool = True, scale: bool = False) -> tqdm.tqdm:
  """A bar on stderr with rate and remaining time; use as a context manager.

  Args:
    total: None where it is not known.
    scale: thousands and millions are written as k and M, as of bytes.
  """
  return tqdm.tqdm(total=total, initial=initial, desc=description,
                   unit=unit if scale else f' {unit}', unit_scale=scale, disable=not show,
                   dynamic_ncols=True,
                   mininterval=0.5 if sys.stderr.isatty() else 20)
