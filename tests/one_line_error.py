"""Runs `prepare` on wrong input: it must end in one line, with nothing left behind."""

from __future__ import annotations

import pathlib

import pytest

from anatcl_jax import prepare


def one_line_error(capsys, directory: pathlib.Path, *arguments) -> str:
  """The one `error:` line of a run that must fail; `directory`, around --out, stays as it was."""
  before = sorted(directory.iterdir())
  with pytest.raises(SystemExit) as stop:
    prepare.main([str(argument) for argument in arguments])
  errors = capsys.readouterr().err
  line, = [line for line in errors.splitlines() if line.startswith('error:')]
  assert stop.value.code == 2 and 'Traceback' not in errors
  assert sorted(directory.iterdir()) == before
  return line
