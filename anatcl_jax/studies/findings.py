"""What holds and what does not: differences and their intervals as sentences, by stated rules.

A difference is turned so that above 0 is better. It is shown where p, corrected after Holm for all
rows that are compared in a question, is below 0.05, and by less than matters where all of its
interval is. One that is not shown, but whose interval lies within what matters on both sides, is
none that matters; one whose interval has no 0 is told before the correction only.
"""

from __future__ import annotations

import dataclasses
import enum
import statistics
from collections.abc import Iterable

from anatcl_jax.studies import comparison, objectives
from anatcl_jax.studies.comparison import Estimate
from anatcl_jax.studies.results import (
    AGE,
    BASELINES,
    GROUPS,
    PUBLISHED,
    RESIDUALISED,
    SHARPER,
    WITH_ANATOMY,
    Question,
    Results,
)

AGE_ALONE, AS_PUBLISHED = 'yaware', 'global-region'      # the references
NAMES = {AGE_ALONE: 'y-Aware', AS_PUBLISHED: 'AnatCL as published'}
KNOWLEDGE = ('thickness_beyond_r2_unseen', 'disease_auc_unseen', 'subtype_accuracy_unseen')
AT_MOST_WORSE = 0.5      # years, of those who know age as well
_ALPHA = 0.05


class Verdict(enum.Enum):
  """What a difference shows, in words before the names of those of whom it is said."""

  BETTER = 'better'
  SLIGHTLY_BETTER = 'better, by less than matters'
  WORSE = 'worse'
  SLIGHTLY_WORSE = 'worse, by less than matters'
  SUGGESTED = 'before the correction only'
  NONE = 'no difference that matters'
  OPEN = 'no difference shown'
  UNKNOWN = 'one seed in common, nothing claimed'


SHOWN = tuple(Verdict)[:4]


@dataclasses.dataclass(frozen=True)
class Finding:
  """The difference of an objective to a reference in a question."""

  objective: str
  question: Question
  difference: Estimate
  p_holm: float

  @property
  def verdict(self) -> Verdict:
    """By the rules above."""
    one, matters = self.difference, self.question.matters
    if not one.over_seeds:
      return Verdict.UNKNOWN
    if self.p_holm < _ALPHA and one.value > 0:
      return Verdict.SLIGHTLY_BETTER if one.high < matters else Verdict.BETTER
    if self.p_holm < _ALPHA:
      return Verdict.SLIGHTLY_WORSE if one.low > -matters else Verdict.WORSE
    if -matters < one.low and one.high < matters:
      return Verdict.NONE
    return Verdict.SUGGESTED if one.low > 0 or one.high < 0 else Verdict.OPEN

  @property
  def numbers(self) -> str:
    """The difference and its interval; of what is shown, by how much."""
    digits, one = self.question.digits, self.difference
    if self.verdict in (Verdict.WORSE, Verdict.SLIGHTLY_WORSE):
      one = -one
    sign, by = ('', 'by ') if self.verdict in SHOWN else ('+', '')
    return f'{by}{one.value:{sign}.{digits}f} ({one.low:.{digits}f} to {one.high:.{digits}f})'


def findings(results: Results, reference: str) -> dict[str, list[Finding]]:
  """Of all other rows to the reference, by question; nothing where the reference is missing."""
  found = {}
  for question in results.questions:
    differences = results.differences(reference, question)
    p = comparison.holm(differences)
    if differences:
      found[question.name] = [Finding(name, question, one, p[name])
                              for name, one in differences.items()]
  return found


def sentence(found: list[Finding], than: str) -> str:
  """All that one question says: who is better, by how much, who is worse, and who is neither."""
  parts = []
  for verdict in Verdict:
    own = sorted((one for one in found if one.verdict is verdict),
                 key=lambda one: -abs(one.difference.value))
    told = verdict in (Verdict.BETTER, Verdict.SUGGESTED)
    names = ', '.join(one.objective + f' {one.numbers}' * told for one in own)
    if verdict is Verdict.BETTER:
      parts.append(f'{verdict.value} than {than}: {names or "none"}')
    elif names:
      parts.append(f'{verdict.value}: {names}')
  return f'{"; ".join(parts)}.'


