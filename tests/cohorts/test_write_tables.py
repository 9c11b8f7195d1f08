"""Text in written tables is never a formula, and is read again as it was."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import tables
from anatcl_jax.cohorts.write_tables import as_tsv
from anatcl_jax.data import shards
from anatcl_jax.frozen.table import read_table, write_table
from tests.cohorts.spoiling import arguments, set_cell

FORMULAS = ['=HYPERLINK("http://a.b/","x")', '+cmd|\' /C calc\'!A0', '-2+3', '@SUM(1+1)', '==',
            "'=1+1", '-a', '+/-']
HARMLESS = ['-1.5', '+3', '-1e-7', '-', '+', "'quoted'", 'a=b', '.5', 'x', '-inf', "''"]


@pytest.mark.parametrize('text', FORMULAS + HARMLESS)
def test_a_text_is_read_as_it_was_and_never_run(tmp_path, text):
  table = pandas.DataFrame({'name': [text, 'b'], 'value': [-1.5, 2]})
  (tmp_path / 'a.tsv').write_text(as_tsv(table))
  cell, number = (tmp_path / 'a.tsv').read_text().splitlines()[1].rsplit('\t', 1)
  assert number == '-1.5'
  assert cell.strip('"').startswith("'" if text in FORMULAS else text[0])
  assert tables.read_table(tmp_path / 'a.tsv')['name'].tolist() == [text, 'b']


def test_every_column_and_its_name():
  text = as_tsv(pandas.DataFrame({'=A1': pandas.Categorical(['@x']), 'b': ['-c']}))
  assert text == "'=A1\tb\n'@x\t'-c\n"


def test_participants_of_a_set(copy, tmp_path):
  set_cell(copy / 'participants.tsv', 1, 'site', FORMULAS[0])
  prepare.main(arguments(copy, tmp_path / 'out'))
  assert '\t=' not in (tmp_path / 'out' / 'participants.tsv').read_text().replace('"', '')
  assert shards.open_shards(tmp_path / 'out').table['site'][1] == FORMULAS[0]


def test_files_of_features(tmp_path):
  identifiers = pandas.DataFrame({'participant_id': ['sub-1'], 'session': [''], 'file': ['=a.nii']})
  write_table(tmp_path / 'f.tsv', identifiers, np.float32([[-1, 2]]))
  assert "\t'=a.nii\t-1\t2" in (tmp_path / 'f.tsv').read_text()
  assert read_table(tmp_path / 'f.tsv')[0]['file'][0] == '=a.nii'
