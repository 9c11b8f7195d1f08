"""Probes during pretraining: scores written out, the same on any devices, a run left as it was."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error
from sklearn.preprocessing import StandardScaler

from anatcl_jax.data import pipeline
from anatcl_jax.data.feed import Feed
from anatcl_jax.devices import parallel
from anatcl_jax.training import online_probe, step, tracking, train
from tests import small_run

pytestmark = pytest.mark.usefixtures('small_model')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('online')


def test_a_run_is_the_same_with_and_without_probes(training_set, workdir):
  """Stopped after two epochs and gone on with, probed every other epoch."""
  train.train(small_run.small_config(training_set.directory), workdir / 'without')
  for epochs in (2, 4):
    train.train(small_run.small_config(training_set.directory, epochs=epochs,
                                       probe_every_epochs=2), workdir / 'with')
  without, probed = (tracking.read_metrics(workdir / name) for name in ('without', 'with'))
  for a, b in zip(without, probed, strict=True):
    scores = {name: value for name, value in b.items() if name.startswith('probe/')}
    assert {name: b[name] for name in a if name not in small_run.OF_THE_MACHINE} == {
        name: value for name, value in a.items() if name not in small_run.OF_THE_MACHINE}
    assert bool(scores) == (b['step'] in (8, 16))
    if scores:
      assert {'probe/age_mae', 'probe/sex_balanced_accuracy',
              'probe/age_mae_untrained'} <= set(scores)
  # The reference is that of the encoder before its first step, also after a resume.
  assert probed[7]['probe/age_mae_untrained'] == probed[15]['probe/age_mae_untrained']
  assert probed[7]['probe/age_mae'] != probed[15]['probe/age_mae']


def _probe(training_set, devices, mapper='jit'):
  mesh = jax.make_mesh((devices,), (parallel.AXIS,), devices=jax.devices()[:devices],
                       axis_types=(jax.sharding.AxisType.Auto,))
  encoder = small_run.get_encoder('', axis_name=parallel.AXIS)
  variables = encoder.init(jax.random.key(3), np.zeros((1, *training_set.grid.shape, 1)), False)
  state = parallel.replicate(step.TrainState(
      0, {'encoder': variables['params']}, variables['batch_stats'], None), mesh)
  records = pipeline.split_by_participant(
      training_set.table['participant_id'].to_numpy(), 0, 5, 0)
  encode = parallel.map_over_devices(step.make_encode_step(encoder, parallel.AXIS), mesh, mapper)
  feed = Feed(pipeline.Reader(training_set, {}, None), mesh, threads=2)
  probe = online_probe.make(encode, feed, *records, batch_size=16, seed=0)
  return probe, state, encoder, variables, records


def test_the_score_is_the_one_written_out(training_set):
  """One device, and features and ridge by hand; eight devices and pmap give the same."""
  probe, state, encoder, variables, (fit, test) = _probe(training_set, 1)
  volumes = np.stack([training_set.read_volume(record)[0] for record in range(40)])
  x = np.asarray(encoder.apply(variables, volumes[..., None], False), np.float64)
  age = training_set.table['age'].to_numpy(float)
  predictions = {}
  for alpha in (0.01, 0.1, 1, 10, 100):
    scaler = StandardScaler().fit(x[fit])
    model = Ridge(alpha).fit(scaler.transform(x[fit]), age[fit])
    predictions[alpha] = mean_absolute_error(age[test], model.predict(scaler.transform(x[test])))
  scores = probe(state)()
  assert min(abs(value - scores['probe/age_mae']) for value in predictions.values()) < 1e-3
  assert len(test) == 8 and scores['probe/age_mae'] > 0
  for devices, mapper in ((8, 'jit'), (8, 'pmap')):
    other, state, *_ = _probe(training_set, devices, mapper)
    assert other(state)() == pytest.approx(scores, rel=1e-4)


def test_no_person_is_on_both_sides_and_nobody_held_out_is_fitted_on(training_set):
  probe, *_, (fit, test) = _probe(training_set, 1)
  people = training_set.table['participant_id'].to_numpy()
  for target in probe.targets:
    fitted = probe.records[target.rows[target.rows < probe.fitted]]
    predicted = probe.records[target.rows[target.rows >= probe.fitted]]
    assert set(fitted) <= set(fit) and set(predicted) <= set(test) and len(predicted)
    assert not set(people[fitted]) & set(people[predicted])


def test_what_shards_lack_is_not_probed(training_set, capsys):
  """No labels at all: no probe, and a line that says so."""
  bare = dataclasses.replace(training_set, table=training_set.table[['participant_id', 'session']])
  probe = online_probe.make(None, Feed(pipeline.Reader(bare, {}, None), None, 1), np.arange(30),
                            np.arange(30, 40), batch_size=8, seed=0)
  assert probe is None and "no column 'age'" in capsys.readouterr().err
