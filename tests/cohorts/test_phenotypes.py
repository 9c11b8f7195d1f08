"""Phenotype tables of public cohorts, generated as documented: columns, codes, gaps, visits."""

from __future__ import annotations

import glob
import pathlib
import shutil

import numpy as np
import pandas
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import bids
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.cohorts.phenotypes import PRESETS
from anatcl_jax.cohorts.read_phenotypes import at_scans, read_phenotypes
from anatcl_jax.data import shards
from tests.cohorts.layouts_phenotypes import (
  ABIDE,
  ADNI,
  OASIS,
  SCHIZCONNECT,
  abide_row,
  adni_visit,
  image_row,
  oasis_visit,
  write_table,
)
from tests.one_line_error import one_line_error


def test_adni_ages_diagnoses_and_scores(tmp_path):
  rows = [adni_visit(295, 0, 'CN', DX_bl='SMC', MMSE='29', CDRSB='0', ADAS13='8.67', APOE4='1'),
          adni_visit(295, 6, 'MCI', DX_bl='SMC', PTGENDER='Male', MMSE=''),
          adni_visit(295, 12, '', DX_bl='SMC', Years_bl=''),
          adni_visit(296, 0, 'Dementia', DX_bl='AD', AGE='', MMSE='-4'),
          adni_visit(297, 120, 'MCI to Dementia', DX_bl='EMCI'),
          adni_visit(298, 0, 'CN', DX_bl='CN', VISCODE='', Years_bl='')]
  path = write_table(tmp_path / 'ADNIMERGE.csv', rows, ADNI)
  table = read_phenotypes(path, 'adni').table
  assert list(table['participant_id']) == ['sub-002S0295'] * 3 + [
      'sub-002S0296', 'sub-002S0297', 'sub-002S0298']
  assert list(table['session']) == ['ses-m00', 'ses-m06', 'ses-m12', 'ses-m00', 'ses-m120', '']
  np.testing.assert_allclose(table['age'], [70.5, 71, 71.5, np.nan, 80.5, np.nan], atol=1e-5)
  assert list(table['sex'])[:2] == ['F', 'M'] and list(table['site'])[0] == '2'
  assert list(table['diagnosis'].fillna('')) == ['CN', 'MCI', '', 'AD', 'AD', 'CN']
  assert list(table['diagnosis_at_baseline']) == ['SMC', 'SMC', 'SMC', 'AD', 'EMCI', 'CN']
  assert list(table['mmse'].fillna('')) == ['29', '', '', '', '', '']
  assert table['adas13'][0] == '8.67' and table['cdr_sum_of_boxes'][0] == '0'
  assert table['APOE4'][0] == '1' and 'RID' in table       # the rest is kept under its own name


def test_adni_tells_progressive_from_stable_mci(tmp_path):
  courses = {     # months and diagnoses of the visits, and what the first visit with MCI is
      1: ([(0, 'MCI'), (12, 'MCI'), (24, 'Dementia')], 'progressive'),
      2: ([(0, 'MCI'), (36, 'Dementia')], 'progressive'),
      3: ([(0, 'MCI'), (48, 'Dementia')], None),          # dementia, but later than 36 months
      4: ([(0, 'MCI'), (12, 'MCI'), (36, 'MCI')], 'stable'),
      5: ([(0, 'MCI'), (24, 'MCI')], None),               # not seen for long enough
      6: ([(0, 'CN'), (12, 'MCI'), (48, 'CN')], 'stable'),
      7: ([(0, 'MCI'), (36, '')], None),                  # seen, but not diagnosed
      8: ([(0, 'Dementia'), (12, 'MCI'), (60, 'MCI')], 'stable')}
  rows = [adni_visit(number, months, dx) for number, (visits, _) in courses.items()
          for months, dx in visits]
  path = write_table(tmp_path / 'ADNIMERGE.csv', rows[::-1], ADNI)
  table = read_phenotypes(path, 'adni').table
  table = table[::-1]
  first = table[table['diagnosis'] == 'MCI'].drop_duplicates('participant_id')['mci_course']
  assert list(first.fillna('')) == [course or '' for _, course in courses.values()]
  assert table.loc[table['diagnosis'] != 'MCI', 'mci_course'].isna().all()


