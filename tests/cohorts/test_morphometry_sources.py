"""Tables and folders of morphometry as many tools and studies write them: whose value is whose.

Every value of the tables below is told by its place: thickness 2 + r / 1000 mm of region r, so that
a column or a row taken for another shows.
"""

from __future__ import annotations

import pathlib

import numpy as np
import pandas
import pytest

from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts.find_scans import compiled
from anatcl_jax.cohorts.read_morphometry import read_tables
from anatcl_jax.cohorts.row_names import RowNames
from anatcl_jax.errors import UserError
from tests.cohorts.layouts_freesurfer import write_subject

_DATA = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
_DESIKAN, _DKT = atlases.ATLASES['desikan'], atlases.ATLASES['dkt']
_PEOPLE = ('sub-01', 'sub-02', 'sub-03')


def _values(person, regions=68):
  """By measure, of regions; volume is area x thickness."""
  thickness = 2 + np.arange(regions) / 1000 + person / 10
  area = 500 + 10.0 * np.arange(regions) + person
  return {'thickness': thickness.round(3), 'area': area, 'volume': (area * thickness).round()}


def _write(path, name, ids, columns, first=None, more=None):
  """A CSV: `columns` names a region's column by hemisphere, region and measure."""
  regions = [region.split('_', 1) for region in atlases.regions(name)]
  table = pandas.DataFrame({columns(*region, measure): [
      _values(person, len(regions))[measure][j] for person in range(len(ids))]
      for measure in ('thickness', 'area', 'volume') for j, region in enumerate(regions)
      if columns(*region, measure)})
  table.insert(0, 'participant_id' if first is None else first, ids)
  table.assign(**(more or {})).to_csv(path, index=False)
  return path


def _wide(hemisphere, region, measure):
  return f'{hemisphere}_{region}_{measure}'


def _check(read, people=None, regions=68):
  """Every value of everybody is where it belongs."""
  keys = people or [(name, '') for name in _PEOPLE]
  assert read.scans == tuple(keys) and not read.outliers and not read.absent
  for person, values in enumerate(read.values):
    for k, measure in enumerate(read.measures):
      np.testing.assert_allclose(values[:, k], _values(person, regions)[measure], rtol=1e-6)


def _names(*scans, **more):
  return RowNames(tuple((name, '') if isinstance(name, str) else name
                        for name in scans or _PEOPLE), **more)


# Which column is whose

@pytest.mark.parametrize('first, more', [
    ('', {'participant_id': _PEOPLE}), ('X', {'subject': _PEOPLE}),
    ('Unnamed: 0', {'MRID': _PEOPLE}),
    ('index', {'Subject ID': ['01', '02', '03']}), ('id', {'SubjID': _PEOPLE}),
    ('FID', {'IID': _PEOPLE}), ('rownames', {'participant_id': _PEOPLE, 'id': [7, 8, 9]})])
@pytest.mark.parametrize('numbers', [[1, 2, 3], [0, 1, 2], [3, 1, 2]])
def test_row_numbers_are_no_participants(tmp_path, first, more, numbers):
  path = _write(tmp_path / 'wide.csv', 'desikan', numbers, _wide, first, more)
  _check(read_tables([path], 'desikan'))
  _check(read_tables([path], 'desikan', RowNames((('sub-01', ''), ('sub-02', ''), ('sub-03', '')))))


@pytest.mark.parametrize('first, more', [
    ('', {}), ('', {'age': [20, 30, 40]}), ('X', {}), ('Unnamed: 0', {'code': _PEOPLE}),
    ('participant_id', {'subject': ['sub-02', 'sub-01', 'sub-03']})])
def test_a_column_that_is_not_known_is_asked_for(tmp_path, first, more):
  ids = list(_PEOPLE) if first == 'participant_id' else [1, 2, 3]
  path = _write(tmp_path / 'wide.csv', 'desikan', ids, _wide, first, more)
  with pytest.raises(UserError, match='--id-column'):
    read_tables([path], 'desikan', _names('sub-1', 'sub-2', 'sub-3', 'sub-01', 'sub-02', 'sub-03'))
  chosen = 'CODE' if 'code' in more else '1'
  read = read_tables([path], 'desikan', id_column=chosen)
  _check(read, None if 'code' in more or first == 'participant_id'
         else [(f'sub-{i}', '') for i in (1, 2, 3)])


