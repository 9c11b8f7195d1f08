"""What `prepare t1` leaves on disk: a BIDS derivative, each map with a sidecar that tells all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any

import nibabel
import numpy as np

from anatcl_jax import __version__, outputs
from anatcl_jax.cohorts import origins, write_tables
from anatcl_jax.cohorts.t1 import templates
from anatcl_jax.cohorts.t1.quality import COLUMNS, Quality
from anatcl_jax.cohorts.t1.recipe import Made, Recipe
from anatcl_jax.cohorts.t1.volume import Volume
from anatcl_jax.errors import UserError

QUALITY, SHEET, DESCRIPTION = 'quality.tsv', 'contact-sheet.png', 'dataset_description.json'
_DESCRIBED = {'quasiraw': 'desc-quasiraw_T1w', 'gm': 'desc-modulatedgm_T1w'}
WORDS = {'quasiraw': 'quasi-raw T1 by anatcl_jax: bias-corrected, without skull, affinely '
                     'registered; not OpenBHB\'s own',
         'gm': 'modulated gray matter by anatcl_jax, not CAT12'}
ORIGINS = {to: origins.Origin('anatcl_jax', values, origins.NONE, templates.SPACE)
           for to, values in (('quasiraw', origins.QUASI_RAW), ('gm', origins.MODULATED))}


@dataclasses.dataclass(frozen=True)
class Target:
  """Where the files of one scan go."""

  out: pathlib.Path
  participant_id: str
  session: str

  @property
  def label(self) -> str:
    return '_'.join(filter(None, (self.participant_id, self.session)))

  @property
  def folder(self) -> pathlib.Path:
    return self.out.joinpath(*filter(None, (self.participant_id, self.session)), 'anat')

  def map(self, to: str) -> pathlib.Path:
    return self.folder / f'{self.label}_space-{templates.SPACE}_{_DESCRIBED[to]}.nii.gz'

  @property
  def mask(self) -> pathlib.Path:
    return self.folder / f'{self.label}_desc-brain_mask.nii.gz'

  @property
  def gray(self) -> pathlib.Path:
    return self.folder / f'{self.label}_label-GM_probseg.nii.gz'

  def sidecar(self, to: str) -> pathlib.Path:
    return _sidecar(self.map(to))


def _sidecar(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(path.name.removesuffix('.nii.gz') + '.json')


def finished(target: Target, recipe: Recipe, sha256: str) -> Quality | None:
  """The figures of a scan that is done already, by this recipe from this very file."""
  try:
    there = json.loads(target.sidecar(recipe.to).read_text(encoding='utf-8'))
    same = (there['Recipe'] == recipe.record() and there['SourceSha256'] == sha256
            and target.map(recipe.to).stat().st_size == there['Bytes'] and target.mask.is_file())
    return Quality(**there['Quality']) if same else None
  except (OSError, ValueError, LookupError, TypeError, RecursionError):
    return None


def check(target: Target, recipe: Recipe) -> None:
  """Raises UserError where a file would be replaced that this program did not make."""
  sidecar = target.sidecar(recipe.to)
  for path in (target.map(recipe.to), sidecar):
    if path.exists() and not outputs.is_own(sidecar):
      raise UserError(f'{path}: is there already and was not made by this program; choose another '
                      '--out, or remove it')


def write(target: Target, recipe: Recipe, made: Made, source: pathlib.Path, sha256: str) -> None:
  """Writes what came of a scan: whole, or not at all; the sidecar last."""
  sidecar, path = target.sidecar(recipe.to), target.map(recipe.to)
  folders = [one for one in (target.folder, *target.folder.parents) if not one.exists()]
  files = [one for one in (target.mask, target.gray, _sidecar(target.gray), path, sidecar)
           if not one.exists()]
  try:
    target.folder.mkdir(parents=True, exist_ok=True)
    # Whose the map is, should the process be killed between the two.
    outputs.write_json(sidecar, {'Description': f'{WORDS[recipe.to]}; unfinished'})
    _write_image(target.mask, made.mask.having(made.mask.values.astype(np.uint8)), 'scanner')
    if made.gray:
      _write_image(target.gray, made.gray, 'scanner')
      origin = origins.Origin('anatcl_jax', origins.OWN_SPACE)
      outputs.write_json(_sidecar(target.gray), {
          'Description': "probability of gray matter in the scan's own space, not modulated",
          'maps': dataclasses.asdict(origin), 'Sources': [str(source)]})
    _write_image(path, made.map, 'mni')
    temporary = sidecar.with_name(f'.{sidecar.name}.partial')
    outputs.write_json(temporary, {
        'Description': WORDS[recipe.to], 'maps': dataclasses.asdict(ORIGINS[recipe.to]),
        'Sources': [str(source)], 'SourceSha256': sha256, 'Bytes': path.stat().st_size,
        'SpatialReference': f'{templates.SPACE}, of nilearn', 'SkullStripped': True,
        'Steps': recipe.told(), 'Recipe': recipe.record(),
        'Quality': dataclasses.asdict(made.figures)})
    os.replace(temporary, sidecar)
  except (OSError, UserError) as error:
    for one in files:
      one.unlink(missing_ok=True)
    for one in folders:
      with contextlib.suppress(OSError):
        one.rmdir()
    raise UserError(f'{path}: can\'t be written '
                    f'({getattr(error, "strerror", error)})') from None


def _write_image(path: pathlib.Path, volume: Volume, space: str) -> None:
  image = nibabel.Nifti1Image(volume.values, volume.affine)
  image.set_sform(volume.affine, code=space)
  image.set_qform(volume.affine, code=space)
  image.header.set_xyzt_units('mm')
  temporary = path.with_name(f'.partial-{path.name}')
  try:
    nibabel.save(image, temporary)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def check_folder(out: pathlib.Path) -> None:
  """Raises UserError where a folder holds files of others under the names that are written."""
  for name in (DESCRIPTION, 'quality.json', SHEET):
    outputs.check_file(out / name, '--out')
  if (out / QUALITY).exists() and not outputs.is_own(out / 'quality.json'):
    raise UserError(f'{out / QUALITY}: is there already and was not made by this program; choose '
                    'another --out, or remove it')


def write_description(out: pathlib.Path, recipe: Recipe) -> None:
  """dataset_description.json of a BIDS derivative."""
  content: dict[str, Any] = {
      'Name': WORDS[recipe.to], 'BIDSVersion': '1.9.0', 'DatasetType': 'derivative',
      'GeneratedBy': [{'Name': 'anatcl_jax', 'Version': __version__, 'Description': 'prepare t1'}]}
  outputs.write_json(out / DESCRIPTION, content)


def write_quality(out: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  """quality.tsv, one row a scan, and quality.json, which says what its columns are."""
  import pandas
  columns = ['participant_id', 'session', 'file', *COLUMNS]
  table = pandas.DataFrame(rows)
  table = table[[name for name in columns if name in table and not table[name].isna().all()]]
  for name in table.select_dtypes('number'):
    table[name] = table[name].round(4)
  (out / QUALITY).write_text(write_tables.as_tsv(table), encoding='utf-8')
  outputs.write_json(out / 'quality.json', {
      name: {'Description': text} | ({'Units': unit} if unit else {})
      for name, (text, unit) in COLUMNS.items() if name in table})
