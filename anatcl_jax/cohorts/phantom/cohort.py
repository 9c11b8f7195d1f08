"""A synthetic digital cohort of which the truth is known, on disk as a real cohort lies on disk."""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import functools
import glob
import json
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
from anatcl_jax.errors import UserError
from anatcl_jax.progress import progress_bar

MEASUREMENT_ERROR = 0.01                  # sd of the logarithm, each region and measure
# As FreeSurfer estimates it: a template's volume over the determinant of the head's scaling to it.
_MEAN_INTRACRANIAL = 1.5e6                # mm^3

# What a stream of random numbers is for; the streams of a subject are independent of each other.
_ANATOMY, _SITE, _NOISE, _MEASUREMENT, _SCANNER = range(5)
_APARC = 'freesurfer/data-cortical_type-aparc_measure-{}_hemi-{}.tsv'

Rows = dict[str, dict[str, Any]]          # a row (column: value) for each table, by its path


@dataclasses.dataclass(frozen=True)
class PhantomSettings:
  """What to make: ages in years, spacing of the isotropic voxels in mm, patients as a share of 1.

  sessions is the scans a subject; later ones repeat the anatomy with new noise, perhaps on another
  site. Raises UserError for values that make no cohort.
  """

  subjects: int = 100
  seed: int = 0
  spacing: float = 5.0
  sites: int = 3
  sessions: int = 1
  patients: float = 0.0
  youngest: float = 6.0
  oldest: float = 90.0

  def __post_init__(self):
    for name in ('subjects', 'sites', 'sessions'):
      _require(getattr(self, name) >= 1, f'{name} is {getattr(self, name)}; at least 1 is needed')
    _require(0 <= self.seed < 2**32, f'seed is {self.seed}; it must be from 0 to {2**32 - 1}')
    _require(0.5 <= self.spacing <= 20, f'spacing is {self.spacing} mm; it must be from 0.5 to 20')
    _require(0 <= self.patients <= 1, f'patients is {self.patients}; it is a share from 0 to 1')
    _require(0 <= self.youngest < self.oldest <= 120,
             f'ages from youngest {self.youngest} to oldest {self.oldest}; they must rise and lie '
             'within 0 to 120 years')


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
  """A subject's truth (anatomy; area [2, R] of the surface, mm^2) and its scans, one a session."""

  index: int
  anatomy: phantom_anatomy.Anatomy
  area: np.ndarray
  scans: tuple[Scan, ...]


def draw_subject(settings: PhantomSettings, index: int) -> Subject:
  """Makes subject `index` (from 0) of the cohort; it depends on no other subject.

  The anatomy depends on seed, index, ages and share of patients alone. Morphometry holds
  phantom_drawing.MEASURES (mm, mm^2, mm^3) of each region, lh then rh.
  """
  def stream(purpose: int, *more: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, index, purpose, *more])

  anatomy = phantom_anatomy.sample_anatomy(stream(_ANATOMY), settings.youngest, settings.oldest,
                                           settings.patients)
  grid = phantom_drawing.Grid.mni(settings.spacing)
  drawn, measured = phantom_drawing.draw(anatomy, grid)
  scans = []
  for session in range(settings.sessions):
    site = int(stream(_SITE, session).random() * settings.sites)
    errors = stream(_MEASUREMENT, session)
    scans.append(Scan(
        site,
        phantom_drawing.scan(drawn, anatomy, grid, site_effect(settings.seed, site),
                             stream(_NOISE, session)),
        measured * np.exp(MEASUREMENT_ERROR * errors.standard_normal(measured.shape)),
        _MEAN_INTRACRANIAL * anatomy.head_size**3
        * np.exp(MEASUREMENT_ERROR * errors.standard_normal())))
  return Subject(index, anatomy, measured[..., phantom_drawing.MEASURES.index('area')],
                 tuple(scans))


def site_effect(seed: int, site: int) -> phantom_drawing.Site:
  """The scanner of site `site` (from 0) of the cohort with this seed."""
  rng = np.random.default_rng([seed, site, _SCANNER])
  return phantom_drawing.Site(gain=1 + 0.06 * rng.uniform(-1, 1), smoothing=rng.uniform(2, 6),
                              noise=rng.uniform(0.01, 0.04))


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
    tables: dict[str, list[dict[str, Any]]] = {}
    made = _made(functools.partial(_write_subject, temporary, settings), settings.subjects, workers)
    with progress_bar(settings.subjects, 'synthetic cohort', 'subjects', show=progress) as bar:
      for scans in made:
        for name, row in ((name, row) for rows in scans for name, row in rows.items()):
          tables.setdefault(name, []).append(row)
        bar.update()
    for name, rows in tables.items():
      _write_table(temporary / name, rows)
    _write_descriptions(temporary, settings)
    temporary.rename(directory)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
  folders = 'sub-*/anat' if settings.sessions == 1 else 'sub-*/ses-*/anat'
  return CohortPaths(
      f'{glob.escape(str(directory))}/{folders}/*_mod.nii.gz', directory / 'participants.tsv',
      tuple(directory / _APARC.format(measure, hemisphere)
            for measure in phantom_drawing.MEASURES for hemisphere in atlas.HEMISPHERES),
      directory / 'truth')


