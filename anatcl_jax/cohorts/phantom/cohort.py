"""A synthetic digital cohort of which the truth is known, on disk as a real cohort lies on disk."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import glob
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from anatcl_jax.cohorts import atlas
from anatcl_jax.cohorts.phantom import anatomy as phantom_anatomy
from anatcl_jax.cohorts.phantom import drawing as phantom_drawing
from anatcl_jax.cohorts.phantom import people, population, rows, sites
from anatcl_jax.cohorts.phantom.disease import SUBTYPES, Disease
from anatcl_jax.errors import UserError, check_name
from anatcl_jax.progress import progress_bar

# How people differ: figures in order of size, or as fitted on real people.
POPULATIONS = {'simple': people, 'ixi': population}
CONFOUNDERS = ('age', 'site')             # what disease may go with
_AGE_ODDS = 20.0                          # of disease, the oldest's over the youngest's
# As FreeSurfer estimates it: a template's volume over the determinant of the head's scaling to it.
_MEAN_INTRACRANIAL = 1.5e6                # mm^3

# What a stream of random numbers is for; the streams of a subject are independent of each other.
_ANATOMY, _SITE, _NOISE, _MEASUREMENT, _SUBTYPE = 0, 1, 2, 3, 6   # others: sites.py


@dataclasses.dataclass(frozen=True)
class PhantomSettings:
  """What to make: ages in years, spacing of the isotropic voxels in mm, patients as a share of 1.

  sessions is the scans a subject; later ones repeat the anatomy with new noise, perhaps on another
  site, and surely with `second_scanner`. population is one of POPULATIONS; subtypes how many of
  disease.SUBTYPES there are; confounded which of CONFOUNDERS disease goes with, joined by +;
  held_out_sites how many sites, the last ones, are for tests alone; site_bias how far sites differ
  in morphometry, 1 as real ones do. Raises UserError for values that make no cohort.
  """

  subjects: int = 100
  seed: int = 0
  spacing: float = 5.0
  sites: int = 3
  sessions: int = 1
  patients: float = 0.0
  youngest: float = 6.0
  oldest: float = 90.0
  _: dataclasses.KW_ONLY
  population: str = 'simple'
  subtypes: int = 1
  confounded: str = ''
  held_out_sites: int = 0
  second_scanner: bool = False
  site_bias: float = 0.0

  def __post_init__(self):
    for name in ('subjects', 'sites', 'sessions'):
      _require(getattr(self, name) >= 1, f'{name} is {getattr(self, name)}; at least 1 is needed')
    _require(0 <= self.seed < 2**32, f'seed is {self.seed}; it must be from 0 to {2**32 - 1}')
    _require(0.5 <= self.spacing <= 20, f'spacing is {self.spacing} mm; it must be from 0.5 to 20')
    _require(0 <= self.patients <= 1, f'patients is {self.patients}; it is a share from 0 to 1')
    _require(0 <= self.youngest < self.oldest <= 120,
             f'ages from youngest {self.youngest} to oldest {self.oldest}; they must rise and lie '
             'within 0 to 120 years')
    check_name(self.population, POPULATIONS, 'population')
    _require(1 <= self.subtypes <= len(SUBTYPES),
             f'subtypes is {self.subtypes}; it must be from 1 to {len(SUBTYPES)} '
             f'({", ".join(SUBTYPES)})')
    for name in filter(None, self.confounded.split('+')):
      check_name(name, CONFOUNDERS, 'confounder of disease')
    _require(0 <= self.held_out_sites < self.sites,
             f'held_out_sites is {self.held_out_sites} of {self.sites} sites; at least one must be '
             'left')
    _require(0 <= self.site_bias <= 10, f'site_bias is {self.site_bias}; it must be from 0 to 10')
    _require(not self.second_scanner or self.sessions > 1,
             'second_scanner needs sessions of at least 2')
    groups = {self.held_out_sites, self.sites - self.held_out_sites} - {0}
    _require(not self.second_scanner or min(groups) > 1,
             'second_scanner needs at least 2 sites, and 2 of each kind where some are held out')

  def as_record(self) -> dict[str, Any]:
    """Its values; those that came with later versions only where they differ from the default."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
            if not field.kw_only or getattr(self, field.name) != field.default}

  @property
  def disease(self) -> Disease:
    """Who falls ill."""
    return Disease(self.patients, _AGE_ODDS if 'age' in self.confounded.split('+') else 1.0)

  @property
  def assignment(self) -> sites.Assignment:
    """Who is scanned where."""
    return sites.Assignment(self.sites, self.held_out_sites, self.second_scanner,
                            'site' in self.confounded.split('+'))


