"""README.md of a folder of weights: a model card as Hugging Face's hub reads it."""

from __future__ import annotations

import shlex
from typing import Any

from anatcl_jax import models, outputs
from anatcl_jax.models import feature_pooling
from anatcl_jax.weights.load import Weights, by_name, encoder_options

# https://huggingface.co/docs/hub/model-cards: the head is YAML between lines of dashes. Nobody has
# stated under which licence the released weights are; who shares a run's own puts one in.
_HEAD = """\
---
library_name: anatcl_jax
pipeline_tag: image-feature-extraction
license: unknown
tags:
- brain-mri
- neuroimaging
- vbm
- contrastive-learning
- jax
- flax
---
"""

_RELEASED = """\
OpenBHB's gray-matter maps (CAT12, modulated, at 1.5 mm) of 3,984 healthy people of many sites, by
the authors' description; which of them fold {fold} left out is not published. The file is that of
AnatCL's authors: {address}."""

_CITATION = """\
```bibtex
@article{barbano2026anatomical,
  title = {Anatomical foundation models for brain MRIs},
  author = {Carlo Alberto Barbano and Matteo Brunello and Benoit Dufumier and Marco Grangetto},
  journal = {Pattern Recognition Letters},
  volume = {199},
  pages = {178-184},
  year = {2026},
  doi = {10.1016/j.patrec.2025.11.028},
}
```
"""


def model_card(weights: Weights, name: str) -> str:
  """The page, Markdown: data, intended use, input, limits, citation.

  Args:
    name: of the folder.
  """
  card = weights.card
  encoder = models.get_encoder(weights.encoder, **encoder_options(card))
  part, = feature_pooling.layout(encoder, feature_pooling.MEAN)
  features = part.columns
  numbers = sum(array.size for array in by_name(weights).values())
  synthetic = '**SYNTHETIC: trained on a drawn cohort, of no use for people.**\n\n' * bool(
      card.get('synthetic'))
  descriptor = f', {card["descriptor"]} descriptor' if card.get('descriptor') else ''
  fold = f', fold {card["fold"]}' if card.get('fold') is not None else ''
  sections = {
      'Data': _data(card),
      'Intended use': (
          'Frozen features of brain maps for research: linear models of age, sex, diagnoses and '
          'scores on top of them, beside an untrained encoder and plain morphometry. It is no '
          'medical device and decides about nobody.'),
      'Input': _input(card),
      'Use': ('```bash\npython -m anatcl_jax.features '
              f'--weights {shlex.quote(name)} --volumes MAPS --out features.tsv\n```\n\n'
              f'```python\nfrom anatcl_jax.features import load\n\n'
              f'encoder = load({name!r})\nvector = encoder(\'sub-01_mwp1.nii.gz\')   # float32 '
              f'[{features}]\n```'),
      'Limits': '\n'.join(f'- {one}' for one in _limits(card)),
      'Files': (
          '- `card.json`: all of this for programs, and what else is known\n'
          '- `model.safetensors`: every array, float32\n'
          '- `flax/`: the same as an Orbax checkpoint of {params, batch_stats, head}'),
      'Citation': _CITATION.rstrip()}
  head = card.get('head')
  return (f'{_HEAD}\n# {name}\n\n{synthetic}A 3-D encoder of brain maps, {weights.encoder}, to '
          f'{features} features{descriptor}{fold}; {numbers:,} numbers, '
          + (f'with its projection head ({head})' if head else 'without a projection head')
          + f'. From `{card.get("source")}`.\n'
          + ''.join(f'\n## {title}\n\n{text}\n' for title, text in sections.items())
          + f'\n<!-- {outputs.MADE_BY} -->\n')


def _data(card: dict[str, Any]) -> str:
  if card.get('untrained'):
    return f'None: parameters are drawn by seed {card.get("seed")}.'
  if card.get('address'):
    return _RELEASED.format(fold=card['fold'], address=card['address'])
  if 'data_dir' in card:
    return (f'The shard set `{card["data_dir"]}`, without fold {card.get("fold")}'
            + (f', {card["epochs"]} epochs' if card.get('epochs') else '')
            + (f' (step {card["step"]} is here)' if card.get('step') is not None else '') + '. '
            'Whose scans these are, their ages and sites, and who agreed to what: say it here.')
  return ('Not told by the file; of the released AnatCL weights it is OpenBHB\'s gray-matter maps '
          'of healthy people.')


def _input(card: dict[str, Any]) -> str:
  if grid := card.get('grid'):
    affine = grid['affine']
    steps = ' x '.join(f'{sum(row[axis]**2 for row in affine[:3])**0.5:g}' for axis in range(3))
    text = (f'One map a scan on a grid of {" x ".join(map(str, grid["shape"]))} voxels of {steps} '
            'mm, its affine in `card.json`')
  else:
    text = 'One map a scan; the grid is not known'
  text += f', axes {card.get("axes")}'
  for name, verb in (('crop', 'cut'), ('pad', 'padded')):
    if card.get(name):
      text += f', {verb} about the centre to {" x ".join(map(str, card[name]))}'
  return (f'{text}. Maps of the kind that it was trained on, such as the modulated gray matter of '
          'CAT12 (`mwp1*.nii`), values as they are. `anatcl_jax.features` does the rest.')


def _limits(card: dict[str, Any]) -> list[str]:
  own = [] if card.get('untrained') else [
      'People whom it was trained on must not be among those that a model on top of it is tested '
      'on.',
      'Features of separate trainings, of other folds too, are not aligned: put them side by side, '
      'never average them.']
  return [*card.get('notes', []), *own,
          'Other preprocessing than that of the training set changes features more than most '
          'questions do; so may scanners and ages that it did not see.']
