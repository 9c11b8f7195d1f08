"""An evaluation of SYNTHETIC numbers that is interrupted goes on after its finished tasks."""

from __future__ import annotations

import dataclasses
import json

import joblib
import numpy as np
import pandas
import pytest

from anatcl_jax.evaluation import run as run_module
from anatcl_jax.evaluation import tasks, write
from anatcl_jax.evaluation.evaluate import Settings
from anatcl_jax.evaluation.finished import Finished
from anatcl_jax.evaluation.run import Extent, run
from tests.evaluation.probing import cohort_of, features_of

pytestmark = pytest.mark.usefixtures('coarse')
TASKS, COHORTS = tasks.read_tasks('configs/tasks.py')
FEW = Settings(folds=2, inner_folds=2)


@pytest.fixture(scope='module')
def cohort():
  rng = np.random.default_rng(1)
  return cohort_of({'age': rng.uniform(20, 80, 90), 'sex': rng.choice(['M', 'F'], 90),
                    'site': rng.choice(['x', 'y', 'z'], 90)}, sessions=2)


def test_an_interrupted_evaluation_goes_on(cohort, tmp_path, monkeypatch):
  """Tables stand after each task; what is done is not done again, unless anything has changed."""
  chosen = tasks.choose_tasks('age,sex', TASKS, COHORTS)
  encoders = {'good': (features_of(cohort),)}
  extent = Extent('25', True)
  whole = run(cohort, encoders, chosen, FEW, extent, {}, progress=False)
  asked = []
  original = run_module.evaluate

  def evaluate(protocol, *rest):
    asked.append(protocol.target.task.name)
    if asked in (['age', 'sex'], ['x', 'age']):
      raise KeyboardInterrupt
    return original(protocol, *rest)

  monkeypatch.setattr(run_module, 'evaluate', evaluate)

  def go_on(settings=FEW, inputs=encoders):
    return run(cohort, inputs, chosen, settings, extent, {}, progress=False,
               finished=Finished(tmp_path),
               written=lambda so_far, to_do: write.write_tables(so_far, tmp_path, to_do))

  with pytest.raises(KeyboardInterrupt):
    go_on()
  table = pandas.read_csv(tmp_path / 'results.tsv', sep='\t')
  assert set(table['task']) == {'age'}
  assert json.loads((tmp_path / 'made.json').read_text())['unfinished'] == [
      'sex', 'site (leakage)']
  asked.append('interrupted')
  with joblib.parallel_config('threading'):     # of processes test_probes has a test
    found = go_on(dataclasses.replace(FEW, jobs=2))
  assert asked == ['age', 'sex', 'interrupted', 'sex', 'site (leakage)']
  assert 'done before the probe was interrupted: age' in found.notes
  for name in ('results.tsv', 'predictions.tsv', 'comparisons.tsv', 'leakage.tsv',
               'leave_one_site_out.tsv', 'learning_curves.tsv'):
    for one, folder in ((whole, 'whole'), (found, 'found')):
      write.write_tables(one, tmp_path / folder)
    assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'found' / name).read_bytes()

  def begins_anew(*changed):
    asked[:] = ['x']
    with pytest.raises(KeyboardInterrupt):
      go_on(*changed)

  begins_anew(dataclasses.replace(FEW, seed=1))                       # other folds
  begins_anew(FEW, {'good': (features_of(cohort, seed=1),)})          # other features
  for part in (tmp_path / '.unfinished').iterdir():
    part.write_text('{')                                        # cut off by a crash
  begins_anew()
  Finished(tmp_path).clear()
  assert not (tmp_path / '.unfinished').exists()
