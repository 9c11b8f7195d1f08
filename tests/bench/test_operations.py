"""Time by operation on a tiny encoder: which operations there are, and that all are timed."""

from __future__ import annotations

import re

import pytest

from anatcl_jax.bench import counts, operation_times, operations
from anatcl_jax.models import get_encoder, resnet3d_openvino


@pytest.mark.slow
def test_every_convolution_is_in_the_table(capsys, monkeypatch):
  """`tiny` has 9: 3^3 of stride 2 and 1 in the stem and three stages, and two shortcuts."""
  monkeypatch.setattr(operation_times, '_torch', lambda: None)   # its columns stay empty
  operations.main(['--config=configs/pretrain.py:encoder=tiny', '--config.crop=17,18,17',
                   '--rounds=1'], 'bench operations')
  lines = [[cell.strip() for cell in line.strip('|\n').split('|')]
           for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
  rows = {cells[0]: cells for cells in lines[1:]}
  counted = counts.layers(get_encoder('tiny'), (17, 18, 17))
  convolutions = [cells for name, cells in rows.items() if re.match(r'\d\^3', name)]
  assert sum(int(cells[1]) for cells in convolutions) == len(counted) == 9
  flops = sum(layer.flops for layer in counted)
  assert float(rows['all'][2]) == pytest.approx(flops / 1e9, rel=0.01)
  assert rows['3^3, stride 2, 1 to 16'][1] == '1' and rows['3^3, 16 to 16'][1] == '2'
  assert rows['BatchNorm, ReLU, max-pool: 9x9x9x16'][1] == '1'
  assert float(rows['all'][4]) >= 0 and all(float(cells[4]) > 0 for cells in convolutions)
  assert all(bool(cells[5]) == resnet3d_openvino.is_installed() for cells in convolutions)