def answer(results: Results, found: dict[str, list[Finding]], groups: tuple[str, ...],
           questions: tuple[str, ...] = KNOWLEDGE, among: list[str] | None = None
           ) -> tuple[str, list[str]]:
  """Is any objective of these groups better than the reference? In short, and by question."""
  names = [name for name, group in results.groups.items() if group in groups
           and (name not in objectives.BASELINES if among is None else name in among)]
  heads: dict[str, list[str]] = {}
  details = []
  for question in questions:
    own = sorted((one for one in found.get(question, ()) if one.objective in names
                  and one.verdict is not Verdict.UNKNOWN), key=lambda one: -one.difference.value)
    if not own:
      continue
    words = own[0].question.words
    by = {verdict: [one for one in own if one.verdict is verdict] for verdict in Verdict}
    top = (by[Verdict.BETTER] or by[Verdict.SLIGHTLY_BETTER] or own)[0]
    head = ('better in' if by[Verdict.BETTER] else 'better, but by less than matters, in'
            if by[Verdict.SLIGHTLY_BETTER] else 'not shown to be better in')
    heads.setdefault(head, []).append(words)
    if len(own) == 1:
      details.append(f'{words}: {top.verdict.value} {top.numbers}')
      continue
    text = [f'{words}: {len(by[Verdict.BETTER]) or "none"} of {len(own)} better']
    if by[Verdict.SLIGHTLY_BETTER]:
      text.append(f'{len(by[Verdict.SLIGHTLY_BETTER])} more, by less than matters')
    text[-1] += f'; the {"most" if top.verdict in SHOWN[:2] else "nearest"} is {top.objective}, '
    text[-1] += top.numbers if top.verdict in SHOWN[:2] else f'{top.verdict.value} {top.numbers}'
    if worse := [*by[Verdict.SLIGHTLY_WORSE], *by[Verdict.WORSE]]:
      text.append(f'{len(worse)} worse, most {worse[-1].objective}, {worse[-1].numbers}')
    details.append('; '.join(text))
  said = [f'{head} {", ".join(words)}' for head, words in heads.items()]
  return '; '.join(said) or 'there is nothing to compare', details


def equally_aged(found: dict[str, list[Finding]]) -> list[str]:
  """Objectives whose error of age is at most AT_MOST_WORSE years above the reference's."""
  return [one.objective for one in found.get('age_mae_unseen', ())
          if one.difference.value >= -AT_MOST_WORSE and one.objective not in objectives.BASELINES]


def supported(published: dict[str, list[Finding]]) -> Finding | None:
  """What the study supports instead of the published recipe; None where nothing is.

  Of the trained objectives that are worse than the published one in no question by what may matter,
  the one that is better in most of KNOWLEDGE; of several the one that knows most of disease. The
  finding is that of disease on unseen sites.
  """
  by_name: dict[str, dict[str, Finding]] = {}
  for question, of in published.items():
    for one in of:
      by_name.setdefault(one.objective, {})[question] = one
  candidates = []
  for name, own in by_name.items():
    verdicts = {question: one.verdict for question, one in own.items()}
    better = sum(verdicts.get(question) is Verdict.BETTER for question in KNOWLEDGE)
    if (better and name not in (*objectives.BASELINES, objectives.UNTRAINED)
        and 'disease_auc_unseen' in own
        and not {Verdict.WORSE, Verdict.UNKNOWN} & set(verdicts.values())):
      disease = own['disease_auc_unseen']
      candidates.append((better, disease.difference.value, disease))
  return max(candidates, key=lambda one: one[:2])[2] if candidates else None


