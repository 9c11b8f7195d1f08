"""The table of what prepare t1 reaches, of figures that are given."""

from __future__ import annotations

import pathlib

import pytest

from anatcl_jax.bench import __main__ as command
from anatcl_jax.bench import t1
from anatcl_jax.cohorts.t1 import libraries

CASE = {'scan': 'a.nii.gz', 'to': 'gm', 'mask': 0.98, 'registered': 0.95, 'gray': 0.81,
        'correlation': 0.65, 'cpu_s': 90.0, 'peak_mb': 1500.0}


def test_rows_and_means():
  quasiraw = {name: CASE[name] for name in ('scan', 'mask', 'registered', 'cpu_s', 'peak_mb')}
  other = CASE | {'scan': 'b.nii.gz', 'gray': 0.83, 'cpu_s': 210.0}
  lines = t1.table([quasiraw | {'to': 'quasiraw'}, CASE, other], [0.5, 0.7], 'it').splitlines()
  head, rule, *rows = [line for line in lines if line.startswith('|')]
  assert head.count('|') == rule.count('|') == rows[0].count('|')
  assert rows[0] == '| a.nii.gz | quasiraw | 0.980 | 0.950 |  |  | 1.5 min | 1,500 MB |'
  assert rows[1] == '| a.nii.gz | gm | 0.980 | 0.950 | 0.810 | 0.650 | 1.5 min | 1,500 MB |'
  assert rows[3] == '| **mean** | gm | 0.980 | 0.950 | 0.820 | 0.650 | 2.5 min | 1,500 MB |'
  assert lines[-1].endswith('0.500 to 0.700, 0.600 on average.')
  assert t1._labels_of(pathlib.Path('x/a-T1_ds.nii.gz'), '_DLMUSE') == pathlib.Path(
      'x/a-T1_ds_DLMUSE.nii.gz')


def test_scans_without_labels_are_one_line(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(libraries, 'check', lambda: None)
  (tmp_path / 'a.nii.gz').touch()
  with pytest.raises(SystemExit) as stop:
    command.main(['t1', '--volumes', str(tmp_path)])
  assert stop.value.code == 2 and 'has labels beside it, such as NAME_DLMUSE.nii.gz' in (
      capsys.readouterr().err)
