"""Reads a BIDS-like cohort: a glob of NIfTI volumes, participants.tsv, FreeSurfer tables."""

from __future__ import annotations

import glob
import pathlib
import re

from anatcl_jax.data import cohort as cohorts
from anatcl_jax.data import morphometry as morphometry_tables
from anatcl_jax.data import participants as participants_table
from anatcl_jax.data.cohort import Cohort, Scan
from anatcl_jax.data.volumes import NiftiFile
from anatcl_jax.errors import UserError, listed

_ENTITY = re.compile(r'(sub-[A-Za-z0-9]+)(?:.*?[_/](ses-[A-Za-z0-9]+))?')


def read_cohort(volumes: str, participants: pathlib.Path, morphometry: list[pathlib.Path],
                atlas: str = 'desikan') -> Cohort:
  """A cohort of the volumes that match a glob, with their labels looked up by identifier.

  Scans without a participant, an age or complete morphometry are in `problems`. Rows of the tables
  without a volume are counted on stderr and not used: tables often cover more than one study.

  Raises:
    UserError: nothing matches the glob, or a table can't be read or trusted as a whole.
  """
  scans = _find_scans(volumes)
  table = participants_table.read_participants(participants)
  measured = morphometry_tables.read_tables(morphometry, atlas) if morphometry else None
  sources = {'volumes': volumes, 'participants': str(participants),
             'morphometry': ', '.join(str(path) for path in morphometry)}
  return cohorts.join(scans, table, str(participants), measured, atlas, sources,
                      cohorts.says_synthetic(participants.parent))


def _find_scans(pattern: str) -> tuple[Scan, ...]:
  paths = sorted(pathlib.Path(name) for name in glob.glob(pattern, recursive=True))
  if not paths:
    raise UserError(f'no file matches --volumes {pattern!r}; quote the pattern so that the shell '
                    'leaves it alone, and check it with ls')
  scans, unnamed = {}, []
  for path in paths:
    match = _ENTITY.search(path.name) or _ENTITY.search(str(path))
    if not match or not path.name.endswith(('.nii', '.nii.gz')):
      unnamed.append(str(path))
      continue
    scan = Scan(match[1], match[2] or '', NiftiFile(path))
    if scan.key in scans:
      raise UserError(f'{scan.label} has two volumes, {scans[scan.key].volume.path} and {path}; '
                      'narrow the pattern to one a participant (and session)')
    scans[scan.key] = scan
  if unnamed:
    raise UserError(f'{listed(unnamed, 3)}: not a .nii or .nii.gz with a participant (sub-...) in '
                    'its name; narrow the pattern')
  return tuple(scans.values())
