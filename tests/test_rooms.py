"""The rooms of the house: an import never points back towards the doors (DESIGN section 2)."""

from __future__ import annotations

import ast
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parents[1] / 'anatcl_jax'
# From the doors to the ground: each may use those after it.
ORDER = ('doors', 'bench', 'studies', 'training', 'report', 'evaluation', 'frozen', 'weights',
         'data', 'cohorts', 'models', 'devices', 'mathematics', 'ground')
DOORS = ('__main__', 'main', 'prepare', 'features', 'probe', 'predict', 'convert')
MATHEMATICS = ('kernels', 'losses', 'residuals', 'sharpness', 'supervision')
GROUND = ('command_line', 'config', 'config_files', 'errors', 'figures', 'lock', 'outputs', 'paths',
          'progress', 'user_code')


def room_of(module: str) -> str:
  """The room of a module, named without `anatcl_jax.`; the package itself is ground."""
  first, _, inside = module.partition('.')
  for room, names in (('doors', DOORS), ('mathematics', MATHEMATICS), ('ground', (*GROUND, ''))):
    if first in names and not inside:
      return room
  assert first in ORDER, f'{module} is in no room'
  return first


def imports(path: pathlib.Path) -> set[str]:
  """What a file imports of the package, wherever in the file: modules, or names in them."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}:{node.lineno}: a relative import'
      found |= {f'{node.module}.{name.name}' for name in node.names}
    elif isinstance(node, ast.Import):
      found |= {name.name for name in node.names}
  return {name.partition('.')[2] for name in found if name.split('.')[0] == 'anatcl_jax'}


def arrows_back(modules: dict[str, pathlib.Path]) -> list[str]:
  """Imports from a room into one before it, as `from -> to`."""
  rooms = {module: ORDER.index(room_of(module)) for module in modules}
  arrows = []
  for module, path in modules.items():
    for name in imports(path):
      target = name if name in modules else name.rpartition('.')[0]
      if target not in rooms:
        raise AssertionError(f'{module} imports {name}, which is not there')
      if rooms[target] < rooms[module]:
        arrows.append(f'{module} -> {target}')
  return arrows


def modules_of_the_package() -> dict[str, pathlib.Path]:
  modules = {}
  for path in PACKAGE.rglob('*.py'):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    modules['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
  return modules


def test_no_import_points_back():
  modules = modules_of_the_package()
  assert len(modules) > 80
  assert not arrows_back(modules)


def test_an_arrow_back_is_found(tmp_path):
  """Also one inside a function, and through the package's name."""
  for text in ('from anatcl_jax.training import step\n',
               'def late():\n  from anatcl_jax.training.step import make_train_step\n',
               'import anatcl_jax.training.step\n'):
    path = tmp_path / 'shards.py'
    path.write_text(text)
    modules = modules_of_the_package() | {'data.shards': path}
    assert arrows_back(modules) == ['data.shards -> training.step']


def test_contributing_shows_the_house_as_it_is():
  text = (PACKAGE.parent / 'CONTRIBUTING.md').read_text(encoding='utf-8')
  house = re.findall(r'^    (\w+)/ ', text, re.M)
  assert house == [room for room in ORDER if (PACKAGE / room).is_dir()]
  for path in re.findall(r'`((?:tests|docs|configs|anatcl_jax)/[\w/.]+)`', text):
    assert (PACKAGE.parent / path).exists(), path


def test_every_room_says_what_it_is_for():
  for room in ORDER:
    if room not in ('doors', 'mathematics', 'ground'):
      assert ast.get_docstring(ast.parse((PACKAGE / room / '__init__.py').read_text())), room