def test_a_nameless_index_of_names_is_one_and_an_absent_column_is_named(tmp_path):
  path = _write(tmp_path / 'wide.csv', 'desikan', _PEOPLE, _wide, '')
  _check(read_tables([path], 'desikan'))
  pandas.read_csv(path).drop(columns='Unnamed: 0').to_csv(path)
  with pytest.raises(UserError, match="no column 'code'"):
    read_tables([path], 'desikan', id_column='code')


# Other tools' and studies' names

def _enigma(hemisphere, region, measure):
  end = {'thickness': 'thickavg', 'area': 'surfavg'}.get(measure)
  return end and f'{hemisphere[0].upper()}_{region}_{end}'


def _hcp(hemisphere, region, measure):
  end = {'thickness': 'Thck', 'area': 'Area', 'volume': 'GrayVol'}[measure]
  return f'FS_{hemisphere[0].upper()}_{region.capitalize()}_{end}'


# As ABCD's releases list them, in the order of FreeSurfer's regions.
_ABCD_5 = ('bankssts cdacate cdmdfr cuneus ehinal fusiform ifpl iftm ihcate locc lobfr lingual '
           'mobfr mdtm parahpal paracn parsopc parsobis parstgris pericc postcn ptcate precn pc '
           'rracate rrmdfr sufr supl sutm sm frpole tmpole trvtm insula').split()
# Of the release's dictionary: pcc is pericalcarine, pcg posteriorcingulate.
_ABCD_6 = {'bankssts': 'bstmps', 'pericalcarine': 'pcc', 'posteriorcingulate': 'pcg',
           'precuneus': 'prcn', 'precentral': 'prctr', 'paracentral': 'pactr',
           'parahippocampal': 'ph', 'isthmuscingulate': 'ic', 'insula': 'ins'}


def _abcd_5(hemisphere, region, measure):
  short = {'thickness': 'thick', 'area': 'area', 'volume': 'vol'}[measure]
  return f'smri_{short}_cdk_{_ABCD_5[_DESIKAN.index(region)]}{hemisphere}'


def _title(hemisphere, region, measure):
  name = {'thickness': 'Mean thickness', 'area': 'Area', 'volume': 'Volume'}[measure]
  return f'{name} of {region} ({"left" if hemisphere == "lh" else "right"} hemisphere)'


def _r(hemisphere, region, measure):
  return _wide(hemisphere, region, measure).replace('&', '.').replace('-', '.')


@pytest.mark.parametrize('columns, first', [
    (_wide, 'participant_id'), (_enigma, 'SubjID'), (_hcp, 'Subject'), (_abcd_5, 'subjectkey'),
    (_title, 'eid'), (_r, 'participant_id')])
def test_names_of_studies(tmp_path, columns, first):
  summaries = {'LThickness': 2.5, 'ICV': 1.5e6, 'smri_thick_cdk_mean': 2.6, 'interview_age': 120}
  path = _write(tmp_path / 'study.csv', 'desikan', _PEOPLE, columns, first, summaries)
  read = read_tables([path], 'desikan')
  _check(read)
  assert read.measures == ('thickness', 'area') if columns is _enigma else len(read.measures) == 3


def test_enigma_in_two_files_and_in_lower_case(tmp_path):
  paths = [_write(tmp_path / f'{measure}.csv', 'desikan', _PEOPLE, lambda *which, measure=measure: (
      _enigma(*which) if which[2] == measure else None), 'SubjID') for measure in (
          'thickness', 'area')]
  paths[0].write_text(paths[0].read_text().lower())
  _check(read_tables(paths, 'desikan'))


def test_abcd_since_release_6():
  from anatcl_jax.cohorts.region_columns import region_column
  for region, short in _ABCD_6.items():
    column = region_column(f'mr_y_smri__thk__dsk__{short}__rh_mean', 'desikan')
    assert (column.region, column.measure) == (f'rh_{region}', 'thickness')
  assert region_column('mr_y_smri__vol__dsk__sfrt__lh_sum', 'desikan').measure == 'volume'
  assert region_column('mr_y_smri__thk__dsk__lh_mean', 'desikan') is None
  assert region_column('smri_thick_cdk_banksstslh', 'dkt') is None


def test_abcd_names_and_visits(tmp_path):
  """NDAR_INV... is sub-NDARINV..., and the visit is a session."""
  ids = ['NDAR_INV0A1', 'NDAR_INV0A1', 'NDAR_INV0B2']
  path = _write(tmp_path / 'abcd.csv', 'desikan', ids, _abcd_5, 'src_subject_id', {
      'eventname': ['baseline_year_1_arm_1', '2_year_follow_up_y_arm_1', 'baseline_year_1_arm_1']})
  scans = [('sub-NDARINV0A1', 'ses-baselineYear1Arm1'),
           ('sub-NDARINV0A1', 'ses-2YearFollowUpYArm1'),
           ('sub-NDARINV0B2', 'ses-baselineYear1Arm1')]
  _check(read_tables([path], 'desikan', _names(*scans)), scans)


