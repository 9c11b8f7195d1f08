"""From a cohort on disk to shards: right input comes back unchanged, wrong input is named."""

from __future__ import annotations

import json
import pathlib
import shlex
import shutil

import nibabel
import numpy as np
import pandas
import pytest

from anatcl_jax import features, prepare
from anatcl_jax.cohorts import atlas, volumes
from anatcl_jax.cohorts.morphometry import MEASURES
from anatcl_jax.command_line import ConfigParser
from anatcl_jax.data import shards
from anatcl_jax.errors import UserError
from tests.cohorts.spoiling import FAULTS, arguments, edit_table, set_cell


def _run(directory, out, *more):
  prepare.main(arguments(directory, out, *more))
  return shards.open_shards(out)


def test_shards_hold_what_lies_on_disk(copy, tmp_path, capsys):
  made = _run(copy, tmp_path / 'out')
  assert 'SYNTHETIC' in capsys.readouterr().out and made.synthetic
  table = pandas.read_csv(copy / 'participants.tsv', sep='\t')
  assert list(made.table['participant_id']) == list(table['participant_id'])
  np.testing.assert_allclose(made.table['age'], table['age'])
  assert list(made.table['site']) == list(table['site'])
  for record, participant in enumerate(made.table['participant_id']):
    path, = (copy / participant / 'anat').glob('*.nii.gz')
    stored, scale = made.read_volume(record)
    np.testing.assert_array_equal(stored * scale, nibabel.load(path).get_fdata(dtype=np.float32))
  for measure, hemisphere in (('thickness', 'lh'), ('area', 'rh'), ('volume', 'rh')):
    path, = (copy / 'freesurfer').glob(f'*measure-{measure}_hemi-{hemisphere}.tsv')
    source = pandas.read_csv(path, sep='\t', index_col=0)
    values = made.select_measures((measure,))[..., 0]
    for j, region in enumerate(atlas.regions('desikan')):
      if region.startswith(hemisphere):
        np.testing.assert_allclose(values[:, j], source[f'{region}_{measure}'], rtol=1e-6)
  info = json.loads((tmp_path / 'out' / 'dataset.json').read_text())
  assert [m['unit'] for m in info['measures']] == ['mm', 'mm^2', 'mm^3']
  assert sum(s['records'] for s in info['shards']) == 20 and info['grid']['axes'] == 'RAS'


def test_regions_are_matched_by_name_and_subjects_by_identifier(copy, tmp_path):
  expected = _run(copy, tmp_path / 'a').morphometry
  for path in (copy / 'freesurfer').glob('*.tsv'):
    edit_table(path, lambda t: t.iloc[::-1, [0, *range(t.shape[1] - 1, 0, -1)]])
  edit_table(copy / 'participants.tsv', lambda t: t.sample(frac=1, random_state=0))
  np.testing.assert_array_equal(_run(copy, tmp_path / 'b').morphometry, expected)


def test_comma_tables_with_bare_region_names_and_bare_identifiers(copy, tmp_path):
  expected = _run(copy, tmp_path / 'a').morphometry
  for path in (copy / 'freesurfer').glob('*.tsv'):
    table = pandas.read_csv(path, sep='\t', dtype=str)
    hemisphere, measure = table.columns[1].split('_')[0], table.columns[1].split('_')[-1]
    table.columns = [c.removeprefix(f'{hemisphere}_').removesuffix(f'_{measure}')
                     for c in table.columns]
    table.iloc[:, 0] = table.iloc[:, 0].str.removeprefix('sub-')
    table.to_csv(path, index=False)
  np.testing.assert_array_equal(_run(copy, tmp_path / 'b').morphometry, expected)


@pytest.mark.parametrize('dtype, tolerance', [('float16', 1e-3), ('uint8', 3e-3)])
def test_compact_dtypes_state_their_error(cohort, tmp_path, dtype, tolerance):
  directory = cohort.participants.parent
  exact = _run(directory, tmp_path / 'exact')
  made = _run(directory, tmp_path / dtype, '--dtype', dtype)
  worst = 0
  for record in range(len(made)):
    stored, scale = made.read_volume(record)
    assert stored.dtype == dtype
    worst = max(worst, np.abs(stored.astype(np.float32) * np.float32(scale)
                              - exact.read_volume(record)[0]).max())
  assert 0 < worst < tolerance
  assert made.info['shards'][0]['largest_error'] == pytest.approx(worst, rel=1e-3)


