"""What no run can have: names and values of a config that make no sense, alone or together."""

from __future__ import annotations

import math

import ml_collections
from ml_collections.config_flags import config_path

from anatcl_jax import kernels, losses, models, supervision
from anatcl_jax.cohorts import atlas
from anatcl_jax.config import PRECISIONS, check_seed, crop_sizes
from anatcl_jax.data import attributes, augment, cache, damage
from anatcl_jax.devices import parallel
from anatcl_jax.errors import UserError, check_name
from anatcl_jax.training import profiling


def check_values(config: ml_collections.ConfigDict) -> None:
  """Stops names and values that no run can have.

  Raises:
    UserError: the first such value, with what it must be.
  """
  for name, term in config.loss.terms.items():
    for key in _needs(term):
      if key not in term:
        raise UserError(f'config.loss.terms.{name} lacks {key}, which a term with '
                        f'{term.get("attribute")} and {term.get("kernel")} needs; set it in a '
                        'config file')
  for name, valid, kind in (
      (config.encoder, models.encoder_names(), 'encoder'),
      (config.head, models.HEADS, 'projection head'),
      (config.precision, PRECISIONS, 'precision'),
      (config.remat, models.REMATS, 'remat'),
      (config.mapper, parallel.MAPPERS, 'mapper'),
      (config.keep_best_mode, ('min', 'max'), 'keep_best_mode'),
      (config.atlas, atlas.ATLASES, 'atlas'),
      (config.cache, cache.CACHES, 'cache'),
      (config.data.on_error, damage.ON_ERROR, 'data.on_error'),
      (config.loss.method, (*losses.METHODS, supervision.METHOD), 'loss method'),
      (config.loss.delta_reduction, losses.DELTA_REDUCTIONS, 'delta_reduction')):
    check_name(name, valid, kind)
  crop_sizes(config.crop)
  profiling.parse_steps(config.profile_steps)
  augment.names_of(config.augment)
  for key, least in (('encoder_width', 0), ('epochs', 1), ('batch_size', 2), ('views', 1),
                     ('decay_epochs', 1), ('feature_dim', 1), ('keep_checkpoints', 1),
                     ('keep_every_epochs', 0), ('micro_batch_size', 0),
                     ('log_every_steps', 1), ('checkpoint_every_epochs', 1),
                     ('heldout_every_epochs', 1), ('probe_every_epochs', 0),
                     ('heartbeat_seconds', 0), ('checkpoint_every_seconds', 0),
                     ('reader_threads', 1)):
    if config[key] < least:
      raise UserError(f'config.{key} is {config[key]}, must be at least {least}')
  check_seed(config.seed, 'config.seed')
  for key in ('learning_rate', 'decay', 'loss.temperature', 'loss.base_temperature',
              'loss.memory_budget_mb',
              *(f'loss.terms.{name}.sigma' for name, term in config.loss.terms.items()
                if 'sigma' in term)):
    value = config_path.get_value(key, config)
    if not 0 < value < math.inf:
      raise UserError(f'config.{key} is {value}, must be a number above 0')
  for name, term in config.loss.terms.items():
    _check_sharpness(name, term, config)
    _check_columns(name, term)
    if config.loss.method == supervision.METHOD:
      _check_predicted(name, term, config)
    elif term.attribute == 'morphometry':
      check_name(term.kernel, kernels.DESCRIPTORS, 'kernel of morphometry')
      check_name(term.normalization, kernels.NORMALIZATIONS, 'normalisation of morphometry')
    else:
      check_name(term.kernel, kernels.ATTRIBUTE_KERNELS, f'kernel of {term.attribute}')
  weights = {name: term.weight for name, term in config.loss.terms.items()}
  if not 0 <= config.weight_decay < math.inf:
    raise UserError(f'config.weight_decay is {config.weight_decay}, must be 0 or above')
  if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
    raise UserError(f'weights of the loss terms are {weights}: none may be below 0, nor all 0')


def _check_predicted(name: str, term: ml_collections.ConfigDict,
                     config: ml_collections.ConfigDict) -> None:
  """UserError where a term is nothing that a network can be trained to predict."""
  if term.attribute == 'morphometry':
    raise UserError(f'config.loss.terms.{name} is of morphometry, and loss.method supervised '
                    'predicts columns of participants.tsv; set its weight to 0, or begin with '
                    '--config=...:regress=age')
  check_name(term.kernel, supervision.KERNELS, f'kernel of {name} where loss.method is supervised')
  if config.head == 'none':
    raise UserError('config.head is none, but what is predicted needs an output; choose linear or '
                    'mlp')


def _check_columns(name: str, term: ml_collections.ConfigDict) -> None:
  """UserError where columns to take out of a term's morphometry, or to keep, make no sense."""
  without, keeping = (attributes.names_in(term, key) for key in ('without', 'keeping'))
  where = f'config.loss.terms.{name}'
  if without and term.attribute != 'morphometry':
    raise UserError(f'{where}.without is {term.without!r}, but columns are taken out of '
                    f'morphometry only, not of {term.attribute}')
  if keeping and not without:
    raise UserError(f'{where}.keeping is {term.keeping!r}, but nothing is taken out; say what by '
                    'without')
  if twice := [column for column in without + keeping if (without + keeping).count(column) > 1]:
    raise UserError(f'{where}: {twice[0]} stands twice in without={term.without} and '
                    f'keeping={term.get("keeping", "")}; name it once')


def _check_sharpness(name: str, term: ml_collections.ConfigDict,
                     config: ml_collections.ConfigDict) -> None:
  """UserError where a term's stated effective positives are none that rows of a batch can have."""
  share = term.get('effective_positives', 0)
  key = f'config.loss.terms.{name}.effective_positives'
  if not 0 <= share < 1:
    raise UserError(f'{key} is {share}, must be a share of the batch, above 0 and below 1, such as '
                    '0.1; or 0: as the kernel has it')
  if share and share * (config.batch_size - 1) < 1:
    raise UserError(f'{key} {share} of the {config.batch_size - 1} others in a batch is less than '
                    f'one; choose {math.ceil(1000 / (config.batch_size - 1)) / 1000} or more, or a '
                    'larger batch_size')
  if share and term.kernel == 'equality':
    raise UserError(f'{key} is {share}, but equal values have no degrees; set it to 0')
  if share and config.loss.method == 'supcon':
    raise UserError(f'{key} is {share}, but supcon takes weights of 1 only; choose another '
                    'loss.method, or set it to 0')


def _needs(term: ml_collections.ConfigDict) -> tuple[str, ...]:
  """The keys that a term of the loss can't do without."""
  if term.get('attribute') == 'morphometry':
    return 'attribute', 'weight', 'kernel', 'normalization'
  return ('attribute', 'weight', 'kernel') + (
      () if term.get('kernel') in ('equality', *supervision.KERNELS) else ('sigma',))
