"""Writes the digital cohort in the layouts of OpenBHB, in the documented formats, and as BIDS.

Its participants are synthetic. Volumes have the true shapes and axes (LAS, as the templates store
them); their values outside the template's mask are 0, as the challenge's matrix can't hold them.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import nibabel
import numpy as np
import pandas
import scipy.ndimage

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts.phantom import cohort as phantom

SPLITS = ('train', 'internal_test', 'external_test')
# What one row of a ROI array holds, after FreeSurfer's name of it, in the order of the release.
CHANNELS = {
    'area': 'surface_area_mm^2', 'volume': 'gray_matter_volume_mm^3',
    'thickness': 'average_thickness_mm', 'thicknessstd': 'thickness_stddev_mm',
    'meancurv': 'integrated_rectified_mean_curvature_mm^-1',
    'gauscurv': 'integrated_rectified_gaussian_curvature_mm^-2',
    'curvind': 'intrinsic_curvature_index'}
SUFFIXES = {'vbm': 'cat12vbm_desc-gm_T1w', 'quasiraw': 'quasiraw_T1w'}
TEMPLATES = {'vbm': 'cat12vbm_space-MNI152_desc-gm_TPM.nii.gz',
             'quasiraw': 'quasiraw_space-MNI152_desc-brain_T1w.nii.gz'}
BLOCKS = {'vbm': 519945, 'quasiraw': 1827095, 'xhemi': 1310736, 'vbm_roi': 284, 'desikan': 476,
          'destrieux': 1036}
AFFINES = {'vbm': np.array([[-1.5, 0, 0, 90], [0, 1.5, 0, -126], [0, 0, 1.5, -72], [0, 0, 0, 1]]),
           'quasiraw': np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])}


@dataclasses.dataclass(frozen=True)
class Digital:
  """Scans in memory: volumes [X, Y, Z] as stored, rois by atlas [scan, measure, region]."""

  modality: str
  table: pandas.DataFrame
  volumes: list[np.ndarray]
  template: np.ndarray
  mask: np.ndarray
  rois: dict[str, np.ndarray]

  @property
  def ids(self) -> list[str]:
    return list(self.table['participant_id'])


def draw(modality: str = 'vbm', subjects: int = 3) -> Digital:
  """Subjects of the digital cohort, each in a split of its own."""
  settings = phantom.PhantomSettings(subjects=subjects, seed=5, spacing=1.5)
  people = [phantom.draw_subject(settings, index) for index in range(subjects)]
  volumes = [np.ascontiguousarray(person.scans[0].volume[::-1]) for person in people]
  if modality == 'quasiraw':
    zoom = np.array((182, 218, 182)) / volumes[0].shape
    volumes = [scipy.ndimage.zoom(volume, zoom, order=0) for volume in volumes]
  template, mask = _template(np.mean(volumes, 0), modality)
  volumes = [np.where(mask, volume, 0).astype(np.float32) for volume in volumes]
  rows = [_participant(person, index) for index, person in enumerate(people)]
  rois = {'desikan': np.stack([_desikan(person) for person in people]),
          'destrieux': np.stack([_destrieux(index) for index in range(subjects)])}
  return Digital(modality, pandas.DataFrame(rows), volumes, template, mask, rois)


def write_bids(root: pathlib.Path, digital: Digital, atlas: str = 'desikan') -> list[str]:
  """NIfTI files, participants.tsv, aparcstats2table tables; returns `prepare bids`'s arguments."""
  for name, volume in zip(digital.ids, digital.volumes):
    path = root / f'sub-{name}' / 'anat' / f'sub-{name}_T1w.nii'
    path.parent.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(volume, AFFINES[digital.modality]), path)
  _write_participants(root, digital.table)
  names = atlases.ATLASES[atlas]
  for row, measure in enumerate(CHANNELS):
    for side, hemisphere in enumerate(atlases.HEMISPHERES):
      values = digital.rois[atlas][:, row, side * len(names):(side + 1) * len(names)]
      table = pandas.DataFrame(values, columns=[f'{hemisphere}_{name}_{measure}' for name in names])
      table.insert(0, f'{hemisphere}.aparc.{measure}', [f'sub-{name}' for name in digital.ids])
      table.to_csv(root / f'{hemisphere}.{measure}.tsv', sep='\t', index=False,
                   float_format='%.9g')
  return ['bids', '--volumes', f'{root}/sub-*/anat/*.nii', '--participants',
          f'{root}/participants.tsv', '--atlas', atlas, '--morphometry',
          *map(str, sorted(root.glob('?h.*.tsv')))]


def write_subjects(root: pathlib.Path, digital: Digital, leading: int = 0) -> pathlib.Path:
  """participants.tsv and a folder of arrays, each below `leading` more axes of 1."""
  (root / 'data').mkdir(parents=True)
  _write_participants(root, digital.table)
  for index, name in enumerate(digital.ids):
    for ending, array in _arrays(digital, index).items():
      np.save(root / 'data' / f'sub-{name}_preproc-{ending}.npy', array[(None,) * leading])
  return root


