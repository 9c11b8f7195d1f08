"""Losses of networks trained on a task: by hand, as PyTorch defines them, on several devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from anatcl_jax import config_files, losses, supervision
from anatcl_jax.data import attributes
from anatcl_jax.devices import parallel
from anatcl_jax.errors import UserError
from anatcl_jax.training.checks import check_values


def test_absolute_error_by_hand():
  """|1 - 3| and |4 - 0|; the subject without a truth counts nothing; two views are averaged."""
  outputs = jnp.array([[1.0, 1.0], [9.0, 9.0], [3.0, 5.0]])
  truth = jnp.array([3.0, jnp.nan, 0.0])
  np.testing.assert_allclose(supervision.absolute_error(outputs, truth), (2 + 4) / 2)
  assert supervision.absolute_error(outputs[:1], jnp.array([jnp.nan])) == 0
  gradient = jax.grad(lambda x: supervision.absolute_error(x, truth))(outputs)
  np.testing.assert_allclose(gradient, [[-0.25, -0.25], [0, 0], [0.25, 0.25]])


def test_cross_entropy_by_hand():
  """Softmax of (0, ln 3) is (1/4, 3/4); weights 3 and 1 as torch.nn.CrossEntropyLoss has them."""
  logits = jnp.log(jnp.array([[[1.0, 3.0]], [[1.0, 3.0]], [[1.0, 1.0]]]))
  value = supervision.cross_entropy(logits, jnp.array([0.0, 1.0, jnp.nan]),
                                    jnp.array([3.0, 1.0, jnp.nan]))
  np.testing.assert_allclose(value, (3 * np.log(4) + np.log(4 / 3)) / 4, rtol=1e-6)


def test_what_is_fitted():
  """Numbers to mean 0 and deviation 1; classes of 3, 1 and nobody weigh 4/6, 4/2 and 0."""
  stats = supervision.fit(np.array([1.0, 3.0, np.nan]), supervision.NUMBER, 0)
  np.testing.assert_allclose(supervision.for_loss(np.array([5.0, np.nan]), stats), [3, np.nan])
  stats = supervision.fit(np.array([0.0, 0, 0, 2, np.nan]), supervision.CLASSES, 3)
  np.testing.assert_allclose(stats['weights'], [4 / 6, 0, 2])
  np.testing.assert_allclose(supervision.for_loss(np.array([2.0, np.nan]), stats),
                             [[2, 2], [np.nan, np.nan]])


@pytest.mark.parametrize('devices', [2, 8])
def test_loss_and_gradient_do_not_depend_on_devices(devices):
  rng = np.random.default_rng(0)
  terms = ml_collections.ConfigDict({
      'age': {'weight': 1.0, 'kernel': 'l1', 'outputs': 1},
      'sex': {'weight': 0.5, 'kernel': 'cross_entropy', 'outputs': 2}})
  config = ml_collections.ConfigDict({'method': supervision.METHOD, 'terms': terms})
  codes = rng.integers(0, 2, 16).astype(float)
  codes[:2], weights = np.nan, np.where(codes == 1, 2.0, 0.5)
  batch = {'age': rng.normal(size=16).astype(np.float32),
           'sex': np.stack([codes, weights], 1).astype(np.float32),
           'outputs': rng.normal(size=(16, 1, 3)).astype(np.float32)}

  def of_devices(number):
    mesh = jax.make_mesh((number,), (parallel.AXIS,), devices=jax.devices()[:number],
                         axis_types=(jax.sharding.AxisType.Auto,))

    def step(scale, batch):

      def loss(scale):
        value, metrics = losses.combined_loss(batch['outputs'] * scale, batch, config,
                                              parallel.AXIS)
        return value, metrics
      (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(scale)
      return value, metrics, jax.lax.pmean(gradient, parallel.AXIS)
    return parallel.map_over_devices(step, mesh)(
        parallel.replicate(jnp.float32(1.5), mesh), parallel.shard_rows(batch, mesh))

  one, many = of_devices(1), of_devices(devices)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many)):
    np.testing.assert_allclose(a, b, rtol=1e-5)
  np.testing.assert_allclose(one[0], one[1]['loss/age'] + 0.5 * one[1]['loss/sex'], rtol=1e-6)
  np.testing.assert_allclose(
      one[1]['loss/age'], np.abs(batch['outputs'][:, 0, 0] * 1.5 - batch['age']).mean(), rtol=1e-5)


def test_a_config_of_tasks(training_set):
  """Each term has the outputs that its classes need, and the head has as many."""
  config = config_files.load('pretrain:encoder=tiny,regress=age,classify=site')
  check_values(config)
  raw = attributes.read_attributes(training_set, config)
  sized = attributes.with_outputs(config, raw)
  assert (sized.loss.terms.age.outputs, sized.loss.terms.site.outputs) == (1, 3)
  assert sized.feature_dim == 4
  records = np.arange(30)
  found = attributes.normalize_attributes(
      raw, attributes.fit_attributes(raw, records, sized.loss.terms), sized.loss.terms)
  np.testing.assert_allclose([found['age'][:30].mean(), found['age'][:30].std()], [0, 1], atol=1e-5)
  np.testing.assert_allclose(np.bincount(
      found['site'][:30, 0].astype(int), found['site'][:30, 1]), [10, 10, 10], rtol=1e-5)
  with pytest.raises(UserError, match='one value of age'):
    attributes.fit_attributes({'age': np.ones(30, np.float32)}, records, sized.loss.terms)


@pytest.mark.parametrize('changes, message', [
    ({'head': 'none'}, 'needs an output'), ({'loss.terms.age.kernel': 'equality'}, 'l1')])
def test_what_cannot_be_predicted(changes, message):
  config = config_files.load('pretrain:regress=age')
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=message):
    check_values(config)
  config = config_files.load('pretrain')
  config.loss.method = 'supervised'
  with pytest.raises(UserError, match='columns of participants.tsv'):
    config.loss.terms.age.weight, config.loss.terms.age.kernel = 0, 'l1'
    check_values(config)
