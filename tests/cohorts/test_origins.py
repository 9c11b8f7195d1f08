"""Kinds of maps by the names that the tools document, and that kinds are never mixed."""

from __future__ import annotations

import dataclasses
import json
import re

import nibabel
import numpy as np
import pytest

from anatcl_jax import prepare
from anatcl_jax.cohorts import origins
from anatcl_jax.cohorts.cohort import Scan
from anatcl_jax.cohorts.find_scans import find_scans
from anatcl_jax.cohorts.identifiers import Known
from anatcl_jax.cohorts.origins import (
  AGEING,
  MODULATED,
  NEW_MNI,
  NONE,
  NONLINEAR,
  OWN_SPACE,
  PROBABILITY,
  QUASI_RAW,
  UNKNOWN,
  Origin,
)
from anatcl_jax.cohorts.phenotypes import PRESETS
from anatcl_jax.cohorts.volumes import NAMED_GRIDS, NiftiFile, read_grid, read_volume, resized
from anatcl_jax.data import shards
from anatcl_jax.errors import UserError
from tests.one_line_error import one_line_error

NIPREPS, SPM, STUDY = 'fMRIPrep or sMRIPrep', "SPM's (TPM or DARTEL)", "the study's"
T1PREP = 'derivatives/T1Prep-v0.8.1/sub-01/ses-1/anat'
DEEP = 'derivatives/deepmriprep-v0.3.0/sub-01/ses-1/anat'
# The file, the scan that is its, its kind, and what lies beside it.
LAYOUTS = [
    ('mri/mwp1sub-01_T1w.nii', 'sub-01', Origin('CAT12', MODULATED), []),
    ('mri/mwp1anna.nii', 'sub-anna', Origin('CAT12', MODULATED), ['report/cat_anna.xml']),
    ('mri/s6mwp1anna.nii', 'sub-anna', Origin('CAT12', MODULATED, '6 mm'), []),
    ('mri/s10mwp1rsub-01_ses-1_T1w.nii', 'sub-01_ses-1', Origin('CAT12', MODULATED, '10 mm'), []),
    ('mri/m0wp1sub-01.nii.gz', 'sub-01', Origin('CAT12', NONLINEAR), []),
    ('mri/wp1sub-01.nii.gz', 'sub-01', Origin('CAT12', PROBABILITY), []),
    ('mri/mwmwp1rsub-01.nii', 'sub-01', Origin('CAT12', AGEING), []),
    ('mri/p1sub-01.nii', 'sub-01', Origin('CAT12', OWN_SPACE), []),
    ('mri/mwp1anna.nii', 'sub-anna', Origin('T1Prep', MODULATED, NONE, NEW_MNI),
     ['report/T1Preplog_anna.txt']),
    (f'{T1PREP}/mwp1sub-01_ses-1_T1w.nii', 'sub-01_ses-1',
     Origin('T1Prep', MODULATED, NONE, NEW_MNI), []),
    (f'{T1PREP}/sub-01_ses-1_space-{NEW_MNI}-nonlinear-modulated_label-GM_probseg.nii.gz',
     'sub-01_ses-1', Origin('T1Prep', MODULATED, NONE, NEW_MNI), []),
    (f'{T1PREP}/sub-01_ses-1_space-{NEW_MNI}-nonlinear-modulated-modulated_label-GM_probseg.nii.gz',
     'sub-01_ses-1', Origin('T1Prep', AGEING, NONE, NEW_MNI), []),
    (f'{T1PREP}/sub-01_ses-1_space-{NEW_MNI}-nonlinear_label-GM_probseg.nii', 'sub-01_ses-1',
     Origin('T1Prep', PROBABILITY, NONE, NEW_MNI), []),
    (f'{DEEP}/sub-01_mwp1.nii.gz', 'sub-01_ses-1',
     Origin('deepmriprep', MODULATED, NONE, NEW_MNI), []),
    (f'{DEEP}/sub-01_s6mwp1.nii.gz', 'sub-01_ses-1',
     Origin('deepmriprep', MODULATED, '6 mm', NEW_MNI), []),
    ('out/sub-01_T1w/mwp1sub-01_T1w.nii.gz', 'sub-01',          # dir_format sub, cat, flat, mod
     Origin('deepmriprep', MODULATED, NONE, NEW_MNI), ['out/deepmriprep_outputs.csv']),
    ('out/anna/mri/s8mwp1anna.nii.gz', 'sub-anna',
     Origin('deepmriprep', MODULATED, '8 mm', NEW_MNI), ['out/anna/label/warp_mseanna.csv']),
    ('out/mwp1anna.nii.gz', 'sub-anna', Origin('deepmriprep', MODULATED, NONE, NEW_MNI),
     ['out/warp_mseanna.csv']),
    ('out/mwp1/sub-01_T1w.nii.gz', 'sub-01', Origin('deepmriprep', MODULATED, NONE, NEW_MNI), []),
    ('mwc1anna.nii', 'sub-anna', Origin('SPM', MODULATED, NONE, SPM), []),
    ('smwc1sub-01_T1w.nii', 'sub-01', Origin('SPM', MODULATED, UNKNOWN, SPM), []),
    ('smwrc1anna.nii', 'sub-anna', Origin('SPM', MODULATED, UNKNOWN, SPM), []),
    ('wc1sub-01_T1w.nii', 'sub-01', Origin('SPM', PROBABILITY, NONE, SPM), []),
    ('c1sub-01_T1w.nii', 'sub-01', Origin('SPM', OWN_SPACE), []),
    ('struc/CON_anna_struc_GM_to_template_GM_mod.nii.gz', 'sub-CON_anna',
     Origin('FSL-VBM', NONLINEAR, NONE, STUDY), []),
    ('struc/sub-01_struc_GM_to_template_GM.nii.gz', 'sub-01',
     Origin('FSL-VBM', PROBABILITY, NONE, STUDY), []),
    ('1000012/T1/T1_vbm/T1_GM_to_template_GM_mod.nii.gz', 'sub-1000012',     # UK Biobank
     Origin('FSL-VBM', NONLINEAR, NONE, STUDY), []),
    ('sub-01/anat/sub-01_space-MNI152NLin2009cAsym_res-2_label-GM_probseg.nii.gz', 'sub-01',
     Origin(NIPREPS, PROBABILITY, NONE, NEW_MNI), []),
    ('sub-01/anat/sub-01_space-MNI152NLin6Asym_label-GM_probseg.nii.gz', 'sub-01',
     Origin(NIPREPS, PROBABILITY, NONE, 'MNI152NLin6Asym'), []),
    ('sub-01/anat/sub-01_T1w_space-MNI152NLin2009cAsym_class-GM_probtissue.nii.gz', 'sub-01',
     Origin(NIPREPS, PROBABILITY, NONE, NEW_MNI), []),
    ('sub-01/anat/sub-01_space-MNI152NLin2009cAsym_res-2_label-GM_desc-x_probseg.nii', 'sub-01',
     Origin(NIPREPS, PROBABILITY, NONE, NEW_MNI), []),
    ('sub-01/anat/sub-01_label-GM_probseg.nii.gz', 'sub-01', Origin(NIPREPS, OWN_SPACE), []),
    ('sub-01_preproc-quasiraw_T1w.nii', 'sub-01',
     Origin('OpenBHB', QUASI_RAW, NONE, 'MNI152, affine'), []),
    ('vbm/sub-0001_space-GM226_label-GM_mod.nii.gz', 'sub-0001', None, []),
    ('sub-01_T1w.nii.gz', 'sub-01', None, []),
]
PEOPLE = Known.of([(name, '') for name in ('sub-01', 'sub-anna', 'sub-1000012')])


