"""The page of a study of objectives, from its results file alone: table, figures, what holds.

  python -m anatcl_jax.studies page --results=DIR/results.jsonl --out=docs/study.md

Figures lie beside the page, as does the results file with fewer digits, of which the same command
makes the same page. Intervals: comparison.py; sentences: findings.py.
"""

from __future__ import annotations

import collections
import pathlib
import statistics
from typing import TYPE_CHECKING

from anatcl_jax import command_line, errors, outputs
from anatcl_jax.errors import UserError

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  from anatcl_jax.studies.comparison import Estimate
  from anatcl_jax.studies.findings import Finding
  from anatcl_jax.studies.results import Question, Results

_HEADER = """<!-- {made_by} -->
# Does anatomy help? A study where the truth is known

All people are SYNTHETIC. {people:,} of them ([synthetic-cohort.md](synthetic-cohort.md)) were drawn
on {sites} sites, {unseen} of them never seen in pretraining; {share:.0%} of the people of the other
sites were trained on, once for each objective and seed, and the frozen features asked what they
know of all others. Intervals are 95 %, over people and seeds; `*` marks what differs from y-Aware
(`{reference}`, age alone as published) after Holm's correction for all rows of a column.
"""

_FEW = 12      # runs of a machine that are named

_LIMITS = """
## What this can't show

- Intervals are over the people who are asked and over seeds. The people trained on, the sites and
  the encoder are the same throughout, and probes are not fitted again in a resampling: of other
  sites, larger cohorts or encoders, longer training and real people the study says nothing.
- Objectives have {seeds} seeds (median). The interval of a difference to y-Aware reaches so far to
  either side (median): {reach}.
  Smaller differences can't be told from none here.
- Disease depends on age{confounded}: a feature that knows them knows some of it. The row
  `covariates`, age and sex alone, says how much.
- Each column is a family of tests of its own. Who looks for the best of many columns looks for
  luck.
"""


def _interval(one: Estimate, digits: int, sign: str = '') -> tuple[str, str]:
  return f'{one.value:{sign}.{digits}f}', f'{one.low:.{digits}f} to {one.high:.{digits}f}'


def _table(header: list[str], rows: list[list[str]]) -> str:
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def scores_table(results: Results, marked: dict[str, list[Finding]]) -> str:
  """An objective a row, by groups; * where a row differs from the reference."""
  from anatcl_jax.studies.findings import AGE_ALONE, SHOWN
  shown = {(one.objective, name) for name, found in marked.items() for one in found
           if one.verdict in SHOWN}
  rows, before = [], ''
  for name, group in results.groups.items():
    if group != before:
      rows.append([f'**{group}**'] + [''] * (len(results.questions) + 2))
      before = group
    positives = results.positives(name)
    cells = [f'`{name}`' + ' (reference)' * (name == AGE_ALONE), str(len(results.seeds(name))),
             '' if positives is None else f'{positives:.3g}']
    for question in results.questions:
      one = results.estimate(name, question.name)
      if one is None:
        cells.append('–')
        continue
      value, interval = _interval(one, question.digits)
      cells.append(f'{value}{"*" * ((name, question.name) in shown)}<br><sub>{interval}</sub>')
    rows.append(cells)
  return _table(['objective', 'seeds', 'effective positives', *map(_heading, results.questions)],
                rows)


def _heading(question: Question) -> str:
  return f'{question.words}, {question.unit}'


def differences_table(results: Results, found: dict[str, list[Finding]]) -> str:
  """An objective a row; above 0 is better, * what is shown."""
  from anatcl_jax.studies.findings import SHOWN
  by_name: dict[str, dict[str, str]] = collections.defaultdict(dict)
  for name, of in found.items():
    for one in of:
      value, interval = _interval(one.difference, one.question.digits, '+')
      mark = '*' * (one.verdict in SHOWN)
      by_name[one.objective][name] = f'{value}{mark}<br><sub>{interval}</sub>'
  questions = [question for question in results.questions if question.name in found]
  return _table(['objective', *map(_heading, questions)],
                [[f'`{name}`', *(by_name[name].get(question.name, '–') for question in questions)]
                 for name in results.groups if name in by_name])


