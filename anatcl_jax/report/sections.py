"""The sections of a report: what each shows, and how it is read in a sentence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pandas

from anatcl_jax.errors import UserError, check_name
from anatcl_jax.evaluation import rows
from anatcl_jax.evaluation.results import Evaluation
from anatcl_jax.evaluation.saliency import Saliency
from anatcl_jax.evaluation.tasks import BRAIN_AGE
from anatcl_jax.evaluation.write import SCORES_CSV
from anatcl_jax.report import beyond, brain_age, saliency_figure, scores, style, tables
from anatcl_jax.report.style import Picture

ALL = 'all'
_OF_THEIR_OWN = ('saliency', 'training')     # whose pictures say themselves what is SYNTHETIC
_COMPARED = ('task', 'features', 'against', 'difference', 'low', 'high', 'p', 'p_holm', 'family',
             'n')


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading, how to read what is below it, and that: words, tables and pictures."""

  title: str
  how: str
  pictures: list[Picture] = dataclasses.field(default_factory=list)
  tables: list[str] = dataclasses.field(default_factory=list)     # HTML
  text: str = ''

  @property
  def anchor(self) -> str:
    return re.sub(r'\W+', '-', self.title.lower()).strip('-')


@dataclasses.dataclass(frozen=True)
class Found:
  """All that a report may show."""

  evaluation: Evaluation
  training: tuple[Picture, ...] = ()
  saliencies: tuple[Saliency, ...] = ()


def chosen(text: str) -> tuple[str, ...]:
  """The names in config.sections.

  Raises:
    UserError: one that is none; the text lists them.
  """
  names = tuple(filter(None, (name.strip() for name in text.split(','))))
  if names == (ALL,):
    return tuple(SECTIONS)
  for name in names:
    check_name(name, (ALL, *SECTIONS), 'section of the report')
  if ALL in names or not names:
    raise UserError(f'config.sections is {text!r}; give {ALL} alone, or some of '
                    f'{", ".join(SECTIONS)}')
  return names


def sections(found: Found, names: tuple[str, ...]) -> list[Section]:
  """Those of these names that have something to show, in the order of SECTIONS."""
  evaluation = found.evaluation
  said = style.said_synthetic(evaluation.synthetic, evaluation.trained_on_synthetic)
  made = []
  for name in SECTIONS:
    for one in SECTIONS[name](found) if name in names else ():
      if name not in _OF_THEIR_OWN:
        one = dataclasses.replace(one, pictures=[dataclasses.replace(picture, synthetic=said)
                                                 for picture in one.pictures])
      made += [one] if one.pictures or one.tables or one.text else []
  return made


def _tasks(found: Found) -> list[Section]:
  evaluation, made = found.evaluation, []
  for name in dict.fromkeys(one.task.name for one in evaluation.outcomes):
    own = [one for one in evaluation.outcomes if one.task.name == name]
    if own[0].refused:
      continue
    drawn = scores.pictures(own, evaluation.synthetic, bool(evaluation.trained_on_synthetic))
    below, words = [tables.scores_table(own)], [one.note for one in own if one.note]
    if own[0].task.kind == BRAIN_AGE:
      drawn += brain_age.pictures(evaluation, name)
      below += brain_age.tables(evaluation, name)
      words.append(brain_age.TEXT)
    made.append(Section(
        f'Task {name}',
        'An encoder has learned something about it where it does better than the row untrained, '
        'and tells more than tables do where it does better than morphometry and covariates; '
        'whether two rows differ is tested under Comparisons.',
        drawn, below, ' '.join(f'{one.removesuffix(".")}.' for one in dict.fromkeys(words))))
  refused = pandas.DataFrame(
      [(one.task.name, one.note) for one in evaluation.outcomes if one.refused],
      columns=['task', 'why'])
  return [*made, Section(
      'Tasks not done', 'Each row says what these labels lack.',
      tables=tables.table(refused, 'Tasks that these labels do not allow'))]


def _saliency(found: Found) -> list[Section]:
  return [Section(
      'Saliency',
      'Dark is where a small change of the scan changes the prediction most, and what the '
      'untrained encoder shows as well is of its architecture and was not learned.',
      [saliency_figure.picture(one) for one in found.saliencies])]


def _comparisons(found: Found) -> list[Section]:
  table = found.evaluation.comparisons
  table = table.sort_values('family', kind='stable', key=lambda own: own.map(rows.FAMILIES.index))
  return [Section(
      'Comparisons',
      'A difference above 0 favours the features named first, and is told apart from 0 where its '
      'interval excludes 0; p_holm takes into account how many comparisons its family holds: main '
      'is of encoders as they are, and each further question has its own.',
      tables=tables.table(
          table[list(_COMPARED)],
          'Differences in the main metric with 95 % intervals; p is of the corrected t test, '
          'p_holm adjusted within a family, and not against the mean'))]


def _benchmark(found: Found) -> list[Section]:
  scores = found.evaluation.csv.get(SCORES_CSV, pandas.DataFrame())
  return [Section(
      'BrainFMBench',
      'Scores to be set beside those of its leaderboard, of other people and another image each; '
      'deviations are over seeds that hold out some of the same people, and test nothing.',
      tables=tables.table(
          scores.dropna(axis=1, how='all'),
          'Random forests by the protocol of BrainFMBench: people held out (test), and folds of '
          'the others (cv) at the share of people that is best'))]


def _embedding(found: Found) -> list[Section]:
  return [Section(
      'Embedding',
      'Points that lie close have like features, so that colours in clouds of their own show what '
      'the features tell apart most, and two directions may hide the rest.',
      beyond.embedding(found.evaluation))]


def _leakage(found: Found) -> list[Section]:
  return [Section(
      'Site leakage',
      'The further right of the dotted line, the more a representation knows of scanners, or of '
      'whom a site scans; at the line it knows nothing.',
      beyond.leakage(found.evaluation))]


def _sites(found: Found) -> list[Section]:
  return [Section(
      'Sites left out',
      'Each site is predicted by probes fitted on all others, so that a representation which '
      'carries over to new scanners does as well here as in its task above.',
      beyond.left_out_sites(found.evaluation))]


def _labels(found: Found) -> list[Section]:
  return [Section(
      'Fewer labels',
      'The further left a curve is good already, the fewer labelled people are needed, and the '
      'right end is the score of the task above.',
      beyond.learning_curves(found.evaluation))]


def _reliability(found: Found) -> list[Section]:
  return [Section(
      'Reliability',
      'The further right a curve and the longer the bar of the person, the more of what features '
      'say of somebody they say again in another scan; the bar of the scanner, and naming it above '
      'chance, are of no person.',
      [*beyond.reliability(found.evaluation), *beyond.scanners(found.evaluation)],
      [*tables.table(found.evaluation.reliability, 'Two sessions of the same people'),
       *tables.table(found.evaluation.scanners, 'The same people on several scanners: shares of '
                     'the variance, means over features, that of the scanner with its 5 % and '
                     '95 % features; balanced accuracy of the scanner')])]


def _training(found: Found) -> list[Section]:
  return [Section(
      'Training',
      'Losses that fall together show learning, and a training loss that falls away from the one '
      'held out shows that people were learned by heart.',
      list(found.training))]


SECTIONS: dict[str, Callable[[Found], list[Section]]] = {
    'tasks': _tasks, 'saliency': _saliency, 'comparisons': _comparisons, 'benchmark': _benchmark,
    'embedding': _embedding, 'leakage': _leakage, 'sites': _sites, 'labels': _labels,
    'reliability': _reliability, 'training': _training}