@pytest.mark.parametrize('name, scan, origin, beside', LAYOUTS)
def test_layouts(name, scan, origin, beside, tmp_path_factory):
  folder = tmp_path_factory.mktemp('maps')
  for file in [name, *beside]:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).touch()
  found, = find_scans(str(folder / name), PEOPLE, PRESETS['bids'])
  assert (found.label, origins.by_name(found.volume.path)) == (scan, origin)


def test_a_sidecar_says_whose_maps_they_are(tmp_path):
  (tmp_path / 'dataset_description.json').write_text(json.dumps(
      {'GeneratedBy': [{'Name': 'deepmriprep', 'Version': '0.3.0'}]}))
  path = tmp_path / 'sub-01' / 'mri' / 'mwp1sub-01.nii'
  assert origins.by_name(path) == Origin('deepmriprep', MODULATED, NONE, NEW_MNI)


def test_a_maps_own_sidecar_comes_first(tmp_path):
  """What `maps` says in the JSON of a map's name, where its fields are those of a kind."""
  kind = Origin('own', MODULATED, '4 mm', 'mine')
  path = tmp_path / 'mwp1sub-01.nii.gz'
  for content, expected in (({'maps': dataclasses.asdict(kind)}, kind), ({'maps': [1]}, None),
                            ({'maps': {'tool': 'x', 'values': 1}}, None), ([], None)):
    (tmp_path / 'mwp1sub-01.json').write_text(json.dumps(content))
    expected = expected or Origin('CAT12', MODULATED)
    assert origins.of_volume(NiftiFile(path), None) == expected


