"""What the anatomical kernels say about real brains: do they know a person again after some time?

  python -m anatcl_jax.studies kernels --baseline TABLE ... --followup TABLE ... --out FILE.md
  python -m anatcl_jax.studies kernels --baseline TABLE ... --out FILE.md
  python -m anatcl_jax.studies kernels --one-session --baseline TABLE ... --participants TABLE ...
      [--effective-positives SHARE ...] [--without site ...] [--keeping age+sex] --out FILE.md

Tables are those of prepare --morphometry, of the same participants in two sessions; without
--followup the rows of a participant are the sessions (01_ses-1, 01_ses-2), the first two by name.
With --one-session effective positives are told, of the first session of each participant; and with
--participants what a row of weights knows of age, sex and site, also of a stated sharpness and of
morphometry without what columns explain.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from anatcl_jax import command_line, errors, outputs
from anatcl_jax.cohorts import atlas as atlases
from anatcl_jax.cohorts.identifiers import natural_key
from anatcl_jax.errors import UserError
from anatcl_jax.studies import kernel_knowledge

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  from anatcl_jax.cohorts.morphometry import Morphometry

_HEADER = """<!-- {made_by} -->
# Anatomical kernels on two sessions

{subjects} participants with {measures} of {regions} regions ({atlas}) in both sessions{left_out}.
Statistics are fitted on the first session. Identification: how often a participant's second session
is, of all participants', the most similar to the own first one. Effective positives: exp(entropy)
of a row of weights among the first sessions, at most {most}. Own/other d: mean similarity with the
own second session less that with the others', over the standard deviation of the latter.

Made by `python -m anatcl_jax.studies kernels` from
{source}.

| descriptor | normalisation | identification | effective positives | own/other d |
|---|---|---|---|---|
"""

_ONE_SESSION_HEADER = """<!-- {made_by} -->
# Anatomical kernels on one session

{subjects} participants with {measures} of {regions} regions ({atlas}){left_out}. Effective
positives: exp(entropy) of a row of weights among them, at most {most}.

Made by `python -m anatcl_jax.studies kernels --one-session` from
{source}.

| descriptor | normalisation | effective positives |
|---|---|---|
"""


_KNOWLEDGE_HEADER = """<!-- {made_by} -->
# What anatomical kernels know on one session