def test_adni_at_baseline_alone(tmp_path):
  rows = [{'PTID': '002_S_0001', 'AGE': '70', 'DX_bl': 'LMCI'}, {'PTID': '002_S_0002', 'AGE': '71'}]
  path = write_table(tmp_path / 'a.csv', rows, ['PTID', 'AGE', 'DX_bl'])
  table = read_phenotypes(path, 'adni').table
  assert list(table['session']) == ['', ''] and list(table['age']) == [70, 71]
  assert list(table['diagnosis'].fillna('')) == ['MCI', '']


def test_oasis_takes_the_nearest_visit_and_the_age_at_the_scan(tmp_path, capsys):
  rows = [oasis_visit(30001, 0, mmse='30', cdr='0', dx1='Cognitively normal'),
          oasis_visit(30001, 400, mmse='25', cdr='0.5', dx1='AD Dementia', sumbox='2.5'),
          oasis_visit(30001, 1200, mmse='.', cdr='1', dx1='.'),
          oasis_visit(30002, 10, cdr='0.5', dx1='uncertain dementia'),
          oasis_visit(30003, 0, dx1='DAT'), oasis_visit(30003, 20, dx1='Vascular Demt- primary')]
  people = read_phenotypes(write_table(tmp_path / 'clinical.csv', rows, OASIS), 'oasis3')
  table = people.table
  assert list(table['diagnosis'].fillna('')) == ['CN', 'AD', '', 'other', 'AD', 'other']
  np.testing.assert_allclose(table['age'][1], 65.5 + 400 / 365.25)
  scans = [('sub-OAS30001', 'ses-d0129'), ('sub-OAS30001', 'ses-d0201'),
           ('sub-OAS30001', 'ses-d2000'), ('sub-OAS30002', 'ses-d0010'),
           ('sub-OAS39999', 'ses-d0001'), ('sub-OAS30003', '')]
  found = at_scans(people, scans).table
  assert list(zip(found['participant_id'], found['session'])) == [
      *scans[:4], ('sub-OAS30003', 'ses-d0000'), ('sub-OAS30003', 'ses-d0020')]
  assert list(found['days_from_visit']) == [129, -199, 800, 0, 0, 0]
  assert list(found['mmse'].fillna('')) == ['30', '25', '', '', '', '']
  np.testing.assert_allclose(found['age'][:4], 65.5 + np.array([129, 201, 2000, 10]) / 365.25)
  assert 'note: 1 scans are more than a year' in capsys.readouterr().err


def test_oasis_in_its_newer_form(tmp_path):
  rows = [{'OASISID': 'OAS30001', 'OASIS_session_label': 'OAS30001_UDSb4_d0339',
           'age at visit': '66.12', 'days_to_visit': '0339', 'MMSE': '28',
           'CDRTOT': '0.5', 'CDRSUM': '1.5',
           'dx1': 'AD dem w/CVD contribut'}]
  path = write_table(tmp_path / 'UDSb4.csv', rows, list(rows[0]))
  table = read_phenotypes(path, 'oasis3').table
  row, = table.to_dict('records')
  assert (row['participant_id'], row['session'], row['age']) == ('sub-OAS30001', 'ses-d0339', 66.12)
  assert (row['mmse'], row['cdr'], row['cdr_sum_of_boxes'], row['diagnosis']) == (
      '28', '0.5', '1.5', 'AD')


def test_image_rows_of_one_participant_are_one_row(tmp_path):
  rows = [image_row('A00000300', 'Schizophrenia_Strict'),
          image_row('A00000300', 'Schizophrenia_Strict', '2009-03-01', sex='Male'),
          image_row('A00000368', 'No_Known_Disorder', '1/15/2008', sex='female'),
          image_row('NU001', 'Schizoaffective', '1/15/2008'),
          image_row('NU001', 'Schizoaffective', '11/5/2009', age='27'),
          image_row('NU001', 'Schizoaffective', '11/5/2009', age='27', datauri='another'),
          image_row('B1', 'Bipolar_Disorder', ''), image_row('B2', 'unknown', age='')]
  path = write_table(tmp_path / 'meta.csv', rows, SCHIZCONNECT)
  table = read_phenotypes(path, 'schizconnect').table
  assert list(zip(table['participant_id'], table['session'])) == [
      ('sub-A00000300', ''), ('sub-A00000368', ''), ('sub-NU001', 'ses-20080115'),
      ('sub-NU001', 'ses-20091105'), ('sub-B1', ''), ('sub-B2', '')]
  assert list(table['diagnosis'].fillna('')) == [
      'schizophrenia', 'control', 'schizoaffective', 'schizoaffective', 'bipolar', '']
  np.testing.assert_array_equal(table['age'], [25, 25, 25, 27, 25, np.nan])
  assert list(table['sex'])[:2] == ['M', 'F'] and set(table['site']) == {'MRN'}
  assert set(table['study']) == {'COBRE'}