def holds(results: Results) -> str:
  """The section of what holds, against both references and among those who know age as well."""
  from anatcl_jax.studies import findings
  lines = []
  for reference, than in findings.NAMES.items():
    found = findings.findings(results, reference)
    if not found:
      lines.append(f'The study has no row `{reference}`: nothing is compared with {than}.\n')
      continue
    lines += [f'### Beside {than} (`{reference}`)\n']
    lines += [f'- **{question.words}** ({question.unit}): '
              + findings.sentence(found[question.name], than)
              for question in results.questions if question.name in found]
    lines.append('')
    if reference == findings.AGE_ALONE:
      old = findings.equally_aged(found)
      lines += ['### At equal knowledge of age\n',
                f'Objectives whose error of age on unseen sites is at most '
                f'{findings.AT_MOST_WORSE:g} years above that of {than}: '
                + (', '.join(old) or 'none') + '.\n']
      for name in findings.KNOWLEDGE:
        of = [one for one in found.get(name, []) if one.objective in old]
        if of:
          lines.append(f'- **{of[0].question.words}**: ' + findings.sentence(of, than))
      lines.append('')
  return '\n'.join(lines)


def made(results: Results, path: pathlib.Path) -> str:
  """How it was made: people, runs, hours, machine, versions, and the line of each objective."""
  phantom = results.settings['phantom']
  settings = ', '.join(f'{name} {value}' for name, value in sorted(phantom.items()))
  hours, cpu = (sum(row[name] for row in results.rows) / 60 for name in ('minutes', 'cpu_minutes'))
  machines = collections.defaultdict(list)
  for row in results.rows:
    machines[row.get('machine', 'not recorded')].append(f'{row["objective"]} {row["seed"]}')
  ran = [f'{name} ({len(of)} runs' + (f': {", ".join(of)})' if len(of) <= _FEW else ')')
         for name, of in machines.items()]
  versions = {f'{name} {version}' for row in results.rows
              for name, version in row.get('versions', {}).items()}
  lines = [
      '    python -m anatcl_jax.studies objectives --config=study --out=DIR',
      f'    python -m anatcl_jax.studies page --results=DIR/results.jsonl --out={path.name}', '',
      f'- people: {settings}',
      f'- trained on: {results.settings["pretraining"]:.0%} of the people of seen sites, one scan '
      f'each, `{results.settings["training"]}`',
      f'- asked: {results.settings["folds"]} folds on seen sites, labels of learning curves '
      f'{results.settings["labels"]}, {results.settings["replicates"]} resamplings of people',
      f'- runs: {len(results.rows)}; {hours:.1f} hours by their clocks, {cpu:.1f} of processors; '
      'the same command adds what is missing of its config',
      '- machine: ' + '; '.join(ran),
      '- versions: ' + (', '.join(sorted(versions)) or 'not recorded'),
      *(f'- {text}' for text in results.gaps()), '', '']
  rows = []
  for name, group in results.groups.items():
    seeds = ', '.join(map(str, results.seeds(name)))
    line = results.rows_of(name)[0]['line']
    rows.append([f'`{name}`', group, seeds, f'`{line}`' if line else 'no encoder'])
  return '\n'.join(lines) + _table(['objective', 'group', 'seeds', 'line of pretraining'], rows)


