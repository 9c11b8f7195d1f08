"""The digital cohort's tables: what a real cohort has, and the truth beside it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anatcl_jax.cohorts import atlas
from anatcl_jax.cohorts.phantom import anatomy as phantom_anatomy
from anatcl_jax.cohorts.phantom import drawing as phantom_drawing
from anatcl_jax.cohorts.phantom import sites
from anatcl_jax.cohorts.phantom.disease import SUBTYPES

if TYPE_CHECKING:
  from anatcl_jax.cohorts.phantom.cohort import PhantomSettings, Scan, Subject

APARC = 'freesurfer/data-cortical_type-aparc_measure-{}_hemi-{}.tsv'

Rows = dict[str, dict[str, Any]]          # a row (column: value) for each table, by its path


def of_scan(settings: PhantomSettings, subject: Subject, scan: Scan, session: int) -> Rows:
  """A scan's row in each table; the truth about a subject's regions comes with its first scan."""
  anatomy = subject.anatomy
  participant = f'sub-{subject.index + 1:0{max(4, len(str(settings.subjects)))}d}'
  entities = {'participant_id': participant}
  if settings.sessions > 1:
    entities['session_id'] = f'ses-{session}'
  person = {'age': f'{anatomy.age:.2f}', 'sex': anatomy.sex, 'site': f'site-{scan.site + 1}'}
  ill, labels = anatomy.severity > 0, {}
  labels['diagnosis'] = 'patient' if ill else 'control'
  if settings.subtypes > 1:
    labels['subtype'] = subject.subtype if ill else 'n/a'
  if settings.held_out_sites:
    labels['split'] = 'test' if settings.assignment.is_held_out(scan.site) else 'train'
  rows: Rows = {
      'participants.tsv': {**entities, **person, **labels},
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
      rows[APARC.format(measure, hemisphere)] = row | {'eTIV': f'{scan.intracranial:.1f}'}
  return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
  """Writes rows as a table of tabs."""
  path.parent.mkdir(exist_ok=True)
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, list(rows[0]), delimiter='\t', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)


def describe(directory: Path, settings: PhantomSettings) -> None:
  """Writes what the cohort is and what the columns of participants.tsv hold."""
  description = {
      'Name': 'anatcl_jax synthetic digital cohort', 'BIDSVersion': '1.9.0',
      'DatasetType': 'derivative', 'Synthetic': True,
      'GeneratedBy': [{'Name': 'anatcl_jax.cohorts.phantom.cohort',
                       'Description': 'Synthetic brains drawn by a program; no person was scanned.',
                       'Settings': settings.as_record()}]}
  columns = {
      'participant_id': {'Description': 'Synthetic subject'},
      'age': {'Description': 'Age of the synthetic subject', 'Units': 'years'},
      'sex': {'Description': 'Sex of the synthetic subject',
              'Levels': {'F': 'female', 'M': 'male'}},
      'site': {'Description': 'Synthetic scanner: intensity, smoothing and noise differ by site'},
      'diagnosis': {'Description': 'Synthetic disease, which thins temporal cortex',
                    'Levels': {'control': 'none', 'patient': 'some'}}}
  if settings.subtypes > 1:
    columns['subtype'] = {'Description': 'Where the synthetic disease thins cortex',
                          'Levels': {name: 'a pattern of atrophy' for name in
                                     list(SUBTYPES)[:settings.subtypes]} | {'n/a': 'healthy'}}
  if settings.held_out_sites:
    columns['split'] = {'Description': 'Sites of the test are not those of the training'}
  if settings.sessions > 1:
    columns['session_id'] = {'Description': 'Scan of the synthetic subject'}
  for name, content in (('dataset_description', description), ('participants', columns)):
    (directory / f'{name}.json').write_text(json.dumps(content, indent=2) + '\n')


def of_sites(settings: PhantomSettings) -> dict[str, list[dict[str, Any]]]:
  """The truth about sites: their scanners, and their bias of each region's morphometry."""
  scanners, biases = [], []
  for site in range(settings.sites):
    name, scanner = f'site-{site + 1}', sites.scanner(settings.seed, site)
    scanners.append({'site': name, 'gain': f'{scanner.gain:.4f}',
                     'smoothing': f'{scanner.smoothing:.4f}', 'noise': f'{scanner.noise:.4f}'})
    bias = sites.bias(settings.seed, site, settings.site_bias)
    for measure, *values in zip(phantom_drawing.MEASURES, *(
        np.moveaxis(x.reshape(-1, x.shape[-1]), -1, 0) for x in (bias.location, bias.scale))):
      biases += [{'site': name, 'region': region, 'measure': measure,
                  'location': f'{location:.5f}', 'scale': f'{scale:.5f}'}
                 for region, location, scale in zip(atlas.regions('desikan'), *values)]
  return {'truth/sites.tsv': scanners} | (
      {'truth/site_bias.tsv': biases} if settings.site_bias else {})
