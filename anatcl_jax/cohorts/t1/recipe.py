"""What is asked of the steps, and what they give."""

from __future__ import annotations

import dataclasses
from typing import Any

from anatcl_jax import __version__
from anatcl_jax.cohorts.t1 import libraries, templates
from anatcl_jax.cohorts.t1.quality import Quality
from anatcl_jax.cohorts.t1.volume import Volume
from anatcl_jax.cohorts.volumes import Grid

VERSION = 1               # changes with what a map's values mean
REGISTERED_AT = 2.0       # mm, the voxels that registration sees


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What decides the voxels of a map."""

  to: str                        # quasiraw or gm
  grid: Grid
  skull_stripped: bool = False
  bias_spacing: float = 4.0      # mm, between the voxels that N4 is fitted to
  bias_iterations: tuple[int, ...] = (50, 50, 50, 50)
  # Of gm alone:
  warp_iterations: tuple[int, ...] = (30, 30, 15)     # a level each, at 8, 4 and 2 mm
  neighbours: float = 0.3        # weight of each of six neighbours in the Markov random field
  doubt: float = 0.01            # added to the template's probabilities

  def record(self) -> dict[str, Any]:
    """As JSON takes it."""
    listed = {name: list(value) if isinstance(value, tuple) else value
              for name, value in dataclasses.asdict(self).items()}
    return listed | {'version': VERSION, 'grid': str(self.grid)}

  def told(self) -> list[dict[str, Any]]:
    """Every step with its tool, version and parameters, for a sidecar."""
    def step(name: str, tool: str, **parameters) -> dict[str, Any]:
      return {'step': name, 'tool': tool, 'version': libraries.version(tool),
              'parameters': parameters}
    begun = [
        step('turned to RAS by the header', 'nibabel'),
        {'step': 'brain: what is not background', 'tool': 'anatcl_jax'} if self.skull_stripped
        else step('brain extraction', 'deepbet', threshold=0.5),
        step('bias field correction, N4', 'SimpleITK', fit_spacing_mm=self.bias_spacing,
             iterations=list(self.bias_iterations)),
        step('affine registration with 9 degrees of freedom, after 6', 'SimpleITK',
             metric='Mattes mutual information, 32 bins', spacing_mm=REGISTERED_AT,
             template=f'{templates.SPACE} of nilearn {libraries.version("nilearn")}'),
    ]
    if self.to == 'quasiraw':
      return begun
    return [
        *begun,
        step('affine registration with 12 degrees of freedom', 'SimpleITK',
             metric='Mattes mutual information, 32 bins', spacing_mm=REGISTERED_AT),
        step('diffeomorphic registration, SyN', 'dipy', metric='cross-correlation, radius 3',
             iterations=list(self.warp_iterations), spacing_mm=REGISTERED_AT),
        {'step': 'tissue classes with partial volume: gray, white, CSF and their two mixtures, '
                 'priors of the template, Markov random field', 'tool': 'anatcl_jax',
         'version': __version__, 'parameters': {'neighbours': self.neighbours,
                                                'doubt': self.doubt}},
        {'step': 'modulation by the determinant of the Jacobian, affine part included',
         'tool': 'anatcl_jax', 'version': __version__, 'parameters': {}},
    ]


@dataclasses.dataclass(frozen=True)
class Made:
  """What came of a scan."""

  map: Volume                  # on the recipe's grid, float32
  mask: Volume                 # of the brain, in the scan's own space (RAS), bool
  figures: Quality
  gray: Volume | None = None   # probability of gray matter in the scan's own space, of gm