{subjects} participants with {measures} of {regions} regions ({atlas}){left_out}.
"""


@dataclasses.dataclass(frozen=True)
class Row:
  """How well one kernel on one normalisation tells participants apart."""

  descriptor: str
  normalization: str
  identification: float
  effective_positives: float
  own_other: float


def study(first: np.ndarray, second: np.ndarray, show: bool = False) -> list[Row]:
  """Every descriptor and normalisation on first[N, R, M] and second[N, R, M] of N participants.

  Normalisations by minimum and maximum appear twice, with values of the second session outside the
  first one's range clipped to [0, 1], as in training, and `not clipped`.
  """
  from anatcl_jax import kernels
  from anatcl_jax.progress import progress_bar
  choices = [(descriptor, how, clip) for descriptor in kernels.DESCRIPTORS
             for how in kernels.NORMALIZATIONS
             for clip in ((True, False) if how in ('minmax_measure', 'minmax_region') else (True,))]
  with progress_bar(len(choices), 'kernels', 'kernel', show=show) as progress:
    rows = []
    for choice in choices:
      rows.append(measure(first, second, *choice))
      progress.update()
  return rows


def measure(first: np.ndarray, second: np.ndarray, descriptor: str, how: str,
            clip: bool = True) -> Row:
  """One row of `study`; the statistics are fitted on `first`.

  Raises:
    UserError: no such descriptor or normalisation, or fewer than two participants.
  """
  from anatcl_jax import kernels
  stats = kernels.fit_morphometry(first, how, descriptor)
  a, b = (kernels.normalize_morphometry(x, how, stats, clip) for x in (first, second))
  similarity = np.asarray(kernels.SIMILARITIES[descriptor](a, b), np.float64)
  others = ~np.eye(len(a), dtype=bool)
  positives = kernels.effective_positives(kernels.anatomical_kernel(descriptor, a, a), others)
  spread = similarity[others].std()
  difference = np.diag(similarity).mean() - similarity[others].mean()
  return Row(descriptor, how if clip else f'{how}, not clipped',
             float(np.mean(similarity.argmax(1) == np.arange(len(a)))), float(positives.mean()),
             float(difference / spread) if spread > 0 else 0.0)


def pair_sessions(first: Morphometry, second: Morphometry | None,
                  measures: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], int]:
  """Values [N, R, M] of the participants complete in both sessions, the measures, how many are not.

  Without `second`, the sessions are the rows of `first`.

  Raises:
    UserError: a measure that a session lacks, or fewer than two such participants.
  """
  from anatcl_jax.cohorts.morphometry import measure_names
  shared = tuple(m for m in first.measures if second is None or m in second.measures)
  chosen = measure_names(measures, shared)
  for name in chosen:
    errors.check_name(name, shared, 'measure of both sessions')
  sessions = [{}, {}]
  for scan, values in _scans(first, chosen):
    seen = second is None and scan[0] in sessions[0]
    sessions[int(seen)].setdefault(scan[0], values)
  for scan, values in _scans(second, chosen) if second else ():
    sessions[1].setdefault(scan[0], values)
  complete = [name for name in sessions[0] if name in sessions[1]
              and np.isfinite([sessions[0][name], sessions[1][name]]).all()]
  if len(complete) < 2:
    raise UserError(f'{len(complete)} participants of {first.source} have complete morphometry in '
                    'two sessions; the study needs two, and means something from about twenty on. '
                    'Of one session, --one-session tells effective positives')
  everyone = len({*sessions[0], *sessions[1]})
  first_values, second_values = (np.stack([s[name] for name in complete]) for s in sessions)
  return first_values, second_values, chosen, everyone - len(complete)


def one_session(table: Morphometry, measures: str
                ) -> tuple[np.ndarray, tuple[str, ...], int, list[str]]:
  """Values [N, R, M] of participants' first complete sessions, the measures, how many have none.

  And the N participants.

  Raises:
    UserError: a measure that the tables lack, or fewer than two such participants.
  """
  from anatcl_jax.cohorts.morphometry import measure_names
  chosen = measure_names(measures, table.measures)
  for name in chosen:
    errors.check_name(name, table.measures, 'measure of the tables')
  complete = {}
  for scan, values in _scans(table, chosen):
    if np.isfinite(values).all():
      complete.setdefault(scan[0], values)
  if len(complete) < 2:
    raise UserError(f'{len(complete)} participants of {table.source} have complete morphometry; '
                    'the study needs two, and means something from about twenty on')
  everyone = len({participant for participant, _ in table.scans})
  return np.stack(list(complete.values())), chosen, everyone - len(complete), list(complete)


def _scans(table: Morphometry, chosen: tuple[str, ...]
           ) -> list[tuple[tuple[str, str], np.ndarray]]:
  """Scans by participant and session with their values of the chosen measures [R, M]."""
  columns = [table.measures.index(name) for name in chosen]
  return sorted(zip(table.scans, table.values[..., columns]),
                key=lambda scan: [natural_key(part) for part in scan[0]])


def _left_out(incomplete: int, nameless: int) -> str:
  reasons = [f'{count} {why}' for count, why in (
      (incomplete, 'more are incomplete'), (nameless, 'are not in the table of participants'))
             if count]
  return f' ({", ".join(reasons)})' if reasons else ''


def _check_options(options: argparse.Namespace) -> None:
  if options.participants and not options.one_session:
    raise UserError('--participants is of --one-session; give both')
  if not options.participants and (options.effective_positives or options.without):
    raise UserError('--effective-positives and --without need --participants TABLE')
  if options.keeping and not options.without:
    raise UserError('--keeping says what stays where --without takes something out; give that too')
  if wrong := [share for share in options.effective_positives if not 0 < share < 1]:
    raise UserError(f'--effective-positives {wrong[0]:g} must be a share above 0 and below 1')


def main(arguments: list[str], prog: str) -> None:
  """The command line."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  parser.add_argument('--baseline', action='extend', nargs='+', type=pathlib.Path, required=True,
                      metavar='TABLE', help='of the first session, or of both')
  parser.add_argument('--followup', action='extend', nargs='+', type=pathlib.Path, metavar='TABLE',
                      help='of the second session')
  parser.add_argument('--atlas', choices=sorted(atlases.ATLASES), default='desikan',
                      help='whose regions the tables have (default: %(default)s)')
  parser.add_argument('--measures', default='thickness+volume+area',
                      help='joined by +, or all (default: %(default)s)')
  parser.add_argument('--one-session', action='store_true',
                      help='effective positives alone, of participants with one session, and what '
                      '--participants lets tell')
  parser.add_argument('--participants', action='extend', nargs='+', type=pathlib.Path,
                      metavar='TABLE', help='with --one-session: age, sex, site, other columns')
  parser.add_argument('--effective-positives', action='extend', nargs='+', type=float, default=[],
                      metavar='SHARE', help='with --participants: also kernels of this sharpness, '
                      'a share of the others, such as 0.1')
  parser.add_argument('--without', action='extend', nargs='+', default=[], metavar='COLUMNS',
                      help='with --participants: also morphometry without site, or site+age+sex')
  parser.add_argument('--keeping', default='', metavar='COLUMNS',
                      help='joined by +: what the effects of --without are told apart from')
  parser.add_argument('--id-column', metavar='NAME',
                      help='column of the tables that holds participants, or its number from 1')
  parser.add_argument('--loose-names', action='store_true',
                      help='names that differ only in punctuation are one: ds1_77 is ds177')
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='FILE.md',
                      help='the page')
  with errors.reported():
    options = parser.parse_args(arguments)
    from anatcl_jax.cohorts.read_morphometry import read_tables
    from anatcl_jax.cohorts.row_names import RowNames
    outputs.check_file(options.out, '--out')
    names = RowNames(loose=options.loose_names)
    first, second = (read_tables(paths, options.atlas, names, options.id_column) if paths else None
                     for paths in (options.baseline, options.followup))
    if options.one_session and second:
      raise UserError('--one-session and --followup contradict each other; give one')
    _check_options(options)
    if options.one_session:
      a, measures, incomplete, names_of = one_session(first, options.measures)
      b = a
    else:
      a, b, measures, incomplete = pair_sessions(first, second, options.measures)
    header = _ONE_SESSION_HEADER if options.one_session else _HEADER
    text = header.format(
        made_by=outputs.MADE_BY, subjects=len(a), measures=' + '.join(measures),
        regions=a.shape[1], atlas=options.atlas,
        left_out=f' ({incomplete} more are incomplete)' if incomplete else '', most=len(a) - 1,
        source=first.source + (f' and {second.source}' if second else ''))
    if options.participants:
      there, columns, lacking = kernel_knowledge.read_columns(
          options.participants, names_of, names, options.id_column)
      text = _KNOWLEDGE_HEADER.format(
          made_by=outputs.MADE_BY, subjects=there.sum(), measures=' + '.join(measures),
          regions=a.shape[1], atlas=options.atlas, left_out=_left_out(incomplete, sum(~there)))
      text += kernel_knowledge.page(
          a[there], columns, options.effective_positives, options.without,
          [name for name in options.keeping.split('+') if name],
          f'{first.source} and {", ".join(path.name for path in options.participants)}', lacking,
          show=True)
    for row in study(a, b, show=True) if not options.participants else ():
      if options.one_session:
        clipped_alike = row.normalization.endswith('not clipped')   # by their own range
        text += '' if clipped_alike else (f'| {row.descriptor} | {row.normalization} | '
                                          f'{row.effective_positives:.1f} |\n')
        continue
      text += (f'| {row.descriptor} | {row.normalization} | {row.identification:.2f} | '
               f'{row.effective_positives:.1f} | {row.own_other:.2f} |\n')
    outputs.write_page(options.out, text)
    print(text)
