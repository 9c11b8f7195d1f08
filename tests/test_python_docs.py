"""docs/python.md, run: released weights from loopback, SYNTHETIC maps, a probe, every plot."""

from __future__ import annotations

import importlib
import pathlib
import re
import shutil

import pandas
import pytest

from anatcl_jax import config_files
from tests.weights.test_published import file, server  # noqa: F401

TEXT = (pathlib.Path(__file__).parents[1] / 'docs' / 'python.md').read_text()


@pytest.fixture
def place(copy, tmp_path, monkeypatch):
  """A folder as the page has it: maps/ and participants.tsv."""
  (tmp_path / 'maps').mkdir()
  for path in copy.glob('sub-*/anat/*_mod.nii.gz'):
    shutil.copy(path, tmp_path / 'maps' / f'{path.name[:8]}_mwp1.nii.gz')
  shutil.copy(copy / 'participants.tsv', tmp_path)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_the_page_runs(place, server, monkeypatch):  # noqa: F811
  usual = config_files.load

  def quick(*arguments):
    config = usual(*arguments)
    config.update({'learning_curve': 'none', 'leave_one_site_out': False, 'fewest': 3, 'jobs': 1,
                   'folds': 2, 'inner_folds': 2})
    return config

  monkeypatch.setattr(config_files, 'load', quick)
  code = '\n'.join(re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL))
  code = code.replace("load('anatcl-global-0')", "load('anatcl-global-0', spacing=12)", 1)
  names: dict = {}
  exec(compile(code, 'docs/python.md', 'exec'), names)
  assert names['vector'].shape == (64,) and names['rows'].shape == (2, 64)
  assert len(names['predicted'].figure.axes) and (place / 'embedding.png').stat().st_size > 5000
  assert names['embedding']._repr_png_().startswith(b'\x89PNG')
  table = pandas.read_csv(place / 'results' / 'results.tsv', sep='\t')
  assert {'age', 'sex'} == set(table['task']) and {'features', 'mean'} == set(
      table['features']) - {'covariates', 'covariates + features'}
  drawn = {path.stem for path in (place / 'results' / 'figures').iterdir()}
  assert {picture.name for picture in names['pictures']} == drawn
  assert names['figure'].axes


def test_every_call_of_the_table_is_there():
  rows = TEXT.partition('| plot | call |')[2].partition('\n\n')[0]
  calls = re.findall(r'`((?:report|training|data)(?:\.\w+)+)\(', rows)
  assert len(calls) == 7
  for call in calls:
    module, _, name = call.rpartition('.')
    assert callable(getattr(importlib.import_module(f'anatcl_jax.{module}'), name)), call
  beyond = importlib.import_module('anatcl_jax.report.beyond')
  for name in ('learning_curves', 'leakage', 'left_out_sites', 'reliability', 'scanners'):
    assert f'`{name}`' in rows and callable(getattr(beyond, name))
