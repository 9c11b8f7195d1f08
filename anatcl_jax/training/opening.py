"""What a run begins with: its shards, and a few lines of what is trained on what."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np

from anatcl_jax import lock
from anatcl_jax.cohorts.phantom.cohort import PhantomSettings
from anatcl_jax.data import attributes, cache, damage, make_shards, pipeline, shards
from anatcl_jax.devices import processes
from anatcl_jax.errors import UserError
from anatcl_jax.training import step
from anatcl_jax.weights.load import Weights, load_weights
from anatcl_jax.weights.load import encoder_options as card_options


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
  """Holds a workdir for this run: its process 0 does, and all processes know whether it could.

  Raises:
    UserError: another run works in it, or it can't be written.
  """
  try:
    str(workdir).encode()
  except UnicodeEncodeError:
    raise UserError(f'{str(workdir)!a}: this name is not UTF-8; choose another --workdir') from None
  with contextlib.ExitStack() as stack:
    refused = None
    if processes.is_first():
      try:
        stack.enter_context(lock.alone_in(workdir, 'choose another --workdir'))
      except UserError as error:
        refused = error
    if any(processes.on_any(refused is not None)):
      raise refused or UserError(f'{workdir} can\'t be used; the line of process 0 says why')
    yield


def open_data(config: ml_collections.ConfigDict) -> shards.ShardSet:
  """The shards of config.data_dir; a config with `phantom` makes synthetic ones where none are."""
  directory = pathlib.Path(config.data_dir)
  all_files = config.data.on_error == 'stop'
  if 'phantom' not in config:
    return shards.open_shards(directory, all_files)
  if not (directory / 'dataset.json').is_file() and processes.is_first():
    make_shards.make_phantom_shards(PhantomSettings(**config.phantom), directory)
  processes.wait_for_all('shards')
  data = shards.open_shards(directory, all_files)
  if data.info['sources'].get('phantom') != PhantomSettings(**config.phantom).as_record():
    raise UserError(f'{directory} was not made with config.phantom {config.phantom.to_dict()}; '
                    'choose another data_dir or remove it')
  return data


def without_damaged(data: shards.ShardSet, train_records: np.ndarray,
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


def initial_weights(config: ml_collections.ConfigDict) -> Weights | None:
  """The weights that config.init names, None where it names none.

  Raises:
    UserError: there are none, or they are of another encoder than the run's.
  """
  if not config.init:
    return None
  weights = load_weights(config.init)
  if weights.encoder != config.encoder:
    raise UserError(f'init {config.init} is a {weights.encoder}, config.encoder {config.encoder}; '
                    'they must be the same')
  ours, theirs = ({'width': None, 'small_input': None} | options for options in (
      card_options({'width': config.encoder_width, 'small_input': config.small_input}),
      card_options(weights.card)))
  if ours != theirs:
    raise UserError(f'init {config.init} has encoder_width {theirs["width"] or 0}, small_input '
                    f'{bool(theirs["small_input"])}, this run {ours["width"] or 0} and '
                    f'{bool(ours["small_input"])}; they must be the same')
  return weights


def begun(state: step.TrainState, weights: Weights, source: str) -> step.TrainState:
  """A fresh state with the parameters and BatchNorm's statistics of some weights.

  The head's too, where they have one of the same layers and sizes. It is told with their `source`.
  """
  head = weights.head and weights.head['params']
  if fits := jax.tree.map(np.shape, state.params['head']) == jax.tree.map(np.shape, head):
    params = {'encoder': weights.variables['params'], 'head': head}
  else:
    params = state.params | {'encoder': weights.variables['params']}
  if processes.is_first():
    print(f'init: encoder{" and head" if fits else ""} of {source}'
          + ('' if fits or not state.params['head'] else '; the head is drawn by seed'),
          file=sys.stderr)
  return jax.device_get(state).replace(params=jax.device_get(params),
                                       batch_stats=weights.variables['batch_stats'])


def described(config: ml_collections.ConfigDict, data: shards.ShardSet) -> dict:
  """What config.json says of a run: its config, and whose scans it saw."""
  values = config.to_dict()
  values['data_dir'] = str(pathlib.Path(config.data_dir).absolute())   # read from any folder
  values |= {'data_identity': data.identity(),
             'data': values['data'] | {
                 'grid': data.info['grid'], 'synthetic': data.synthetic,
                 'maps': data.info.get('maps'), 'measured_by': data.measured_by}}
  if data.damaged:
    values['left_out'] = [data.label(record) for record in sorted(data.damaged)]
  return values


_KEPT = {'device': 'volumes stay in the memory of every device, {:.3g} GB',
         'memory': 'volumes stay in memory, up to {:.3g} GB a process',
         'none': 'no; volumes, {:.3g} GB together, are read in each epoch'}


def describe(config: ml_collections.ConfigDict, reader: pipeline.Reader, kept: str,
             records: tuple[np.ndarray, np.ndarray], heldout: list[np.ndarray],
             state: step.TrainState, mesh: jax.sharding.Mesh, first: int, last: int,
             left_in: list[str]) -> None:
  """The config and a few lines before the first step: what is trained on what, where from and to.

  Not earlier: an error about data or a path would stand below sixty lines of config.
  """
  count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  train_records, heldout_records = records
  data = reader.shards
  terms = [f'{term.weight:g} x {name} ({term.attribute} by {term.kernel}'
           + (f' without {term.without}' if term.get('without') else '')
           + (f', drawn to {term.effective_positives:g} of the batch'
              if term.get('effective_positives') else '')
           + (f', {lacking} scans lack it)' if lacking else ')')
           for name, term in config.loss.terms.items() if name in reader.attributes
           for lacking in [attributes.missing(reader.attributes[name])]]
  lines = [f'config:\n{config}',
           f'data: {data.directory}: {"SYNTHETIC, " if data.synthetic else ""}'
           f'{len(train_records)} scans to train on, {len(heldout_records)} held out (fold '
           f'{config.fold} of {config.num_folds}, by participant), {data.grid}',
           f'model: {config.encoder} with {config.head} head, {count:,} parameters, '
           f'{config.precision}, on {mesh.size} {jax.devices()[0].platform} device'
           f'{"s" if mesh.size > 1 else ""}'
           + (f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''),
           f'loss: {config.loss.method}, {" + ".join(terms)}',
           f'cache: {_KEPT[kept]}'.format(cache.needed_bytes(data, reader.crop) / 1e9),
           f'steps: {first} done of {last}'
           + ('; nothing is left to do' if first >= last else '')]
  lines += [f'note: term {text}' for text in left_in]
  if not heldout:
    lines.append(f'note: {len(heldout_records)} scans are too few for a held-out loss on '
                 f'{mesh.size} devices')
  elif len(heldout[0]) < config.batch_size:
    lines.append(f'note: held-out batches have {len(heldout[0])} scans, those of training '
                 f'{config.batch_size}: the two losses do not compare')
  if processes.is_first():
    print('\n'.join(lines), file=sys.stderr)