def test_abide(tmp_path):
  rows = [abide_row(50002), abide_row('0050003', DX_GROUP='2', DSM_IV_TR='0', SEX='2'),
          abide_row(51607, DSM_IV_TR='-9999', HANDEDNESS_CATEGORY='-9999', AGE_AT_SCAN='-9999'),
          *(abide_row(50010 + code, DSM_IV_TR=f'{code}.0', DX_GROUP='1.0') for code in (2, 3, 4))]
  path = write_table(tmp_path / 'Phenotypic_V1_0b.csv', rows, ABIDE)
  table = read_phenotypes(path, 'abide1').table
  assert list(table['participant_id'])[:3] == ['sub-50002', 'sub-50003', 'sub-51607']
  assert list(table['diagnosis']) == ['autism', 'control'] + ['autism'] * 4
  assert list(table['diagnosis_dsm_iv'].fillna('')) == [
      'autism', 'control', '', 'asperger', 'pdd-nos', 'asperger_or_pdd-nos']
  assert list(table['sex'])[:2] == ['M', 'F'] and table['site'][0] == 'PITT'
  np.testing.assert_array_equal(table['age'], [24.45, 24.45, np.nan] + [24.45] * 3)
  assert table['fiq'][0] == '113' and table[['viq', 'piq', 'ADOS_TOTAL']].isna().all().all()
  assert table['COMORBIDITY'][0] == 'ADHD, none other' and pandas.isna(table['handedness'][2])


def test_abide_preprocessed_has_nameless_columns(tmp_path):
  path = tmp_path / 'Phenotypic_V1_0b_preprocessed1.csv'
  path.write_text(',Unnamed: 0,SUB_ID,X,subject,SITE_ID,FILE_ID,DX_GROUP,DSM_IV_TR,'
                  'AGE_AT_SCAN,SEX\n'
                  '0,1,50002,1,50002,PITT,no_filename,1,1,16.77,1\n'
                  '1,2,50003,2,50003,PITT,Pitt_0050003,2,0,24.45,2\n')
  table = read_phenotypes(path, 'abide1').table
  assert list(table['participant_id']) == ['sub-50002', 'sub-50003']
  assert list(table['age']) == [16.77, 24.45] and list(table['sex']) == ['M', 'F']


def test_rows_that_can_not_be_used_are_problems_of_their_scans(tmp_path):
  rows = [adni_visit(1, 0, 'CN'), adni_visit(1, 0, 'CN'), adni_visit(2, 6, 'CN', AGE='old'),
          adni_visit(3, 0, 'CN'), adni_visit(3, 0, 'MCI'), adni_visit(4, 0, 'CN', AGE='89+')]
  people = read_phenotypes(write_table(tmp_path / 'ADNIMERGE.csv', rows, ADNI), 'adni')
  assert len(people.table) == 4
  assert {name: why.split(',')[0] for (name, _), why in people.problems.items()} == {
      'sub-002S0002': 'has age old', 'sub-002S0003': 'stands there more than once',
      'sub-002S0004': 'has age 89+'}
  day = [oasis_visit(30001, 10, **{'ageAtEntry': '90+'})]
  people = read_phenotypes(write_table(tmp_path / 'clinical.csv', day, OASIS), 'oasis3')
  people = at_scans(people, [('sub-OAS30001', 'ses-d0020')])
  assert '90+' in people.problems['sub-OAS30001', 'ses-d0020']


@pytest.fixture(scope='module')
def visits(tmp_path_factory):
  """Six SYNTHETIC subjects in two sessions."""
  settings = phantom.PhantomSettings(subjects=6, seed=7, spacing=15, sessions=2, patients=0.5)
  return phantom.write_cohort(tmp_path_factory.mktemp('cohort') / 'two', settings, progress=False)


# Of each preset: its words for control and patient, for M and F, and for the two sessions.
WORDS = {
    'adni': (('CN', 'Dementia'), ('Male', 'Female'), ('bl', 'm12')),
    'oasis3': (('Cognitively normal', 'AD Dementia'), ('M', 'F'), ('d0020', 'd0751')),
    'schizconnect': (('No_Known_Disorder', 'Schizophrenia_Strict'), ('male', 'female'),
                     ('20080115', '20100215')),
    'abide1': (('2', '1'), ('1', '2'), None)}

