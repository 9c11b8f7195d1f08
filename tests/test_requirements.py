"""Bounds of versions: alike wherever they are written, and all of them tried by CI."""

from __future__ import annotations

import pathlib
import re
import tomllib

import yaml

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def _bounds(lines: list[str]) -> dict[str, str]:
  """By package, such as {'jax': '>=0.8'}; extras such as jax[cuda12] count as their package."""
  found = [re.fullmatch(r'([\w-]+)(?:\[\w+\])?(\S*)', line) for line in lines]
  return {match[1].lower().replace('_', '-'): match[2] for match in found}


def _file(name: str) -> dict[str, str]:
  lines = (ROOT / name).read_text().splitlines()
  return _bounds([line for line in lines if not line.startswith('-r ')])


def test_bounds_that_are_written_twice_agree():
  assert _bounds(PROJECT['optional-dependencies']['test']) == _file('requirements-dev.txt')
  required = _file('requirements.txt')
  for extra, packages in PROJECT['optional-dependencies'].items():
    for name, bound in _bounds(packages).items():
      assert required.get(name, bound) == bound, f'{name} of the extra {extra}'


def test_each_has_a_lower_bound_and_orbax_an_upper_one():
  required = _file('requirements.txt')
  for name, bound in (required | _file('requirements-dev.txt')).items():
    assert bound.startswith('>='), name
  assert required['orbax-checkpoint'].endswith(',<1')   # 1.0 replaces the interface


def test_ci_runs_every_python_and_the_lower_bounds():
  job = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())['jobs']['test']
  matrix = job['strategy']['matrix']
  named = [line.rpartition(' ')[2] for line in PROJECT['classifiers']
           if re.search(r'Python :: 3\.\d+$', line)]
  assert matrix['python'] == named and matrix['versions'] == ['highest']
  assert PROJECT['requires-python'] == f'>={named[0]}'
  assert matrix['include'] == [{'python': named[0], 'versions': 'lowest-direct'}]
  steps = [step['run'] for step in job['steps'] if 'run' in step]
  assert '--resolution ${{ matrix.versions }} -r requirements-dev.txt' in steps[-3]
  assert steps[-2:] == ['ruff check', 'python -m pytest']