@dataclasses.dataclass(frozen=True)
class CohortPaths:
  """Where a written cohort lies: what a user would give for a real one, and the truth beside it."""

  volumes: str                            # glob pattern of the NIfTI maps
  participants: Path
  morphometry: tuple[Path, ...]           # aparcstats2table's tables: {lh,rh} x MEASURES
  truth: Path                             # tables that training never reads


@dataclasses.dataclass(frozen=True)
class Scan:
  """A session: site from 0; volume [X, Y, Z]; morphometry [2, R, M] and intracranial mm^3."""

  site: int
  volume: np.ndarray
  morphometry: np.ndarray
  intracranial: float


@dataclasses.dataclass(frozen=True)
class Subject:
  """A subject's truth (anatomy; area [2, R] of the surface, mm^2) and its scans, one a session.

  subtype is the name of the disease, also where severity is 0.
  """

  index: int
  anatomy: phantom_anatomy.Anatomy
  area: np.ndarray
  scans: tuple[Scan, ...]
  subtype: str


def draw_subject(settings: PhantomSettings, index: int) -> Subject:
  """Makes subject `index` (from 0) of the cohort; it depends on no other subject.

  The anatomy depends on seed, index, population, ages and disease alone. Morphometry holds
  phantom_drawing.MEASURES (mm, mm^2, mm^3) of each region, lh then rh.
  """
  def stream(purpose: int, *more: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, index, purpose, *more])

  subtype = list(SUBTYPES)[int(stream(_SUBTYPE).random() * settings.subtypes)]
  anatomy = POPULATIONS[settings.population].sample_anatomy(
      stream(_ANATOMY), settings.youngest, settings.oldest, settings.disease, SUBTYPES[subtype])
  grid = phantom_drawing.Grid.mni(settings.spacing)
  drawn, measured = phantom_drawing.draw(anatomy, grid)
  scans = []
  for session, site in enumerate(settings.assignment.sites_of(
      anatomy.severity > 0, settings.sessions, functools.partial(stream, _SITE))):
    errors = stream(_MEASUREMENT, session)
    morphometry = measured * np.exp(POPULATIONS[settings.population].measurement_error(errors))
    if settings.site_bias:
      morphometry = sites.bias(settings.seed, site, settings.site_bias).apply(
          morphometry, expected_morphometry(settings.population, anatomy.age, anatomy.sex == 'M'))
    scans.append(Scan(
        site,
        phantom_drawing.scan(drawn, anatomy, grid, sites.scanner(settings.seed, site),
                             stream(_NOISE, session)),
        morphometry,
        _MEAN_INTRACRANIAL * anatomy.head_size**3
        * np.exp(people.MEASUREMENT_ERROR * errors.standard_normal())))
  return Subject(index, anatomy, measured[..., phantom_drawing.MEASURES.index('area')],
                 tuple(scans), subtype)


def expected_morphometry(name: str, age: float, male: bool) -> np.ndarray:
  """Mean of healthy people of a population, of this age and sex: [2, R, M] as MEASURES."""
  source = POPULATIONS[name]
  thickness = source.expected_thickness(age, male)
  area = _template_area() * source.mean_head_size(male)**2
  return np.stack([thickness, area, thickness * area], -1)


