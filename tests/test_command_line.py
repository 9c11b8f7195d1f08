"""The commands as typed: one door for all, --help at once, options given twice, paths, seeds."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from anatcl_jax import __main__ as door
from anatcl_jax import __version__, command_line, config_files, features, paths, prepare
from anatcl_jax.bench import __main__ as bench
from anatcl_jax.cohorts.openbhb import LAYOUTS
from anatcl_jax.cohorts.openbhb_arrays import MODALITIES
from anatcl_jax.cohorts.phantom.cohort import PhantomSettings
from anatcl_jax.cohorts.phenotypes import PRESETS
from anatcl_jax.cohorts.volumes import NAMED_GRIDS
from anatcl_jax.config import LISTS_OF_PATHS, PATHS, check_seed, flat
from anatcl_jax.data.arrange import PREDECESSOR
from anatcl_jax.data.shards import DTYPES
from anatcl_jax.errors import UserError
from anatcl_jax.frozen import image_encoder
from anatcl_jax.studies import __main__ as studies

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = [[name] for name in door.COMMANDS] + [
    *(['bench', name] for name in bench.COMMANDS), *(['study', name] for name in studies.COMMANDS),
    *(['prepare', name] for name in ('bids', 'openbhb', 'phantom', 'inspect'))]


def refused(capsys, *arguments) -> str:
  """The one line of a command that must refuse its arguments."""
  with pytest.raises(SystemExit) as stop:
    door.main(list(map(str, arguments)))
  line, = capsys.readouterr().err.splitlines()
  assert stop.value.code == 2 and line.startswith('error: ')
  return line


def test_help_of_every_command_is_there_at_once():
  """In one process: each ends with code 0, and none imports what takes seconds."""
  code = f'''
import sys
from anatcl_jax import __main__ as door
for command in {COMMANDS!r}:
  try:
    door.main([*command, '--help'])
  except SystemExit as stop:
    assert stop.code == 0, command
  heavy = {{'jax', 'pandas', 'matplotlib', 'sklearn', 'nibabel', 'scipy'}} & set(sys.modules)
  assert not heavy, (command, heavy)
'''
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('usage: ') == len(COMMANDS) and 'None' not in done.stdout


def test_the_first_page(capsys):
  for arguments, said in ((['--help'], 'commands:\n'),
                          (['--version'], f'anatcl_jax {__version__}\n')):
    with pytest.raises(SystemExit) as stop:
      door.main(arguments)
    assert stop.value.code == 0 and said in capsys.readouterr().out
  assert "did you mean 'pretrain'" in refused(capsys, 'pretrian')
  assert 'give a command: prepare, pretrain' in refused(capsys)
  assert 'unknown option --versoin: did you mean --version?' in refused(capsys, '--versoin')
  assert 'did you mean --out?' in refused(capsys, 'prepare', 'phantom', '--otu', 'x')
  assert "unexpected argument 'lss'" in refused(capsys, 'bench', 'lss')


@pytest.mark.parametrize('name', ['pretrain', 'probe'])
def test_help_says_what_may_stand_in_every_key(name):
  entries, said = {}, config_files.explained(name).splitlines()
  for line in said[said.index(next(line for line in said if line.startswith('keys of'))):]:
    key, given, rest = line.strip().partition('=')
    if line.startswith('  ') and not line.startswith('   ') and given:
      entries[key] = rest.partition(' ')[2].strip()
      last = key
    elif line.startswith('   '):
      entries[last] = f'{entries[last]} {line.strip()}'.strip()
  assert set(entries) == set(flat(config_files.load(name)))
  assert all(entries.values()), entries


@pytest.mark.parametrize('name', ['pretrain', 'probe'])
def test_every_key_that_holds_a_path_is_known_as_one(name):
  """A key whose explanation speaks of a file or folder; a new one belongs in PATHS."""
  text = config_files.explained(name).partition('keys of the config')[2]
  for key, value in flat(config_files.load(name)).items():
    said = text.partition(f'\n  {key}=')[2].partition('\n  ')[0] if isinstance(value, str) else ''
    words = set(said.replace(';', ' ').replace(',', ' ').split())
    if words & {'folder', 'file', 'TSV', 'workdirs', 'tables'}:
      assert key in (*PATHS, *LISTS_OF_PATHS), key


def test_names_that_the_doors_repeat():
  """They are written out there, since --help must not import the rooms."""
  assert tuple(PRESETS) == prepare.PRESETS and tuple(NAMED_GRIDS) == prepare.GRIDS
  assert DTYPES == prepare.DTYPES and LAYOUTS == prepare.LAYOUTS
  assert set(MODALITIES) == set(prepare.MODALITIES)
  settings = PhantomSettings()
  assert prepare.PHANTOM == {name: getattr(settings, name) for name in prepare.PHANTOM}
  assert (features.GRIDS, features.CARD) == (image_encoder.GRIDS, image_encoder.CARD)
  assert features.PREDECESSOR == PREDECESSOR and features.load is image_encoder.load


def test_an_option_given_twice(capsys, tmp_path):
  """It adds where there may be several, and is an error elsewhere."""
  parse = prepare.command_line_parser().parse_args
  chosen = parse(['bids', '--volumes', 'x', '--participants', 'p', '--out', 'o', '--morphometry',
                  'a', 'b', '--morphometry', 'c'])
  assert list(map(str, chosen.morphometry)) == ['a', 'b', 'c']
  chosen = features.command_line_parser().parse_args(
      ['--weights', 'w', '--out', 'o', '--volumes', 'a', 'b', '--volumes=c'])
  assert chosen.volumes == ['a', 'b', 'c']
  for arguments in (['prepare', 'phantom', '--out', 'x', '--out=y'],
                    ['features', '--weights=a', '--volumes', 'v', '--weights', 'b', '--out', 'x'],
                    ['pretrain', '--config=pretrain', '--config', 'probe'],
                    ['pretrain', '--config=pretrain', '--workdir=a', '--workdir=b'],
                    ['bench', '--config=pretrain', '--rounds=1', '--rounds=2'],
                    ['bench', 'loss', '--json=a', '--json=b'],
                    ['study', 'kernels', '--baseline', 'a', '--out', 'x', '--out', 'y']):
    assert 'is given twice' in refused(capsys, *arguments), arguments


def test_of_a_key_given_twice_the_last_value_counts_and_is_said(capsys):
  config = config_files.load('probe')
  changes, rest = config_files.split(
      ['--config.folds=3', '--config.seed=1', '--config.folds', '4', '--config.seed=1'], config)
  assert changes == {'folds': '4', 'seed': '1'} and not rest
  assert capsys.readouterr().err == (
      'note: --config.folds is given as 3 and as 4; the last one counts\n')


def test_home_and_variables_in_every_path(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('DATA', 'disk')
  monkeypatch.chdir(tmp_path)
  assert paths.expanded('~/x') == f'{tmp_path}/x' and paths.expanded('~') == str(tmp_path)
  assert paths.expanded('${DATA}/$DATA*') == 'disk/disk*'
  assert paths.expanded_list('a=~/x,$DATA,b=c') == f'a={tmp_path}/x,disk,b=c'
  with pytest.raises(UserError, match=r'the variable \$NOWHERE_SET is not set'):
    paths.expanded('$NOWHERE_SET/x')
  with pytest.raises(UserError, match='no home folder is known for ~nobody-here'):
    paths.expanded('~nobody-here/x')
  (tmp_path / '$odd').touch()
  assert paths.expanded('$odd') == '$odd'

  chosen = features.command_line_parser().parse_args(
      ['--weights=~/w', '--volumes=~/*.nii', '--out=~/o.tsv'])
  assert (chosen.weights, chosen.volumes) == (f'{tmp_path}/w', [f'{tmp_path}/*.nii'])
  assert chosen.out == tmp_path / 'o.tsv'
  chosen = prepare.command_line_parser().parse_args(
      ['bids', '--volumes=~/*', '--participants=~/p', '--morphometry', '~/m', '--out=$DATA'])
  assert [chosen.volumes, *map(str, (chosen.participants, *chosen.morphometry, chosen.out))] == [
      f'{tmp_path}/*', f'{tmp_path}/p', f'{tmp_path}/m', 'disk']
  parser = command_line.ConfigParser(description='', config='probe')
  _, config = parser.parse(['--config=probe', '--config.checkpoint=a=~/a,~/b',
                            '--config.data_dir', '$DATA', '--config.out=~/out'])
  assert config.checkpoint == f'a={tmp_path}/a,{tmp_path}/b'
  assert (config.data_dir, config.out) == ('disk', f'{tmp_path}/out')


def test_seeds_out_of_range(capsys, tmp_path):
  """JAX takes the lower 32 bits of a larger one, which is the seed of another run."""
  assert check_seed(2**32 - 1, 'x') == 2**32 - 1
  for seed in (-1, 2**32):
    for arguments in (['prepare', 'phantom', f'--seed={seed}', '--out', tmp_path / 'x'],
                      ['features', '--weights', f'untrained:tiny:{seed}', '--volumes',
                       ROOT / 'README.md', '--out', tmp_path / 'f.tsv']):
      assert 'seed' in refused(capsys, *arguments), arguments
  assert not list(tmp_path.iterdir())


def test_a_backend_that_is_not_there():
  """A notebook's kernel exports its own to the commands of a cell; where it is there, it stays."""
  code = ('import os; from anatcl_jax.figures import Figure;'
          "Figure().savefig(os.devnull, format='png');"
          "import matplotlib; print(matplotlib.rcParams['backend'], os.environ['MPLBACKEND'])")
  for backend, used in (('module://not_there', None), ('pdf', 'pdf')):
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {'MPLBACKEND': backend})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == backend and used in (None, done.stdout.split()[0])
