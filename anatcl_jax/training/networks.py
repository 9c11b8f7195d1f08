"""Networks trained on a task, from scratch or from an encoder's weights, by the project's own step.

What stands beside a frozen encoder: all that the same architecture learns from the labels alone,
and from the labels with the weights to begin with. Each split trains one on its fitted side.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import scipy.special

from anatcl_jax import models, supervision
from anatcl_jax.data import pipeline
from anatcl_jax.data.arrange import Arrangement
from anatcl_jax.data.feed import Feed
from anatcl_jax.data.shards import ShardSet
from anatcl_jax.devices import parallel
from anatcl_jax.errors import RunFailure, UserError, check_name
from anatcl_jax.evaluation.estimators import Predicted
from anatcl_jax.evaluation.evaluate import Networks, Protocol
from anatcl_jax.evaluation.results import FINETUNED, SUPERVISED
from anatcl_jax.evaluation.sources import Sources
from anatcl_jax.evaluation.splits import Split, grouped_folds
from anatcl_jax.evaluation.target import Target
from anatcl_jax.models.convolution import compiler_options
from anatcl_jax.progress import progress_bar
from anatcl_jax.training import optim, step, training_features
from anatcl_jax.weights.load import Weights, encoder_options

_STOPPING = 5      # one of so many parts of the fitted people says which epoch is the best
_TERM = 'task'


@dataclasses.dataclass(frozen=True)
class Budget:
  """What a network may spend; a constant learning rate, and L2 as in the published recipe."""

  epochs: int = 30
  learning_rate: float = 1e-3
  batch_size: int = 16             # of all devices together
  seed: int = 0
  precision: str = 'float32'
  weight_decay: float = 5e-5
  threads: int = 4

  def __str__(self) -> str:
    return (f'at most {self.epochs} epochs, the best of them by people held out of the fitted side '
            f'(one in {_STOPPING}); Adam {self.learning_rate:g}, batch {self.batch_size}')


@dataclasses.dataclass(frozen=True)
class _Reader:
  """Reads a record as the encoder of some weights sees it, with what is to be predicted."""

  shards: ShardSet
  arrangement: Arrangement
  values: np.ndarray               # a row a record, as supervision.for_loss makes them

  def __call__(self, record: int) -> pipeline.Batch:
    volume, scale = self.shards.read_volume(int(record))
    return {'volume': np.ascontiguousarray(self.arrangement(volume)), 'scale': np.float32(scale),
            'attributes': {_TERM: self.values[record]}}


def rows(config: ml_collections.ConfigDict, found: Sources) -> Networks | None:
  """What trains the rows that config.networks of a probe names, on the shards of the evaluation.

  `supervised` has the architecture of the first checkpoint; of several, each has its `finetuned`.

  Raises:
    UserError: there are no volumes to train on.
  """
  names = chosen(config.networks)
  if not names:
    return None
  if not found.weights:
    raise UserError('config.networks trains on volumes: give --config.checkpoint and its shards in '
                    'place of tables of features')
  budget = Budget(config.network_epochs, config.network_learning_rate, config.network_batch_size,
                  config.seed)
  record_of = {key: row for row, key in enumerate(zip(found.data.table['participant_id'],
                                                      found.data.table['session']))}
  records = np.array([record_of[key] for key in found.cohort.keys()])
  begun = {FINETUNED if len(found.weights) == 1 else f'{FINETUNED} {name}': (one, True)
           for name, one in found.weights.items()}
  every = {SUPERVISED: (next(iter(found.weights.values())), False)} | begun
  trained = {name: one for name, one in every.items() if name.split()[0] in names}

  def train(protocol: Protocol) -> dict[str, list[Predicted]]:
    return {name: predictions(protocol.target, protocol.splits, records, weights, found.data,
                              budget, from_weights=from_weights,
                              name=f'{name}, {protocol.target.task.name}')
            for name, (weights, from_weights) in trained.items()}

  return Networks(f'{", ".join(trained)}: {budget}', train)


def chosen(text: str) -> list[str]:
  """The rows of config.networks; UserError for a name that is none."""
  names = [name.strip() for name in text.split(',') if name.strip()]
  for name in names:
    check_name(name, (SUPERVISED, FINETUNED), 'row of networks')
  return names


def predictions(target: Target, splits: list[Split], records: np.ndarray, weights: Weights,
                data: ShardSet, budget: Budget, *, from_weights: bool, name: str = 'network',
                show: bool = True) -> list[Predicted]:
  """What networks predict of the test side of each split, trained on its other side.

  Numbers by L1, classes by cross-entropy, in which they count alike; a linear layer over the
  encoder's features. Nobody of the test side is looked at before the epoch is chosen.

  Args:
    target: of scans whose rows of the table are `target.rows`.
    records: the record in `data` of each row of that table.
    from_weights: begin with the encoder of `weights`; else only its architecture is taken.

  Raises:
    UserError: too few people to train on, or batches that do not divide over the devices.
    RunFailure: a record is damaged, or the loss is not finite.
  """
  network = _Network(target, weights, data, budget)
  of_rows = records[target.rows]
  found = []
  with progress_bar(len(splits) * budget.epochs, name, 'epochs', show=show) as bar:
    for split in splits:
      found.append(network.of_split(split, of_rows, from_weights, bar.update))
  return found


@functools.cache
def _program(encoder: nn.Module, outputs: int, kernel: str, learning_rate: float,
             weight_decay: float, precision: str, mesh: jax.sharding.Mesh
             ) -> tuple[Callable, Callable, Callable]:
  """First state, training step and outputs; compiled once for all tasks of one form."""
  term = {'attribute': _TERM, 'weight': 1.0, 'kernel': kernel, 'outputs': outputs}
  loss = ml_collections.ConfigDict({'method': supervision.METHOD, 'terms': {_TERM: term}})
  head = models.get_head('linear', outputs)
  optimizer = optim.adam_with_l2(optax.constant_schedule(learning_rate), weight_decay)
  compiled = functools.partial(parallel.map_over_devices, mesh=mesh,
                               compiler_options=compiler_options(precision))
  return (functools.partial(step.init_state, encoder, head, optimizer),
          compiled(step.make_train_step(encoder, head, optimizer, loss, 1, parallel.AXIS),
                   donate_state=True),
          compiled(step.make_output_step(encoder, head, parallel.AXIS)))


class _Network:
  """The network of one task, for all of its splits."""

  def __init__(self, target: Target, weights: Weights, data: ShardSet, budget: Budget):
    self._target, self._weights, self._data, self._budget = target, weights, data, budget
    self._kernel = supervision.CLASSES if target.classes else supervision.NUMBER
    self._arrangement = Arrangement.of(weights.card)
    self._mesh = parallel.make_mesh(budget.batch_size)
    encoder = models.get_encoder(weights.encoder, **encoder_options(weights.card),
                                 dtype=jnp.dtype(budget.precision), axis_name=parallel.AXIS)
    self._init, self._train, self._outputs = _program(
        encoder, len(target.classes) or 1, self._kernel, budget.learning_rate, budget.weight_decay,
        budget.precision, self._mesh)

  def of_split(self, split: Split, records: np.ndarray, from_weights: bool,
               advance: Callable[[], None]) -> Predicted:
    target, budget = self._target, self._budget
    fit, test = split
    own, stopping = grouped_folds(target.select(fit), _STOPPING, budget.seed)[0]
    fitted, chosen_by = fit[own], fit[stopping]
    if len(fitted) < budget.batch_size:
      raise UserError(f'task {target.task.name}: {len(fitted)} scans to train a network on, fewer '
                      f'than network_batch_size {budget.batch_size}')
    stats = supervision.fit(target.values[fitted], self._kernel, len(target.classes))
    truth = supervision.for_loss(target.values, stats)
    values = np.full((len(self._data), *truth.shape[1:]), np.nan, np.float32)
    values[records] = truth
    feed = Feed(_Reader(self._data, self._arrangement, values), self._mesh, budget.threads)
    best = self._best(feed, records[fitted], records[chosen_by], truth[chosen_by], from_weights,
                      advance)
    outputs = self._outputs_of(best, feed, records[test])
    if not target.classes:
      return Predicted(outputs[:, 0] * float(stats['deviation']) + float(stats['mean']), None, {},
                       True)
    return Predicted(outputs.argmax(1), scipy.special.softmax(outputs, 1), {}, True)

  def _best(self, feed: Feed, fitted: np.ndarray, chosen_by: np.ndarray, truth: np.ndarray,
            from_weights: bool, advance: Callable[[], None]) -> step.TrainState:
    """The state after the epoch that is the best for people who were not trained on."""
    budget = self._budget
    state = self._init(jax.random.key(budget.seed), self._arrangement.shape(self._data.grid.shape))
    if from_weights:
      state = state.replace(
          params=state.params | {'encoder': copy.deepcopy(self._weights.variables['params'])},
          batch_stats=copy.deepcopy(self._weights.variables['batch_stats']))
    state = parallel.replicate(state, self._mesh)
    steps = len(fitted) // budget.batch_size
    best, lowest = None, np.inf
    for epoch in range(budget.epochs):
      schedule = pipeline.TrainSchedule(fitted, budget.batch_size, budget.seed,
                                        range(epoch * steps, (epoch + 1) * steps),
                                        self._data.damaged)
      for batch in feed(schedule):
        state, metrics = self._train(state, *batch)
      if not np.isfinite(float(metrics['loss'])):
        raise RunFailure(f'task {self._target.task.name}: the loss of the network is not finite in '
                         f'epoch {epoch + 1}; lower --config.network_learning_rate')
      missed = self._missed(self._outputs_of(state, feed, chosen_by), truth)
      if missed < lowest:
        best, lowest = jax.device_get(state), missed
      advance()
    return parallel.replicate(best, self._mesh)

  def _missed(self, outputs: np.ndarray, truth: np.ndarray) -> float:
    outputs, truth = jnp.asarray(outputs)[:, None], jnp.asarray(truth)
    if self._kernel == supervision.NUMBER:
      return float(supervision.absolute_error(outputs[..., 0], truth))
    return float(supervision.cross_entropy(outputs, truth[:, 0], truth[:, 1]))

  def _outputs_of(self, state: step.TrainState, feed: Feed, records: np.ndarray) -> np.ndarray:
    return training_features.of_records(self._outputs, state, feed, records,
                                        self._budget.batch_size)()