@pytest.mark.parametrize('form', ['{}-2.0', 'f.{}.2.0', 'p{}_i2', 'X{}.2.0', 'n_{}_2_0'])
def test_uk_biobank_fields(tmp_path, form):
  """DKT by the fields of category 196: 27174 to 27204 are thickness, left, insula last."""
  first = {('lh', 'area'): 27143, ('lh', 'thickness'): 27174, ('lh', 'volume'): 27205,
           ('rh', 'area'): 27236, ('rh', 'thickness'): 27267, ('rh', 'volume'): 27298}

  def columns(hemisphere, region, measure):
    return form.format(first[hemisphere, measure] + _DKT.index(region))

  assert columns('lh', 'insula', 'thickness') == form.format(27204)
  path = _write(tmp_path / 'ukb.csv', 'dkt', _PEOPLE, columns, 'eid')
  _check(read_tables([path], 'dkt'), [(name, 'ses-2') for name in _PEOPLE], 62)


def test_uk_biobank_desikan_lacks_a_region(tmp_path):
  """Category 192 releases no temporalpole: 26756 is bankssts, 26755 the whole hemisphere."""
  from anatcl_jax.cohorts.region_columns import region_column
  assert region_column('26755-2.0', 'desikan') is None
  assert region_column('26756-3.0', 'desikan').region == 'lh_bankssts'
  assert region_column('26788-2.0', 'desikan').region == 'lh_insula'
  assert region_column('26857-2.0', 'desikan').session == 'ses-2'
  path = _write(tmp_path / 'ukb.csv', 'desikan', _PEOPLE, lambda *which: (
      _title(*which) if which[1] != 'temporalpole' else None), 'eid')
  with pytest.raises(UserError, match='192 has no temporalpole.*--atlas dkt'):
    read_tables([path], 'desikan')


def test_uk_biobanks_instances_are_sessions(tmp_path):
  path = _write(tmp_path / 'ukb.csv', 'desikan', _PEOPLE,
                lambda *which: _title(*which) + ' | Instance 2', 'eid')
  table = pandas.read_csv(path, dtype=str)
  later = table.drop(columns='eid').rename(columns=lambda name: name.replace('ce 2', 'ce 3'))
  later.iloc[1:] = ''
  pandas.concat([table, later], axis=1).to_csv(path, index=False)
  read = read_tables([path], 'desikan')
  assert read.scans == (*((name, 'ses-2') for name in _PEOPLE), ('sub-01', 'ses-3'))
  np.testing.assert_allclose(read.values[3], read.values[0])


# Atlases

def test_dkt_of_fastsurfer_and_recon_all(tmp_path):
  for person, name in enumerate(_PEOPLE):
    write_subject(tmp_path / name, 'dkt', _values(person, 62))
    for path in (tmp_path / name / 'stats').iterdir():
      path.rename(path.with_name(path.name.replace('DKTatlas', 'DKTatlas.mapped')))
  read = read_tables([tmp_path], 'dkt')
  assert read.regions[:2] == ('lh_caudalanteriorcingulate', 'lh_caudalmiddlefrontal')
  np.testing.assert_allclose(read.values[2, :, 0], _values(2, 62)['thickness'], rtol=1e-6)
  with pytest.raises(UserError, match=r'DKTatlas.mapped.stats.*--atlas dkt.*--fsaparc'):
    read_tables([tmp_path], 'desikan')
  # One tool's files for all: here a subject has recon-all's alone.
  write_subject(tmp_path / 'sub-04', 'dkt', _values(3, 62))
  read = read_tables([tmp_path], 'dkt')
  assert read.absent.keys() == {('sub-04', '')} and np.isnan(read.values[3]).all()


