"""Thickness of CAT12 and T1Prep in the forms that they write, and that no cohort mixes tools."""

from __future__ import annotations

import json
import xml.sax.saxutils

import numpy as np
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.cohorts.read_morphometry import read_tables
from anatcl_jax.cohorts.row_names import RowNames
from anatcl_jax.data import shards
from anatcl_jax.errors import UserError
from tests.cohorts.layouts_freesurfer import write_subject
from tests.one_line_error import one_line_error

SCANS = (('sub-01', 'ses-1'), ('sub-02', 'ses-1'))
TAGS = {'desikan': 'aparc_DK40', 'destrieux': 'aparc_a2009s'}
# As the atlases' annotation files name what is no cortex.
NO_CORTEX = {'desikan': ('unknown', 'corpuscallosum'), 'destrieux': ('Unknown', 'Medial_wall')}


def drawn(scans=2, atlas='desikan', seed=0):
  """Thickness [scan, region] in mm, both hemispheres, in our order."""
  rng = np.random.default_rng(seed)
  return rng.uniform(2, 3, (scans, len(atlases.regions(atlas)))).round(4)


def cat12_names(atlas):
  """Names as CAT12 has them, left and right in turn, and the place of each in our order."""
  names = (*NO_CORTEX[atlas][:1], *reversed(atlases.ATLASES[atlas]), *NO_CORTEX[atlas][1:])
  own = [f'{side}_{name}' for name in names for side in atlases.HEMISPHERES]
  ours = {region: i for i, region in enumerate(atlases.regions(atlas))}
  return [name[0] + name[3:] for name in own], [ours.get(name) for name in own]


def write_xml(path, values, atlas='desikan', measure='thickness'):
  names, places = cat12_names(atlas)
  path.parent.mkdir(parents=True, exist_ok=True)
  numbers = ['NaN' if place is None else f'{values[place]:g}' for place in places]
  items = ''.join(f'<item>{xml.sax.saxutils.escape(name)}</item>' for name in names)
  path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<S>\n  <{TAGS[atlas]}>\n'
                  f'    <names>{items}</names>\n    <ids>[{";".join("1" for _ in names)}]</ids>\n'
                  f'    <data><gyrification>[{";".join("25.5" for _ in names)}]</gyrification>'
                  f'<{measure}>[{";".join(numbers)}]</{measure}></data>\n'
                  f'  </{TAGS[atlas]}>\n</S>\n')


def write_csv(path, names_of_scans, values, atlas='desikan'):
  names, places = cat12_names(atlas)
  rows = [['names', *names]] + [
      [scan, *('NaN' if place is None else f'{row[place]:g}' for place in places)]
      for scan, row in zip(names_of_scans, values)]
  path.write_text('\n'.join(map(','.join, rows)) + '\n')


def write_json(path, values, atlas='desikan'):
  regions = atlases.ATLASES[atlas]
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {side: [{'id': 0, 'name': NO_CORTEX[atlas][0], 'mean': float('nan'), 'n': 0}]
             + [{'id': i + 1, 'name': name, 'mean': float(values[j * len(regions) + i]), 'n': 9}
                for i, name in reversed(list(enumerate(regions)))]
             for j, side in enumerate(atlases.HEMISPHERES)}
  path.write_text(json.dumps(content | {'unknown': []}, indent=2))


def assert_read(read, values, measured_by, scans=SCANS):
  assert read.measured_by == measured_by and read.measures == ('thickness',)
  order = [read.scans.index(scan) for scan in scans]
  np.testing.assert_allclose(read.values[order][..., 0], values, rtol=1e-6)


@pytest.mark.parametrize('atlas', TAGS)
def test_xml(atlas, tmp_path):
  """In the order of names, whatever that is; from the folder, from CAT12's root, and as files."""
  values = drawn(atlas=atlas)
  for (name, session), row in zip(SCANS, values):
    write_xml(tmp_path / f'{name}/label/catROIs_{name}_{session}_T1w.xml', row, atlas)
  files = sorted(tmp_path.rglob('*.xml'))
  for paths in ([tmp_path], files):
    assert_read(read_tables(paths, atlas, RowNames(SCANS)), values, 'CAT12')
  first = read_tables([files[0].parent], atlas, RowNames(SCANS[:1]))
  assert_read(first, values[:1], 'CAT12', SCANS[:1])


def test_older_xml_names_the_mean(tmp_path):
  write_xml(tmp_path / 'catROIs_sub-01.xml', drawn()[0], measure='mean_thickness')
  assert_read(read_tables([tmp_path], 'desikan'), drawn()[:1], 'CAT12', [('sub-01', '')])


@pytest.mark.parametrize('separator', [',', ';'])
def test_export(separator, tmp_path):
  values = drawn()
  path = tmp_path / 'ROI_catROIs_aparc_DK40_thickness.csv'
  write_csv(path, ['sub-01_ses-1_T1w', 'label/sub-02_ses-1_T1w'], values)
  path.write_text(path.read_text().replace(',', separator))
  assert_read(read_tables([path], 'desikan', RowNames(SCANS)), values, 'CAT12')


