"""The benchmarks measure a case, print it, and say when one fails."""

from __future__ import annotations

from anatcl_jax.bench import loss as bench_loss
from anatcl_jax.bench import prepare as bench_prepare
from anatcl_jax.data.shards import open_shards


def test_a_case_and_its_row():
  figures = bench_loss.run_case(bench_loss.Case('threshold', 16, 1))
  assert figures['run_s'] < figures['compile_s'] < 60 and figures['peak_mb'] > 50
  row = {'method': 'yaware', 'subjects': 8192, 'budget': 256, 'compile_s': 1.0, 'run_s': 2.5,
         'peak_mb': 1234.5}
  lines = bench_loss.table([row, row | {'budget': None}], 'a machine').splitlines()
  assert lines[0].startswith('a machine; 2 views')
  assert lines[-2:] == ['| yaware | 8,192 | 256 MB | 1.0 s | 2.50 s | 1,234 MB |',
                        '| yaware | 8,192 | none | 1.0 s | 2.50 s | 1,234 MB |']


def test_prepare_is_measured_on_as_many_scans_as_said(tmp_path):
  volumes, participants = bench_prepare.linked_cohort(tmp_path, 20, spacing=15)
  seconds, peak = bench_prepare._prepare(bench_prepare.Case(20, 'uint8', 1), volumes, participants,
                                         tmp_path)
  assert seconds > 0 and peak > 50 and len(open_shards(tmp_path / 'shards')) == 20
  row = {'scans': 1024, 'dtype': 'uint8', 'workers': 2, 'prepare_per_s': 31.4, 'read_per_s': 300.0,
         'mb_a_volume': 0.6, 'largest_error': 0.004, 'peak_mb': 512.0}
  assert bench_prepare.table([row], 'a machine').splitlines()[-1] == (
      '| 1,024 | uint8 | 2 | 31.4 /s | 300 /s | 0.60 MB | 0.004 | 512 MB |')
