"""Nothing of the user's is replaced, and what can't be written is said before any work."""

from __future__ import annotations

import json
import os
import re

import pytest

from anatcl_jax import features, figures, outputs
from anatcl_jax.errors import UserError
from anatcl_jax.report import style
from anatcl_jax.report.style import Picture

NAMES = ('results.tsv', 'report.html', outputs.RECORD)


def _check(folder):
  outputs.check_folder(folder, NAMES, 'figures', '--config.out')


def _picture(folder):
  folder.mkdir(parents=True)
  style.save(Picture('scores', figures.Figure(), '', '', ''), folder)
  return folder / 'scores.png'


@pytest.mark.parametrize('name', [*NAMES, 'figures/brain.png', 'figures/raw/x.txt'])
def test_files_of_the_user_are_not_replaced(name, tmp_path):
  out = tmp_path / 'paper'
  (out / name).parent.mkdir(parents=True)
  (out / name).write_text('my work')
  would = rf'paper: (?:figures/raw|{re.escape(name)}) would be replaced.*--config\.out'
  with pytest.raises(UserError, match=would):
    _check(out)
  assert (out / name).read_text() == 'my work'


def test_what_this_program_made_may_be_replaced(tmp_path):
  out = tmp_path / 'out'
  assert outputs.is_own(_picture(out / 'figures'))
  (out / 'results.tsv').write_text('task\tmean\n')
  (out / 'report.html').write_text(f'<meta name="generator" content="{outputs.MADE_BY}">')
  record = {'made_by': outputs.MADE_BY, 'files': ['results.tsv', outputs.RECORD]}
  (out / outputs.RECORD).write_text(json.dumps(record))
  (out / 'notes.txt').write_text('beside it, in nobody\'s way')
  _check(out)


@pytest.mark.parametrize('record', ['{', '[]', '{"files": ["results.tsv"]}', '[' * 100000,
                                    '{"made_by": "hand", "files": ["results.tsv"]}'])
def test_a_record_of_another_program_vouches_for_nothing(record, tmp_path):
  (tmp_path / outputs.RECORD).write_text(record)
  assert not outputs.recorded(tmp_path)
  with pytest.raises(UserError, match=outputs.RECORD):
    _check(tmp_path)


def test_a_folder_that_cannot_be_written_is_said_first(tmp_path):
  (tmp_path / 'file').write_text('')
  for out in (tmp_path / 'file', tmp_path / 'file' / 'inside'):
    with pytest.raises(UserError, match='is or lies in a file'):
      _check(out)
  with pytest.raises(UserError, match="can't be written"):
    _check(type(tmp_path)('/proc/nothing/here'))
  _check(tmp_path / 'new' / 'folder')
  assert os.listdir(tmp_path) == ['file']     # trying leaves nothing behind


def test_a_single_file(tmp_path):
  path = tmp_path / 'figures.json'
  outputs.check_file(path, '--json')
  path.write_text(json.dumps({'made_by': outputs.MADE_BY}))
  outputs.check_file(path, '--json')
  path.write_text('{"mine": 1}')
  with pytest.raises(UserError, match='not made by this program; choose another --json'):
    outputs.check_file(path, '--json')
  with pytest.raises(UserError, match='is a folder'):
    outputs.check_file(tmp_path, '--json')


def test_pictures_carry_the_mark_and_take_text_as_it_is(tmp_path):
  """`$` is a formula to matplotlib: `$\\frac$` would end a run after all its work."""
  figure = figures.Figure((2, 2))
  axes = figure.subplots()
  axes.plot([0, 1], label=r'$\frac$ (12)')
  axes.set_title('site $a_b$ and $')
  axes.legend()
  figures.save(figure, tmp_path / 'a.png', 50)
  assert outputs.is_own(tmp_path / 'a.png')
  assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('ending', ['.json', '.png'])
def test_a_table_of_features_replaces_no_neighbour(ending, tmp_path, capsys):
  neighbour = (tmp_path / 'participants').with_suffix(ending)
  neighbour.write_text('{"age": {"Units": "years"}}')
  with pytest.raises(SystemExit) as stop:
    features.main(['--weights', 'untrained:tiny', '--volumes', str(tmp_path / '*.nii'), '--out',
                   str(tmp_path / 'participants.tsv')])
  assert stop.value.code == 2
  assert 'not made by this program; choose another --out' in capsys.readouterr().err
  assert neighbour.read_text() == '{"age": {"Units": "years"}}'
