"""Whose row or folder it is: sub-01_ses-2_T1w, /data/fs/sub-01, matched against the known scans."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
import re

from anatcl_jax.cohorts import find_scans
from anatcl_jax.cohorts.identifiers import Known
from anatcl_jax.cohorts.phenotypes import PRESETS, Preset, ScanKey

_ENDING = re.compile(r'\.(?:nii(?:\.gz)?|mgz|mgh|img|hdr)$')
# What may follow a participant in a name: BIDS's session, its other entities, and its suffixes.
_ADDITION = re.compile(r'(?:ses|acq|ce|desc|dir|echo|inv|label|mod|part|rec|res|run|space)-'
                       r'[A-Za-z0-9]+|T1w?|T2w?|FLAIR|MPRAGE|defaced|anat', re.IGNORECASE)
_SESSION = re.compile(r'ses-([A-Za-z0-9]+)', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class RowNames:
  """How names in tables of morphometry, and of subjects' folders, become scans.

  `scans` are those that volumes have; without them a name is read by its form alone. `rule` is a
  compiled --id-pattern, tried before names. With `loose` no punctuation counts.
  """

  scans: tuple[ScanKey, ...] = ()
  rule: re.Pattern | None = None
  preset: Preset = PRESETS['bids']
  loose: bool = False

  def key(self, text: str, session: str = '') -> ScanKey:
    """The scan of a row; `session` is that of a column of its own, which counts before the name's.

    By rule, by the cohort's preset, by a known participant (the longest that the name begins with
    and whose rest is a session or another part of a BIDS name), at last by form.
    """
    name = plain_name(text).split('.long.')[0]
    by_name = self._by_name(name)
    found = (self.rule and find_scans.scan_key(pathlib.PurePath(name), Known.of(self.scans),
                                               self.preset, self.rule)
             or self.preset.scan_key(name))
    if not found or (by_name[0] in self._sessions and found[0] not in self._sessions):
      found = by_name
    participant, own = found
    if session := re.sub('[^A-Za-z0-9]', '', session.removeprefix('ses-')):
      own = f'ses-{session}'
      code = self.preset.session_code(session) if self.preset.session else None
      own = f'ses-{code}' if code else own
    return participant, self._known_session(participant, own)

  def known(self, key: ScanKey) -> bool:
    """Whether the participant of a row has a scan; of all, where no scans are known."""
    return not self.scans or key[0] in self._sessions

  @functools.cached_property
  def _sessions(self) -> dict[str, list[str]]:
    sessions = collections.defaultdict(list)
    for participant, session in self.scans:
      sessions[participant].append(session)
    return dict(sessions)

  @functools.cached_property
  def _by_bare_name(self) -> dict[str, str | None]:
    """Participants by their names without punctuation; None where two have the same."""
    counts = collections.Counter(map(self._bare, self._sessions))
    return {bare: name for name in self._sessions if counts[bare := self._bare(name)] == 1}

  def _bare(self, participant: str) -> str:
    """A name without case and punctuation, which still counts between digits unless `loose`."""
    name = participant.removeprefix('sub-').lower()
    if not self.loose:
      name = re.sub(r'(?<=\d)[^a-z0-9]+(?=\d)', '\0', name)
    return re.sub('[^a-z0-9\0]', '', name)

  def _by_name(self, name: str) -> ScanKey:
    parts = [part for part in name.split('/') if part]
    above = [part for part in parts if _SESSION.fullmatch(part)]
    parts = [part for part in parts if not _SESSION.fullmatch(part)] or ['']
    folders = [part for part in parts if part.startswith('sub-')]
    words = (parts[-1] if parts[-1].startswith('sub-') or not folders else folders[-1]).split('_')
    readings = []
    for count in range(len(words), 0, -1):
      readings.append((re.sub('^(sub-)?', 'sub-', '_'.join(words[:count]), flags=re.IGNORECASE),
                       next((f'ses-{match[1]}' for word in [*words[count:], *above]
                             if (match := _SESSION.fullmatch(word))), '')))
      if not _ADDITION.fullmatch(words[count - 1]):
        break
    for participant, session in readings:
      if participant in self._sessions:
        return participant, session
    for participant, session in readings:
      if known := self._by_bare_name.get(self._bare(participant)):
        return known, session
    participant, session = readings[-1]
    return f'sub-{self._bare(participant)}' if self.loose else participant, session

  def _known_session(self, participant: str, session: str) -> str:
    """The session as the participant's scans have it: ses-01 is ses-1 where there is only that."""
    own = self._sessions.get(participant, [])
    if not session or session in own:
      return session
    alike = [name for name in own if _bare_session(name) == _bare_session(session)]
    return alike[0] if len(alike) == 1 else session


def plain_name(text: str) -> str:
  """A name without slashes and the ending of a file; Windows's slashes are slashes."""
  return _ENDING.sub('', text.strip().replace('\\', '/').rstrip('/'))


def _bare_session(session: str) -> str:
  return session.removeprefix('ses-').lower().lstrip('0')