# How it names a scan of participant i from 0, its columns, the years between the sessions, and a
# row of its table.
COHORTS = {
    'adni': ('ADNI_{i:03d}_S_{i:04d}_{visit}', ADNI, 1, lambda i, s, age, sex, site, dx: {
        'PTID': f'{i:03d}_S_{i:04d}', 'VISCODE': ('bl', 'm12')[s], 'AGE': age,
        'Years_bl': f'{s:.1f}', 'PTGENDER': sex, 'SITE': site, 'DX': dx}),
    'oasis3': ('sub-OAS3{i:04d}_ses-{visit}', OASIS, 731 / 365.25,
               lambda i, s, age, sex, site, dx: oasis_visit(
                   30000 + i, 700 * s, ageAtEntry=f'{float(age) - 20 / 365.25:.6f}', dx1=dx,
                   **{'M/F': sex})),
    'schizconnect': ('sub-A{i:03d}_ses-{visit}', SCHIZCONNECT, 2,
                     lambda i, s, age, sex, site, dx: image_row(
                         f'A{i:03d}', dx, ('1/15/2008', '2/15/2010')[s], str(float(age) + 2 * s),
                         sex=sex, imaging_protocol_site=site)),
    'abide1': ('00500{i:02d}', ABIDE, 0, lambda i, s, age, sex, site, dx: abide_row(
        50000 + i, AGE_AT_SCAN=age, SEX=sex, SITE_ID=site, DX_GROUP=dx))}
DIAGNOSES = {'adni': ('CN', 'AD'), 'oasis3': ('CN', 'AD'), 'abide1': ('control', 'autism'),
             'schizconnect': ('control', 'schizophrenia')}


@pytest.mark.parametrize('preset', COHORTS)
def test_from_the_cohorts_own_names_to_shards(visits, tmp_path, preset):
  """Volumes, table and FreeSurfer's rows under the cohort's own names: all are matched."""
  form, columns, years, row = COHORTS[preset]
  diagnoses, sexes, codes = WORDS[preset]
  people = pandas.read_csv(visits.participants, sep='\t', dtype=str)
  names, rows, first = {}, [], {}
  for person in people.to_dict('records'):
    i, s = int(person['participant_id'][4:]) - 1, int(person['session_id'][4:]) - 1
    first.setdefault(i, person)
    if codes or s == 0:
      names[person['participant_id'], person['session_id']] = form.format(
          i=i, visit=codes and codes[s])
      rows.append(row(i, s, first[i]['age'], sexes[first[i]['sex'] == 'F'], person['site'],
                      diagnoses[first[i]['diagnosis'] == 'patient']))
  table = write_table(tmp_path / 'phenotypes.csv', rows, columns)
  for key, name in names.items():
    source, = glob.glob(str(visits.participants.parent / '/'.join(key) / 'anat' / '*.nii.gz'))
    target = tmp_path / 'maps' / f'mwp1{name}.nii.gz'
    target.parent.mkdir(exist_ok=True)
    shutil.copy(source, target)
  tables = []
  for path in visits.morphometry:
    measures = pandas.read_csv(path, sep='\t', dtype=str)
    labels = [names.get(tuple(text.split('_'))) for text in measures.iloc[:, 0]]
    measures = measures.assign(**{measures.columns[0]: labels})[[bool(label) for label in labels]]
    tables.append(tmp_path / path.name)
    measures.to_csv(tables[-1], sep='\t', index=False)
  prepare.main([str(text) for text in (
      'bids', '--volumes', tmp_path / 'maps' / 'mwp1*', '--participants', table,
      '--phenotypes', preset, '--morphometry', *tables, '--out', tmp_path / 'out')])
  made = shards.open_shards(tmp_path / 'out')
  plain = bids.read_cohort(visits.volumes, visits.participants, list(visits.morphometry))
  keep = [i for i, scan in enumerate(plain.scans) if scan.key in names]
  np.testing.assert_array_equal(made.morphometry, plain.morphometry[keep])
  person = [first[int(plain.scans[i].participant_id[4:]) - 1] for i in keep]
  second = np.array([plain.scans[i].session == 'ses-2' for i in keep])
  np.testing.assert_allclose(made.table['age'], np.array([float(p['age']) for p in person])
                             + second * years, atol=1e-4)
  assert list(made.table['sex']) == [p['sex'] for p in person]
  assert list(made.table['diagnosis']) == [
      DIAGNOSES[preset][p['diagnosis'] == 'patient'] for p in person]
  for record, i in enumerate(keep):
    np.testing.assert_array_equal(made.read_volume(record)[0],
                                  np.asarray(plain.scans[i].volume.image().dataobj))


