"""Real cohorts as they are; skips where they are not at hand."""

from __future__ import annotations

import pathlib

import pytest

from anatcl_jax.cohorts import bids
from anatcl_jax.cohorts.participants import Reading, read_people

IXI = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'ixi-t1'


@pytest.mark.skipif(not IXI.is_dir(), reason=f'{IXI} is not here')
def test_ixi_as_it_is(capsys):
  """25 rows repeat a participant, sex is 1 and 2, and scans are named IXI012-HH-1211-T1_ds."""
  cohort = bids.read_cohort(f'{IXI}/*-T1_ds.nii.gz', IXI / 'IXI_age_gender.csv',
                            [IXI / 'IXI_aparc_thickness.csv'],
                            reading=Reading(sex_codes={'1': 'M', '2': 'F'}))
  assert not cohort.problems and cohort.measures == ('thickness',)
  assert [scan.label for scan in cohort.scans] == [
      f'sub-IXI0{number}' for number in (12, 13, 14, 15, 33, 34)]
  assert [round(age, 2) for age in cohort.table['age']] == [38.78, 46.71, 34.24, 24.28, 24.76,
                                                            24.34]
  assert list(cohort.table['sex']) == list('MMFMMF')
  assert cohort.morphometry[0, 0, 0] == pytest.approx(2.819)
  assert '25 rows' in capsys.readouterr().err
  people = read_people(IXI / 'IXI_age_gender.csv')
  assert len(people.table) == 565
  # Of the repeated, those whose ages differ are named, and stop only their own scans.
  assert 'age 53.8145106 and 58.7255305' in people.problems['sub-IXI219', '']
  assert ('sub-IXI237', '') not in people.problems
