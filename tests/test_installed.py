"""The program in an environment: nothing that it needs is left behind, from any folder."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tomllib
import zipfile

import pytest

from anatcl_jax import config_files

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / 'pyproject.toml').read_text())


def sources() -> set[str]:
  """Files of the package and of configs/, by their names in a wheel."""
  found = set()
  for top, name in ((ROOT / 'anatcl_jax', 'anatcl_jax'), (ROOT / 'configs', 'anatcl_jax/configs')):
    found |= {f'{name}/{path.relative_to(top)}' for path in top.rglob('*')
              if path.is_file() and '__pycache__' not in path.parts}
  return found


def test_the_list_of_packages_is_whole():
  """A room that pyproject.toml does not name would be missing after `pip install .`."""
  setuptools = SETTINGS['tool']['setuptools']
  folders = {str(pathlib.PurePath(name).parent).replace('/', '.') for name in sources()}
  assert folders == set(setuptools['packages'])
  for name in sources():
    folder, file = name.rsplit('/', 1)
    patterns = setuptools['package-data'].get(folder.replace('/', '.'), [])
    assert file.endswith('.py') or any(pathlib.PurePath(file).match(p) for p in patterns), name


def test_configs_by_their_names(tmp_path, monkeypatch):
  """`pretrain` is the program's own, unless a file of that name lies here."""
  monkeypatch.chdir(tmp_path)
  assert config_files.load('pretrain:demo').encoder == 'tiny'
  assert config_files.find('probe') == ROOT / 'configs' / 'probe.py'
  (tmp_path / 'pretrain').write_text('')
  assert config_files.find('pretrain') == pathlib.Path('pretrain')


@pytest.mark.slow
def test_an_installed_program_trains_from_an_empty_folder(tmp_path):
  """As `pip install .` has it, but for its requirements; needs the registry, for setuptools."""
  copy = tmp_path / 'source'
  subprocess.run(['git', 'clone', '-q', str(ROOT), str(copy)], check=True)
  subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', str(tmp_path),
                  str(copy)], check=True)
  wheel, = tmp_path.glob('*.whl')
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    archive.extractall(tmp_path / 'site')
  assert sources() <= names
  empty = tmp_path / 'empty'
  empty.mkdir()
  subprocess.run([sys.executable, '-m', 'anatcl_jax', 'pretrain', '--config=pretrain:demo',
                  '--config.epochs=1', '--config.phantom.subjects=40', '--config.phantom.spacing=8',
                  '--config.report_at_end=', '--workdir=run'], check=True, cwd=empty,
                 env=os.environ | {'PYTHONPATH': str(tmp_path / 'site')})
  assert (empty / 'run' / 'curves.png').is_file()
