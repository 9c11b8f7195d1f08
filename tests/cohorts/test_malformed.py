"""Malformed cohorts: each ends in one line that names file, subject, remedy, or is read right."""

from __future__ import annotations

import nibabel
import numpy as np
import pandas
import pytest

from anatcl_jax import prepare
from anatcl_jax.data import shards
from tests.cohorts.spoiling import FAULTS, HARMLESS, arguments, check_one_line


@pytest.mark.parametrize('fault', FAULTS)
def test_wrong_input_is_one_line_that_names_the_culprit(copy, tmp_path, capsys, fault):
  spoil, expected = FAULTS[fault]
  spoil(copy)
  before = sorted(tmp_path.iterdir())
  with pytest.raises(SystemExit) as stop:
    prepare.main(arguments(copy, tmp_path / 'out'))
  check_one_line(stop, capsys.readouterr().err, expected)
  assert sorted(tmp_path.iterdir()) == before     # nothing left behind


@pytest.mark.parametrize('oddity', HARMLESS)
def test_harmless_oddities_change_nothing(cohort, copy, tmp_path, oddity):
  prepare.main(arguments(cohort.participants.parent, tmp_path / 'expected'))
  HARMLESS[oddity](copy)
  prepare.main(arguments(copy, tmp_path / 'out'))
  expected, made = (shards.open_shards(tmp_path / name) for name in ('expected', 'out'))
  pandas.testing.assert_frame_equal(made.table, expected.table)
  np.testing.assert_array_equal(made.morphometry, expected.morphometry)


@pytest.mark.parametrize('options, message', [
    (['--spacing', '0'], 'between 0.1 and 50'), (['--spacing', 'nan'], 'between 0.1 and 50'),
    (['--shape', '3', '0', '3'], 'at least 2 voxels'),
    (['--workers', '0'], '--workers'), (['--dtype', 'int8'], 'invalid choice'),
    (['--grid', 'mni2'], 'invalid choice'), (['--atlas', 'dk'], 'invalid choice'),
    (['--part', '5/3'], 'is not one such as'), (['--sapcing', '3'], 'unknown option --sapcing')])
def test_wrong_options(cohort, tmp_path, capsys, options, message):
  with pytest.raises(SystemExit) as stop:
    prepare.main(arguments(cohort.participants.parent, tmp_path / 'out', *options))
  errors = capsys.readouterr().err.splitlines()
  assert stop.value.code == 2 and sum(line.startswith('error:') for line in errors) == 1
  assert message in errors[-1] and not list(tmp_path.iterdir())


def test_values_that_a_dtype_does_not_hold(copy, tmp_path, capsys):
  path, = (copy / 'sub-0002' / 'anat').glob('*.nii.gz')
  image = nibabel.load(path)
  nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) - 1, image.affine), path)
  with pytest.raises(SystemExit):
    prepare.main(arguments(copy, tmp_path / 'out', '--dtype', 'uint8'))
  assert 'sub-0002' in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('what', ['participants.tsv', 'hemi-lh.tsv', 'sub-0002_space'])
def test_unreadable_files(copy, tmp_path, capsys, monkeypatch, what):
  """Permissions do not stop a superuser, so opening fails here by hand."""
  import builtins
  import io
  opened = io.open

  def denied(file, *args, **kwargs):
    if what in str(file):
      raise PermissionError(13, 'Permission denied', str(file))
    return opened(file, *args, **kwargs)

  monkeypatch.setattr(io, 'open', denied)
  monkeypatch.setattr(builtins, 'open', denied)
  before = sorted(tmp_path.iterdir())
  with pytest.raises(SystemExit) as stop:
    prepare.main(arguments(copy, tmp_path / 'out'))
  monkeypatch.undo()
  last = capsys.readouterr().err.splitlines()[-1]
  assert stop.value.code == 2 and last.startswith('error:') and what in last
  assert sorted(tmp_path.iterdir()) == before


def test_out_that_can_not_be(cohort, tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
    with pytest.raises(SystemExit) as stop:
      prepare.main(arguments(cohort.participants.parent, out))
    assert stop.value.code == 2 and 'error:' in capsys.readouterr().err


def test_the_list_is_long():
  assert len(FAULTS) + len(HARMLESS) >= 50
