"""Folders with any name: what is saved there is read again, or refused before."""

from __future__ import annotations

import pathlib
import shutil
import tempfile

import numpy as np
import orbax.checkpoint as ocp
import pytest

from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.training import train
from anatcl_jax.weights import stored
from tests.small_run import small_config

TREE = {'a': np.arange(6.0), 'b': {'c': np.float32(3)}}


@pytest.mark.parametrize('name', [
    '[pilot] a', '*', 'a?b', '{a}', 'a\nb', 'a\\b', 'gs:', 's3:', '-x', '%20', 'é 漢', ' a ',
    '$HOME', '~', 'a#b', 'a|b', 'a\udcffb', '.a'])
def test_a_tree_is_saved_whatever_its_folders_are_called(tmp_path, name):
  (tmp_path / name).mkdir()
  stored.save_tree(tmp_path / name / 'flax', TREE)
  plain = tmp_path / 'plain'
  (tmp_path / name).rename(plain)   # where Orbax itself reads it
  with ocp.PyTreeCheckpointer() as reader:
    np.testing.assert_array_equal(reader.restore(plain / 'flax')['a'], TREE['a'])


def test_a_run_in_a_folder_with_brackets_goes_on(small_model, training_set, tmp_path, capsys):
  workdir = tmp_path / '[pilot] *'
  beside = tmp_path / '[pilot] other'   # which the pattern would match
  train.train(small_config(training_set.directory, epochs=1), workdir)
  shutil.copytree(workdir, beside)
  train.train(small_config(training_set.directory, epochs=2), workdir)
  assert stored.read_parameters(workdir)[0] == 8
  assert 'warning' not in capsys.readouterr().err
  assert not list(pathlib.Path(tempfile.gettempdir()).glob('anatcl-*/folder/8'))


def test_a_folder_that_can_not_be_read_again_is_told_before_the_first_step(
    small_model, training_set, tmp_path, monkeypatch):
  monkeypatch.setattr(stored, '_PLAIN', stored.re.compile('(?s).*'))   # as if nothing were odd
  with pytest.raises(RunFailure, match='checkpoint can\'t be written'):
    train.train(small_config(training_set.directory), tmp_path / '[a]')
  assert not list((tmp_path / '[a]' / 'checkpoints').iterdir())


def test_what_was_saved_is_read_before_the_run_says_so(small_model, training_set, tmp_path,
                                                       monkeypatch):
  seal = stored.sealed
  monkeypatch.setattr(stored, 'sealed', lambda content, state: seal(content, {
      name: leaf + 1 for name, leaf in stored.by_name(state).items()}))
  with pytest.raises(RunFailure, match='is not what was saved'):
    train.train(small_config(training_set.directory, epochs=1), tmp_path / 'run')


def test_odd_names_among_checkpoints_are_no_steps(tmp_path):
  folder = tmp_path / 'checkpoints'
  for name in ('4', '12', '²', '٣', '007', '-1', '1_0', '1.5', 'step 8', '9' * 30, 'tmp'):
    (folder / name).mkdir(parents=True)
  (folder / '99').touch()
  assert stored.steps(tmp_path) == [12, 4]


def test_temporary_files_that_lie_in_an_odd_folder_too(tmp_path, monkeypatch):
  (tmp_path / '[a]').mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / '[a]'))
  with pytest.raises(UserError, match='TMPDIR'):
    stored.save_tree(tmp_path / '[a]' / 'flax', TREE)
  assert not list((tmp_path / '[a]').iterdir())
