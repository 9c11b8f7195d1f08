"""Pretraining, readable from top to bottom: data, model, state, loop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from anatcl_jax import models
from anatcl_jax.config import crop_sizes, encoder_options
from anatcl_jax.data import attributes, augment, cache, damage, pipeline
from anatcl_jax.data.feed import Feed
from anatcl_jax.devices import parallel, processes, signals
from anatcl_jax.errors import UserError
from anatcl_jax.frozen import extract
from anatcl_jax.models import convolution
from anatcl_jax.training import curves, online_probe, opening, optim, step, training_features, watch
from anatcl_jax.training.checkpoint import restore
from anatcl_jax.training.checks import check_values
from anatcl_jax.training.heldout import Heldout
from anatcl_jax.weights import ranges, stored
from anatcl_jax.weights.run_config import check_config


@dataclasses.dataclass(frozen=True)
class Program:
  """What is compiled for a run: functions of the state and a batch over all devices."""

  init: Callable[[jax.Array, tuple[int, ...]], step.TrainState]
  train_step: Callable[[step.TrainState, step.Batch], tuple[step.TrainState, step.Metrics]]
  eval_step: Callable[[step.TrainState, step.Batch], step.Metrics]
  encode_step: Callable[[step.TrainState, step.Batch], jax.Array]
  learning_rate: Callable[[int], jax.Array]


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path,
          make_program: Callable[..., Program] | None = None) -> None:
  """Trains to config.epochs, or goes on with the run that is in `workdir`.

  Args:
    make_program: what stands for `compile_program`, which is the default.

  Raises:
    UserError: config, data or workdir do not go together.
    RunFailure: the loss is not finite; the text names the step and the subjects.
    Stopped: SIGTERM or SIGINT arrived, and the step that was under way is saved.
  """
  check_values(config)
  mesh = parallel.make_mesh(config.batch_size)

  # ---- Data: shards, the fold held out, batches a step ------------------------------------------
  data = opening.open_data(config)
  raw_attributes = attributes.read_attributes(data, config)
  config = attributes.with_outputs(config, raw_attributes)
  columns = attributes.read_columns(data, config)
  train_records, heldout_records = pipeline.split_by_participant(
      data.table['participant_id'].to_numpy(), config.fold, config.num_folds, config.seed)
  steps_per_epoch = len(train_records) // config.batch_size
  if not steps_per_epoch:
    raise UserError(f'batch_size {config.batch_size} is more than the {len(train_records)} scans '
                    f'to train on in {config.data_dir}; choose a smaller one')
  crop = crop_sizes(config.crop)
  kept = cache.choose(config.cache, data, crop)
  program = (make_program or compile_program)(config, mesh, steps_per_epoch, kept == 'device')
  data = opening.without_damaged(data, train_records, config, workdir)
  heldout_records = data.whole(heldout_records)
  begin = opening.initial_weights(config) if not stored.steps(workdir) else None
  check_config(workdir, opening.described(config, data))

  with damage.forgotten_on_damage(workdir), signals.StopSignal() as stop:
    # ---- State: fresh, of given weights, or of the newest whole checkpoint ----------------------
    statistics = attributes.fit_attributes(raw_attributes, train_records, config.loss.terms,
                                           columns)
    state = program.init(jax.random.key(config.seed), data.volume_shape(crop))
    state = fresh = parallel.replicate(state, mesh)
    if saved := restore(workdir, state):
      state, statistics = parallel.replicate(saved[0], mesh), saved[1]
    elif begin:
      if processes.is_first():
        extract.warn(begin, data)
      state = parallel.replicate(opening.begun(state, begin, config.init), mesh)
    reader = pipeline.Reader(
        data, attributes.normalize_attributes(raw_attributes, statistics, config.loss.terms,
                                              columns), crop,
        cache.make_cache(data, crop) if kept == 'memory' else None)
    heldout = pipeline.heldout_batches(heldout_records, config.batch_size, mesh.size,
                                       config.seed)
    first, last = int(state.step), config.epochs * steps_per_epoch
    opening.describe(config, reader, kept, (train_records, heldout_records), heldout, state, mesh,
                     first, last, attributes.left_in(columns, statistics))

    # ---- What looks at it: held-out loss, probe, and all of watch.py ----------------------------
    feed = Feed(reader, mesh, config.reader_threads,
                cache.on_devices(data, crop, mesh, config.reader_threads)
                if kept == 'device' and first < last else None)
    evaluate = Heldout(program.eval_step, feed, heldout) if heldout else None
    probe = None
    if config.probe_every_epochs and first < last:
      probe = online_probe.make(program.encode_step, feed, data.whole(train_records),
                                heldout_records, config.batch_size, config.seed)
      probe = probe and probe.beside(fresh)
    del fresh
    schedule = pipeline.TrainSchedule(train_records, config.batch_size, config.seed,
                                      range(first, last), data.damaged)
    watching = watch.Watch(
        config, workdir, watch.Due(config, steps_per_epoch, first, last), stop,
        learning_rate=program.learning_rate, statistics=statistics,
        subjects=lambda number: [data.label(i) for i in schedule[number - first - 1]],
        left_out=len(data.damaged), evaluate=evaluate, probe=probe)

    # ---- Loop: a step is given to the devices before the one before it is looked at -------------
    with watching, contextlib.closing(feed(schedule)) as batches:
      for number in range(first + 1, last + 1):
        watching.waits_for_data(number)
        batch = next(batches)
        watching.starts(number)
        state, metrics = program.train_step(state, *batch)
        if watching.sees(number, state, metrics):
          break
      watching.ends()

    if first < last:
      drawn = training_features.drawn(data.whole(train_records), config.seed)
      ranges.note_range(workdir, training_features.of_records(
          program.encode_step, state, feed, drawn, config.batch_size)(), last)

  if processes.is_first():
    picture = curves.training_curves(workdir, data.synthetic)
    print(f'results: {workdir} (checkpoints/, metrics.jsonl, tensorboard/, {picture.name})')


def compile_program(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh,
                    steps_per_epoch: int, resident: bool = False) -> Program:
  """The program of a run with this config, which compiles when it is first called.

  Where `resident`, steps take the cohort on the devices after their batch (step.from_cohort).
  """
  dtype = jnp.dtype(config.precision)
  make_views = augment.view_maker(config.augment, config.views, config.seed)
  encoder = models.get_encoder(config.encoder, **encoder_options(config), dtype=dtype,
                               axis_name=parallel.AXIS,
                               repeats=1 if make_views else config.views, remat=config.remat)
  head = models.get_head(config.head, config.feature_dim, dtype=dtype)
  schedule = optim.step_schedule(config.learning_rate, config.decay, config.decay_epochs,
                                 steps_per_epoch)
  optimizer = optim.adam_with_l2(schedule, config.weight_decay)
  train_step = step.make_train_step(encoder, head, optimizer, config.loss, config.views,
                                    parallel.AXIS, make_views=make_views,
                                    micro_batches=step.count_micro_batches(
                                        config.batch_size, config.micro_batch_size, mesh.size))
  eval_step = step.make_eval_step(encoder, head, config.loss, config.views, parallel.AXIS)

  def compiled(function, donate_state=False):
    return parallel.map_over_devices(step.from_cohort(function) if resident else function, mesh,
                                     config.mapper, donate_state, resident,
                                     convolution.compiler_options(config.precision))

  return Program(
      functools.partial(step.init_state, encoder, head, optimizer),
      compiled(train_step, donate_state=True), compiled(eval_step),
      compiled(step.make_encode_step(encoder, parallel.AXIS)), schedule)
