"""Phenotype tables of public cohorts: what their columns and codes mean, as data.

The column names and codes are those that the cohorts document; see docs/cohorts.md.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping

import pandas

from anatcl_jax.cohorts import tables
from anatcl_jax.errors import UserError, listed

ScanKey = tuple[str, str]       # participant_id, session

DAYS_A_YEAR = 365.25
_MCI_HORIZON = 36               # months within which a progressive MCI becomes dementia


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of ours, the names that it has in a cohort's tables, and what its codes mean.

  The first name that is there counts, in any case of letters. Without codes, the text is kept.
  """

  name: str
  sources: tuple[str, ...]
  codes: Mapping[str, str] | None = None
  required: bool = False


@dataclasses.dataclass(frozen=True)
class Preset:
  """How to read a cohort's phenotypes; without columns, participants.tsv of BIDS.

  `participant` and `session` are patterns whose first group is found in identifiers and in the
  names of volumes; both sides of a match are brought to one form by them, so that 002_S_0295 and
  sub-ADNI002S0295 are one participant. `session_code` is that form of a session, None for none.
  """

  columns: tuple[Column, ...] = ()
  missing: tuple[str, ...] = ()
  participant: str = ''
  session: str = ''
  session_code: Callable[[str], str | None] = str
  derive: Callable[[pathlib.Path, pandas.DataFrame], pandas.DataFrame] = lambda path, table: table
  nearest_visit: bool = False     # rows are visits to a clinic, on other days than the scans

  def scan_key(self, text: str) -> ScanKey | None:
    """Participant and session in a name, in this cohort's form; None for no participant."""
    match = re.search(self.participant, text) if self.participant else None
    if not match:
      return None
    session = re.search(self.session, text) if self.session else None
    code = self.session_code(session[1]) if session else None
    return 'sub-' + re.sub('[^A-Za-z0-9]', '', match[1]), f'ses-{code}' if code else ''


def no_column(path: pathlib.Path, table: pandas.DataFrame, name: str, sources: tuple[str, ...],
              preset: str) -> UserError:
  """The error of a table that has none of the columns from which ours, `name`, could come."""
  return UserError(f'{path}: has no column for {name}: looked for {" or ".join(sources)}, found '
                   f'{listed(list(table.columns), 12)}; is --phenotypes {preset} right?')


def _numbers(path: pathlib.Path, table: pandas.DataFrame, name: str) -> pandas.Series:
  return tables.numbers(path, table[name], list(table['participant_id']))


# ADNI: a row a visit, ages at baseline, months since then in the visit's code (bl, m06, m12, ...).

def _adni_visit(text: str) -> str | None:
  if text.lower() == 'bl':
    return 'm00'
  match = re.fullmatch(r'[mM](\d+)', text)
  return f'm{int(match[1]):02d}' if match else None


def _adni(path: pathlib.Path, table: pandas.DataFrame) -> pandas.DataFrame:
  months = (pandas.to_numeric(table['session'].str[1:]) if 'session' in table
            else pandas.Series(0.0, table.index))
  years = months / 12
  if 'years_since_baseline' in table:
    years = _numbers(path, table, 'years_since_baseline').fillna(years)
  if 'diagnosis' not in table and 'diagnosis_at_baseline' in table:
    # As DX names at baseline what DX_bl tells apart.
    baseline = table['diagnosis_at_baseline'].replace({'SMC': 'CN', 'EMCI': 'MCI', 'LMCI': 'MCI'})
    table = table.assign(diagnosis=baseline.where(months == 0))
  if 'diagnosis' in table:
    table = table.assign(mci_course=_mci_course(table['participant_id'], months,
                                                table['diagnosis']))
  return table.assign(age=_numbers(path, table, 'age') + years)


def _mci_course(participant: pandas.Series, months: pandas.Series,
                diagnosis: pandas.Series) -> list[str | None]:
  """Of each visit with MCI: progressive, stable, or None where neither is known.

  Progressive: dementia at a later visit within 36 months. Stable: seen again after 36 months or
  more, and never with dementia.
  """
  visits = collections.defaultdict(list)
  for name, month, state in zip(participant, months, diagnosis):
    if isinstance(state, str):
      visits[name].append((month, state))
  courses = []
  for name, month, state in zip(participant, months, diagnosis):
    later = [(at - month, what) for at, what in visits[name] if at > month and state == 'MCI']
    demented = [after for after, what in later if what == 'AD']
    if demented:
      courses.append('progressive' if min(demented) <= _MCI_HORIZON else None)
    else:
      courses.append('stable' if any(after >= _MCI_HORIZON for after, _ in later) else None)
  return courses


# OASIS-3: a row a visit to the clinic, all times in days since entry (d0339), ages at entry.

def _oasis_day(text: str) -> str | None:
  match = re.search(r'd(\d+)$', text)
  return f'd{int(match[1]):04d}' if match else None


def day_of(session: str) -> int | None:
  """The day of a session `ses-d0129`, 129; None where it is not named by one."""
  match = re.fullmatch(r'ses-d?(\d+)', session)
  return int(match[1]) if match else None


# What dx1 begins with; the rest of it is free text. The first that fits counts.
_OASIS_DIAGNOSES = (('CN', r'cognitively normal|no dementia'), ('AD', r'ad dem|dat\b'),
                    ('other', ''))


def _oasis(path: pathlib.Path, table: pandas.DataFrame) -> pandas.DataFrame:
  if 'age' not in table:
    if 'age_at_entry' not in table:
      raise no_column(path, table, 'age', ('age at visit', 'ageAtEntry'), 'oasis3')
    days = pandas.to_numeric(table['session'].str[1:]) if 'session' in table else 0.0
    table = table.assign(age=_numbers(path, table, 'age_at_entry') + days / DAYS_A_YEAR)
  if 'dx1' in table:
    table = table.assign(diagnosis=[
        next(name for name, begins in _OASIS_DIAGNOSES if re.match(begins, text.strip().lower()))
        if isinstance(text, str) else None for text in table['dx1']])
  return table