def test_tables_of_another_atlas_are_refused(tmp_path):
  desikan = _write(tmp_path / 'desikan.csv', 'desikan', _PEOPLE, _wide)
  dkt = _write(tmp_path / 'dkt.csv', 'dkt', _PEOPLE, _wide)
  _check(read_tables([dkt], 'dkt'), None, 62)
  with pytest.raises(UserError, match='lh_bankssts_thickness.*--atlas desikan'):
    read_tables([desikan], 'dkt')
  with pytest.raises(UserError, match='--atlas dkt'):
    read_tables([dkt], 'desikan')
  with pytest.raises(UserError, match='--atlas desikan'):
    read_tables([desikan], 'destrieux')
  table = pandas.read_csv(dkt).rename(columns={'participant_id': 'lh.aparc.DKTatlas.thickness'})
  table.to_csv(dkt, index=False)
  with pytest.raises(UserError, match='--atlas dkt'):
    read_tables([dkt], 'desikan')
  folder = tmp_path / 'fs'
  write_subject(folder / 'sub-01', 'desikan', _values(0))
  for path in (folder / 'sub-01' / 'stats').iterdir():
    path.rename(path.with_name(path.name.replace('aparc', 'aparc.DKTatlas')))
  with pytest.raises(UserError, match='bankssts, which the DKT atlas has not'):
    read_tables([folder], 'dkt')


def test_spellings_of_regions_are_told_apart():
  """No two regions of an atlas are one without punctuation."""
  for name, regions in atlases.ATLASES.items():
    assert [atlases.find_region(region.upper().replace('_', '.'), name) for region in regions
            ] == list(regions)
  for text in ('G&S_frontomargin', 'G_and_S_frontomargin', 'G.S_frontomargin', 'G+S-frontomargin'):
    assert atlases.find_region(text, 'destrieux') == 'G_and_S_frontomargin'


# Names of rows

@pytest.mark.parametrize('row, scan', [
    ('sub-01/', ('sub-01', '')), ('/data/freesurfer/sub-01', ('sub-01', '')),
    ('sub-01_T1w', ('sub-01', '')), ('sub-01_run-1', ('sub-01', '')), ('01', ('sub-01', '')),
    ('D:\\fs\\sub-01\\', ('sub-01', '')), ('sub-01_acq-mprage_T1w.nii.gz', ('sub-01', '')),
    ('sub-02_ses-1_run-1', ('sub-02', 'ses-1')), ('sub-02_ses-01_T1w', ('sub-02', 'ses-1')),
    ('/x/sub-02/ses-1', ('sub-02', 'ses-1')), ('sub-02/ses-1/sub-02_ses-1', ('sub-02', 'ses-1')),
    ('sub-02_ses-1.long.sub-02', ('sub-02', 'ses-1')), ('sub-con-01', ('sub-con-01', '')),
    ('con-01', ('sub-con-01', '')), ('SUB-CON01', ('sub-con-01', '')), ('sub-con', ('sub-con', '')),
    ('sub-con-01_ses-2', ('sub-con-01', 'ses-2')), ('sub-con-02', ('sub-con-02', '')),
    ('sub-ds1_77', ('sub-ds1_77', '')), ('ds1_77_T1w', ('sub-ds1_77', '')),
    ('ds177', ('sub-ds177', '')), ('sub-012', ('sub-012', ''))])
def test_row_names_are_matched_longest_first(row, scan):
  names = _names('sub-01', ('sub-02', 'ses-1'), ('sub-02', 'ses-2'), 'sub-con', 'sub-con-01',
                 'sub-ds1_77')
  assert names.key(row) == scan


def test_loose_names_and_a_rule():
  assert _names('sub-ds1_77', loose=True).key('ds177') == ('sub-ds1_77', '')
  assert RowNames(loose=True).key('ds1_77') == RowNames(loose=True).key('sub-ds177')
  two = _names('sub-ds1_77', 'sub-ds17_7', loose=True)
  assert not two.known(two.key('ds177'))             # either: none is taken
  rule = compiled(r'IXI(?P<participant>\d+)-')
  assert _names('sub-012', rule=rule).key('IXI012-HH-1211') == ('sub-012', '')
  assert _names('sub-IXI012', rule=rule).key('sub-IXI012') == ('sub-IXI012', '')   # not of the rule


# Several tables

def test_tables_and_folders_of_sites(tmp_path):
  first = _write(tmp_path / 'a.csv', 'desikan', ['sub-01'], _wide)
  write_subject(tmp_path / 'site' / 'sub-02', 'desikan', _values(1))
  read = read_tables([first, tmp_path / 'site'], 'desikan')
  own = [read.measures.index(name) for name in ('thickness', 'area', 'volume')]
  assert read.scans == (('sub-01', ''), ('sub-02', ''))
  for person in range(2):
    for k, name in zip(own, ('thickness', 'area', 'volume')):
      np.testing.assert_allclose(read.values[person, :, k], np.rint(_values(person)[name])
                                 if person and name != 'thickness' else _values(person)[name],
                                 rtol=1e-6)
  single = read_tables([tmp_path / 'site' / 'sub-02'], 'desikan')   # as a shell's glob gives it
  assert single.scans == (('sub-02', ''),)
  with pytest.raises(UserError, match='with other values'):
    read_tables([first, _write(tmp_path / 'b.csv', 'desikan', ['sub-03', 'sub-01'], _wide)],
                'desikan')


