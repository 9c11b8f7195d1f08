"""Whose a name is: matched whole against the identifiers of a table, before any rule of form."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Collection, Iterable, Mapping

# What may follow a participant in a name and is never part of one.
_ENTITY = re.compile(r'(?:ses|sample|task|tracksys|acq|ce|trc|stain|rec|dir|run|mod|echo|flip|inv|'
                     r'mt|part|proc|hemi|space|split|recording|chunk|seg|res|den|label|desc|atlas|'
                     r'session|visit|from|to|mode)-.+', re.IGNORECASE)
_WORD = re.compile(r'T[12]w?|T2star|FLAIR|PDw?|MP2?RAGE|I?NV\d|UNIT1|mw[cp]\d|w[cp]\d|[cp][123]|'
                   r'[1-7]T|MNI\w*|\dmm|defaced|anat|brain|probseg|dseg|mask', re.IGNORECASE)
_LETTERS = re.compile(r'[A-Za-z]{2,}')


@dataclasses.dataclass(frozen=True)
class Known:
  """The identifiers of a table: the sessions of each participant, [''] for none."""

  sessions: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, keys: Iterable[tuple[str, str]]) -> Known:
    """Of participants and sessions, one a row."""
    sessions = collections.defaultdict(list)
    for participant, session in keys:
      sessions[participant].append(session)
    return cls(dict(sessions))

  def alike(self, participant: str) -> str | None:
    """The only known participant that differs in case and punctuation alone, if there is one.

    sub-NDARINV01 is sub-NDAR_INV01; between digits punctuation counts.
    """
    return self._by_bare_name.get(_bare(participant))

  @functools.cached_property
  def _by_bare_name(self) -> dict[str, str]:
    counts = collections.Counter(map(_bare, self.sessions))
    return {bare: name for name in self.sessions if counts[bare := _bare(name)] == 1}


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
  """Sorts ses-2 before ses-10: digits count as numbers."""
  return tuple((0, int(part), part) if part.isdigit() and part.isascii() else (1, 0, part)
               for part in re.split(r'([0-9]+)', text) if part)


def known_participant(name: str, known: Collection[str]) -> tuple[str, str] | None:
  """The longest of the `known` participants that a name begins with, and the rest of the name.

  This is the one rule by which names of volumes, folders and rows are matched to a table:
  `sub-con-01_T1w` is `sub-con-01` where the table has that, and never `sub-con`, whose row says
  nothing of it. Both sides may have or lack `sub-`. What follows must not be able to belong to the
  identifier: the name's end, a session or another part of a BIDS name, or a word without digits.
  None where no known participant is certain; then the form decides, see `participant_by_form`.

  Args:
    name: of one file or folder, without its ending and without CAT12's prefix.
    known: identifiers in the form `sub-...`, fast to look up in (a set or a dict).
  """
  prefixed, bare = name.startswith('sub-'), name.removeprefix('sub-')
  for end in [len(bare), *(match.start() for match in reversed(list(
      re.finditer(r'[_.\- ]', bare))))]:
    participant, rest = f'sub-{bare[:end]}', bare[end:]
    if participant in known:
      return (participant, rest) if _is_addition(bare[:end], rest, prefixed) else None
  return None


def participant_by_form(name: str) -> tuple[str, str] | None:
  """The participant of a name `sub-...` where no table knows it, and the rest of the name.

  The label reaches to the first part that can't belong to it: `sub-WMH_MRI_21_01H_T1w` is
  `sub-WMH_MRI_21_01H`, `sub-01_brain` is `sub-01`. None for a name without `sub-`.
  """
  if not (start := re.search(r'sub-(?=[A-Za-z0-9])', name)):
    return None
  label = name[start.end():].split('.long.')[0]
  for match in re.finditer(r'[_.\- ]', label):
    if _is_addition(label[:match.start()], label[match.start():], True):
      return f'sub-{label[:match.start()]}', label[match.start():]
  return f'sub-{label}', ''


def known_session(session: str, own: Iterable[str]) -> str:
  """A session as the table has it: ses-1 for ses-01, where that is the only one alike."""
  own = list(own)
  if not session or session in own:
    return session
  alike = [other for other in own if other and bare_session(other) == bare_session(session)]
  return alike[0] if len(alike) == 1 else session


def bare_session(session: str) -> str:
  """A session without its prefix, case, punctuation and leading zeros."""
  return re.sub(r'0+(?=[0-9])', '', re.sub('[^a-z0-9]', '', re.sub('^ses-', '', session).lower()),
                count=1) if session else ''


def session_in(text: str, own: Iterable[str] = ()) -> str:
  """The session `ses-...` of a path or name, '' for none.

  The longest of the participant's `own` sessions counts, else what stands before `_`, `.` or `/`.
  """
  found = [match.end() for match in re.finditer(r'(?:^|[_/.])(?=ses-)', text)]
  if not found:
    return ''
  rest = text[found[-1]:]
  for session in sorted(filter(None, own), key=len, reverse=True):
    if rest.startswith(session) and not rest[len(session):][:1].isalnum():
      following = rest[len(session):]
      if following[:1] != '-':
        return session
  match = re.match(r'ses-[^_/.\s]+', rest)
  return match[0] if match else ''


def without_zeros(participant: str) -> str:
  """An identifier as a spreadsheet leaves it: without zeros before its numbers."""
  return re.sub(r'(?<![0-9])0+(?=[0-9])', '', participant)


def _bare(participant: str) -> str:
  name = re.sub(r'(?<=\d)[^a-z0-9]+(?=\d)', '\0', participant.removeprefix('sub-').lower())
  return re.sub('[^a-z0-9\0]', '', name)


def _is_addition(participant: str, rest: str, prefixed: bool) -> bool:
  """Whether the rest of a name can't belong to the participant before it."""
  if not rest:
    return True
  first, *others = re.split(r'[_. ]', rest[1:]) if rest[0] != '-' else re.split(
      r'[_.\- ]', rest[1:])
  if _ENTITY.fullmatch(first) or _WORD.fullmatch(first) or first == 'long':
    return True
  if rest[0] == '-' and prefixed or not _LETTERS.fullmatch(first):
    return False
  if re.search('[0-9]', participant):
    return True
  return prefixed is False and not any(re.search('[0-9]', word) and not _ENTITY.fullmatch(word)
                                       and not _WORD.fullmatch(word) for word in others)
