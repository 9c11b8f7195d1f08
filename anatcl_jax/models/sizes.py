"""The least grid that an encoder can take."""

from __future__ import annotations

import jax

from anatcl_jax.errors import UserError


def check_size(encoder: str, x: jax.Array, least: int, small_input: bool) -> None:
  """Raises UserError where x[N, X, Y, Z, C] has fewer than `least` voxels along an axis."""
  shape = x.shape[1:4]
  if min(shape) < least:
    raise UserError(f'{encoder} needs at least {least} voxels along each axis, and the volumes are '
                    f'{"x".join(map(str, shape))}: take a finer grid'
                    + ('' if small_input else ', config.small_input=true,') + ' or another encoder')
