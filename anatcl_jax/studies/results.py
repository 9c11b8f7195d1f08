"""The results of a study as they are read: checked, rounded, and by objective and question."""

from __future__ import annotations

import collections
import dataclasses
import functools
import gzip
import json
import math
import pathlib
from typing import Any

import numpy as np

from anatcl_jax import outputs
from anatcl_jax.errors import UserError
from anatcl_jax.studies import comparison, objectives
from anatcl_jax.studies.comparison import Estimate

GROUPS = ('baselines', 'age alone', 'AnatCL as published', 'sharper', 'residualised',
          'anatomy alone')
BASELINES, AGE, PUBLISHED, SHARPER, RESIDUALISED, ANATOMY = GROUPS
WITH_ANATOMY = GROUPS[2:]
_FEWEST_PEOPLE = 500      # from which a study may support a claim ...
_FEWEST_SEEDS = 2         # ... as from so many seeds of the same objectives


@dataclasses.dataclass(frozen=True)
class Question:
  """A score, its unit and digits, whether more of it is better, and the difference that matters."""

  name: str
  words: str
  unit: str
  better: int
  matters: float
  digits: int = 3


QUESTIONS = (
    Question('age_mae_unseen', 'age', 'mean absolute error, years', -1, 0.5, 2),
    Question('sex_auc_unseen', 'sex', 'AUC', 1, 0.02),
    Question('head_size_r2_unseen', 'head size', 'R2', 1, 0.05),
    Question('thickness_r2_unseen', 'thickness', 'R2', 1, 0.02),
    Question('thickness_beyond_r2_unseen', 'thickness beyond age and sex', 'R2', 1, 0.02),
    Question('disease_auc', 'disease on seen sites', 'AUC', 1, 0.02),
    Question('disease_auc_unseen', 'disease', 'AUC', 1, 0.02),
    Question('subtype_accuracy_unseen', 'subtype of disease', 'balanced accuracy', 1, 0.03),
    Question('site_accuracy', 'site leakage', 'balanced accuracy', -1, 0.05),
    Question('retest_r', 'test-retest', 'r of two scanners', 1, 0.02),
    Question('identification', 'identification', 'share found again', 1, 0.05),
)
BY_NAME = {question.name: question for question in QUESTIONS}


def group_of(objective: str, line: str) -> str:
  """Of GROUPS, by the objective's line; what has no line, training or contrast is a baseline."""
  no_age, no_anatomy = (f'--config.loss.terms.{term}.weight=0' in line.split()
                        for term in ('age', 'anatomy'))
  if not line or objective == objectives.UNTRAINED or 'regress=' in line or no_age and no_anatomy:
    return BASELINES
  if no_age or no_anatomy:
    return ANATOMY if no_age else AGE
  return (RESIDUALISED if 'without=' in line else SHARPER if 'effective_positives=' in line
          else PUBLISHED)


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """A study's settings and rows, whose scores have 4 significant digits and replicates 3."""

  settings: dict[str, Any]
  rows: tuple[dict[str, Any], ...]

  @functools.cached_property
  def groups(self) -> dict[str, str]:
    """The group of each objective, in the order of groups and names."""
    found = {row['objective']: group_of(row['objective'], row['line']) for row in self.rows}
    return dict(sorted(found.items(), key=lambda pair: (GROUPS.index(pair[1]), pair[0])))

  @functools.cached_property
  def questions(self) -> tuple[Question, ...]:
    """Those of QUESTIONS that anybody was asked."""
    return tuple(question for question in QUESTIONS if question.name in self.asked)

  def rows_of(self, objective: str) -> list[dict[str, Any]]:
    """A row a seed."""
    return [row for row in self.rows if row['objective'] == objective]

  def seeds(self, objective: str) -> list[int]:
    """Those that are there."""
    return [row['seed'] for row in self.rows_of(objective)]

  @functools.cached_property
  def asked(self) -> dict[str, tuple[dict[str, dict[int, np.ndarray]], comparison.Variance | None]]:
    """By question: scores [1 + B] by objective and seed, less the seeds' parts; and the rest."""
    names = dict.fromkeys(name for row in self.rows for name in row['scores'])
    return {name: self._asked(name) for name in names}

  def _asked(self, question: str) -> tuple[dict[str, dict[int, np.ndarray]],
                                           comparison.Variance | None]:
    scores = {name: {row['seed']: np.array(row['scores'][question], float)
                     for row in self.rows_of(name)
                     if math.isfinite(row['scores'].get(question, [math.nan])[0])}
              for name in self.groups}
    blocks = comparison.blocks({(name, seed): float(values[0]) for name, of in scores.items()
                                if name not in objectives.BASELINES for seed, values in of.items()})
    return {name: of if name in objectives.BASELINES else
            {seed: values - blocks.seeds[seed] for seed, values in of.items()}
            for name, of in scores.items() if of}, blocks.rest

  def estimate(self, objective: str, question: str) -> Estimate | None:
    """The mean over seeds and its interval, which does not pass the best that can be."""
    scores, rest = self.asked.get(question, ({}, None))
    if objective not in scores:
      return None
    one = comparison.estimate(np.stack(list(scores[objective].values())), rest,
                              seedless=objective in objectives.BASELINES)
    return one if question.startswith('age_mae') else dataclasses.replace(
        one, high=min(one.high, 1.0))

  def differences(self, reference: str, question: Question) -> dict[str, Estimate]:
    """Of each other row to the reference, over seeds of both; turned so that above 0 is better."""
    scores, rest = self.asked[question.name]
    found = {}
    for name, of in scores.items():
      both = of, scores.get(reference, {})
      seedless = [row in objectives.BASELINES for row in (name, reference)]
      # A row without an encoder is the same in each seed of the other.
      own, against = (dict.fromkeys(other, *side.values()) if none and side else side
                      for side, other, none in zip(both, both[::-1], seedless))
      shared = [seed for seed in own if seed in against]
      if name == reference or not shared:
        continue
      left, right = (np.stack([side[seed] for seed in shared]) for side in (own, against))
      one = (comparison.estimate(left - right, rest, seedless=all(seedless)) if any(seedless)
             else comparison.difference(left, right, rest))
      found[name] = one if question.better > 0 else -one
    return found

  def positives(self, objective: str) -> float | None:
    """Effective ones of the anatomical term in the last batch that was logged, mean over seeds."""
    found = [row['training'].get('effective_positives/anatomy', math.nan)
             for row in self.rows_of(objective)]
    found = [value for value in found if math.isfinite(value)]
    return float(np.mean(found)) if found and self.groups[objective] in WITH_ANATOMY else None

  @property
  def too_small(self) -> str:
    """Why the study supports no claim; empty where it may."""
    people = self.settings['phantom']['subjects']
    most = max(map(len, map(self.seeds, self.groups)), default=0)
    why = [f'{people:,} people'] * (people < _FEWEST_PEOPLE)
    why += [f'{most} seed{"s" * (most != 1)} of an objective'] * (most < _FEWEST_SEEDS)
    return ' and '.join(why)

  def gaps(self) -> list[str]:
    """What is missing, in words."""
    found = []
    for name in self.groups:
      seeds = self.seeds(name)
      if missing := sorted(set(range(max(seeds) + 1)) - set(seeds)):
        found.append(f'{name} lacks seed {", ".join(map(str, missing))}')
      if len(seeds) == 1 and name not in objectives.BASELINES:
        found.append(f'{name} has one seed: its intervals are over people alone, and nothing is '
                     'claimed of it')
      lacking = [question.words for question in self.questions
                 if name not in self.asked[question.name][0]]
      if lacking:
        found.append(f'{name} was not asked or has no answer for {", ".join(lacking)}')
    return found


