"""Rows of the phenotype tables of public cohorts, with the columns and codes that they document."""

from __future__ import annotations

import pandas


def write_table(path, rows, columns):
  """A CSV of rows (dicts of text); columns that a row lacks are blank."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pandas.DataFrame(rows, columns=columns).to_csv(path, index=False)
  return path


ADNI = ['RID', 'COLPROT', 'PTID', 'SITE', 'VISCODE', 'EXAMDATE', 'DX_bl', 'AGE', 'PTGENDER',
        'PTEDUCAT', 'APOE4', 'CDRSB', 'ADAS11', 'ADAS13', 'MMSE', 'DX', 'Years_bl']
OASIS = ['ADRC_ADRCCLINICALDATA ID', 'Subject', 'Date', 'Age', 'mmse', 'ageAtEntry', 'cdr', 'dx1',
         'sumbox', 'apoe', 'M/F']
SCHIZCONNECT = ['study', 'subjectid', 'age', 'sex', 'dx', 'field_strength', 'img_date', 'datauri',
                'imaging_protocol_site']
ABIDE = ['SITE_ID', 'SUB_ID', 'DX_GROUP', 'DSM_IV_TR', 'AGE_AT_SCAN', 'SEX', 'HANDEDNESS_CATEGORY',
         'FIQ', 'VIQ', 'PIQ', 'ADOS_TOTAL', 'COMORBIDITY']


def adni_visit(number, months, dx, **more):
  return {'RID': number, 'PTID': f'002_S_{number:04d}', 'SITE': '2', 'DX': dx, 'AGE': '70.5',
          'VISCODE': f'm{months:02d}' if months else 'bl', 'PTGENDER': 'Female',
          'Years_bl': f'{months / 12:.6f}', **more}


def oasis_visit(number, day, **more):
  return {'ADRC_ADRCCLINICALDATA ID': f'OAS{number}_ClinicalData_d{day:04d}',
          'Subject': f'OAS{number}', 'ageAtEntry': '65.5', 'M/F': 'F', **more}


def image_row(subject, dx, date='2/25/2009', age='25', **more):
  return {'study': 'COBRE', 'subjectid': subject, 'age': age, 'sex': 'male', 'dx': dx,
          'img_date': date, 'datauri': f'{subject}/{date}', 'imaging_protocol_site': 'MRN', **more}


def abide_row(number, **more):
  return {'SITE_ID': 'PITT', 'SUB_ID': str(number), 'DX_GROUP': '1', 'DSM_IV_TR': '1',
          'AGE_AT_SCAN': '24.45', 'SEX': '1', 'HANDEDNESS_CATEGORY': 'R', 'FIQ': '113',
          'VIQ': '-9999', 'PIQ': '', 'ADOS_TOTAL': '-9999',
          'COMORBIDITY': 'ADHD, none other', **more}