@functools.lru_cache(maxsize=1)
def _template_area() -> np.ndarray:
  shape = (2, len(phantom_anatomy.NAMES))
  plain = phantom_anatomy.Anatomy(
      0, 'F', 1.0, 0.0, np.ones(shape), np.zeros(shape),
      np.stack([phantom_anatomy.template().folds] * 2), np.ones((2, len(phantom_anatomy.DEEP))))
  return np.stack([phantom_drawing.measure_area(surface)
                   for surface in phantom_anatomy.surfaces(plain)])


def write_cohort(directory: Path, settings: PhantomSettings, workers: int = 1,
                 progress: bool = True) -> CohortPaths:
  """Writes the cohort as a BIDS-like derivative and returns where its parts lie.

  All of it appears at once, by a rename: a failure leaves nothing behind. `workers` processes share
  the subjects; `progress` shows a bar on stderr. Raises UserError if `directory` is not empty.
  """
  directory = Path(os.path.abspath(directory))
  _require(workers >= 1, f'workers is {workers}; at least 1 is needed')
  if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
    raise UserError(f'{directory} exists and is not an empty directory; name another one or '
                    'remove it first')
  temporary = directory.with_name(f'.{directory.name}.{os.getpid()}.partial')
  try:
    temporary.mkdir(parents=True)
  except OSError as error:
    raise UserError(f'can\'t write {temporary} ({error.strerror})') from None
  try:
    tables: dict[str, list[dict[str, Any]]] = rows.of_sites(settings)
    made = _made(functools.partial(_write_subject, temporary, settings), settings.subjects, workers)
    with progress_bar(settings.subjects, 'synthetic cohort', 'subjects', show=progress) as bar:
      for scans in made:
        for name, row in (item for scan in scans for item in scan.items()):
          tables.setdefault(name, []).append(row)
        bar.update()
    for name, content in tables.items():
      rows.write(temporary / name, content)
    rows.describe(temporary, settings)
    temporary.rename(directory)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
  folders = 'sub-*/anat' if settings.sessions == 1 else 'sub-*/ses-*/anat'
  return CohortPaths(
      f'{glob.escape(str(directory))}/{folders}/*_mod.nii.gz', directory / 'participants.tsv',
      tuple(directory / rows.APARC.format(measure, hemisphere)
            for measure in phantom_drawing.MEASURES for hemisphere in atlas.HEMISPHERES),
      directory / 'truth')


def _require(condition: bool, text: str) -> None:
  if not condition:
    raise UserError(f'synthetic cohort: {text}')


def _made(make, count: int, workers: int) -> Iterator[list[rows.Rows]]:
  """make(0), make(1), ... in order, by as many processes as asked for."""
  if workers == 1:
    yield from map(make, range(count))
    return
  # Not forked: a parent that has started JAX holds threads, with which a fork can hang.
  with concurrent.futures.ProcessPoolExecutor(
      min(workers, count), multiprocessing.get_context('spawn')) as pool:
    yield from pool.map(make, range(count))


def _write_subject(directory: Path, settings: PhantomSettings, index: int) -> list[rows.Rows]:
  """Writes the maps of a subject; its rows of the tables are returned, one set a scan."""
  subject = draw_subject(settings, index)
  affine = phantom_drawing.Grid.mni(settings.spacing).affine
  result = []
  for session, scan in enumerate(subject.scans, 1):
    row = rows.of_scan(settings, subject, scan, session)
    entities = list(row['participants.tsv'].values())[:1 if settings.sessions == 1 else 2]
    path = directory.joinpath(*entities, 'anat',
                              '_'.join([*entities, 'space-phantom_label-GM_mod.nii.gz']))
    path.parent.mkdir(parents=True)
    image = nibabel.Nifti1Image(scan.volume, affine)
    image.header['descrip'] = b'synthetic digital cohort'
    image.header.set_xyzt_units('mm')
    nibabel.save(image, path)
    result.append(row)
  return result