def recommended(results: Results) -> str:
  """The objective that `configs/pretrain.py:recommended` is."""
  one = supported(findings(results, AS_PUBLISHED))
  return one.objective if one else AS_PUBLISHED


def recommendation(results: Results) -> str:
  """What `configs/pretrain.py:recommended` is, and why."""
  published = findings(results, AS_PUBLISHED)

  def questions(name: str, verdict: Verdict, asked: Iterable[str]) -> str:
    return ', '.join(one.question.words for question in asked for one in published.get(question, ())
                     if one.objective == name and one.verdict is verdict)

  one = supported(published)
  if one is None:
    traded = [f'`{name}` knows more of {more}, but is worse in {less}' for name in results.groups
              if name not in objectives.BASELINES
              and (more := questions(name, Verdict.BETTER, KNOWLEDGE))
              and (less := questions(name, Verdict.WORSE, published))]
    return ('No objective is shown to know more than the published recipe of thickness beyond age '
            'and sex, of disease or of its subtype without being worse in something else'
            + ''.join(f'; {text}' for text in traded) + '. So `configs/pretrain.py:recommended` is '
            f'the published recipe, `{AS_PUBLISHED}`.')
  return (f'`configs/pretrain.py:recommended` is `{one.objective}`: of all objectives that are '
          f'worse than the published recipe (`{AS_PUBLISHED}`) in no question by what may matter, '
          'it is better in most of what is asked of anatomy and disease '
          f'({questions(one.objective, Verdict.BETTER, KNOWLEDGE)}). In disease on unseen sites: '
          f'{one.verdict.value}, {one.numbers.removeprefix("by ")}.')


def reach(results: Results) -> list[str]:
  """How far intervals of differences to AGE_ALONE reach to either side: medians, in words."""
  found = findings(results, AGE_ALONE)
  return [f'{found[name][0].question.words} '
          f'{statistics.median((one.difference.high - one.difference.low) / 2 for one in own):.3f}'
          for name in KNOWLEDGE
          if (own := [one for one in found.get(name, ()) if one.difference.over_seeds])]


def in_short(results: Results) -> list[str]:
  """The answers, a paragraph of Markdown each."""
  age, published = (findings(results, name) for name in (AGE_ALONE, AS_PUBLISHED))
  if not age:
    return [f'The study has no row `{AGE_ALONE}` to compare with: nothing is claimed.']
  than = NAMES[AGE_ALONE]
  asked = [
      (f'Does anatomy help? All objectives with anatomy beside {than}', age, WITH_ANATOMY,
       KNOWLEDGE, None),
      ('The same beside the untrained encoder', findings(results, objectives.UNTRAINED),
       WITH_ANATOMY, KNOWLEDGE, None),
      (f'AnatCL as published, in its readings, beside {than}', age, (PUBLISHED,), KNOWLEDGE, None),
      (f'At equal knowledge of age (error at most {AT_MOST_WORSE:g} years above {than}\'s), '
       'objectives with anatomy', age, WITH_ANATOMY, KNOWLEDGE, equally_aged(age)),
      (f'Sharper and residualised kernels beside {NAMES[AS_PUBLISHED]}', published,
       (SHARPER, RESIDUALISED), KNOWLEDGE, None),
      (f'Without anatomy: untrained, other trainings and objectives of age beside {than}', age,
       (BASELINES, AGE), KNOWLEDGE, None),
      (f'The measured morphometry beside {than}', age, (BASELINES,), KNOWLEDGE, ['morphometry']),
      (f'Less site leakage than {than}, by sharper and by residualised kernels', age,
       (SHARPER, RESIDUALISED), ('site_accuracy',), None),
      ('Disease beside age and sex alone (`covariates`), by all objectives',
       findings(results, 'covariates'), GROUPS, KNOWLEDGE[1:2], None)]
  lines = []
  for words, found, groups, questions, among in asked:
    head, details = answer(results, found, groups, questions, among)
    lines += [f'- **{words}**: {head}.', *(f'  - {text}.' for text in details)]
  return lines