def test_json_of_t1prep(tmp_path):
  values, other = drawn(), drawn(atlas='destrieux')
  for (name, session), row, more in zip(SCANS, values, other):
    end = f'{name}_{session}_T1w.json'
    write_json(tmp_path / f'label/ROI.thickness.aparc_DK40.freesurfer_32k.{end}', row)
    write_json(tmp_path / f'label/ROI.thickness.aparc_a2009s.freesurfer_32k.{end}', more,
               'destrieux')
    write_json(tmp_path / f'label/ROI.gyrification.aparc_DK40.freesurfer_32k.{end}', 10 * row)
  assert_read(read_tables([tmp_path], 'desikan', RowNames(SCANS)), values, 'T1Prep')
  assert_read(read_tables(sorted((tmp_path / 'label').iterdir())[2:], 'destrieux',
                          RowNames(SCANS)), other, 'T1Prep')


def _two(folder):
  for (name, session), row in zip(SCANS, drawn()):
    write_xml(folder / f'label/catROIs_{name}_{session}.xml', row)
  return folder


def test_a_damaged_file_is_the_scans_own(tmp_path):
  path = _two(tmp_path) / 'label/catROIs_sub-02_ses-1.xml'
  path.write_text(path.read_text()[:300])
  read = read_tables([tmp_path], 'desikan', RowNames(SCANS))
  assert 'no XML of CAT12' in read.absent['sub-02', 'ses-1']
  assert_read(read, drawn()[:1], 'CAT12', SCANS[:1])
  path.write_text('<S><aparc_DK40><names><item>lcuneus</item></names><data>'
                  '<thickness>[2;3]</thickness></data></aparc_DK40></S>')
  read = read_tables([tmp_path], 'desikan', RowNames(SCANS))
  assert '1 names and 2 values' in read.absent['sub-02', 'ses-1']
  path.write_text(path.read_text().replace('</item>', '</item><item>lcuneus</item>'))
  read = read_tables([tmp_path], 'desikan', RowNames(SCANS))
  assert 'a region twice' in read.absent['sub-02', 'ses-1']


@pytest.mark.parametrize('atlas, message', [
    ('destrieux', 'no scan can be read; .* has no thickness of aparc_a2009s'),
    ('dkt', 'thickness of desikan and destrieux, not of dkt')])
def test_another_atlas(atlas, message, tmp_path):
  with pytest.raises(UserError, match=message):
    read_tables([_two(tmp_path)], atlas, RowNames(SCANS))


@pytest.mark.parametrize('name, message', [
    ('ROI_catROIs_aparc_DK40_gyrification.csv', 'is gyrification; .* only thickness'),
    ('ROI_catROIs_aparc_a2009s_thickness.csv', 'aparc_a2009s, not of .*--atlas destrieux'),
    ('thickness.csv', 'columns such as l.*, where the name of the file says of what')])
def test_exports_of_something_else(name, message, tmp_path):
  write_csv(tmp_path / name, ['sub-01'], drawn(1))
  with pytest.raises(UserError, match=message):
    read_tables([tmp_path / name], 'desikan')


@pytest.mark.parametrize('other', ['freesurfer', 't1prep'])
def test_tools_are_not_mixed(other, tmp_path):
  _two(tmp_path / 'cat')
  if other == 'freesurfer':
    row = drawn(1)[0]
    write_subject(tmp_path / 'other/sub-03', 'desikan', {
        'thickness': row, 'area': 500 + row, 'volume': 500 * row})
  else:
    write_json(tmp_path / 'other/label/ROI.thickness.aparc_DK40.freesurfer_32k.sub-03.json',
               drawn(1)[0])
  with pytest.raises(UserError, match=r"of several tools, CAT12's .*R2 of \.67 to \.83"):
    read_tables([tmp_path / 'cat', tmp_path / 'other'], 'desikan')


def test_in_the_shard_set(tmp_path, capsys):
  """dataset.json says whose morphometry it is; FreeSurfer's beside CAT12's writes nothing."""
  cohort = phantom.write_cohort(tmp_path / 'cohort', phantom.PhantomSettings(
      subjects=2, seed=5, spacing=20), progress=False)
  names = sorted(path.name for path in (tmp_path / 'cohort').glob('sub-*'))
  for name, row in zip(names, drawn()):
    write_xml(tmp_path / f'cat12/label/catROIs_{name}_T1w.xml', row)
  arguments = [str(text) for text in (
      'bids', '--volumes', cohort.volumes, '--participants', cohort.participants, '--out',
      tmp_path / 'out', '--morphometry', tmp_path / 'cat12')]
  prepare.main(arguments)
  assert 'by CAT12' in capsys.readouterr().out
  made = shards.open_shards(tmp_path / 'out')
  assert made.measured_by == 'CAT12'
  np.testing.assert_allclose(made.morphometry[..., 0], drawn(), rtol=1e-6)
  assert 'morphometry is of several tools' in one_line_error(
      capsys, tmp_path, *arguments[:-3], tmp_path / 'other', *arguments[-2:], *cohort.morphometry)
