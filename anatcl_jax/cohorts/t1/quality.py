"""Whether what was made of a scan can be right: figures, what is refused, what stands out."""

from __future__ import annotations

import dataclasses

import numpy as np

from anatcl_jax.cohorts.t1.volume import Volume, dice
from anatcl_jax.errors import UserError

# Of a head of 5 years or more. Brains with their CSF have 900 to 2,000 ml, six real scans register
# with a Dice of 0.95 to 0.96, a correlation of 0.55 to 0.61 and scales of 0.84 to 1.01.
_BRAIN_ML = (600.0, 2600.0)
_LEAST_DICE, _LEAST_CORRELATION = 0.85, 0.35
_SCALES, _UNEVEN = (0.6, 1.5), 1.35
_AT_AN_EDGE = 0.12        # of the template brain's widest section, lying in an outer face
_UNUSUAL = 5.0            # median absolute deviations
_ENOUGH = 8               # scans, of which a spread is known


@dataclasses.dataclass(frozen=True)
class Quality:
  """Figures of one scan; those of tissue are None unless there are classes."""

  brain_ml: float
  dice_template: float            # registered mask with the template's
  correlation_template: float     # of T1 in the template's brain
  bias_low: float                 # 1st percentile of the field in the brain, whose mean is 1
  bias_high: float                # 99th
  scale_x: float                  # size of the brain over the template's
  scale_y: float
  scale_z: float
  gray_ml: float | None = None
  white_ml: float | None = None
  csf_ml: float | None = None
  correlation_gray: float | None = None     # of the map with the template's gray matter


COLUMNS = {
    'brain_ml': ('volume of the brain mask, with the CSF in it', 'ml'),
    'dice_template': ("Dice of the brain mask, registered, with the template's", ''),
    'correlation_template': ("correlation with the template in the template's brain", ''),
    'bias_low': ('1st percentile of the bias field in the brain; its geometric mean is 1', ''),
    'bias_high': ('99th percentile of the bias field in the brain', ''),
    'scale_x': ("width of the brain over the template's, by the registration", ''),
    'scale_y': ("length of the brain over the template's", ''),
    'scale_z': ("height of the brain over the template's", ''),
    'gray_ml': ('volume of gray matter', 'ml'), 'white_ml': ('volume of white matter', 'ml'),
    'csf_ml': ('volume of CSF in the mask', 'ml'),
    'correlation_gray': ("correlation of the finished map with the template's gray matter", ''),
    'outlier': ('what stands out from the other scans, or from what a brain can have', ''),
}


def check_mask(scan: Volume, mask: np.ndarray) -> None:
  """Raises UserError for a brain of no brain's size, or one that the image cuts off."""
  volume = mask.sum() * scan.voxel_ml
  if not _BRAIN_ML[0] <= volume <= _BRAIN_ML[1]:
    raise UserError(
        f'what looks like a brain has {volume:,.0f} ml, and must have {_BRAIN_ML[0]:,.0f} to '
        f'{_BRAIN_ML[1]:,.0f}; is it a whole head, and are the voxel sizes in its header right?')
  for axis, ends in enumerate(('left right', 'back front', 'bottom top')):
    widest = mask.sum(tuple(a for a in range(3) if a != axis)).max()
    for end, name in zip((0, -1), ends.split()):
      if (share := mask.take(end, axis).sum() / widest) > _AT_AN_EDGE:
        raise UserError(f'the image cuts the brain off: at its {name} end the brain still has '
                        f'{share:.0%} of its widest section; give a scan of the whole head')


def check_registered(figures: Quality, with_gray: float) -> None:
  """Raises UserError where the scan did not come to lie on the template.

  Args:
    with_gray: correlation of the registered scan with the template's gray matter.
  """
  scale = np.array([figures.scale_x, figures.scale_y, figures.scale_z])
  if with_gray > figures.correlation_template:
    raise UserError('it looks like a map of gray matter, not like a T1-weighted scan '
                    f'(correlation {with_gray:.2f} with the template\'s gray matter, '
                    f'{figures.correlation_template:.2f} with its T1); maps need no `prepare t1`')
  if figures.correlation_template < _LEAST_CORRELATION:
    raise UserError(f'its correlation with the template is {figures.correlation_template:.2f} '
                    'after registration; is it T1-weighted, of a whole head, and is its '
                    'orientation right?')
  if figures.dice_template < _LEAST_DICE:
    raise UserError(f'it does not register: Dice {figures.dice_template:.2f} with the template\'s '
                    'brain; is it a whole head, and is the orientation in its header right?')
  if (not ((scale >= _SCALES[0]) & (scale <= _SCALES[1])).all()
      or scale.max() / scale.min() > _UNEVEN):
    raise UserError(f'it had to be scaled by {" x ".join(f"{one:.2f}" for one in scale)} to fit '
                    'the template; are its voxel sizes right, and is it a whole head?')


def measured(registered: Volume, mask: np.ndarray, template_t1: np.ndarray,
             template_brain: np.ndarray) -> tuple[float, float]:
  """Dice of the registered mask, and correlation of the registered scan, with the template's."""
  return dice(mask, template_brain), correlation(registered.values[template_brain],
                                                 template_t1[template_brain])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
  """Pearson's; 0 where either is constant."""
  a, b = (x.astype(np.float64).ravel() - x.mean(dtype=np.float64) for x in (a, b))
  norm = np.sqrt((a * a).sum() * (b * b).sum())
  return float((a * b).sum() / norm) if norm else 0.0


def outliers(scans: list[Quality]) -> list[str]:
  """What stands out in each scan, '' for nothing: far from the median of at least 8 scans."""
  found: list[list[str]] = [[] for _ in scans]
  if len(scans) < _ENOUGH:
    return [''] * len(scans)
  for name in COLUMNS:
    if name == 'outlier' or any(getattr(scan, name) is None for scan in scans):
      continue
    values = np.array([getattr(scan, name) for scan in scans])
    far = values - np.median(values)
    spread = 1.4826 * np.median(np.abs(far))
    for own, distance, value in zip(found, far, values):
      # Better than the others is no fault.
      worse = distance < 0 if name.startswith(('dice', 'correlation')) else True
      if worse and abs(distance) > _UNUSUAL * max(spread, 0.005 * abs(np.median(values))):
        own.append(f'{name} {value:.4g} (median {np.median(values):.4g})')
  return ['; '.join(own) for own in found]
