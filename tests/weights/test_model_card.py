"""README.md of a folder of weights: what Hugging Face's hub reads, and what a person must know."""

from __future__ import annotations

import dataclasses
import re
import shlex

import pytest
import yaml

from anatcl_jax import convert, features
from anatcl_jax.weights import write
from anatcl_jax.weights.load import load_weights
from anatcl_jax.weights.model_card import model_card
from tests.test_convert import pth  # noqa: F401
from tests.weights.test_published import file, server  # noqa: F401

TITLES = ['Data', 'Intended use', 'Input', 'Use', 'Limits', 'Files', 'Citation']


def sections(text: str) -> dict[str, str]:
  head, body = re.fullmatch(r'---\n(.*?)\n---\n(.*)', text, re.DOTALL).groups()
  assert yaml.safe_load(head) == {
      'library_name': 'anatcl_jax', 'pipeline_tag': 'image-feature-extraction',
      'license': 'unknown',
      'tags': ['brain-mri', 'neuroimaging', 'vbm', 'contrastive-learning', 'jax', 'flax']}
  first, *parts = re.split(r'^## ', body, flags=re.M)
  found = {'': first} | dict(part.split('\n', 1) for part in parts)
  assert list(found) == ['', *TITLES]
  return found


def test_of_a_released_file(pth, tmp_path, capsys):  # noqa: F811
  convert.main([str(pth), str(tmp_path / 'mine')])
  said = sections((tmp_path / 'mine' / 'README.md').read_text())
  assert said[''].startswith('\n# mine\n')
  assert 'tiny, to 64 features, global descriptor, fold 2' in ' '.join(said[''].split())
  assert '121 x 145 x 121 voxels of 1.5 x 1.5 x 1.5 mm' in said['Input']
  assert 'cut about the centre to 121 x 128 x 121' in said['Input'] and 'axes RAS' in said['Input']
  assert 'AgeEstimator' in said['Limits'] and 'never average them' in said['Limits']
  assert '10.1016/j.patrec.2025.11.028' in said['Citation']
  assert 'made by anatcl_jax' in said['Citation'] and 'SYNTHETIC' not in said['']
  command = re.search(r'python -m anatcl_jax\.features (.*)', said['Use'])[1]
  assert features.command_line_parser().parse_args(shlex.split(command)).weights == 'mine'
  last = capsys.readouterr().out.splitlines()[-1]    # and what the command says of the folder
  command = last.partition('anatcl_jax features ')[2] or last.partition('anatcl-jax features ')[2]
  chosen = features.command_line_parser().parse_args(shlex.split(command))
  assert load_weights(chosen.weights).card == load_weights(pth).card


def test_of_a_name(server, tmp_path):  # noqa: F811
  text = sections(model_card(load_weights('anatcl-old-local-1'), 'x'))
  assert 'OpenBHB' in text['Data']
  assert f'{server.address}/resnet18-anatcl-l3/fold1.pth' in text['Data']
  assert 'local descriptor, fold 1' in ' '.join(text[''].split())


@pytest.mark.parametrize('changes, said', [
    ({'synthetic': True}, 'SYNTHETIC'), ({'grid': None}, 'the grid is not known'),
    ({'pad': [9, 9, 9], 'crop': None}, 'padded about the centre to 9 x 9 x 9'),
    ({'data_dir': '/data/adni', 'fold': 3, 'epochs': 7, 'step': 21},
     'The shard set `/data/adni`, without fold 3, 7 epochs (step 21 is here)'),
    ({'untrained': True, 'seed': 5}, 'None: parameters are drawn by seed 5')])
def test_what_the_card_knows_is_said(pth, changes, said):  # noqa: F811
  weights = load_weights(pth)
  text = model_card(dataclasses.replace(weights, card=weights.card | changes), 'x')
  sections(text)
  assert said in text and 'None' not in text.replace('None: parameters', '')


def test_the_folder_is_read_as_before(pth, tmp_path):  # noqa: F811
  weights = load_weights(pth)
  write.write_folder(weights, tmp_path / 'a')
  assert sorted(path.name for path in (tmp_path / 'a').iterdir()) == [
      'README.md', 'card.json', 'flax', 'model.safetensors']
  assert load_weights(tmp_path / 'a').card == weights.card
