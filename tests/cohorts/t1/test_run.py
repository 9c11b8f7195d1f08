"""The command with its steps replaced: names, what is kept, what is left behind, what is said."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shlex
import types

import nibabel
import numpy as np
import pandas
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import origins
from anatcl_jax.cohorts.t1 import command, files, libraries, run, templates
from anatcl_jax.cohorts.t1.quality import COLUMNS, Quality
from anatcl_jax.cohorts.t1.recipe import Made
from anatcl_jax.cohorts.t1.volume import Volume
from anatcl_jax.cohorts.volumes import NAMED_GRIDS, NiftiFile, read_grid
from anatcl_jax.errors import UserError
from tests.one_line_error import one_line_error

FIGURES = Quality(1500.0, 0.955, 0.56, 0.7, 1.3, 0.9, 1.0, 0.86)


@pytest.fixture
def scans(tmp_path):
  """Four small images, one of them nothing but noise to the steps below."""
  folder = tmp_path / 'raw'
  folder.mkdir()
  for name in ('sub-01_T1w', 'sub-02_ses-a_T1w', 'sub-bad_T1w'):
    values = np.random.default_rng(0).uniform(0, 100, (20, 24, 20)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([8.0, 8, 8, 1])), folder / f'{name}.nii.gz')
  return folder


@pytest.fixture
def steps(monkeypatch):
  """In place of the libraries; the paths of the scans that were made."""
  seen = []

  def made(volume, recipe):
    if 'bad' in volume.path.name:
      raise UserError(f'{volume.path}: no brain is found in it')
    seen.append(volume.path.name)
    mask = np.zeros(read_grid(volume).shape, bool)
    mask[5:15, 5:15, 5:15] = True
    own = Volume(mask, np.asarray(read_grid(volume).affine))
    values = np.full(recipe.grid.shape, len(seen), np.float32)
    gray = own.having(mask.astype(np.float32)) if recipe.to == 'gm' else None
    return Made(Volume(values, np.asarray(recipe.grid.affine)), own, FIGURES, gray)

  monkeypatch.setattr(run, '_made', made)
  monkeypatch.setattr(libraries, 'check', lambda: None)
  monkeypatch.setattr(libraries, 'version', lambda name: '9.9')
  return seen


def prepared(scans, out, *more, to='quasiraw'):
  prepare.main(['t1', '--volumes', f'{scans}/*.nii.gz', '--to', to, '--spacing', '8', '--out',
                str(out), '--workers', '1', *more])


def test_maps_tables_and_sidecars(scans, steps, tmp_path, capsys):
  (scans / 'sub-bad_T1w.nii.gz').unlink()
  out = tmp_path / 'out'
  prepared(scans, out)
  path = out / 'sub-02/ses-a/anat/sub-02_ses-a_space-MNI152NLin2009aSym_desc-quasiraw_T1w.nii.gz'
  image = nibabel.load(path)
  assert nibabel.aff2axcodes(image.affine) == ('R', 'A', 'S') and image.shape == (23, 27, 23)
  assert image.header['sform_code'] == image.header['qform_code'] == 4      # MNI
  sidecar = json.loads(path.with_name(path.name.replace('.nii.gz', '.json')).read_text())
  assert [step['tool'] for step in sidecar['Steps']] == ['nibabel', 'deepbet', 'SimpleITK',
                                                         'SimpleITK']
  assert sidecar['Sources'] == [str(scans / 'sub-02_ses-a_T1w.nii.gz')]
  origin = origins.of_volume(NiftiFile(path), None)
  assert origin.tool == 'anatcl_jax' and origin.values == origins.QUASI_RAW
  table = pandas.read_csv(out / 'quality.tsv', sep='\t')
  assert list(table['participant_id']) == ['sub-01', 'sub-02'] and table['brain_ml'][0] == 1500
  assert set(json.loads((out / 'quality.json').read_text())) - {'made_by'} <= set(COLUMNS)
  assert json.loads((out / 'dataset_description.json').read_text())['DatasetType'] == 'derivative'
  assert (out / 'contact-sheet.png').is_file() and '2 of 2 scans' in capsys.readouterr().out
  assert not [one for one in out.rglob('*') if 'partial' in one.name or one.name == '.lock']


def test_finished_scans_are_kept_until_scan_or_recipe_change(scans, steps, tmp_path):
  (scans / 'sub-bad_T1w.nii.gz').unlink()
  out = tmp_path / 'out'
  for _ in range(2):
    prepared(scans, out)
  assert steps == ['sub-01_T1w.nii.gz', 'sub-02_ses-a_T1w.nii.gz']
  values = np.ones((20, 24, 20), np.float32)
  nibabel.save(nibabel.Nifti1Image(values, np.diag([8.0, 8, 8, 1])), scans / 'sub-01_T1w.nii.gz')
  prepared(scans, out)
  assert steps[2:] == ['sub-01_T1w.nii.gz']
  prepared(scans, out, '--skull-stripped')
  assert len(steps) == 5
  map_path, = out.glob('sub-01/anat/*desc-quasiraw_T1w.nii.gz')
  map_path.write_bytes(map_path.read_bytes()[:100])       # as after a full disk
  prepared(scans, out, '--skull-stripped')
  assert len(steps) == 6 and nibabel.load(map_path).get_fdata().shape == (23, 27, 23)


@pytest.mark.parametrize('again', [False, True])
def test_a_run_that_is_killed_between_map_and_sidecar_goes_on(scans, steps, tmp_path, monkeypatch,
                                                              again):
  """The first time, and where a map by another recipe stands already."""
  for name in ('sub-bad_T1w', 'sub-02_ses-a_T1w'):
    (scans / f'{name}.nii.gz').unlink()
  out = tmp_path / 'out'
  if again:
    prepared(scans, out, '--skull-stripped')
  with monkeypatch.context() as killed:
    def replace(source, target):
      if str(target).endswith('desc-quasiraw_T1w.json'):
        raise KeyboardInterrupt
      return os.rename(source, target)
    killed.setattr(files.os, 'replace', replace)
    with pytest.raises(SystemExit):
      prepared(scans, out)
  assert list(out.glob('sub-01/anat/*desc-quasiraw_T1w.nii.gz'))
  prepared(scans, out)
  sidecar, = out.glob('sub-01/anat/*desc-quasiraw_T1w.json')
  assert 'Recipe' in json.loads(sidecar.read_text()) and len(steps) == 2 + again


def test_a_map_that_cannot_be_written_leaves_nothing(scans, steps, tmp_path, monkeypatch, capsys):
  def full(image, path):
    if 'quasiraw' in str(path):
      raise OSError(28, 'No space left on device')
    return nibabel.save(image, path)
  monkeypatch.setattr(files, 'nibabel', types.SimpleNamespace(
      save=full, Nifti1Image=nibabel.Nifti1Image))
  with pytest.raises(SystemExit):
    prepared(scans, tmp_path / 'out')
  assert 'No space left' in capsys.readouterr().err
  assert not [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]


def test_a_scan_that_is_refused_stops_no_other(scans, steps, tmp_path, capsys):
  with pytest.raises(SystemExit) as stop:
    prepared(scans, tmp_path / 'out')
  said = capsys.readouterr()
  assert stop.value.code == 1 and '2 of 3 scans' in said.out
  assert 'left out: ' in said.err and 'sub-bad_T1w.nii.gz: no brain is found' in said.err
  assert not (tmp_path / 'out' / 'sub-bad').exists()


def test_wrong_use_is_one_line_and_leaves_nothing(scans, steps, tmp_path, capsys):
  def error(*more, volumes='*.nii.gz', out='out', to='quasiraw'):
    return one_line_error(capsys, tmp_path, 't1', '--volumes', f'{scans}/{volumes}', '--to', to,
                          '--out', tmp_path / out, '--workers', 1, *more)
  assert 'sub-bad_T1w.nii.gz: no brain is found' in error(volumes='sub-bad*')
  assert 'no file matches' in error(volumes='nothing*')
  assert '--spacing 0.1 must lie between' in error('--spacing', '0.1')
  assert 'sub-T1w has two scans' in error('--id-pattern', '(?P<participant>T1w)')
  (tmp_path / 'theirs').mkdir()
  (tmp_path / 'theirs' / 'dataset_description.json').write_text('{}')
  assert 'was not made by this program' in error(out='theirs')
  (tmp_path / 'own/sub-01/anat').mkdir(parents=True)
  other = tmp_path / 'own/sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-quasiraw_T1w.nii.gz'
  other.write_bytes(b'precious')
  assert 'was not made by this program' in error(out='own')
  assert other.read_bytes() == b'precious'


def test_without_the_extra_it_is_named(scans, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(libraries.importlib.util, 'find_spec', lambda name: None)
  said = one_line_error(capsys, tmp_path, 't1', '--volumes', f'{scans}/*', '--to', 'quasiraw',
                        '--out', tmp_path / 'out')
  assert "pip install 'anatcl_jax[t1]'" in said and 'deepbet' in said


def test_names_that_two_modules_hold():
  assert command.KINDS == tuple(templates.GRIDS) == tuple(files.WORDS) == tuple(files.ORIGINS)
  assert templates.GRIDS['gm'] == NAMED_GRIDS['mni1.5']
  assert {field.name for field in dataclasses.fields(Quality)} | {'outlier'} == set(COLUMNS)


def test_maps_of_our_own_are_told_from_cat12s(scans, steps, tmp_path):
  """What `features` says of them where weights were trained on OpenBHB's."""
  (scans / 'sub-bad_T1w.nii.gz').unlink()
  for to in ('quasiraw', 'gm'):
    prepared(scans, tmp_path / to, to=to)
    path, = (tmp_path / to).glob(f'sub-01/anat/*{"quasi" if to == "quasiraw" else "gm"}*T1w.nii.gz')
    said = origins.difference(origins.OPENBHB['vbm'], origins.of_volume(NiftiFile(path), None))
    assert 'trained on maps of another kind (CAT12: modulated gray matter' in said
    assert 'than these (anatcl_jax: ' in said
  description = json.loads(next((tmp_path / 'gm').glob('sub-01/anat/*gm_T1w.json')).read_text())
  assert description['Description'] == 'modulated gray matter by anatcl_jax, not CAT12'
  gray, = (tmp_path / 'gm').glob('sub-01/anat/*_probseg.nii.gz')
  assert origins.of_volume(NiftiFile(gray), None).values == origins.OWN_SPACE
  assert description['Steps'][-1]['step'].startswith('modulation')


def test_the_commands_of_the_docs_parse():
  text = (pathlib.Path(__file__).parents[3] / 'docs' / 't1.md').read_text().replace('\\\n', '')
  found = re.findall(r'^python -m anatcl_jax\.prepare (.*)$', text, flags=re.MULTILINE)
  assert len(found) >= 4
  for line in found:
    prepare.command_line_parser().parse_args(shlex.split(line))
