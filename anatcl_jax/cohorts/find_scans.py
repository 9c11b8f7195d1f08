"""Finds the volumes of a cohort, and tells from each path whose scan it is."""

from __future__ import annotations

import dataclasses
import glob
import os
import pathlib
import re
import sys
from collections.abc import Iterable

from anatcl_jax.cohorts import fsl_vbm, identifiers, origins, tables
from anatcl_jax.cohorts.cohort import Scan
from anatcl_jax.cohorts.identifiers import Known, natural_key
from anatcl_jax.cohorts.phenotypes import PRESETS, Preset, ScanKey
from anatcl_jax.cohorts.volume_files import is_named_as_volume, of_pair, stem
from anatcl_jax.cohorts.volumes import VolumeSource
from anatcl_jax.errors import UserError, listed

_TEXTS = ('.json', '.tsv', '.csv', '.txt', '.html', '.md', '.log')     # beside volumes, never one
# Averages over sessions of CAT12's longitudinal stream, whose scans are mwp1r<name>.
_CAT12_AVERAGE = re.compile(r'(?:s\d*)?m0?w(?:mw)?p1avg(?=_|sub-)')


def find_scans(pattern: str, known: Known, preset: Preset,
               id_pattern: str | None = None) -> tuple[Scan, ...]:
  """The scans whose volumes match a glob, in the natural order of their paths.

  Participant and session are those of `id_pattern` where it is given, else of the cohort's preset,
  else those `known` by the table with which the name begins, the longest first, else of BIDS
  (sub-01, ses-2 in the name or its folders), else what a tool's name leaves (`origins.scan_name`:
  after CAT12's mwp1, SPM's mwc1; before FSL-VBM's _struc_GM_to_template_GM_mod).

  Raises:
    UserError: no file matches, one has no participant or is a text, a scan has two volumes,
      or `id_pattern` is no regular expression with a group `participant`.
  """
  own_rule = compiled(id_pattern) if id_pattern is not None else None
  paths = matching(pattern)
  averages = [path.name for path in paths if _CAT12_AVERAGE.match(path.name)]
  if averages:
    print(f'note: {len(averages)} averages over sessions are no scans and are passed over: '
          f'{listed(averages, 3)}', file=sys.stderr)
  paths = [path for path in paths if not _CAT12_AVERAGE.match(path.name)]
  if not paths:
    raise UserError(f'no file matches --volumes {pattern!r} but averages over sessions')
  scans: dict[ScanKey, Scan] = {}
  unnamed, passed_over = [], []
  named = [pair for path in paths for pair in fsl_vbm.volumes(path)]
  for path, volume in sorted(named, key=lambda pair: not is_named_as_volume(pair[0])):
    key = scan_key(path, known, preset, own_rule)
    if not key or path.suffix in _TEXTS:
      unnamed.append(str(path))
      continue
    if key in scans and not is_named_as_volume(path):
      passed_over.append(path.name)
      continue
    scan = Scan(*key, volume)
    if key in scans:
      first, second = scans[key].volume.path, volume.path
      raise UserError(f'{scan.label} has two volumes, {first} and {second}; narrow the pattern to '
                      f'one a participant (and session), {_difference(first, second)}')
    scans[key] = scan
  if unnamed and own_rule:
    raise UserError(f'{listed(unnamed, 3)}: not a .nii or .nii.gz that --id-pattern {id_pattern!r} '
                    'matches; mend it, or narrow --volumes')
  if unnamed:
    raise UserError(f'{listed(unnamed, 3)}: not a .nii or .nii.gz with a participant (sub-...) in '
                    'its name; narrow the pattern, or name the participant with --id-pattern')
  if passed_over:
    print(f'note: {len(passed_over)} files of participants with a volume are none by their names '
          f'and are passed over: {listed(passed_over, 3)}', file=sys.stderr)
  return tuple(sorted(scans.values(),
                      key=lambda scan: identifiers.natural_key(scan.volume.path.as_posix())))


def matching(pattern: str) -> list[pathlib.Path]:
  """Files that a glob matches, in the order of their paths; of a folder, the volumes right in it.

  Links whose content is elsewhere are among them, and folders that are named as volumes: whoever
  reads them says what they are. A header beside its image (.hdr, .img) is one file with it.

  Raises:
    UserError: none matches.
  """
  if os.path.isdir(pattern) and not is_named_as_volume(pathlib.Path(pattern)):
    folder = pathlib.Path(pattern)
    found = [path for path in folder.iterdir() if is_named_as_volume(path)]
    if not found:
      raise UserError(f'--volumes {pattern!r} is a folder without volumes of its own; for those in '
                      f"its folders give a quoted pattern, '{folder}/**/*.nii.gz'")
  else:
    names = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
    found = [path for path in map(pathlib.Path, names)
             if is_named_as_volume(path) or not path.is_dir()]
  if not found:
    raise UserError(f'no file matches --volumes {pattern!r}; quote the pattern so that the shell '
                    'leaves it alone, and check it with ls')
  return sorted({of_pair(path) for path in found},
                key=lambda path: identifiers.natural_key(path.as_posix()))


