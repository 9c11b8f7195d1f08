"""One scan, from its file to maps: the steps in their order, with what each was told."""

from __future__ import annotations

import dataclasses

import numpy as np

from anatcl_jax.cohorts.t1 import brain, deformation, itk, quality, tissue
from anatcl_jax.cohorts.t1.quality import Quality
from anatcl_jax.cohorts.t1.recipe import REGISTERED_AT, Made, Recipe
from anatcl_jax.cohorts.t1.templates import Template
from anatcl_jax.cohorts.t1.volume import Volume, box_around, resampled
from anatcl_jax.cohorts.volumes import VolumeSource, read_grid, read_volume
from anatcl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Started:
  """What all kinds of maps begin with."""

  brain: Volume                # without bias, 0 outside the mask; cut to a box around it
  mask: np.ndarray             # of the same box
  whole_mask: Volume
  box: tuple[slice, ...]       # where it was cut out
  transform: np.ndarray        # 4x4, 9 degrees of freedom, from millimetres of MNI to the scan's
  figures: Quality


def made(source: VolumeSource, recipe: Recipe, template: Template) -> Made:
  """A map of one scan.

  Args:
    template: at 1 mm.

  Raises:
    UserError: the file is no T1-weighted scan of a whole head that the steps can use; the text
      begins with its path.
  """
  grid = read_grid(source)
  scan = Volume(read_volume(source, grid), np.asarray(grid.affine))
  try:
    small = template.at(REGISTERED_AT)
    start = _start(scan, recipe, small)
    return _quasiraw(start, recipe) if recipe.to == 'quasiraw' else _gm(start, recipe, small)
  except UserError as error:
    raise UserError(f'{source.path}: {error}') from None


def _start(scan: Volume, recipe: Recipe, template: Template) -> _Started:
  if recipe.skull_stripped:
    mask = brain.of_stripped(scan)
    if 1 - mask.mean() < 0.2:
      raise UserError('it has no background of one value around a brain; is its skull off?')
  else:
    mask = brain.extract(scan)
    if not brain.has_head(scan, mask):
      raise UserError('there is no head around the brain: it is skull-stripped, or a map of tissue '
                      f'(its values are {scan.values.min():.4g} to {scan.values.max():.4g}); give '
                      'the scan with its skull, or --skull-stripped for T1-weighted scans without')
  quality.check_mask(scan, mask)
  box = box_around(mask, 3)
  cut, inside = scan.cut(box), mask[box]
  values, field = itk.corrected(cut, inside, fit_spacing=recipe.bias_spacing,
                                iterations=recipe.bias_iterations)
  without_skull = cut.having((values * inside).astype(np.float32))
  rigid = itk.registered(template.t1, without_skull, 6, levels=(4, 2))
  transform = itk.registered(template.t1, without_skull, 9, rigid)
  shape, affine = template.t1.values.shape, template.t1.affine
  placed = Volume(resampled(without_skull, shape, affine, transform), affine)
  placed_mask = resampled(cut.having(inside), shape, affine, transform) > 0.5
  overlap, alike = quality.measured(placed, placed_mask, template.t1.values, template.brain.values)
  figures = Quality(inside.sum() * cut.voxel_ml, overlap, alike,
                    *map(float, np.percentile(field[inside], [1, 99])),
                    *map(float, itk.scales(transform)))
  quality.check_registered(figures, quality.correlation(
      placed.values[template.brain.values], template.gray.values[template.brain.values]))
  return _Started(without_skull, inside, scan.having(mask), box, transform, figures)


def _quasiraw(start: _Started, recipe: Recipe) -> Made:
  affine = np.asarray(recipe.grid.affine)
  values = resampled(start.brain, recipe.grid.shape, affine, start.transform)
  return Made(Volume(values, affine), start.whole_mask, start.figures)


def _gm(start: _Started, recipe: Recipe, template: Template) -> Made:
  affine = itk.registered(template.t1, start.brain, 12, start.transform, levels=(2, 1))
  shape, grid = template.t1.values.shape, template.t1.affine
  placed = Volume(resampled(start.brain, shape, grid, affine), grid)
  warp = deformation.registered(template.t1, placed, affine, iterations=recipe.warp_iterations)
  places = warp.in_template(start.brain)
  gray, white = (deformation.sampled(image, places) for image in (template.gray, template.white))
  classes = tissue.classify(start.brain.values, start.mask, gray, white,
                            neighbours=recipe.neighbours, doubt=recipe.doubt)
  modulated = warp.modulated(start.brain.having(classes.gray), recipe.grid)
  voxel = start.brain.voxel_ml
  inside = resampled(template.brain.having(template.brain.values.astype(np.float32)),
                     modulated.values.shape, modulated.affine) > 0.5
  expected = resampled(template.gray, modulated.values.shape, modulated.affine)
  figures = dataclasses.replace(
      start.figures, **{f'{name}_ml': float(getattr(classes, name).sum() * voxel)
                        for name in ('gray', 'white', 'csf')},
      correlation_gray=quality.correlation(modulated.values[inside], expected[inside]))
  probability = np.zeros(start.whole_mask.values.shape, np.float32)
  probability[start.box] = classes.gray
  return Made(modulated, start.whole_mask, figures, start.whole_mask.having(probability))
