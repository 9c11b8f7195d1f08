"""From a volume in RAS order to the array that an encoder was trained on: axes, crop, padding."""

from __future__ import annotations

import dataclasses
import itertools
import numbers
from collections.abc import Iterable
from typing import Any

import nibabel
import numpy as np

from anatcl_jax.cohorts.volumes import center_crop
from anatcl_jax.config import crop_sizes
from anatcl_jax.errors import UserError

_PAIRS = ('LR', 'PA', 'IS')
# Where the first, second and third axis of an array point to: RAS, LAS, SRA, ...
AXIS_CODES = tuple(sorted(
    ''.join(code) for order in itertools.permutations(_PAIRS)
    for code in itertools.product(*order)))
# What the loader of the predecessor's public code makes of OpenBHB's arrays, which are stored LAS.
PREDECESSOR = 'predecessor'


@dataclasses.dataclass(frozen=True)
class Arrangement:
  """What is done to a volume [X, Y, Z] in RAS order before an encoder sees it.

  First `axes`: an axis code such as RAS or SRA, or `predecessor`. Then `crop`: axes that are longer
  are cut about their centre; then `pad`: axes that are shorter get zeros, the odd one behind.
  """

  axes: str = 'RAS'
  crop: tuple[int, ...] | None = None
  pad: tuple[int, ...] | None = None

  def __post_init__(self):
    for name in ('crop', 'pad'):
      object.__setattr__(self, name, _sizes(name, getattr(self, name)))
    if not isinstance(self.axes, str) or self.axes not in (*AXIS_CODES, PREDECESSOR):
      raise UserError(f'axes {self.axes!r}: neither an axis code such as RAS, LAS or SRA, nor '
                      f'{PREDECESSOR}')

  @classmethod
  def of(cls, card: dict[str, Any], **changes: Any) -> Arrangement:
    """What the card of some weights says; what it does not say is left alone."""
    sizes = {name: tuple(card[name]) if card.get(name) else None for name in ('crop', 'pad')}
    return cls(**{'axes': card.get('axes') or 'RAS', **sizes, **changes})

  def __call__(self, volume: np.ndarray) -> np.ndarray:
    volume = center_crop(_turned(volume, self.axes), self.crop)
    missing = [max(0, least - n) for least, n in zip(self.pad or volume.shape, volume.shape)]
    if any(missing):
      volume = np.pad(volume, [(n // 2, n - n // 2) for n in missing])
    return volume

  def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of the array that a volume of this shape becomes."""
    return self(np.broadcast_to(np.uint8(0), shape)).shape


def _sizes(name: str, value: Any) -> tuple[int, ...] | None:
  """None, `none`, `16,16,16` or three whole numbers as what they say."""
  if value is None or isinstance(value, str):
    return crop_sizes(value, name) if value else None
  sizes = list(value) if isinstance(value, Iterable) else []
  if len(sizes) != 3 or not all(isinstance(size, numbers.Integral) and size > 0 for size in sizes):
    raise UserError(f'{name} {value!r} is neither three sizes such as (121, 128, 121) nor None')
  return tuple(int(size) for size in sizes)


def _turned(volume: np.ndarray, axes: str) -> np.ndarray:
  if axes == PREDECESSOR:
    stored = _turned(volume, 'LAS')
    # Not a mere change of axes: the reshape cuts rows of another length.
    return stored.transpose(2, 0, 1).reshape(stored.shape)
  orientation = nibabel.orientations
  return orientation.apply_orientation(volume, orientation.ornt_transform(
      orientation.axcodes2ornt('RAS'), orientation.axcodes2ornt(axes)))
