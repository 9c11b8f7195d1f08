"""Bias correction and affine registration, by SimpleITK."""

from __future__ import annotations

import nibabel
import numpy as np
import scipy.ndimage
import SimpleITK as sitk

from anatcl_jax.cohorts.t1.volume import Volume

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])     # ITK's millimetres run to left and posterior


def corrected(scan: Volume, mask: np.ndarray, *, fit_spacing: float = 4.0,
              iterations: tuple[int, ...] = (50, 50, 50, 50)) -> tuple[np.ndarray, np.ndarray]:
  """A scan without its bias field, and the field, whose geometric mean in the mask is 1.

  N4 (Tustison et al., IEEE TMI 29, 2010), fitted to every n-th voxel.

  Args:
    mask: bool; where the field is fitted.
    fit_spacing: about the millimetres from voxel to voxel in the fit.
    iterations: most of them, a level each; the field's control points double from level to level.
  """
  shrink = [max(1, int(round(fit_spacing / spacing))) for spacing in scan.spacing]
  image, inside = _image(scan), _image(scan.having(mask.astype(np.uint8)))
  n4 = sitk.N4BiasFieldCorrectionImageFilter()
  n4.SetNumberOfThreads(1)
  n4.SetMaximumNumberOfIterations(list(iterations))
  n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(inside, shrink))
  log_field = _array(n4.GetLogBiasFieldAsImage(image)).astype(np.float32)
  field = np.exp(log_field - log_field[mask].mean())
  return scan.values / field, field


def registered(template: Volume, scan: Volume, degrees: int, start: np.ndarray | None = None,
               levels: tuple[int, ...] = (4, 2, 1)) -> np.ndarray:
  """The affine transform from millimetres of a template to those of a scan, 4x4.

  The mutual information of the two images is climbed from coarse to fine, from `start` on: over
  turns and shifts (6 degrees of freedom), these and scales along the template's axes (9), or all
  affine transforms (12).

  Args:
    start: a transform to begin with; None for the centres of mass.
    levels: factors of the template's spacing.
  """
  if start is None:
    start = np.eye(4)
    start[:3, 3] = _centre_of_mass(scan) - _centre_of_mass(template)
  # What is added before `start`, about the template's centre, is small: only then is ITK's
  # ScaleVersor a rotation and scales.
  added = {6: sitk.VersorRigid3DTransform, 9: sitk.ScaleVersor3DTransform,
           12: lambda: sitk.AffineTransform(3)}[degrees]()
  added.SetCenter((_LPS[:3, :3] @ _centre_of_mass(template)).tolist())
  method = sitk.ImageRegistrationMethod()
  method.SetNumberOfThreads(1)
  method.SetMetricAsMattesMutualInformation(32)
  method.SetMetricSamplingStrategy(method.REGULAR)
  method.SetMetricSamplingPercentage(0.25, 1)     # a seed, for what it moves at random
  method.SetInterpolator(sitk.sitkLinear)
  method.SetMovingInitialTransform(_transform_of(start))
  method.SetInitialTransform(added, inPlace=True)
  method.SetOptimizerAsRegularStepGradientDescent(
      1.0, 1e-4, 300, relaxationFactor=0.7, gradientMagnitudeTolerance=1e-6)
  method.SetOptimizerScalesFromPhysicalShift()
  method.SetShrinkFactorsPerLevel(list(levels))
  method.SetSmoothingSigmasPerLevel([level / 2 for level in levels])
  method.Execute(_image(template), _image(scan))
  return start @ _matrix_of(added)


def scales(transform: np.ndarray) -> np.ndarray:
  """How much larger a scan is than the template along the template's three axes."""
  return np.linalg.norm(transform[:3, :3], axis=0)


def _centre_of_mass(volume: Volume) -> np.ndarray:
  return nibabel.affines.apply_affine(volume.affine,
                                      scipy.ndimage.center_of_mass(volume.values))


def _matrix_of(transform: sitk.Transform) -> np.ndarray:
  """An affine transform of ITK between RAS millimetres, 4x4."""
  origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
  columns = [np.array(transform.TransformPoint(tuple(row))) - origin for row in np.eye(3)]
  matrix = np.eye(4)
  matrix[:3, :3], matrix[:3, 3] = np.stack(columns, 1), origin
  return _LPS @ matrix @ _LPS


def _transform_of(matrix: np.ndarray) -> sitk.AffineTransform:
  lps = _LPS @ matrix @ _LPS
  transform = sitk.AffineTransform(3)
  transform.SetMatrix(lps[:3, :3].ravel().tolist())
  transform.SetTranslation(lps[:3, 3].tolist())
  return transform


def _image(volume: Volume) -> sitk.Image:
  affine = _LPS @ volume.affine
  spacing = volume.spacing
  values = volume.values if volume.values.dtype == np.uint8 else volume.values.astype(np.float32)
  image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
  image.SetSpacing(spacing.tolist())
  image.SetOrigin(affine[:3, 3].tolist())
  image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
  return image


def _array(image: sitk.Image) -> np.ndarray:
  return sitk.GetArrayFromImage(image).T