# ---- Headers, and the box of the newer template --------------------------------------------------


def write_map(path, shape=(4, 5, 4), corner=(-90, -126, -72), spacing=30.0, seed=0, descrip=''):
  affine = np.diag([spacing, spacing, spacing, 1.0])
  affine[:3, 3] = corner
  values = np.random.default_rng(seed).uniform(0.1, 1, shape).astype(np.float32)
  image = nibabel.Nifti1Image(values, affine)
  image.header['descrip'] = descrip
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(image, path)
  return values


def test_spm_notes_smoothing_in_the_header(tmp_path):
  path = tmp_path / 'smwc1sub-01.nii'
  write_map(path, descrip='SPM compatible - conv(8,8,8)')
  assert origins.of_volume(NiftiFile(path), None).smoothing == '8 mm'
  write_map(path, descrip='conv(8,8,10)')
  assert origins.of_volume(NiftiFile(path), None).smoothing == '8x8x10 mm'
  write_map(path)
  assert origins.of_volume(NiftiFile(path), None).smoothing == UNKNOWN


def test_the_newer_template_in_the_box_of_121(tmp_path):
  """CAT12's two boxes tell its templates apart; 113x137x113 fits in 121x145x121 voxel by voxel."""
  path = tmp_path / 'mwp1sub-01.nii'
  values = write_map(path, (113, 137, 113), (-84, -120, -72), 1.5)
  own, target = read_grid(NiftiFile(path)), NAMED_GRIDS['mni1.5']
  assert origins.of_volume(NiftiFile(path), own) == Origin('CAT12', MODULATED, NONE, NEW_MNI)
  assert origins.of_volume(NiftiFile(path), target) == origins.OPENBHB['vbm']
  put = read_volume(NiftiFile(path), target)
  np.testing.assert_allclose(put[4:117, 4:141, :113], values, atol=1e-6)
  assert np.count_nonzero(put) == np.count_nonzero(values)
  assert 'another template' in origins.box_note(origins.by_name(path), own, target)
  assert origins.box_note(origins.by_name(path), own, resized(target, 3)) is not None
  assert origins.box_note(origins.by_name(path), target, target) is None
  assert origins.box_note(origins.by_name(path), own, own) is None


# ---- FSL-VBM's 4-D files -------------------------------------------------------------------------


def write_fsl(folder, names=('CON_b', 'CON_a', 'PAT_c'), file='GM_mod_merg_s3.nii.gz'):
  """As fslvbm_3_proc: struc/ by scan, stats/ merged in the order of names."""
  values = {name: write_map(folder / f'struc/{name}_struc_GM_to_template_GM_mod.nii.gz', seed=i)
            for i, name in enumerate(names)}
  merged = np.stack([values[name] for name in sorted(names)], -1)
  affine = nibabel.load(next((folder / 'struc').iterdir())).affine
  (folder / 'stats').mkdir(exist_ok=True)
  image = nibabel.Nifti1Image(merged, affine)
  nibabel.save(image, folder / 'stats' / file)
  return values


@pytest.mark.parametrize('file', ['GM_mod_merg_s3.nii.gz', 'GM_mod_merg.nii'])
def test_fsl_vbm_merged(file, tmp_path):
  values = write_fsl(tmp_path, file=file)
  scans = find_scans(str(tmp_path / 'stats' / file), Known(), PRESETS['bids'])
  assert [scan.participant_id for scan in scans] == ['sub-CON_a', 'sub-CON_b', 'sub-PAT_c']
  for scan in scans:
    read = read_volume(scan.volume, read_grid(scan.volume))
    np.testing.assert_array_equal(read, values[scan.participant_id[4:]])
  kind = origins.one_kind((scan.volume, None) for scan in scans)
  smooth = '7.1 mm' if '_s3' in file else NONE      # sigma 3 mm is a FWHM of 7.06
  assert kind == Origin('FSL-VBM', NONLINEAR, smooth, STUDY)