def _faulty(rows, columns=None):
  return lambda path: write_table(path, rows, columns or list(rows[0]))


# Preset, what is wrong, and what the one line on stderr must say.
FAULTS = {
    'adni without AGE': ('adni', _faulty([{'PTID': '002_S_0001', 'VISCODE': 'bl'}]),
                         ['no column for age', 'looked for AGE', 'PTID', '--phenotypes adni']),
    'adni without PTID': ('adni', _faulty([{'RID': '1', 'AGE': '70'}]),
                          ['no column for participant_id', 'looked for PTID', 'RID']),
    'adni, unknown diagnosis': ('adni', _faulty([adni_visit(1, 0, 'FTD')], ADNI),
                                ['DX holds FTD', 'CN', 'MCI', 'Dementia']),
    'adni, unknown sex': ('adni', _faulty([adni_visit(1, 0, 'CN', PTGENDER='3')], ADNI),
                          ['PTGENDER holds 3', 'Male', 'Female']),
    'adni, unknown visit': ('adni', _faulty([adni_visit(1, 0, 'CN', VISCODE='v01')], ADNI),
                            ['visit v01']),
    'adni, another identifier': ('adni', _faulty([adni_visit(1, 0, 'CN', PTID='S0001')], ADNI),
                                 ['participant S0001']),
    'adni, two columns for one': ('adni', _faulty(
        [adni_visit(1, 0, 'CN')], [*ADNI, 'diagnosis']), ['diagnosis', 'rename one']),
    'oasis3 without age': ('oasis3', _faulty([{'OASISID': 'OAS30001', 'cdr': '0'}]),
                           ['no column for age', 'age at visit or ageAtEntry']),
    'oasis3, another identifier': ('oasis3', _faulty([oasis_visit(10001, 0)], OASIS),
                                   ['participant OAS10001']),
    'schizconnect, unknown diagnosis': ('schizconnect',
                                        _faulty([image_row('A1', 'ADHD')], SCHIZCONNECT),
                                        ['dx holds ADHD', 'No_Known_Disorder', 'Schizoaffective']),
    'schizconnect, no date': ('schizconnect', _faulty(
        [image_row('A1', 'Schizoaffective', 'spring')], SCHIZCONNECT), ['visit spring']),
    'abide1, unknown group': ('abide1', _faulty([abide_row(50002, DX_GROUP='3')], ABIDE),
                              ['DX_GROUP holds 3', '1, 2']),
    'abide1 of a BIDS table': ('abide1', _faulty([{'participant_id': 'sub-01', 'age': '20'}]),
                               ['no column for participant_id', 'SUB_ID or SUBJECT']),
    'abide1, a subject of ABIDE II': ('abide1', _faulty([abide_row(29006)], ABIDE),
                                      ['participant 29006']),
    'oasis3, nobody of the volumes': ('oasis3', _faulty([oasis_visit(30001, 0)], OASIS),
                                      ['no row of any participant', 'sub-0001']),
    'bids of an ADNI table': ('bids', _faulty([adni_visit(1, 0, 'CN')], ADNI),
                              ['has no row in']),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_wrong_tables_are_one_line_that_names_the_culprit(visits, tmp_path, capsys, fault):
  preset, write, expected = FAULTS[fault]
  table = write(tmp_path / 'table.csv')
  line = one_line_error(capsys, tmp_path, 'bids', '--volumes', visits.volumes,
                        '--participants', table, '--phenotypes', preset, '--out', tmp_path / 'out')
  for text in ['table.csv', *expected]:
    assert text in line


def test_unknown_preset_lists_the_known_ones(visits, tmp_path, capsys):
  line = one_line_error(capsys, tmp_path, 'bids', '--volumes', visits.volumes, '--participants',
                        visits.participants, '--phenotypes', 'abide2', '--out', tmp_path / 'out')
  assert all(name in line for name in PRESETS)


def test_every_preset_is_documented():
  page = (pathlib.Path(__file__).parents[2] / 'docs' / 'cohorts.md').read_text()
  for name, preset in PRESETS.items():
    assert f'--phenotypes {name}' in page
    for column in preset.columns:
      for text in (column.name, *column.sources, *(column.codes or ())):
        assert f'`{text}`' in page, f'{name}: {text}'