def test_resampling_options(cohort, tmp_path):
  directory = cohort.participants.parent
  assert _run(directory, tmp_path / 'a', '--spacing', '15').grid.spacing == (15, 15, 15)
  made = _run(directory, tmp_path / 'b', '--grid', 'mni1.5', '--spacing', '10')
  assert made.grid.matches(volumes.resized(volumes.NAMED_GRIDS['mni1.5'], 10))
  assert made.grid.shape == (18, 22, 18)
  assert _run(directory, tmp_path / 'c', '--shape', '6', '7', '8').grid.shape == (6, 7, 8)


def test_a_rerun_writes_nothing_and_a_corrected_age_no_volume(copy, tmp_path):
  out = tmp_path / 'out'
  first = _run(copy, out)
  shard = out / first.info['shards'][0]['file']
  inode = shard.stat().st_ino
  set_cell(copy / 'participants.tsv', 4, 'age', '77.5')
  second = _run(copy, out)
  assert shard.stat().st_ino == inode and second.table['age'][4] == 77.5
  np.testing.assert_array_equal(second.read_volume(4)[0], first.read_volume(4)[0])
  volume, = (copy / 'sub-0003' / 'anat').glob('*.nii.gz')
  image = nibabel.load(volume)
  nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * 2, image.affine), volume)
  third = _run(copy, out)
  np.testing.assert_array_equal(third.read_volume(2)[0], 2 * second.read_volume(2)[0])


def test_an_interrupted_run_goes_on_and_leaves_no_trace(copy, tmp_path, monkeypatch):
  monkeypatch.setattr('anatcl_jax.data.write_shards._SCANS_A_SHARD', 6)
  expected = _run(copy, tmp_path / 'whole')
  from anatcl_jax.data import write_shards
  written, encode = [], write_shards._encode

  def die_at_the_tenth(scan, recipe):
    if len(written) == 9:
      raise KeyboardInterrupt
    written.append(scan)
    return encode(scan, recipe)

  monkeypatch.setattr(write_shards, '_encode', die_at_the_tenth)
  with pytest.raises(SystemExit) as stop:
    _run(copy, tmp_path / 'out')
  assert stop.value.code == 130
  assert not (tmp_path / 'out').exists()
  monkeypatch.setattr(write_shards, '_encode', lambda *a: written.append(a) or encode(*a))
  made = _run(copy, tmp_path / 'out')
  assert len(written) == 9 + 14     # the six of the first shard were not read again
  digests = [[s['sha256'] for s in one.info['shards']] for one in (made, expected)]
  assert digests[0] == digests[1]
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == sorted(
      p.name for p in (tmp_path / 'whole').iterdir())
  assert not list(tmp_path.glob('*.partial'))


@pytest.mark.parametrize('fault', ['missing age', 'NaN volume', 'no morphometry row',
                                   'participant not in the table', 'another grid'])
def test_leave_out_bad_leaves_out_just_that_subject(copy, tmp_path, capsys, fault):
  spoil, expected = FAULTS[fault]
  spoil(copy)
  made = _run(copy, tmp_path / 'out', '--leave-out-bad')
  assert len(made) == 19 and expected[0] not in set(made.table['participant_id'])
  assert f'left out: {expected[0]}' in capsys.readouterr().err
  for record in range(19):
    made.read_volume(record)     # every record is the one that its row names


def test_keep_incomplete_keeps_what_only_lacks_labels(copy, tmp_path, capsys):
  FAULTS['missing age'][0](copy)
  FAULTS['no morphometry row'][0](copy)
  made = _run(copy, tmp_path / 'out', '--keep-incomplete')
  assert 'note: 2 scans' in capsys.readouterr().err and len(made) == 20
  assert np.isnan(made.table['age'][2]) and np.isfinite(np.delete(made.table['age'], 2)).all()
  assert np.isnan(made.morphometry[1]).all()
  assert np.isfinite(np.delete(made.morphometry, 1, 0)).all()
  FAULTS['age 250'][0](copy)      # wrong is not missing
  with pytest.raises(SystemExit):
    prepare.main(arguments(copy, tmp_path / 'other', '--keep-incomplete'))