def test_fsl_vbm_merged_without_names(tmp_path):
  write_fsl(tmp_path)
  next((tmp_path / 'struc').glob('PAT_c*')).unlink()
  pattern = str(tmp_path / 'stats' / 'GM_mod_merg_s3.nii.gz')
  with pytest.raises(UserError, match='holds 3 scans without their names.*struc has 2'):
    find_scans(pattern, Known(), PRESETS['bids'])
  write_fsl(tmp_path, ('B', 'a', 'PAT_c'))
  with pytest.raises(UserError, match='sort differently'):
    (tmp_path / 'struc/CON_a_struc_GM_to_template_GM_mod.nii.gz').unlink()
    (tmp_path / 'struc/CON_b_struc_GM_to_template_GM_mod.nii.gz').unlink()
    find_scans(pattern, Known(), PRESETS['bids'])


# ---- One kind a cohort ---------------------------------------------------------------------------

MIXED = [
    (['mri/mwp1sub-01.nii', 'mri/s6mwp1sub-02.nii', 'mri/mwp1sub-03.nii'],
     'Smoothing changes every voxel', 'mri/mwp1*'),
    (['mri/wp1sub-01.nii', 'mri/mwp1sub-02.nii', 'mri/wp1sub-03.nii'],
     'Modulated maps hold volumes', 'mri/wp1*'),
    (['cat12/mri/mwp1sub-01.nii', 'cat12/mri/mwp1sub-03.nii', 't1prep/mri/mwp1sub-02.nii'],
     'Another segmentation', 'cat12/mri/mwp1*'),
    (['a/mwp1sub-01.nii', 'b/sub-02_space-MNI152NLin2009cAsym_label-GM_probseg.nii'],
     'Modulated maps hold volumes', 'a/mwp1*'),
]


@pytest.mark.parametrize('names, why, glob', MIXED)
def test_kinds_are_not_mixed(names, why, glob, tmp_path):
  scans = [Scan(re.search(r'sub-\d+', name)[0], '', NiftiFile(tmp_path / name)) for name in names]
  with pytest.raises(UserError) as error:
    origins.one_kind((scan.volume, None) for scan in scans)
  assert why in str(error.value) and f"--volumes '{tmp_path / glob}'" in str(error.value)


def test_two_templates_of_cat12_are_not_mixed(tmp_path):
  """12.7's and 12.8's maps have the same names, and other boxes."""
  for number, corner in ((1, (-90, -126, -72)), (2, (-84, -120, -72))):
    write_map(tmp_path / f'mwp1sub-0{number}.nii', corner=corner)
  volumes = [NiftiFile(path) for path in sorted(tmp_path.glob('*.nii'))]
  with pytest.raises(UserError, match='at other coordinates in another template'):
    origins.one_kind((volume, read_grid(volume)) for volume in volumes)


def test_in_the_shard_set(tmp_path, capsys):
  """dataset.json says the kind; probabilities are warned of; a mixture writes nothing."""
  names = [f'sub-0{i}_space-{NEW_MNI}_label-GM_probseg.nii.gz' for i in (1, 2)]
  for seed, name in enumerate(names):
    write_map(tmp_path / 'maps' / name, seed=seed)
  (tmp_path / 'people.tsv').write_text('participant_id\tage\nsub-01\t20\nsub-02\t30\n')
  arguments = ['bids', '--volumes', f'{tmp_path}/maps/*.nii.gz', '--participants',
               f'{tmp_path}/people.tsv', '--out', f'{tmp_path}/out']
  prepare.main(arguments)
  out, err = capsys.readouterr()
  assert 'WARNING: fMRIPrep or sMRIPrep: gray-matter probability, not modulated' in err
  assert 'maps: fMRIPrep or sMRIPrep' in out
  made = shards.open_shards(tmp_path / 'out')
  assert made.maps == Origin(NIPREPS, PROBABILITY, NONE, NEW_MNI)
  assert 'NOT what weights' in made.info['notes'][0] and made.measured_by == ''
  (tmp_path / 'maps' / names[0]).rename(tmp_path / 'maps' / 'mwp1sub-01.nii.gz')
  arguments[-1] = f'{tmp_path}/other'
  assert 'the maps are of 2 kinds: 1 of CAT12' in one_line_error(capsys, tmp_path, *arguments)
