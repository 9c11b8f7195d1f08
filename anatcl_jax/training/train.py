"""Pretraining, readable from top to bottom: data, model, state, loop."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from anatcl_jax import models
from anatcl_jax.cohorts.phantom.cohort import PhantomSettings
from anatcl_jax.config import crop_sizes, encoder_options
from anatcl_jax.data import attributes, augment, cache, damage, make_shards, pipeline, shards
from anatcl_jax.devices import parallel, processes, signals
from anatcl_jax.errors import RunFailure, Stopped, UserError, check_name, listed
from anatcl_jax.training import (
  curves,
  online_probe,
  optim,
  profiling,
  step,
  tracking,
  training_features,
)
from anatcl_jax.training.checkpoint import Checkpoints, restore
from anatcl_jax.training.checks import check_values
from anatcl_jax.training.heartbeat import Heartbeat
from anatcl_jax.weights import ranges
from anatcl_jax.weights.run_config import check_config


@dataclasses.dataclass(frozen=True)
class Program:
  """What is compiled for a run: functions of the state and a batch over all devices."""

  init: Callable[[jax.Array, tuple[int, ...]], step.TrainState]
  train_step: Callable[[step.TrainState, step.Batch], tuple[step.TrainState, step.Metrics]]
  eval_step: Callable[[step.TrainState, step.Batch], step.Metrics]
  encode_step: Callable[[step.TrainState, step.Batch], jax.Array]
  learning_rate: Callable[[int], jax.Array]


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Trains to config.epochs, or goes on with the run that is in `workdir`.

  Raises:
    UserError: config, data or workdir do not go together.
    RunFailure: the loss is not finite; the text names the step and the subjects.
    Stopped: SIGTERM or SIGINT arrived, and the step that was under way is saved.
  """
  check_values(config)
  mesh = parallel.make_mesh(config.batch_size)
  if processes.is_first():
    print(f'config:\n{config}', file=sys.stderr)

  # ---- Data: shards, the fold held out, batches a step ------------------------------------------
  data = _open_data(config)
  raw_attributes = attributes.read_attributes(data, config)
  train_records, heldout_records = pipeline.split_by_participant(
      data.table['participant_id'].to_numpy(), config.fold, config.num_folds, config.seed)
  steps_per_epoch = len(train_records) // config.batch_size
  if not steps_per_epoch:
    raise UserError(f'batch_size {config.batch_size} is more than the {len(train_records)} scans '
                    f'to train on in {config.data_dir}; choose a smaller one')
  program = compile_program(config, mesh, steps_per_epoch)
  data = _without_damaged(data, train_records, config, workdir)
  heldout_records = data.whole(heldout_records)
  crop = crop_sizes(config.crop)
  volumes = cache.make_cache(data, crop) if config.cache == 'memory' else None
  check_config(workdir, config.to_dict() | {
      'data_identity': data.identity(),
      'data': config.data.to_dict() | {'grid': data.info['grid'], 'synthetic': data.synthetic}
  } | ({'left_out': [data.label(i) for i in sorted(data.damaged)]} if data.damaged else {}))

  with damage.forgotten_on_damage(workdir), signals.StopSignal() as stop:
    # ---- State: fresh, or from the newest whole checkpoint --------------------------------------
    statistics = attributes.fit_attributes(raw_attributes, train_records, config.loss.terms)
    state = program.init(jax.random.key(config.seed), data.volume_shape(crop))
    state = fresh = parallel.replicate(state, mesh)
    if saved := restore(workdir, state):
      state, statistics = parallel.replicate(saved[0], mesh), saved[1]
    reader = pipeline.Reader(data, attributes.normalize_attributes(
        raw_attributes, statistics, config.loss.terms), crop, volumes)
    heldout = pipeline.heldout_batches(heldout_records, config.batch_size, mesh.size)
    first, last = int(state.step), config.epochs * steps_per_epoch
    _describe(config, reader, (train_records, heldout_records), heldout, state, mesh, first, last)

    probe = None
    if config.probe_every_epochs and first < last:
      probe = online_probe.make(
          program.encode_step, reader, data.whole(train_records), heldout_records, mesh,
          batch_size=config.batch_size, threads=config.reader_threads, seed=config.seed)
      probe = probe and probe.beside(fresh)
    del fresh

    # ---- Loop -----------------------------------------------------------------------------------
    batches = pipeline.train_batches(reader, train_records, config.batch_size, config.seed,
                                     range(first, last), config.reader_threads)
    with (Heartbeat(config.heartbeat_seconds, first) as heartbeat,
          profiling.Trace(workdir, profiling.parse_steps(config.profile_steps),
                          processes.is_first()) as trace,
          Checkpoints(workdir, keep=config.keep_checkpoints,
                      every_steps=config.keep_every_epochs * steps_per_epoch,
                      best_metric=config.keep_best_metric,
                      best_mode=config.keep_best_mode) as checkpoints,
          tracking.MetricsLog(workdir, first, processes.is_first()) as log,
          tracking.Progress(first, last, config.batch_size, processes.is_first()) as progress):
      heartbeat.waits_for('data', first + 1)
      upcoming = _to_devices(batches, mesh)
      for done in range(first + 1, last + 1):
        heartbeat.waits_for('compilation' if done == first + 1 else 'devices', done)
        trace.before(done)
        state, metrics = program.train_step(state, upcoming)
        heartbeat.waits_for('data', done + 1)
        upcoming = _to_devices(batches, mesh)   # read and sent while the step runs
        heartbeat.waits_for('devices', done)
        metrics = jax.device_get(metrics)
        trace.after(done)
        heartbeat.waits_for('evaluation', done)
        _check_step(metrics, done, data, pipeline.records_of_step(
            train_records, config.batch_size, config.seed, done - 1, data.damaged))
        progress.advance(metrics)

        row = {}
        epoch, ends_epoch = -(-done // steps_per_epoch), done % steps_per_epoch == 0
        if done == 1 or ends_epoch or done % config.log_every_steps == 0:
          row = progress.take_row() | {'learning_rate': program.learning_rate(done - 1)}
          row |= heartbeat.take_seconds(done) | profiling.memory_figures()
          if config.data.on_error == 'skip':
            row['data/skipped'] = len(data.damaged)
          if done in (1, last) or (ends_epoch and epoch % config.heldout_every_epochs == 0):
            row |= _evaluate(program, state, reader, heldout, mesh, done)
          if probe and (done == last or ends_epoch and epoch % config.probe_every_epochs == 0):
            row |= probe(state)
          if done == 1:
            _check_best_metric(config.keep_best_metric, row, bool(heldout))
          log.write(done, epoch, row)
          progress.say(f'{epoch}/{config.epochs}', row)
        heartbeat.waits_for('processes', done)
        stopping, failed = processes.on_any(stop.received, checkpoints.failed())
        if failed:
          raise checkpoints.failure()
        if done == last or stopping or (
            ends_epoch and epoch % config.checkpoint_every_epochs == 0):
          heartbeat.waits_for('checkpoint', done)
          checkpoints.save(state, statistics, row)
        if stopping and done < last:
          raise Stopped(f'step {done} of {last} is saved in {workdir}; the same command goes on '
                        'from there')

    if first < last:
      drawn = training_features.drawn(data.whole(train_records), config.seed)
      ranges.note_range(workdir, training_features.of_records(
          program.encode_step, state, reader, drawn, mesh, batch_size=config.batch_size,
          threads=config.reader_threads), last)

  if processes.is_first():
    picture = curves.training_curves(workdir, data.synthetic)
    print(f'results: {workdir} (checkpoints/, metrics.jsonl, tensorboard/, {picture.name})')


def compile_program(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh,
                    steps_per_epoch: int) -> Program:
  """The program of a run with this config, which compiles when it is first called."""
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
  return Program(
      functools.partial(step.init_state, encoder, head, optimizer),
      parallel.map_over_devices(train_step, mesh, config.mapper, donate_state=True),
      parallel.map_over_devices(eval_step, mesh, config.mapper),
      parallel.map_over_devices(step.make_encode_step(encoder, parallel.AXIS), mesh,
                                config.mapper),
      schedule)


def _open_data(config: ml_collections.ConfigDict) -> shards.ShardSet:
  """The shards of config.data_dir; a config with `phantom` makes synthetic ones where none are."""
  directory = pathlib.Path(config.data_dir)
  all_files = config.data.on_error == 'stop'
  if 'phantom' not in config:
    return shards.open_shards(directory, all_files)
  if not (directory / 'dataset.json').is_file() and processes.is_first():
    make_shards.make_phantom_shards(PhantomSettings(**config.phantom), directory)
  processes.wait_for_all('shards')
  data = shards.open_shards(directory, all_files)
  if data.info['sources'].get('phantom') != dataclasses.asdict(PhantomSettings(**config.phantom)):
    raise UserError(f'{directory} was not made with config.phantom {config.phantom.to_dict()}; '
                    'choose another data_dir or remove it')
  return data


def _without_damaged(data: shards.ShardSet, train_records: np.ndarray,
                     config: ml_collections.ConfigDict, workdir: pathlib.Path) -> shards.ShardSet:
  """The set that knows its damaged records, where config.data.on_error is skip.

  Folds and epochs are made of all records, so that damage changes nothing but the batches it is in.
  """
  if config.data.on_error == 'stop':
    return data
  data = dataclasses.replace(
      data, damaged=damage.find_damaged(data, workdir, config.reader_threads))
  left = len(data.whole(train_records))
  if left < config.batch_size:
    raise UserError(f'{left} of {len(train_records)} scans to train on in {config.data_dir} are '
                    f'whole, fewer than batch_size {config.batch_size}; prepare the set again')
  return data


def _to_devices(batches: Iterator[pipeline.Batch], mesh: jax.sharding.Mesh) -> step.Batch | None:
  batch = next(batches, None)
  return None if batch is None else parallel.shard_rows(batch, mesh)


def _evaluate(program: Program, state: step.TrainState, reader: pipeline.Reader,
              batches: list[np.ndarray], mesh: jax.sharding.Mesh, done: int) -> dict[str, float]:
  """The unweighted mean of each metric over the held-out batches, its name prefixed by heldout/."""
  rows = [program.eval_step(state, parallel.shard_rows(reader.batch(records), mesh))
          for records in batches]
  means = {f'heldout/{name}': float(np.mean([row[name] for row in rows]))
           for name in (rows[0] if rows else ())}
  if not math.isfinite(means.get('heldout/loss', 0)):
    raise RunFailure(f'the held-out loss is {means["heldout/loss"]} after step {done}; {_REMEDY}')
  return means


_REMEDY = ('lower the learning rate or raise loss.temperature; nothing was saved since the last '
           'checkpoint')


def _check_step(metrics: step.Metrics, done: int, data: shards.ShardSet,
                records: np.ndarray) -> None:
  """Stops a run whose numbers are not finite, or that learns nothing, before it is saved."""
  for name in ('loss', 'gradient_norm', 'parameter_norm'):
    if not math.isfinite(metrics[name]):
      labels = [data.label(record) for record in records]
      raise RunFailure(f'the {name.replace("_", " ")} is {metrics[name]} at step {done}; the '
                       f'subjects of its batch are {listed(labels, len(labels))}. Look at their '
                       f'volumes, {_REMEDY}')
  if not metrics['gradient_norm']:
    raise RunFailure(f'the gradient is 0 at step {done}: no subject of the batch has a positive in '
                     'any term of the loss; look at the terms, their attributes and views')


def _check_best_metric(name: str, row: dict[str, float], has_heldout: bool) -> None:
  """Stops a run, before anything is saved, whose best checkpoint would never be known."""
  if name and not name.startswith('probe/') and (has_heldout or not name.startswith('heldout/')):
    check_name(name, row, 'keep_best_metric')


def _describe(config: ml_collections.ConfigDict, reader: pipeline.Reader,
              records: tuple[np.ndarray, np.ndarray], heldout: list[np.ndarray],
              state: step.TrainState, mesh: jax.sharding.Mesh, first: int, last: int) -> None:
  """A few lines before the first step: what is trained on what, from where to where."""
  count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  train_records, heldout_records = records
  data = reader.shards
  terms = [f'{term.weight:g} x {name} ({term.attribute} by {term.kernel}'
           + (f', {lacking} scans lack it)' if lacking else ')')
           for name, term in config.loss.terms.items() if name in reader.attributes
           for lacking in [attributes.missing(reader.attributes[name])]]
  lines = [f'data: {data.directory}: {"SYNTHETIC, " if data.synthetic else ""}'
           f'{len(train_records)} scans to train on, {len(heldout_records)} held out (fold '
           f'{config.fold} of {config.num_folds}, by participant), {data.grid}',
           f'model: {config.encoder} with {config.head} head, {count:,} parameters, '
           f'{config.precision}, on {mesh.size} {jax.devices()[0].platform} device'
           f'{"s" if mesh.size > 1 else ""}'
           + (f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''),
           f'loss: {config.loss.method}, {" + ".join(terms)}',
           *([f'cache: volumes stay in memory, up to {reader.cache.bytes / 1e9:.3g} GB a process']
             if reader.cache else []),
           f'steps: {first} done of {last}'
           + ('; nothing is left to do' if first >= last else '')]
  if not heldout:
    lines.append(f'note: {len(heldout_records)} scans are too few for a held-out loss on '
                 f'{mesh.size} devices')
  elif len(heldout[0]) < config.batch_size:
    lines.append(f'note: held-out batches have {len(heldout[0])} scans, those of training '
                 f'{config.batch_size}: the two losses do not compare')
  if processes.is_first():
    print('\n'.join(lines), file=sys.stderr)