def test_rows_that_agree_are_one_and_others_are_named(tmp_path):
  path = _write(tmp_path / 'a.csv', 'desikan', [*_PEOPLE, 'sub-04'], _wide)
  table = pandas.read_csv(path)
  table.loc[[*range(4), 1]].to_csv(path, index=False)
  assert len(read_tables([path], 'desikan').scans) == 4
  table.loc[[0, 1, 2, 3, 3]].assign(lh_cuneus_area=[1000, 1000, 1000, 700, 800]).to_csv(
      path, index=False)
  read = read_tables([path], 'desikan')
  assert read.outliers.keys() == {('sub-04', '')}
  assert 'lh_cuneus_area 700 and 800' in read.outliers['sub-04', '']


def test_columns_twice(tmp_path):
  path = _write(tmp_path / 'a.csv', 'desikan', _PEOPLE, _wide)
  table = pandas.read_csv(path)
  table.assign(**{'lh_cuneus_area.1': table['lh_cuneus_area']}).to_csv(path, index=False)
  _check(read_tables([path], 'desikan'))
  table.assign(**{'lh_cuneus_area.1': table['lh_cuneus_area'] + 1}).to_csv(path, index=False)
  with pytest.raises(UserError, match='lh_cuneus area stands in two columns'):
    read_tables([path], 'desikan')


def test_text_of_people_without_a_scan_stops_nothing(tmp_path):
  path = _write(tmp_path / 'a.csv', 'desikan', _PEOPLE, _wide)
  table = pandas.read_csv(path, dtype=str)
  table.loc[2, 'lh_cuneus_area'] = 'failed'
  table.to_csv(path, index=False)
  read = read_tables([path], 'desikan', _names('sub-01', 'sub-02'))
  assert read.unmatched == ('sub-03',) and np.isfinite(read.values[:2]).all()
  with pytest.raises(UserError, match=r'sub-03 \(failed\)'):
    read_tables([path], 'desikan')


# Real tables

def test_real_tables_of_two_spellings():
  """546 people of six studies: thickness and area named differently, columns twice."""
  if not (_DATA / 'openneuro-destrieux').is_dir():
    pytest.skip(f'{_DATA}/openneuro-destrieux is not here')
  paths = [_DATA / 'openneuro-destrieux' / f'{name}.csv'
           for name in ('ct_ad', 'ct_te', 'sa_ad', 'sa_te')]
  read = read_tables(paths, 'destrieux', RowNames(loose=True))
  assert read.measures == ('thickness', 'area') and len(read.regions) == 148
  whole = np.isfinite(read.values).all((1, 2))
  sources = [pandas.concat([pandas.read_csv(path) for path in paths[i:i + 2]]) for i in (0, 2)]
  keys = [frame[name].map(lambda text: RowNames(loose=True).key(text)[0])
          for frame, name in zip(sources, ('sub_id', 'participant_id'))]
  assert set(keys[0]) & set(keys[1]) == {scan for scan, _ in np.array(read.scans)[whole]}
  place = {scan: i for i, (scan, _) in enumerate(read.scans)}
  once = [~key.duplicated(keep=False) for key in keys]
  for frame, key, alone, name, k in zip(sources, keys, once, (
      'rh_G&S_cingul-Ant_thickness', 'rh_G_and_S_cingul-Ant_area'), (0, 1)):
    rows = [place[person] for person in key[alone]]
    np.testing.assert_allclose(
        read.values[rows, read.regions.index('rh_G_and_S_cingul-Ant'), k],
        frame[name][alone].to_numpy(), rtol=1e-6)


def test_real_table_with_summaries_within():
  if not (_DATA / 'ixi-t1').is_dir():
    pytest.skip(f'{_DATA}/ixi-t1 is not here')
  path = _DATA / 'ixi-t1' / 'IXI_aparc_thickness.csv'
  read, source = read_tables([path], 'desikan'), pandas.read_csv(path, index_col=0)
  assert read.values.shape == (576, 68, 1) and read.scans[0] == ('sub-IXI002', '')
  for j, region in enumerate(read.regions):
    np.testing.assert_allclose(read.values[:, j, 0], source[f'{region}_thickness'], rtol=1e-6)
