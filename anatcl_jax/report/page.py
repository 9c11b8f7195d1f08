"""One self-contained HTML page of an evaluation: its tables, its pictures, and how it was made."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable

import jinja2
import numpy as np
import pandas

from anatcl_jax import outputs
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation.results import (
  BESIDE,
  SEEN_AND_UNSEEN,
  Evaluation,
  Outcome,
  is_baseline,
  row_names,
  score_and_sd,
)
from anatcl_jax.evaluation.saliency import Saliency
from anatcl_jax.evaluation.tasks import BRAIN_AGE, METRICS
from anatcl_jax.evaluation.write import METRIC_NAMES, class_counts, shown, shown_p
from anatcl_jax.report import beyond, brain_age, methods, saliency_figure, scores, style
from anatcl_jax.report.style import Picture

PAGE, FIGURES = 'report.html', 'figures'
_TEMPLATES = pathlib.Path(__file__).parent
_COMPARED = ('task', 'features', 'against', 'difference', 'low', 'high', 'p', 'p_holm', 'n')


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading, and below it words, tables and pictures."""

  title: str
  pictures: list[Picture] = dataclasses.field(default_factory=list)
  tables: list[str] = dataclasses.field(default_factory=list)     # HTML
  text: str = ''

  @property
  def anchor(self) -> str:
    return re.sub(r'\W+', '-', self.title.lower()).strip('-')


def write(evaluation: Evaluation, out: pathlib.Path, *,
          training: Iterable[Picture] = (), saliencies: Iterable[Saliency] = ()) -> pathlib.Path:
  """Writes report.html, with all pictures inside, and the pictures to figures/ beside it.

  Those that this program drew there before are replaced.

  Args:
    training: curves of the encoders that are runs.

  Returns:
    The path of the page.

  Raises:
    UserError: `out` can't be written.
  """
  saliencies = tuple(saliencies)
  sections = _sections(evaluation, list(training), saliencies)
  text, references = methods.paragraph(evaluation, saliencies[0].method if saliencies else None)
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True,
      lstrip_blocks=True, undefined=jinja2.StrictUndefined)
  temporary = out / '.figures.writing'
  try:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    old = [path for path in (out / FIGURES).glob('*') if outputs.is_own(path)]
    embedded = {picture.name: base64.b64encode(style.save(picture, temporary)).decode()
                for section in sections for picture in section.pictures}
    page = environment.get_template('page.html.j2').render(
        evaluation=evaluation, sections=sections, embedded=embedded, methods=text,
        references=references, made_by=outputs.MADE_BY, summary=_summary(evaluation),
        facts=_facts(evaluation), made=json.dumps(evaluation.made, indent=1, default=str),
        lead=lead(evaluation))
    for path in old:
      path.unlink()
    (out / FIGURES).mkdir(exist_ok=True)
    for path in temporary.iterdir():
      os.replace(path, out / FIGURES / path.name)
    temporary.rmdir()
    (out / '.report.writing').write_text(page, encoding='utf-8')
    os.replace(out / '.report.writing', out / PAGE)
  except OSError as error:
    raise UserError(f'{out}: can\'t be written ({error.strerror}); choose another '
                    '--config.out') from None
  return out / PAGE


def pictures(evaluation: Evaluation, *, training: Iterable[Picture] = (),
             saliencies: Iterable[Saliency] = ()) -> list[Picture]:
  """All pictures of the page, drawn and not written; Args: as of `write`."""
  sections = _sections(evaluation, list(training), tuple(saliencies))
  return [picture for section in sections for picture in section.pictures]


def _sections(evaluation: Evaluation, training: list[Picture],
              saliencies: tuple[Saliency, ...]) -> list[Section]:
  """Those that have something to show."""
  found = []
  for name in dict.fromkeys(one.task.name for one in evaluation.outcomes):
    own = [one for one in evaluation.outcomes if one.task.name == name]
    if own[0].refused:
      continue
    pictures = scores.pictures(own, evaluation.synthetic, bool(evaluation.trained_on_synthetic))
    pictures += [saliency_figure.picture(one) for one in saliencies if one.task == name]
    tables, words = [_scores_table(own)], [one.note for one in own if one.note]
    if own[0].task.kind == BRAIN_AGE:
      pictures += brain_age.pictures(evaluation, name)
      tables += brain_age.tables(evaluation, name)
      words.append(brain_age.TEXT)
    found.append(Section(f'Task {name}', pictures, tables, ' '.join(dict.fromkeys(words))))
  refused = pandas.DataFrame(
      [(one.task.name, one.note) for one in evaluation.outcomes if one.refused],
      columns=['task', 'why'])
  found += [
      Section('Tasks not done', tables=_table(refused, 'Tasks that these labels do not allow')),
      Section('Comparisons', tables=_table(
          evaluation.comparisons[list(_COMPARED)],
          'Differences in the main metric with 95 % intervals, above 0 in favour of the features '
          'named first; p is of the corrected t test, p_holm adjusted over all rows but those '
          'against the mean')),
      Section('Embedding', beyond.embedding(evaluation)),
      Section('Site leakage', beyond.leakage(evaluation)),
      Section('Sites left out', beyond.left_out_sites(evaluation)),
      Section('Fewer labels', beyond.learning_curves(evaluation)),
      Section('Reliability', beyond.reliability(evaluation),
              _table(evaluation.reliability, 'Two sessions of the same people')),
      Section('Training', training)]
  said = style.said_synthetic(evaluation.synthetic, evaluation.trained_on_synthetic)
  return [dataclasses.replace(one, pictures=[
      picture if picture in training or picture.name.startswith('saliency-') else
      dataclasses.replace(picture, synthetic=said) for picture in one.pictures])
          for one in found if one.pictures or one.tables or one.text]