def page(results: Results, path: pathlib.Path, pictures: list[tuple[str, str]]) -> str:
  """The page's text; pictures are names of files and what they show."""
  from anatcl_jax.studies import findings, objectives
  phantom, small = results.settings['phantom'], results.too_small
  marked = findings.findings(results, findings.AGE_ALONE)
  parts = [_HEADER.format(
      made_by=outputs.MADE_BY, people=phantom['subjects'], sites=phantom['sites'],
      unseen=phantom['held_out_sites'], share=results.settings['pretraining'],
      reference=findings.AGE_ALONE)]
  if small:
    parts.append(f'**This is of demo size ({small}) and supports no claim.**\n')
  else:
    parts += ['## In short\n', '\n'.join(findings.in_short(results)),
              '\n## What follows\n', findings.recommendation(results) + '\n']
  parts += ['## Scores\n', scores_table(results, marked), '\n' + _explained(results)]
  parts += ['## Figures\n', *(f'![{words}]({name})\n\n{words}\n' for name, words in pictures)]
  if not small:
    parts += ['## What holds and what does not\n', _rules(results), holds(results)]
  if marked:
    parts += [f'## Differences to {findings.NAMES[findings.AGE_ALONE]}\n',
              'Above 0 is better, also where less is (age, site leakage).\n',
              differences_table(results, marked)]
  seeds = statistics.median(len(results.seeds(name)) for name in results.groups
                            if name not in objectives.BASELINES)
  parts += [_LIMITS.format(confounded=' and on site' * ('site' in phantom.get('confounded', '')),
                           reach=', '.join(findings.reach(results)) or 'unknown',
                           seeds=f'{seeds:g}'),
            '## How it was made\n', made(results, path),
            f'\nAll scores: [{kept(path).name}]({kept(path).name}).\n']
  return '\n'.join(parts)


def _explained(results: Results) -> str:
  phantom = results.settings['phantom']
  seen = phantom['sites'] - phantom['held_out_sites']
  return ('Mean over seeds, less what a seed does to all objectives alike, so that rows of other '
          'seeds can be compared; below it its interval. On unseen sites where nothing else '
          'stands. '
          'Effective positives: of the anatomical term, in the last batch that was logged. '
          'Thickness: mean over 68 regions of the truth. Beyond age and sex: the share of what '
          f'these leave. Subtype: of patients. Site leakage: of seen sites, chance {1 / seen:.2f}. '
          'Identification: how often the own second scan, on another scanner, is the nearest.\n')


def _rules(results: Results) -> str:
  matters = ', '.join(f'{question.words} {question.matters:g}' for question in results.questions)
  return ('A difference is said to be better or worse where p after Holm is below 0.05, and else '
          'to be none that matters where its interval lies within what matters on both sides, told '
          'before the correction only where its interval has no 0, or not '
          f'shown. What matters, in the units of the table: {matters}. Differences are paired '
          'over people and over the seeds that both have; of one seed nothing is claimed.\n')


def kept(path: pathlib.Path) -> pathlib.Path:
  """Of a page: the results that it is made of, with fewer digits."""
  return path.with_name(f'{path.stem}-results.jsonl.gz')


def main(arguments: list[str], prog: str) -> None:
  """The command line."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  parser.add_argument('--results', type=pathlib.Path, required=True, metavar='FILE',
                      help='results.jsonl of `study objectives`, or one with fewer digits')
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='FILE.md',
                      help='the page; figures NAME-*.png and the results lie beside it')
  with errors.reported():
    options = parser.parse_args(arguments)
    write(options.results, options.out)


def write(source: pathlib.Path, path: pathlib.Path) -> None:
  """Reads the results, and writes the page and what lies beside it.

  Raises:
    UserError: results that are damaged, or a file in the way that this program did not make.
  """
  from anatcl_jax import figures
  from anatcl_jax.studies import results as reading
  from anatcl_jax.studies import study_figures
  found = reading.read(source)
  condensed = kept(path)
  drawn = study_figures.draw(found)
  names = {name: path.with_name(f'{path.stem}-{name}.png') for name in drawn}
  for file in (path, *names.values()):
    outputs.check_file(file, '--out')
  if condensed.exists() and condensed.resolve() != source.resolve():
    try:
      reading.read(condensed)
    except UserError:
      raise UserError(f'{condensed}: is there already and no results of a study; choose another '
                      '--out, or remove it') from None
  text = page(found, path, [(names[name].name, words) for name, (_, words) in drawn.items()])
  path.parent.mkdir(parents=True, exist_ok=True)
  condensed.write_bytes(reading.condensed(found))
  for name, (figure, _) in drawn.items():
    figures.save(figure, names[name], study_figures.DPI)
  outputs.write_page(path, text)
  print(f'{path}, {len(names)} figures and {condensed.name}')
