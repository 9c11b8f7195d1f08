"""Weights of an encoder with a card that says what they are, by path or by released name."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors

from anatcl_jax import __version__, models, paths
from anatcl_jax.cohorts import origins
from anatcl_jax.cohorts.morphometry import FREESURFER
from anatcl_jax.cohorts.volumes import NAMED_GRIDS, first_line
from anatcl_jax.config import check_seed, crop_sizes
from anatcl_jax.errors import UserError, check_name, listed
from anatcl_jax.models.variables import ANY_VOLUME, encoder_shapes, nested
from anatcl_jax.weights import ancestry, choice, published, ranges, released, run_config, stored
from anatcl_jax.weights.released_names import from_released

CARD, TENSORS = 'card.json', 'model.safetensors'   # the files of a folder of converted weights
_DTYPES = {'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16,
           'I64': np.int64, 'I32': np.int32, 'U8': np.uint8, 'BOOL': np.bool_}
_OF_TRAINING = ('Trained on', 'Training began')     # how notes begin that are of nothing else
AXES = 'RAS'   # where the axes of a volume point to, as shards and training have them


@dataclasses.dataclass(frozen=True)
class Weights:
  """An encoder's parameters as float32 NumPy, and its card, which is plain JSON.

  The card always has: encoder, head (mlp, linear or None), descriptor, fold, grid ({shape, affine},
  or None where it is not known), crop (three sizes or None), axes, source, made_by, synthetic and
  notes (a list of sentences). Where they are not the encoder's own, width and small_input are
  there, and where volumes are padded, pad (three sizes). A run's also has seed, precision, epochs,
  step, data_dir; that of a file its sha256, of a released one also options, left_out and
  batches_tracked (BatchNorm's counters), and its address where it came by name. `features_range`
  {low [F], high [F]} of scans that were trained on is there for a run that is finished; `maps` and
  `measured_by` say what kind of maps and whose morphometry was trained on, where that is known.
  """

  encoder: str                  # name in the registry
  variables: dict[str, Any]     # {'params': ..., 'batch_stats': ...}
  head: dict[str, Any] | None   # {'params': ...} of the projection head
  card: dict[str, Any]

  def __repr__(self) -> str:   # not of the arrays
    numbers = sum(array.size for array in by_name(self).values())
    return f'Weights({self.encoder}, {numbers:,} numbers, of {self.card.get("source")})'


def load_weights(path: str | pathlib.Path, cache: pathlib.Path | None = None) -> Weights:
  """Weights by the path of what holds them, or by name; no code in a file is run.

  Args:
    path: a workdir of `python -m anatcl_jax.main` (its newest checkpoint is read; WORKDIR@best and
      WORKDIR@STEP name others), a folder that `python -m anatcl_jax.convert` wrote, a .safetensors
      beside its card.json or with the names of the released module, a .pth, or a name of
      `published.RELEASED`, whose file is downloaded the first time.
    cache: where downloaded files are kept; see published.fetch.

  Raises:
    UserError: nothing of the kind is there, it is damaged, or its parts do not fit the encoder.
    RunFailure: it can't be downloaded.
  """
  if not isinstance(path, (str, os.PathLike)):
    raise UserError(f'{path!r:.100}: weights are given by their path')
  path = pathlib.Path(path)
  place, which = choice.workdir_of(path)
  if not place.exists():
    if one := published.named(str(path)):
      return _of_published(one, cache)
    raise UserError(f'{path}: no such weights')
  if (place / 'config.json').is_file():
    weights = _of_workdir(place, which, str(path))
  elif which:
    raise UserError(f'{path}: {place} is no workdir of a run; only those have several checkpoints')
  elif not place.is_dir():
    weights = _of_safetensors(path) if path.suffix == '.safetensors' else _of_released(path)
  elif (path / CARD).is_file():
    weights = _of_safetensors(path / TENSORS)
  else:
    raise UserError(f'{path} is no workdir of `python -m anatcl_jax.main` (config.json), nor a '
                    f'folder of converted weights ({CARD})')
  check(weights, path)
  return weights


def fresh(encoder: str, seed: int) -> Weights:
  """An encoder by its name, as a run with this seed has it before its first step."""
  check_name(encoder, models.encoder_names(), 'encoder')
  card = {'encoder': encoder, 'head': None, 'descriptor': None, 'fold': None, 'grid': None,
          'crop': None, 'axes': AXES, 'source': f'untrained:{encoder}:{seed}',
          'made_by': f'anatcl_jax {__version__}', 'synthetic': False, 'notes': []}
  return untrained(Weights(encoder, {}, None, card), seed)


def untrained(weights: Weights, seed: int) -> Weights:
  """The same encoder as a run with this seed has it before its first step; the card says so."""
  encoder_key, _ = jax.random.split(jax.random.key(check_seed(seed, 'the seed')))
  encoder = models.get_encoder(weights.encoder, **encoder_options(weights.card))
  # Lazily: the convolutions of ANY_VOLUME are not compiled, only the parameters. Not without jit:
  # a run compiles its initialisation, and rounding differs.
  volume = jax.ShapeDtypeStruct(ANY_VOLUME.shape, ANY_VOLUME.dtype)
  variables = jax.jit(lambda key: encoder.lazy_init(key, volume, False))(encoder_key)
  notes = [note for note in weights.card['notes'] if not note.startswith(_OF_TRAINING)]
  card = weights.card | {'untrained': True, 'seed': seed, 'step': 0, 'head': None,
                         'synthetic': False,
                         'notes': [*notes, f'Untrained: parameters drawn with seed {seed}.']}
  for name in ('features_range', 'maps', 'measured_by', 'init'):     # of training
    card.pop(name, None)
  return Weights(weights.encoder, jax.tree.map(np.asarray, variables), None, card)


def check(weights: Weights, path: pathlib.Path) -> None:
  """Raises UserError where variables are not the encoder's, by name and shape, or not finite."""
  found = stored.by_name(weights.variables)
  wanted = stored.by_name(encoder_shapes(weights.encoder, **encoder_options(weights.card)))
  problems = [f'{name} is missing' for name in wanted if name not in found]
  problems += [f'{name} is not of {weights.encoder}' for name in found if name not in wanted]
  problems += [f'{name} has shape {found[name].shape}, not {wanted[name].shape}' for name in wanted
               if name in found and found[name].shape != wanted[name].shape]
  found |= stored.by_name(weights.head or {})
  problems += [f'{name} is not finite' for name, values in found.items()
               if not np.isfinite(values).all()]
  if problems:
    raise UserError(f'{path}: not weights of {weights.encoder}: {listed(problems, len(problems))}')


def encoder_options(card: dict[str, Any]) -> dict[str, Any]:
  """The options of models.get_encoder that a card gives."""
  return {name: card[name] for name in ('width', 'small_input') if card.get(name)}


def _of_workdir(workdir: pathlib.Path, which: str, source: str) -> Weights:
  config = run_config.read_config(workdir)
  try:
    morphometry = [term for term in config['loss']['terms'].values()
                   if term['attribute'] == 'morphometry' and term['weight']]
    encoder, crop, head = config['encoder'], crop_sizes(config['crop']), config['head']
    card = {name: config[name] for name in ('fold', 'seed', 'precision', 'epochs', 'data_dir')}
    card |= encoder_options({'width': config.get('encoder_width'),
                             'small_input': config.get('small_input')})
    data = config.get('data') or {'grid': None, 'synthetic': 'phantom' in config}
    card |= {'grid': data['grid'], 'synthetic': data['synthetic'], 'maps': data.get('maps'),
             'measured_by': data.get('measured_by', ''),
             'descriptor': '+'.join(term['kernel'] for term in morphometry) or None}
    check_name(encoder, models.encoder_names(), 'encoder')
    _check_card(card)
  except (KeyError, TypeError, AttributeError, ValueError, UserError) as error:
    raise UserError(f'{workdir}/config.json is damaged or of another program ({error})') from None
  step, params, batch_stats = stored.read_parameters(
      workdir, choice.step_of(workdir, which, config))
  notes = ['Trained on SYNTHETIC subjects.'] if data['synthetic'] else []
  if data['grid'] is None:
    notes.append('The run did not note the grid of its shards.')
  if config.get('init'):
    drawn = ancestry.of_synthetic(config['init'], CARD)
    notes.append(f'Training began from the weights of {config["init"]}'
                 + ', which were trained on SYNTHETIC subjects.' * drawn + '.' * (not drawn))
    card |= {'init': config['init'], 'synthetic': data['synthetic'] or drawn}
  card = {'encoder': encoder, 'head': None if head == 'none' else head, **card,
          'crop': crop and list(crop), 'axes': AXES, 'step': step, 'source': source,
          'made_by': f'anatcl_jax {__version__}', 'notes': notes}
  if limits := ranges.read_range(workdir, step):
    card['features_range'] = limits
  return Weights(encoder, {'params': params['encoder'], 'batch_stats': batch_stats},
                 None if head == 'none' else {'params': params['head']}, card)


def by_name(weights: Weights) -> dict[str, np.ndarray]:
  """Every array under the name that it has in a .safetensors."""
  return stored.by_name(weights.variables | ({'head': weights.head} if weights.head else {}))


def _of_safetensors(path: pathlib.Path) -> Weights:
  card_path = path.with_name(CARD)
  arrays = _read_safetensors(path)
  if not card_path.exists() and any('/' not in name for name in arrays):
    return _with_released_names(path, released.Released(arrays, {}, (), None))
  try:
    card = json.loads(card_path.read_text(encoding='utf-8'))
    missing = [name for name in ('encoder', 'crop', 'axes', 'notes') if name not in card]
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise UserError(f'{card_path}: no card of weights ({first_line(error)}); it lies beside the '
                    '.safetensors that it describes') from None
  if missing or not isinstance(card, dict):
    raise UserError(f'{card_path}: no card of weights (it lacks {listed(missing)})')
  try:
    check_name(card['encoder'], models.encoder_names(), 'encoder')
    _check_card(card)
  except UserError as error:
    raise UserError(f'{card_path}: {error}') from None
  if wrong := [name for name, array in arrays.items() if array.dtype != np.float32]:
    raise UserError(f'{path}: not float32: {listed(wrong)}')
  try:
    variables = nested(arrays)
  except (TypeError, AttributeError, KeyError):   # one name is a folder of another
    raise UserError(f'{path}: its names are not those of an encoder') from None
  return Weights(card['encoder'], variables, variables.pop('head', None), card)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """All arrays of a file; bfloat16 too, which the library's own reader for NumPy does not know."""
  try:
    return {name: np.frombuffer(array['data'], _DTYPES[array['dtype']]).reshape(array['shape'])
            for name, array in safetensors.deserialize(path.read_bytes())}
  except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
    raise UserError(f'{path}: can\'t be read ({first_line(error)})') from None


def _check_card(card: dict[str, Any]) -> None:
  """Raises UserError for values that others rely on and can't use."""
  def sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(
        type(size) is int and size > 0 for size in value)

  grid = card.get('grid')
  whole = {'crop': card.get('crop') is None or sizes(card['crop']),
           'pad': card.get('pad') is None or sizes(card['pad']),
           'axes': isinstance(card.get('axes', AXES), str),
           'notes': isinstance(card.get('notes', []), list)
                    and all(isinstance(note, str) for note in card.get('notes', [])),
           'head': isinstance(card.get('head'), str | None),
           'width': type(card.get('width', 1)) is int and card.get('width', 1) > 0,
           'grid': grid is None or isinstance(grid, dict) and sizes(grid.get('shape'))
                   and np.shape(_numbers(grid.get('affine'))) == (4, 4)}
  if wrong := [name for name, right in whole.items() if not right]:
    raise UserError(f'what it says of {listed(wrong)} is not of the right form')


def _numbers(value: Any) -> np.ndarray | None:
  try:
    return np.asarray(value, float)
  except (ValueError, TypeError):
    return None


def _of_published(one: published.Published, cache: pathlib.Path | None) -> Weights:
  def whole(path: pathlib.Path) -> Weights:
    weights = _of_released(path)
    check(weights, path)
    return weights

  weights = whole(published.fetch(one.name, whole, cache=cache))
  card = weights.card | {'descriptor': one.descriptor, 'fold': one.fold, 'source': one.name,
                         'address': one.address}
  return dataclasses.replace(weights, card=card)


def _of_released(path: pathlib.Path) -> Weights:
  return _with_released_names(path, released.read(path))


def _with_released_names(path: pathlib.Path, file: released.Released) -> Weights:
  try:
    encoder, variables, head, batches_tracked = from_released(file.state)
  except UserError as error:
    raise UserError(f'{path}: {error}') from None
  path_at = path.absolute()
  descriptor, fold = published.described(f'{path_at.parent.name}/{path_at.name}')
  grid = NAMED_GRIDS['mni1.5']
  notes = ['Grid and crop are those that the published description names; the file says nothing '
           'of them.',
           'In which order the released weights saw the axes is not known outside; RAS is assumed.']
  if file.left_out:
    notes.append(f'Not read, because code would have to run: {listed(list(file.left_out), 20)}.')
  if file.passed_over:
    notes.append('Passed over, as not of the encoder or its head: '
                 f'{listed(list(file.passed_over))}.')
  if wide := sorted({str(array.dtype) for array in file.state.values()
                     if array.dtype.kind not in 'iu' and array.dtype != np.float32}):
    notes.append(f'Converted to float32 from {listed(wide)}.')
  given = file.options.get('fold')
  card = {
      'encoder': encoder, 'head': head and ('mlp' if 'hidden' in head['params'] else 'linear'),
      'descriptor': descriptor,
      'fold': given if fold is None and type(given) is int else fold,
      'grid': {'shape': list(grid.shape), 'affine': [list(row) for row in grid.affine]},
      'crop': [121, 128, 121], 'axes': AXES, 'source': str(path), 'sha256': paths.sha256(path),
      'made_by': f'anatcl_jax {__version__}', 'synthetic': False, 'epoch': file.epoch,
      'options': _as_json(file.options), 'left_out': list(file.left_out),
      'batches_tracked': batches_tracked, 'maps': dataclasses.asdict(origins.OPENBHB['vbm']),
      'measured_by': FREESURFER, 'notes': notes}
  return Weights(encoder, variables, head, card)


def _as_json(options: dict[str, Any]) -> dict[str, Any]:
  """Options with what JSON has no number for, inf and NaN, as text."""
  return {str(key): value if not isinstance(value, float) or np.isfinite(value) else str(value)
          for key, value in options.items()}
