"""FSL-VBM's 4-D files, stats/GM_mod_merg*: whose scan each volume is, by the files of struc/."""

from __future__ import annotations

import pathlib
import re

from anatcl_jax.cohorts.volume_files import is_named_as_volume, opened, stem
from anatcl_jax.cohorts.volumes import NiftiFile, VolumeOf4D, VolumeSource
from anatcl_jax.errors import UserError

_MERGED = re.compile(r'GM_(?P<mod>mod_)?merg(?:_s\d+)?')


def volumes(path: pathlib.Path) -> list[tuple[pathlib.Path, VolumeSource]]:
  """The volumes of a file, each with the path that names its scan: one of most files, itself.

  fslvbm_3_proc merges struc/*_GM_to_template_GM[_mod] in the order of their names, and its 4-D
  files hold no names.

  Raises:
    UserError: a 4-D file of FSL-VBM whose scans struc/ does not tell.
  """
  merged = _MERGED.fullmatch(stem(path))
  if not merged or not is_named_as_volume(path):
    return [(path, NiftiFile(path))]
  shape = opened(path).shape
  count = shape[3] if len(shape) > 3 else 1
  folder = path.parent.parent / 'struc'
  ending = f'_GM_to_template_GM{"_mod" if merged["mod"] else ""}'
  scans = [one for one in folder.glob(f'*{ending}.*') if is_named_as_volume(one)]
  remedy = (f"; give one file a scan, --volumes '{folder}/*{ending}.nii.gz', the same maps before "
            'smoothing')
  if len(scans) != count:
    raise UserError(f'{path}: holds {count} scans without their names, and {folder} has '
                    f'{len(scans)} *{ending}{remedy}')
  ordered = sorted(scans, key=lambda one: one.name)
  # imglob sorts by bytes or by the language of the shell, which pass over punctuation and case.
  if ordered != sorted(scans, key=lambda one: re.sub('[^a-z0-9]', '', one.name.lower())):
    raise UserError(f'{path}: holds {count} scans in the order of the names in {folder}, which '
                    f'shells and languages sort differently{remedy}')
  return [(one, VolumeOf4D(path, i)) for i, one in enumerate(ordered)]
