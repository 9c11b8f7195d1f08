"""Who of two data sets is the same person: names do not tell, since many begin at sub-0001."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas
import scipy.stats

from anatcl_jax.cohorts import tables

CHOICES = ('auto', 'yes', 'no')

_ROUNDED = 1        # years by which the age at one scan differs between tables
_FOLLOWED = 15      # years between scans of one person
_SURPRISING = 0.01  # as a probability
_SHIFTS = 20        # pairings of people with others, for what agrees by chance


@dataclasses.dataclass(frozen=True)
class Match:
  """People of one name in both sets who count as the same, and why, in words."""

  people: frozenset[str]
  why: str


@dataclasses.dataclass(frozen=True)
class _Person:
  sexes: frozenset[str]
  scans: tuple[tuple[str, float], ...]      # session and age, where that is known


def match(ours: pandas.DataFrame, theirs: pandas.DataFrame, choice: str = 'auto') -> Match:
  """Which participants of two tables (participant_id, session, age, sex) are the same people.

  Those of one name are where `choice` is yes, and are not where it is no. By `auto` they are where
  age and sex agree of half of them or more, or where there is nothing to compare: better one too
  few predicted than one who was seen. If fewer agree, but more than by chance, they are those
  that do. Ages are compared at sessions of one name, within a year; of other sessions within 15.
  """
  own, other = _people(ours), _people(theirs)
  names = sorted(set(own) & set(other))
  if not names:
    return Match(frozenset(), 'no name of a participant is in both')
  if choice != 'auto':
    return Match(frozenset(names if choice == 'yes' else ()), f'config.same_people={choice}')
  compared = {name: _compared(own[name], other[name]) for name in names}
  told = [name for name in names if compared[name]]
  count = f'{len(names)} {"names are" if len(names) > 1 else "name is"} in both'
  if not told:
    return Match(frozenset(names), f'{count}, and neither age nor sex can be compared; '
                                   'config.same_people=no takes them for others')
  agreeing = [name for name in told if all(compared[name].values())]
  said = '; '.join(
      f'{what} agrees of {sum(found)} of {len(found)}' for what in ('age', 'sex')
      if (found := [compared[name][what] for name in told if what in compared[name]]))
  if 2 * len(agreeing) >= len(told):
    return Match(frozenset(names), f'{count}; {said}')
  chance = _chance([own[name] for name in told], [other[name] for name in told])
  said += (f'; all of it of {len(agreeing)}, where {chance * len(told):.2g} would by chance')
  if scipy.stats.binomtest(len(agreeing), len(told), chance, 'greater').pvalue < _SURPRISING:
    return Match(frozenset(agreeing), f'{count}; {said}: these alone')
  return Match(frozenset(), f'{count}; {said}: they are taken for others, '
                            'config.same_people=yes for the same')


def _people(table: pandas.DataFrame) -> dict[str, _Person]:
  count = len(table)
  ages = (pandas.to_numeric(table['age'], errors='coerce') if 'age' in table
          else np.full(count, np.nan))
  sexes = tables.categories(table['sex']).fillna('') if 'sex' in table else [''] * count
  rows: dict[str, list[tuple[str, float, str]]] = {}
  for name, session, age, sex in zip(table['participant_id'], table['session'], ages, sexes):
    rows.setdefault(name, []).append((session, age, sex.upper()))
  return {name: _Person(frozenset(sex for *_, sex in own if sex),
                        tuple((session, age) for session, age, _ in own if np.isfinite(age)))
          for name, own in rows.items()}


def _compared(one: _Person, other: _Person) -> dict[str, bool]:
  """Whether age and sex agree, of those that are known on both sides."""
  found = {}
  # A set without sessions says nothing of which it was.
  apart = [(abs(age - other_age), session == other_session or '' in (session, other_session))
           for session, age in one.scans for other_session, other_age in other.scans]
  if at_one := [years for years, same in apart if same]:
    found['age'] = min(at_one) <= _ROUNDED
  elif apart:
    found['age'] = min(years for years, _ in apart) <= _FOLLOWED
  if one.sexes and other.sexes:
    found['sex'] = bool(one.sexes & other.sexes)
  return found


def _chance(own: list[_Person], other: list[_Person]) -> float:
  """How often a person agrees with somebody else's row; a little more, for none of few is not 0."""
  agreed = [all(_compared(one, other[(row + shift) % len(other)]).values())
            for shift in range(1, min(len(own), _SHIFTS + 1)) for row, one in enumerate(own)]
  return (sum(agreed) + 1) / (len(agreed) + 2)