def test_destrieux_and_all_measures(copy, tmp_path):
  """A table of each FreeSurfer measure over 148 regions, each value its own."""
  shutil.rmtree(copy / 'freesurfer')
  (copy / 'freesurfer').mkdir()
  lowest = {name: max(measure.lowest, 0.0) for name, measure in MEASURES.items()}
  scale = {'thickness': 3, 'area': 500, 'volume': 1500, 'thicknessstd': 0.5}
  for measure in MEASURES:
    for hemisphere in atlas.HEMISPHERES:
      rows = {f'{hemisphere}.aparc.a2009s.{measure}': [f'sub-{i + 1:04d}' for i in range(20)]}
      for j, region in enumerate(atlas.ATLASES['destrieux']):
        values = lowest[measure] + scale.get(measure, 1) * (1 + (np.arange(20) + j) / 1000)
        rows[f'{hemisphere}_{region}_{measure}'] = values.round(5)
      pandas.DataFrame(rows).to_csv(copy / 'freesurfer' / f'{hemisphere}.{measure}.tsv', sep='\t',
                                    index=False)
  made = _run(copy, tmp_path / 'out', '--atlas', 'destrieux')
  assert made.morphometry.shape == (20, 148, 8) and set(made.measures) == set(MEASURES)
  j = atlas.regions('destrieux').index('rh_S_orbital-H_Shaped') - 74
  np.testing.assert_allclose(made.select_measures(('area',))[3, 74 + j, 0],
                             10 + 500 * (1 + (3 + j) / 1000), rtol=1e-6)


def test_other_peoples_folders_are_left_alone(cohort, tmp_path):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
  with pytest.raises(SystemExit):
    prepare.main(arguments(cohort.participants.parent, tmp_path / 'mine'))
  assert (tmp_path / 'mine' / 'thesis.txt').read_text() == 'years of work'


def test_the_last_line_is_a_command_for_what_is_there(copy, tmp_path, capsys):
  """All measures, thickness alone, none."""
  for number, kept in enumerate(('*', '*thickness*', '')):
    given = arguments(copy, tmp_path / str(number))
    at = given.index('--morphometry')
    tables = sorted(map(str, (copy / 'freesurfer').glob(kept))) if kept else []
    after = next((i for i in range(at + 1, len(given)) if given[i].startswith('--')), len(given))
    prepare.main([*given[:at], *(['--morphometry', *tables] if tables else []), *given[after:]])
    last = capsys.readouterr().out.splitlines()[-1]
    command = shlex.split(last.partition(': ')[2])
    assert last.startswith('next, ') and str(tmp_path / str(number)) in last
    if tables:
      _, config = ConfigParser(description='', config='pretrain').parse(
          command[command.index('pretrain') + 1:])
      data = shards.open_shards(config.data_dir)
      assert data.select_measures(tuple(config.measures.split('+'))).shape[2] == len(data.measures)
    else:
      chosen = features.command_line_parser().parse_args(command[command.index('features') + 1:])
      assert chosen.data_dir == str(tmp_path / '2') and chosen.weights == 'anatcl-global-0'


def test_no_shards_says_which_command_makes_them(tmp_path):
  with pytest.raises(UserError, match='python -m anatcl_jax.prepare'):
    shards.open_shards(tmp_path / 'nothing')


def test_aomic(aomic, tmp_path, capsys):
  """Ten real subjects: volumes in RAS, thickness by name, the unused rows counted."""
  out = tmp_path / 'aomic'
  prepare.main(['bids', '--volumes', f'{aomic}/vbm/*.nii.gz', '--participants',
                f'{aomic}/participants.tsv', '--morphometry',
                *map(str, sorted((aomic / 'freesurfer').glob('*.tsv'))), '--out', str(out)])
  captured = capsys.readouterr()
  assert '216 rows' in captured.err and 'SYNTHETIC' not in captured.out
  made = shards.open_shards(out)
  assert made.grid.shape == (91, 109, 91) and made.measures == ('thickness',)
  assert list(made.table['age'][:2]) == [25.5, 23.25]
  raw = nibabel.load(aomic / 'vbm' / 'sub-0007_space-GM226_label-GM_mod.nii.gz')
  np.testing.assert_array_equal(made.read_volume(6)[0], raw.get_fdata(dtype=np.float32)[::-1])
  left = next(pathlib.Path(aomic, 'freesurfer').glob('*lh*'))
  left = pandas.read_csv(left, sep='\t', index_col=0)
  np.testing.assert_allclose(made.morphometry[6, 0, 0],
                             left.loc['sub-0007', 'lh_bankssts_thickness'], rtol=1e-6)
