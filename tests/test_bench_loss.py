"""The benchmark of the losses measures a case and prints it."""

from __future__ import annotations

from anatcl_jax import bench_loss


def test_a_case_and_its_row():
  figures = bench_loss.run_case(bench_loss.Case('threshold', 16, 1), repeats=1)
  assert figures['run_s'] < figures['compile_s'] < 60 and figures['peak_mb'] > 50
  row = {'method': 'yaware', 'subjects': 8192, 'budget': 256, 'compile_s': 1.0, 'run_s': 2.5,
         'peak_mb': 1234.5}
  lines = bench_loss.table([row, row | {'budget': None}], 'a machine').splitlines()
  assert lines[0].startswith('a machine; jax ')
  assert lines[-2:] == ['| yaware | 8,192 | 256 MB | 1.0 s | 2.50 s | 1,234 MB |',
                        '| yaware | 8,192 | none | 1.0 s | 2.50 s | 1,234 MB |']