def lead(evaluation: Evaluation) -> str:
  """Of whom the page is, and how many of them its scores are of."""
  words = f'Probes of {style.people(evaluation.table["participant_id"], len(evaluation.table))}'
  everybody = evaluation.table['participant_id'].nunique()
  predicted = len({who for one in evaluation.outcomes for who in one.participant_id}
                  | set(evaluation.gaps.get('participant_id', ())))
  if predicted == everybody:
    return words
  seen = any(one.design == SEEN_AND_UNSEEN for one in evaluation.outcomes)
  return f'{words}, {predicted:,} of them predicted' + (
      ': those seen in pretraining are fitted on alone' if seen else '')


def _scores_table(outcomes: list[Outcome]) -> str:
  """A row a representation and estimator; the best of each metric is bold."""
  task = outcomes[0].task
  metrics = sorted(METRICS[task.kind], key=lambda metric: metric != task.main_metric)
  means = {metric: [score_and_sd(one, metric)[0] for one in outcomes] for metric in metrics}
  best = {metric: (np.nanmax if METRICS[task.kind][metric] else np.nanmin)(values)
          for metric, values in means.items() if np.isfinite(values).any()}
  rows = []
  for name, one in zip(row_names(outcomes), outcomes):
    cells = [f'<th scope="row">{html.escape(name)}</th>']
    for metric in metrics:
      value, deviation = score_and_sd(one, metric)
      low, high = one.interval.get(metric, (np.nan, np.nan))
      text = shown(value) + (f' ± {shown(deviation)}' if np.isfinite(deviation) else '')
      if np.isfinite(value) and value == best.get(metric):
        text = f'<strong>{text}</strong>'
      if np.isfinite(low):
        text += f'<br><small>{shown(low)} to {shown(high)}</small>'
      cells.append(f'<td>{text}</td>')
    mark = ' class=baseline' if is_baseline(one.features) else ''
    rows.append(f'<tr{mark}>{"".join(cells)}</tr>')
  arrows = {metric: '↑' if METRICS[task.kind][metric] else '↓' for metric in metrics}
  head = ''.join(f'<th scope="col">{METRIC_NAMES.get(metric, metric)} {arrows[metric]}</th>'
                 for metric in metrics)
  counts = class_counts(outcomes[0])
  caption = style.people(outcomes[0].participant_id, len(outcomes[0].truth)) + ' predicted' + (
      f' ({counts})' if counts else '') + (f'; unit: {task.unit}' if task.unit else '')
  deviations = any(np.isfinite(score_and_sd(one, task.main_metric)[1]) for one in outcomes)
  return (f'<table class="figures"><caption>{html.escape(caption)}. Score of all predictions'
          + (' ± standard deviation over folds' if deviations else '')
          + ', 95 % interval; arrows point to the better.</caption>'
          f'<thead><tr><th scope="col">features</th>{head}</tr></thead>'
          f'<tbody>{"".join(rows)}</tbody></table>')


def _table(table: pandas.DataFrame, caption: str) -> list[str]:
  if not len(table):
    return []
  cells = table.map(lambda value: ('n/a' if value != value else shown(value))
                    if isinstance(value, float) else value)
  for name in {'p', 'p_holm'} & set(table):
    cells[name] = table[name].map(lambda p: shown_p(p).removeprefix('= '))
  body = cells.to_html(index=False, border=0, escape=True)
  return [re.sub(r'<table[^>]*>', f'<table><caption>{html.escape(caption)}.</caption>', body)]


def _summary(evaluation: Evaluation) -> list[tuple[str, str, str]]:
  """Task, and the best encoder and the best baseline by its main metric."""
  rows = []
  for name in dict.fromkeys(one.task.name for one in evaluation.outcomes):
    own = [one for one in evaluation.outcomes if one.task.name == name]
    if own[0].refused:
      continue
    metric = own[0].task.main_metric
    best = max if METRICS[own[0].task.kind][metric] else min
    words = []
    for group in (lambda one: not is_baseline(one.features), lambda one: is_baseline(one.features)):
      members = [one for one in own if group(one) and not one.features.startswith(BESIDE)]
      if not members:
        words.append('none')
        continue
      first = best(members, key=lambda one: score_and_sd(one, metric)[0])
      low, high = first.interval[metric]
      words.append(f'{first.features}: {METRIC_NAMES.get(metric, metric)} '
                   f'{shown(score_and_sd(first, metric)[0])} ({shown(low)} to {shown(high)})'
                   + (f' {first.task.unit}' if first.task.unit else ''))
    rows.append((name, *words))
  return rows


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
  """How it was made, a line each."""
  made = evaluation.made
  facts = [(name, str(made[name])) for name in ('command', 'date') if name in made]
  for name in ('versions', 'seeds'):
    if made.get(name):
      facts.append((name, ', '.join(f'{key} {value}' for key, value in made[name].items())))
  if data := made.get('data'):
    facts.append(('data', f'{data.get("labels")} ({data.get("scans")} scans of '
                          f'{data.get("participants")} participants)'))
  facts += [(f'weights of {name}', f'{card.get("encoder")} from {card.get("source")}'
             + ', trained on SYNTHETIC subjects' * (name in evaluation.trained_on_synthetic))
            for name, card in made.get('cards', {}).items()]
  return facts
