"""Whose a name is, where identifiers hold what looks like the end of one."""

from __future__ import annotations

import pytest

from anatcl_jax.cohorts import identifiers


@pytest.mark.parametrize('name, known, expected', [
    ('sub-con-01_T1w', ['sub-con', 'sub-con-01'], 'sub-con-01'),
    ('sub-con-01_T1w', ['sub-con'], None),               # somebody else, who is not in the table
    ('sub-con_T1w', ['sub-con', 'sub-con-01'], 'sub-con'),
    ('sub-WMH_MRI_21_01H_T1w', ['sub-WMH', 'sub-WMH_MRI_21_01H'], 'sub-WMH_MRI_21_01H'),
    ('sub-WMH_MRI_21_01H_T1w', ['sub-WMH'], None),
    ('sub-a.b_ses-1_T1w', ['sub-a', 'sub-a.b'], 'sub-a.b'),
    ('sub-01_02_T1w', ['sub-01'], None),
    ('sub-01_brain', ['sub-01'], 'sub-01'),
    ('sub-01_acq-2_run-1_T1w', ['sub-01'], 'sub-01'),
    ('sub-010_T1w', ['sub-01'], None),
    ('IXI012-HH-1211-T1_ds', ['sub-IXI012', 'sub-IXI013'], 'sub-IXI012'),
    ('con_MRI_21', ['sub-con'], None),
    ('002_S_0295_T1', ['sub-002_S_0295', 'sub-002'], 'sub-002_S_0295')])
def test_the_longest_known_participant(name, known, expected):
  found = identifiers.known_participant(name, set(known))
  assert (found and found[0]) == expected


@pytest.mark.parametrize('name, expected', [
    ('sub-WMH_MRI_21_01H_T1w', 'sub-WMH_MRI_21_01H'), ('sub-01_ses-1_T1w', 'sub-01'),
    ('sub-con-01_T1w', 'sub-con-01'), ('sub-01_brain', 'sub-01'), ('sub-01', 'sub-01'),
    ('sub-01_02_T1w', 'sub-01_02'), ('mwp1rsub-r01_T1w', 'sub-r01'),
    ('sub-01_ses-2.long.sub-01', 'sub-01')])
def test_without_a_table_the_form_decides(name, expected):
  assert identifiers.participant_by_form(name)[0] == expected
  assert identifiers.participant_by_form('T1w') is None


@pytest.mark.parametrize('text, own, expected', [
    ('sub-01_ses-1_T1w', [], 'ses-1'), ('sub-01_ses-2020-01-02_T1w', [], 'ses-2020-01-02'),
    ('sub-01_ses-a_2_T1w', ['ses-a', 'ses-a_2'], 'ses-a_2'),
    ('sub-01_ses-a-2', ['ses-a'], 'ses-a-2'),
    ('a/ses-1/b', [], 'ses-1'), ('sub-ses1_T1w', [], '')])
def test_sessions(text, own, expected):
  assert identifiers.session_in(text, own) == expected


def test_sessions_alike():
  assert identifiers.known_session('ses-01', ['ses-1', 'ses-2']) == 'ses-1'
  assert identifiers.known_session('ses-01', ['ses-1', 'ses-001']) == 'ses-01'
  assert identifiers.known_session('ses-10', ['ses-1']) == 'ses-10'
  assert identifiers.known_session('', ['ses-1']) == ''


def test_natural_order():
  assert sorted(['ses-10', 'ses-2', 'ses-b', 'ses-1'], key=identifiers.natural_key) == [
      'ses-1', 'ses-2', 'ses-10', 'ses-b']


def test_punctuation_is_passed_over_where_only_one_is_alike():
  known = identifiers.Known.of([('sub-NDAR_INV01', ''), ('sub-1-2', ''), ('sub-a_b', ''),
                                ('sub-ab', '')])
  assert known.alike('sub-NDARINV01') == 'sub-NDAR_INV01'
  assert known.alike('sub-12') is None and known.alike('sub-a-b') is None