# SchizConnect: a row an image, so that most say the same of their participant.

def _schizconnect_date(text: str) -> str | None:
  date = pandas.to_datetime(text, errors='coerce')
  return None if pandas.isna(date) else f'{date:%Y%m%d}'


def _schizconnect(path: pathlib.Path, table: pandas.DataFrame) -> pandas.DataFrame:
  """One row a participant, or a session where they differ in what the preset knows."""
  known = [column.name for column in PRESETS['schizconnect'].columns
           if column.name in table and column.name != 'session']
  if 'session' not in table:
    return table.drop_duplicates(known).reset_index(drop=True)
  table = table.drop_duplicates([*known, 'session']).reset_index(drop=True)
  differ = table.drop_duplicates(known)['participant_id'].value_counts() > 1
  same = ~table['participant_id'].map(differ)
  table = table.assign(session=table['session'].mask(same, ''))
  return table.drop_duplicates([*known, 'session']).reset_index(drop=True)


_SEX = {'Male': 'M', 'Female': 'F', 'M': 'M', 'F': 'F', '1': 'M', '2': 'F'}

PRESETS = {
    'bids': Preset(),
    'adni': Preset(
        columns=(
            Column('participant_id', ('PTID',), required=True),
            Column('session', ('VISCODE',)),
            Column('age', ('AGE',), required=True),
            Column('years_since_baseline', ('Years_bl',)),
            Column('sex', ('PTGENDER',), _SEX),
            Column('site', ('SITE',)),
            Column('diagnosis', ('DX',), {
                'CN': 'CN', 'NL': 'CN', 'MCI': 'MCI', 'Dementia': 'AD', 'AD': 'AD',
                'NL to MCI': 'MCI', 'NL to Dementia': 'AD', 'MCI to Dementia': 'AD',
                'MCI to NL': 'CN', 'Dementia to MCI': 'MCI', 'Dementia to NL': 'CN'}),
            Column('diagnosis_at_baseline', ('DX_bl',), {
                name: name for name in ('CN', 'SMC', 'EMCI', 'MCI', 'LMCI', 'AD')}),
            Column('education', ('PTEDUCAT',)),
            Column('mmse', ('MMSE',)), Column('cdr_sum_of_boxes', ('CDRSB',)),
            Column('adas11', ('ADAS11',)), Column('adas13', ('ADAS13',)),
            Column('moca', ('MOCA',)), Column('faq', ('FAQ',))),
        missing=('-4',), participant=r'(?<!\d)(\d{3}_?S_?\d{4})(?!\d)',
        session=r'(?:ses-|_)(bl|[mM]\d{2,3})(?![A-Za-z0-9])', session_code=_adni_visit,
        derive=_adni),
    'oasis3': Preset(
        columns=(
            Column('participant_id', ('OASISID', 'Subject'), required=True),
            Column('session', ('ADRC_ADRCCLINICALDATA ID', 'OASIS_session_label')),
            Column('age', ('age at visit',)), Column('age_at_entry', ('ageAtEntry',)),
            Column('sex', ('M/F', 'GENDER', 'SEX'), _SEX),
            Column('dx1', ('dx1',)),
            Column('mmse', ('mmse',)), Column('cdr', ('cdr', 'CDRTOT')),
            Column('cdr_sum_of_boxes', ('sumbox', 'CDRSUM')),
            Column('education', ('EDUC', 'Education'))),
        missing=('.',), participant=r'(OAS3\d{4})', session=r'(?:ses-|_)(d\d{4,})(?!\d)',
        session_code=_oasis_day, derive=_oasis, nearest_visit=True),
    'schizconnect': Preset(
        columns=(
            Column('participant_id', ('subjectid',), required=True),
            Column('session', ('img_date',)),
            Column('age', ('age',), required=True),
            Column('sex', ('sex',), _SEX),
            Column('site', ('site', 'imaging_protocol_site', 'study')),
            Column('diagnosis', ('dx',), {
                'No_Known_Disorder': 'control', 'Schizophrenia_Strict': 'schizophrenia',
                'Schizophrenia_Broad': 'schizophrenia_broad', 'Schizoaffective': 'schizoaffective',
                'Bipolar_Disorder': 'bipolar', 'Bipolar_Disorder_Strict': 'bipolar',
                'Bipolar_Disorder_Broad': 'bipolar'})),
        missing=('Unknown', 'unknown'), session_code=_schizconnect_date, derive=_schizconnect),
    'abide1': Preset(
        columns=(
            Column('participant_id', ('SUB_ID', 'SUBJECT'), required=True),
            Column('age', ('AGE_AT_SCAN',), required=True),
            Column('sex', ('SEX',), _SEX),
            Column('site', ('SITE_ID',)),
            Column('diagnosis', ('DX_GROUP',), {'1': 'autism', '2': 'control'}),
            Column('diagnosis_dsm_iv', ('DSM_IV_TR',), {
                '0': 'control', '1': 'autism', '2': 'asperger', '3': 'pdd-nos',
                '4': 'asperger_or_pdd-nos'}),
            Column('fiq', ('FIQ',)), Column('viq', ('VIQ',)), Column('piq', ('PIQ',)),
            Column('handedness', ('HANDEDNESS_CATEGORY',))),
        missing=('-9999', '-9999.0'), participant=r'(?<!\d)0{0,2}(5[01]\d{3})(?!\d)'),
}
