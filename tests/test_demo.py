"""The README's main command to its end, SYNTHETIC: it learns, and its frozen features say so."""

from __future__ import annotations

import pathlib

import pandas
import pytest

from anatcl_jax import config_files, probe
from anatcl_jax.training import tracking, train
from configs.pretrain import get_config


@pytest.mark.slow
def test_the_demo_learns_what_an_untrained_encoder_does_not_know(tmp_path, monkeypatch):
  """Losses fall; age and a thickness are predicted better, with the whole interval above 0."""
  config = get_config('demo')
  report = config_files.load(config.report_at_end)
  monkeypatch.chdir(tmp_path)
  workdir = pathlib.Path('run')
  train.train(config, workdir)
  rows = tracking.read_metrics(workdir)
  held_out = [row['heldout/loss'] for row in rows if 'heldout/loss' in row]
  assert rows[-1]['loss'] < rows[0]['loss'] - 1.5
  assert held_out[-1] < held_out[0] - 0.8

  probe.probe_run(report, workdir)
  compared = pandas.read_csv(workdir / 'probe' / 'comparisons.tsv', sep='\t')
  own = compared[compared['against'] == 'untrained'].set_index('task')
  assert own.loc['age', 'low'] > 0 and own.loc['thickness:lh_superiortemporal', 'low'] > 0
  results = pandas.read_csv(workdir / 'probe' / 'results.tsv', sep='\t')
  trained = results[(results['features'] == 'trained') & (results['task'] == 'age')]
  assert set(trained['n']) == {64}       # of the fold held out
