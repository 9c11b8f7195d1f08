"""The README's commands: they parse, CI runs the same, and the long ones work when asked for."""

from __future__ import annotations

import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from anatcl_jax import config_files, features, prepare
from anatcl_jax.config import flat
from anatcl_jax.frozen import table as feature_table
from anatcl_jax.training import tracking

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
COMMANDS = re.findall(r'python -m anatcl_jax\.(\w+) (.*?)(?:   #.*)?$',
                      README.replace('\\\n', ''), flags=re.MULTILINE)


def test_ci_runs_the_linter_and_the_readmes_test_command():
  steps = re.search(r'```bash\n(python3 -m venv .*pytest)\n```', README)[1].split(' && ')
  *_, environment, packages, lint, tests = (ROOT / '.ci' / 'run').read_text().splitlines()
  assert [environment, packages, tests] == steps
  assert lint == '.venv/bin/ruff check'


def test_every_command_parses():
  assert len(COMMANDS) >= 6
  for module, text in COMMANDS:
    arguments = shlex.split(text.split('`')[0])
    if module == 'prepare' and '--help' not in arguments:
      prepare.command_line_parser().parse_args(arguments)
    if module == 'features':
      features.command_line_parser().parse_args(arguments)
    if module in ('main', 'probe'):
      config = config_files.load(f'{ROOT}/' + arguments[0].removeprefix('--config='))
      keys = [a.split('=')[0].removeprefix('--config.') for a in arguments if '--config.' in a]
      assert isinstance(config, ConfigDict) and set(keys) <= set(flat(config))


def test_files_that_are_named_are_there():
  for name in re.findall(r'\]\((?!http)([^)\n]+)\)', README):
    assert (ROOT / name).is_file(), name


def test_files_that_the_docs_name_are_there():
  pages = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('**/*.md')]
  for page in pages:
    for name in re.findall(r'\b(?:tests|configs|anatcl_jax|launch)/[\w/]+\.\w+', page.read_text()):
      assert (ROOT / name).is_file(), (page.name, name)


def test_the_config_of_the_docs(tmp_path):
  text = re.search(r'```python\n(.*?)```', (ROOT / 'docs' / 'configs.md').read_text(), re.DOTALL)[1]
  (tmp_path / 'mine.py').write_text(text)
  config = config_files.load(str(tmp_path / 'mine.py'), 'pretrain')
  assert (config.learning_rate, config.loss.terms.anatomy.kernel) == (3e-4, 'local')


@pytest.mark.slow
def test_the_real_cohort_commands_of_the_readme(aomic, tmp_path):
  """AOMIC to shards, three epochs of ResNet-18 on a 4 mm grid, and two more; maps to features."""
  del aomic  # skips where the data are not at hand
  for module, text in COMMANDS:
    if 'aomic' in text:
      text = text.replace('data/aomic ', f'{tmp_path}/data ').replace('runs/', f'{tmp_path}/')
      text = re.sub(r'data/aomic$', f'{tmp_path}/data', text)
      text = text.replace(' aomic.tsv', f' {tmp_path}/aomic.tsv')
      subprocess.run(f'{sys.executable} -m anatcl_jax.{module} {text}', shell=True, check=True,
                     cwd=ROOT)
  rows = tracking.read_metrics(tmp_path / 'aomic')
  assert [row['epoch'] for row in rows] == [1, 1, 2, 3, 4, 5]
  identifiers, values = feature_table.read_table(tmp_path / 'aomic.tsv')
  assert list(identifiers['participant_id']) == [f'sub-{i:04d}' for i in range(1, 11)]
  assert values.shape == (10, 512) and (values.std(0) > 0).all()