def _require(condition: bool, text: str) -> None:
  if not condition:
    raise UserError(f'synthetic cohort: {text}')


def _made(make, count: int, workers: int) -> Iterator[list[Rows]]:
  """make(0), make(1), ... in order, by as many processes as asked for."""
  if workers == 1:
    yield from map(make, range(count))
    return
  # Not forked: a parent that has started JAX holds threads, with which a fork can hang.
  with concurrent.futures.ProcessPoolExecutor(
      min(workers, count), multiprocessing.get_context('spawn')) as pool:
    yield from pool.map(make, range(count))


def _write_subject(directory: Path, settings: PhantomSettings, index: int) -> list[Rows]:
  """Writes the maps of a subject; its rows of the tables are returned, one set a scan."""
  subject = draw_subject(settings, index)
  affine = phantom_drawing.Grid.mni(settings.spacing).affine
  result = []
  for session, scan in enumerate(subject.scans, 1):
    rows = _rows(settings, subject, scan, session)
    entities = list(rows['participants.tsv'].values())[:1 if settings.sessions == 1 else 2]
    path = directory.joinpath(*entities, 'anat',
                              '_'.join([*entities, 'space-phantom_label-GM_mod.nii.gz']))
    path.parent.mkdir(parents=True)
    image = nibabel.Nifti1Image(scan.volume, affine)
    image.header['descrip'] = b'synthetic digital cohort'
    image.header.set_xyzt_units('mm')
    nibabel.save(image, path)
    result.append(rows)
  return result


def _rows(settings: PhantomSettings, subject: Subject, scan: Scan, session: int) -> Rows:
  """A scan's row in each table; the truth about a subject's regions comes with its first scan."""
  anatomy = subject.anatomy
  participant = f'sub-{subject.index + 1:0{max(4, len(str(settings.subjects)))}d}'
  entities = {'participant_id': participant}
  if settings.sessions > 1:
    entities['session_id'] = f'ses-{session}'
  person = {'age': f'{anatomy.age:.2f}', 'sex': anatomy.sex, 'site': f'site-{scan.site + 1}'}
  rows: Rows = {
      'participants.tsv': {
          **entities, **person, 'diagnosis': 'patient' if anatomy.severity > 0 else 'control'},
      'truth/subjects.tsv': {
          **entities, **person, 'head_size': f'{anatomy.head_size:.4f}',
          'severity': f'{anatomy.severity:.4f}',
          **{f'{hemisphere}_{structure}': f'{size:.4f}'
             for hemisphere, sizes in zip(atlas.HEMISPHERES, anatomy.deep)
             for structure, size in zip(phantom_anatomy.DEEP, sizes)}}}
  if session == 1:
    for name, truth in (('thickness', anatomy.thickness), ('area', subject.area)):
      rows[f'truth/{name}.tsv'] = {'participant_id': participant, **{
          region: f'{value:.4f}'
          for region, value in zip(atlas.regions('desikan'), truth.ravel())}}
  label = '_'.join(entities.values())
  for hemisphere, values in zip(atlas.HEMISPHERES, scan.morphometry):
    thickness, area, _ = values.T
    for column, measure in enumerate(phantom_drawing.MEASURES):
      digits = 3 if measure == 'thickness' else 1
      row = {f'{hemisphere}.aparc.{measure}': label}
      row |= {f'{hemisphere}_{region}_{measure}': f'{value:.{digits}f}'
              for region, value in zip(phantom_anatomy.NAMES, values[:, column])}
      if measure == 'thickness':
        row[f'{hemisphere}_MeanThickness_thickness'] = f'{np.average(thickness, weights=area):.5f}'
      rows[_APARC.format(measure, hemisphere)] = row | {'eTIV': f'{scan.intracranial:.1f}'}
  return rows


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
  path.parent.mkdir(exist_ok=True)
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, list(rows[0]), delimiter='\t', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)


def _write_descriptions(directory: Path, settings: PhantomSettings) -> None:
  description = {
      'Name': 'anatcl_jax synthetic digital cohort', 'BIDSVersion': '1.9.0',
      'DatasetType': 'derivative', 'Synthetic': True,
      'GeneratedBy': [{'Name': 'anatcl_jax.cohorts.phantom.cohort',
                       'Description': 'Synthetic brains drawn by a program; no person was scanned.',
                       'Settings': dataclasses.asdict(settings)}]}
  columns = {
      'participant_id': {'Description': 'Synthetic subject'},
      'age': {'Description': 'Age of the synthetic subject', 'Units': 'years'},
      'sex': {'Description': 'Sex of the synthetic subject',
              'Levels': {'F': 'female', 'M': 'male'}},
      'site': {'Description': 'Synthetic scanner: intensity, smoothing and noise differ by site'},
      'diagnosis': {'Description': 'Synthetic disease, which thins temporal cortex',
                    'Levels': {'control': 'none', 'patient': 'some'}}}
  if settings.sessions > 1:
    columns['session_id'] = {'Description': 'Scan of the synthetic subject'}
  for name, content in (('dataset_description', description), ('participants', columns)):
    (directory / f'{name}.json').write_text(json.dumps(content, indent=2) + '\n')