def read(path: pathlib.Path) -> Results:
  """A results file of `study objectives`, or one condensed.

  Raises:
    UserError: none is there, or it is damaged; the row is named.
  """
  if not path.is_file():
    raise UserError(f'{path}: is not there; make it by `study objectives`')
  settings, rows = objectives.read_results(path)
  where = path
  try:
    replicates, lines = set(), {}
    int(settings['phantom']['subjects']), dict(settings), float(settings['pretraining'])
    for number, row in enumerate(rows, 1):
      where = f'{path}: row {number}'
      lengths = {len(values) for values in row['scores'].values()}
      replicates |= lengths
      numbers = [row['seed'], row['minutes'], row['cpu_minutes'], *row['training'].values()]
      numbers += [value for values in row['scores'].values() for value in values]
      if not all(isinstance(value, int | float) for value in numbers) or not isinstance(
          row['line'], str):
        raise TypeError
      if len(replicates) != 1 or min(replicates) < 3:
        raise UserError(f'{where} has other resamplings of people than the rows before it')
      if lines.setdefault(str(row['objective']), row['line']) != row['line']:
        raise UserError(f'{where} has objective {row["objective"]} by another line')
    counts = collections.Counter((row['objective'], row['seed']) for row in rows)
  except (KeyError, TypeError, AttributeError, ValueError):
    raise UserError(f'{where} is not as `study objectives` writes it; the file is damaged '
                    'or of another program') from None
  if twice := [pair for pair, count in counts.items() if count > 1]:
    raise UserError(f'{path}: objective {twice[0][0]} stands twice with seed {twice[0][1]}')
  if not rows:
    raise UserError(f'{path}: has no row yet')
  rows.sort(key=lambda row: (row['objective'], row['seed']))
  return Results(settings, tuple(row | {'scores': {
      name: [_rounded(values[0], 4), *(_rounded(value, 3) for value in values[1:])]
      for name, values in row['scores'].items()}} for row in rows))


def _rounded(value: float, digits: int) -> float:
  return float(f'{value:.{digits}g}')


def condensed(results: Results) -> bytes:
  """The file that `read` gives back as it is, small enough to keep: gzip without a date."""
  lines = [{'made_by': outputs.MADE_BY, 'synthetic': True, 'study': results.settings},
           *results.rows]
  text = ''.join(json.dumps(line, separators=(',', ':')) + '\n' for line in lines)
  return gzip.compress(text.encode(), 9, mtime=0)