def write_hub(root: pathlib.Path, digital: Digital, resource: bool = True) -> pathlib.Path:
  """A folder a split, volumes a session, ROI tables a split."""
  root.mkdir()
  _write_participants(root, digital.table)
  folders = np.array(['train' if split == 'train' else 'val' for split in digital.table['split']])
  for index, (name, folder) in enumerate(zip(digital.ids, folders)):
    session = root / folder / 'derivatives' / f'sub-{name}' / 'ses-1'
    session.mkdir(parents=True)
    for ending, array in _arrays(digital, index).items():
      if ending.endswith('T1w'):
        np.save(session / f'sub-{name}_preproc-{ending}.npy', array)
  for folder in ('train', 'val'):
    for atlas, rois in digital.rois.items():
      columns = [f'{region}_{channel}' for channel in CHANNELS.values()
                 for region in atlases.regions(atlas)]
      own = folders == folder
      table = pandas.DataFrame(rois[own].reshape(own.sum(), -1), columns=columns)
      table.insert(0, 'participant_id', digital.table['participant_id'][own].to_list())
      table.insert(1, 'session', 1)
      path = root / folder / 'derivatives' / 'freesurfer_roi' / f'{atlas}_roi_features.csv'
      path.parent.mkdir(exist_ok=True)
      table.to_csv(path, index=False, float_format='%.9g')
  if resource:
    (root / 'resource').mkdir()
    write_template(root / 'resource' / TEMPLATES[digital.modality], digital)
  return root


def write_matrix(root: pathlib.Path, digital: Digital, header: bool = True,
                 blocks: dict[str, int] = BLOCKS) -> pathlib.Path:
  """train.npy and test.npy with a .tsv each; the header row counts the internal scans."""
  root.mkdir()
  (root / 'dataset_description.json').write_text(json.dumps({'Synthetic': True}))
  ends = dict(zip(blocks, np.cumsum(list(blocks.values()))))
  for name in ('train', 'test'):
    own = np.flatnonzero((digital.table['split'] == 'train') == (name == 'train'))
    matrix = np.lib.format.open_memmap(root / f'{name}.npy', 'w+', np.float32,
                                       (header + len(own), sum(blocks.values())))
    if header:
      matrix[0] = np.nan
      matrix[0, 0] = sum(split != 'external_test' for split in digital.table['split'].iloc[own])
    for row, index in enumerate(own, int(header)):
      contents = {digital.modality: digital.volumes[index][digital.mask],
                  **{atlas: rois[index].ravel() for atlas, rois in digital.rois.items()}}
      for block, values in contents.items():
        matrix[row, ends[block] - blocks[block]:ends[block]] = values
    matrix.flush()
    digital.table.iloc[own][['participant_id', 'age', 'site', 'split']].to_csv(
        root / f'{name}.tsv', sep='\t', index=False)
  return root


def write_template(path: pathlib.Path, digital: Digital) -> pathlib.Path:
  """The template that masks the volumes, with their affine."""
  nibabel.save(nibabel.Nifti1Image(digital.template, AFFINES[digital.modality]), path)
  return path


def _arrays(digital: Digital, index: int) -> dict[str, np.ndarray]:
  """The arrays of a scan, by the end of their file's name."""
  return {SUFFIXES[digital.modality]: digital.volumes[index][None],
          'cat12vbm_desc-gm_ROI': np.zeros((1, 284), np.float32),
          **{f'freesurfer_desc-{atlas}_ROI': rois[index] for atlas, rois in digital.rois.items()}}


def _write_participants(root: pathlib.Path, table: pandas.DataFrame) -> None:
  table.to_csv(root / 'participants.tsv', sep='\t', index=False)
  (root / 'dataset_description.json').write_text(json.dumps({'Synthetic': True}))


def _template(mean: np.ndarray, modality: str) -> tuple[np.ndarray, np.ndarray]:
  """A map of as many voxels above the threshold as the release's has, and which they are."""
  smooth = scipy.ndimage.gaussian_filter(mean, 6)
  smooth /= smooth.max()
  inside = np.zeros(smooth.size, bool)
  inside[np.argpartition(-smooth.ravel(), BLOCKS[modality])[:BLOCKS[modality]]] = True
  inside = inside.reshape(smooth.shape)
  outside = 0.04 * smooth if modality == 'vbm' else 0
  return np.where(inside, 0.1 + 0.9 * smooth, outside).astype(np.float32), inside


def _participant(person: phantom.Subject, index: int) -> dict[str, object]:
  anatomy = person.anatomy
  return {'participant_id': f'{100_053_248_969 + 7_919 * index}', 'study': index + 1,
          'sex': {'F': 'female', 'M': 'male'}[anatomy.sex], 'age': f'{anatomy.age:.2f}',
          'site': index + 3, 'diagnosis': 'control', 'tiv': f'{1400.5 + index}', 'csfv': '300.25',
          'gmv': '700.5', 'wmv': '400.75', 'magnetic_field_strength': '3.0',
          'acquisition_setting': 1, 'siteXacq': index, 'split': SPLITS[index]}


def _desikan(person: phantom.Subject) -> np.ndarray:
  thickness, area, volume = np.moveaxis(person.scans[0].morphometry, -1, 0).reshape(3, -1)
  return _with_curvature(area, volume, thickness, person.index)


def _destrieux(index: int) -> np.ndarray:
  rng = np.random.default_rng([index, 148])
  area, thickness = rng.uniform(200, 2000, 148), rng.uniform(2, 3, 148)
  return _with_curvature(area, area * thickness * rng.uniform(0.95, 1.1, 148), thickness, index)


def _with_curvature(area, volume, thickness, index: int) -> np.ndarray:
  rng = np.random.default_rng([index, len(area)])
  others = [rng.uniform(low, high, len(area))
            for low, high in ((0.4, 0.8), (0.1, 0.2), (0.02, 0.04), (0.5, 6))]
  return np.stack([area, volume, thickness, *others]).astype(np.float32)
