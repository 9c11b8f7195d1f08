"""Writes morphometry as FreeSurfer's folders, in the format of mris_anatomical_stats."""

from __future__ import annotations

import pathlib

import numpy as np

from anatcl_jax.cohorts import atlas as atlases

# Columns in their order, the measure that each holds, and how it is printed.
COLUMNS = (('NumVert', None, '{:5.0f}'), ('SurfArea', 'area', '{:6.0f}'),
           ('GrayVol', 'volume', '{:6.0f}'), ('ThickAvg', 'thickness', '{:6.3f}'),
           ('ThickStd', 'thicknessstd', '{:5.3f}'), ('MeanCurv', 'meancurv', '{:9.3f}'),
           ('GausCurv', 'gauscurv', '{:9.3f}'), ('FoldInd', 'foldind', '{:8.0f}'),
           ('CurvInd', 'curvind', '{:7.1f}'))

# What the digital cohort does not measure.
CONSTANTS = {None: 1000, 'thicknessstd': 0.5, 'meancurv': 0.12, 'gauscurv': 0.02, 'foldind': 10,
             'curvind': 1.5}


def stats_text(subject: str, hemisphere: str, regions: tuple[str, ...],
               values: dict[str, np.ndarray], parcellation: str = 'aparc', columns=COLUMNS) -> str:
  """A stats file: `values` by measure, one a region; constants for those that are not there."""
  lines = ['Table of FreeSurfer cortical parcellation anatomical statistics', '',
           'CreationTime 2026/01/01-12:00:00-GMT', 'generating_program mris_anatomical_stats',
           'anatomy_type surface', f'subjectname {subject}', f'hemi {hemisphere}',
           f'AnnotationFile ../label/{hemisphere}.{parcellation}.annot',
           'Measure Cortex, MeanThickness, Mean Thickness, 2.50461, mm',
           f'NTableCols {len(columns) + 1}', 'TableCol  1 ColHeader StructName',
           *(f'TableCol {i:2d} ColHeader {name}' for i, (name, *_) in enumerate(columns, 2)),
           f'ColHeaders StructName {" ".join(name for name, *_ in columns)}']
  rows = [f'{region:<40}' + ' '.join(
      form.format(values[measure][i] if measure in values else CONSTANTS[measure])
      for _, measure, form in columns) for i, region in enumerate(regions)]
  return '\n'.join([*(f'# {line}' for line in lines), *rows]) + '\n'


def write_subject(folder: pathlib.Path, atlas: str, values: dict[str, np.ndarray],
                  columns=COLUMNS) -> None:
  """<subject>/stats of one subject; `values` by measure over the regions of both hemispheres."""
  parcellation = {'desikan': 'aparc', 'destrieux': 'aparc.a2009s', 'dkt': 'aparc.DKTatlas'}[atlas]
  regions = atlases.ATLASES[atlas]
  (folder / 'stats').mkdir(parents=True)
  for side, hemisphere in enumerate(atlases.HEMISPHERES):
    half = slice(side * len(regions), (side + 1) * len(regions))
    (folder / 'stats' / f'{hemisphere}.{parcellation}.stats').write_text(stats_text(
        folder.name, hemisphere, regions, {name: all_[half] for name, all_ in values.items()},
        parcellation, columns))


def write_subjects_dir(directory: pathlib.Path, morphometry) -> pathlib.Path:
  """A SUBJECTS_DIR of all scans of some Morphometry, in folders named after them."""
  for scan, values in zip(morphometry.scans, morphometry.values):
    write_subject(directory / '_'.join(filter(None, scan)), morphometry.atlas,
                  dict(zip(morphometry.measures, values.T)))
  return directory