def named_by_file(paths: Iterable[pathlib.Path], id_pattern: str | None, *, geometry: str,
                  nan_is_zero: bool) -> list[tuple[ScanKey, VolumeSource]]:
  """Volumes of files with their identifiers, in the natural order of their paths, without a table.

  Where no participant is in a name, the file's name stands for one, which is said.

  Args:
    geometry, nan_is_zero: how files are read, see NiftiFile.

  Raises:
    UserError: `id_pattern` does not match a path, or a 4-D file does not tell its scans.
  """
  rule = compiled(id_pattern) if id_pattern is not None else None
  found, unnamed = [], []
  named = [pair for path in paths for pair in fsl_vbm.volumes(path)]
  for path, volume in sorted(named, key=lambda pair: natural_key(pair[0].as_posix())):
    key = scan_key(path, Known(), PRESETS['bids'], rule)
    if not key:
      unnamed.append(path.name)
      key = stem(path), ''
    found.append((key, dataclasses.replace(volume, geometry=geometry, nan_is_zero=nan_is_zero)))
  if unnamed and rule:
    raise UserError(f'{listed(unnamed, 3)}: --id-pattern {id_pattern!r} does not match; mend it, '
                    'or narrow --volumes')
  if unnamed:
    print(f'note: no participant (sub-...) in the name of {listed(unnamed, 3)}: the file name '
          'stands for it; --id-pattern finds others', file=sys.stderr)
  return found


def scan_key(path: pathlib.Path, known: Known, preset: Preset,
             rule: re.Pattern | None = None) -> ScanKey | None:
  """Participant and session by the path of a volume, as in find_scans; None for no participant."""
  if rule:
    key = _key_by_rule(path, rule, preset)
  else:
    key = (preset.scan_key(origins.scan_name(path) or path.name)
           or preset.scan_key(path.as_posix()) or _key_by_name(path, known))
  if not key:
    return None
  participant, session = key
  if participant not in known.sessions:
    participant = known.alike(participant) or participant
  return participant, identifiers.known_session(session, known.sessions.get(participant, ()))


def compiled(id_pattern: str) -> re.Pattern:
  """An --id-pattern as a rule for scan_key.

  Raises:
    UserError: it is no regular expression, or has no group `participant`.
  """
  try:
    rule = re.compile(id_pattern)
  except re.error as error:
    raise UserError(f'--id-pattern {id_pattern!r} is no regular expression: {error}') from None
  if 'participant' not in rule.groupindex:
    raise UserError(f'--id-pattern {id_pattern!r} has no group participant; write it as '
                    "'(?P<participant>[0-9]+)_(?P<session>[0-9]+)', the session if there are any")
  return rule


def _key_by_rule(path: pathlib.Path, rule: re.Pattern, preset: Preset) -> ScanKey | None:
  match = rule.search(path.as_posix())
  groups = match.groupdict() if match else {}
  if not groups.get('participant'):
    return None
  participant = 'sub-' + groups['participant'].removeprefix('sub-')
  session = groups.get('session') and 'ses-' + groups['session'].removeprefix('ses-') or ''
  return preset.scan_key(tables.joined_identifier(participant, session)) or (participant, session)


def _key_by_name(path: pathlib.Path, known: Known) -> ScanKey | None:
  """By the table; by BIDS in the name, or in the deepest folder that is one; by a tool's name."""
  scan = origins.scan_name(path)
  name = scan or stem(path)
  participant = _participant(path, name, known, bool(scan))
  if not participant:
    return None
  own = known.sessions.get(participant, ())
  return participant, (identifiers.session_in(name, own)
                       or identifiers.session_in(path.parent.as_posix(), own))


def _participant(path: pathlib.Path, name: str, known: Known, of_tool: bool) -> str | None:
  """`name` is the file's, or what a tool's name for its output leaves."""
  folders = [part for part in reversed(path.parent.parts) if part.startswith('sub-')]
  if 'sub-' in name:
    return _labelled(name[name.index('sub-'):], known)
  if folders:
    return _labelled(folders[0], known)
  # CAT12's longitudinal stream writes mwp1r<name>.
  names = [name, name.removeprefix('r')] if f'p1{name}' in path.name else [name]
  for bare in names:
    if found := identifiers.known_participant(bare, known.sessions):
      return found[0]
  for part in reversed(path.parent.parts):
    # A folder 1 may be anything.
    if f'sub-{part}' in known.sessions and re.search('[A-Za-z]|[0-9]{3}', part):
      return f'sub-{part}'
  return tables.split_identifier(name.removesuffix('_T1w'))[0] if of_tool else None


def _labelled(name: str, known: Known) -> str | None:
  """The participant of a name that begins with sub-."""
  found = (identifiers.known_participant(name, known.sessions)
           or identifiers.participant_by_form(name))
  return found[0] if found else None


def _difference(first: pathlib.Path, second: pathlib.Path) -> str:
  """How a pattern could choose the first of two volumes."""
  parts, others = (path.name.split('.')[0].split('_') for path in (first, second))
  own = [part for part in parts if part not in others]
  return (f'for instance with *{own[0]}*, ' if own else '') + 'or tell them apart with --id-pattern'
