"""Applies a saved probe to new tables of features, such as a brain age to new people.

  python -m anatcl_jax.probe --config=probe --config.tasks=brain_age --config.save=True ...
  python -m anatcl_jax.predict --probe runs/probe/probes/brain_age-ours --features new.tsv \\
      --participants participants.tsv --out predicted.tsv

The table must be of the encoder that the probe was fitted on: features of another, or made with
another pool, axes or crop, missing columns and values that are no numbers are errors. A row a scan:
prediction, or predicted_class and probability; of a brain age age, predicted_age, gap (predicted
less age) and gap_corrected, without what age explains of it. For these, ages are needed: a column
`age` of the table of features, or --participants. So are site, and what was kept, for a probe of
harmonised features (TASK-FEATURES+harmonised); a site that it was not fitted on is an error.
TABLE's name with .json says how it was made. docs/brain-age.md has what a gap is, and is not.
"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

from anatcl_jax import command_line, errors, lock, outputs
from anatcl_jax.errors import UserError

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  import numpy as np
  import pandas

  from anatcl_jax.evaluation.saved import SavedProbe


def command_line_parser(prog: str = 'python -m anatcl_jax.predict') -> command_line.Parser:
  """The parser of the command's arguments."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  parser.add_argument('--probe', required=True, type=pathlib.Path, metavar='PROBE',
                      help='a probe that `probe --config.save=True` wrote: its .json, its '
                           '.safetensors, or their name without ending')
  parser.add_argument('--features', required=True, type=pathlib.Path, metavar='TABLE',
                      help='a table of anatcl_jax.features, .tsv or .parquet')
  parser.add_argument('--participants', type=pathlib.Path, metavar='TSV',
                      help='ages of the same people, for the gap of a brain age; their sites, for '
                           'a probe of harmonised features')
  parser.add_argument('--out', required=True, type=pathlib.Path, metavar='TABLE',
                      help='a new .tsv')
  return parser


def main(arguments: list[str] | None = None, prog: str = 'python -m anatcl_jax.predict') -> None:
  """Predicts as the arguments say."""
  arguments = sys.argv[1:] if arguments is None else arguments
  with errors.reported():
    options = command_line_parser(prog).parse_args(arguments)
    if options.out.suffix != '.tsv':
      raise UserError(f'--out {options.out}: give the name of a .tsv')
    if options.out.exists():
      raise UserError(f'{options.out} is there already; choose another --out, or remove it')
    outputs.check_file(options.out.with_suffix('.json'), '--out')
    with lock.alone_with(options.out, 'choose another --out'):
      from anatcl_jax.evaluation import saved
      probe = saved.read(options.probe)
      table, notes = predict(probe, options.features, options.participants)
      for note in notes:
        print(f'note: {note}', file=sys.stderr)
      synthetic = _write(probe, table, notes, options, [*prog.split(), *arguments])
    print(f'{len(table)} {"SYNTHETIC " * synthetic}scans: {options.out}; {said(probe)}')


def predict(probe: SavedProbe, features: pathlib.Path,
            participants: pathlib.Path | None = None) -> tuple[pandas.DataFrame, list[str]]:
  """Identifiers and predictions, a row a scan of a table of features, and notes.

  Raises:
    UserError: the table is not of the encoder that the probe was fitted on, has not its columns, or
      holds values that are not finite; ages can't be read; a site is none of a harmonised probe.
  """
  import numpy as np

  from anatcl_jax.cohorts import tables
  from anatcl_jax.evaluation import estimators, identity
  from anatcl_jax.frozen import table as feature_table
  identifiers, encoders = feature_table.read_encoders(features)
  names, notes = identity.matched(features, probe.record['encoders'])
  x = np.concatenate([encoders[name] for name in names], 1)
  keys = list(zip(identifiers['participant_id'], identifiers['session']))
  scans = [tables.joined_identifier(*key) for key in keys]
  estimators.check_finite(str(features), x, scans)
  age, table = None, identifiers
  if participants:
    table, told = _labels(features, identifiers, participants, ages_needed=probe.is_brain_age)
    notes += told
  if probe.is_brain_age:
    age, told = _ages(features, table, participants, scans)
    notes += [*told, *_outside(probe, age)]
  if probe.coding is not None:
    x, told = _with_sites(probe, x, features, table, scans)
    notes += told
  notes += _elsewhere(probe, probe.harmonised(x))
  predicted = probe.table(x, age)
  kept = [name for name in ('participant_id', 'session', 'file') if name in identifiers]
  return identifiers[kept].reset_index(drop=True).join(predicted), notes


def said(probe: SavedProbe) -> str:
  """What a probe is, and how good it was where it was fitted, a sentence."""
  record = probe.record
  metric, (value, *interval) = next(iter(record['score'].items()))
  fitted = record['fitted']
  span = (f', {fitted["low"]:g} to {fitted["high"]:g} {record["task"]["unit"]}'.rstrip()
          if 'low' in fitted else '')
  people = f'{fitted["people"]} {"SYNTHETIC " * bool(record["synthetic"])}people'
  return (f'{record["task"]["name"]} from {record["features"]} ({record["estimator"]}), fitted on '
          f'{people}{span}; {metric} there, out of fold, {value:.3g}'
          + (f' ({interval[0]:.3g} to {interval[1]:.3g})' if len(interval) == 2
             and None not in interval else ''))


def _labels(features: pathlib.Path, identifiers: pandas.DataFrame, participants: pathlib.Path,
            ages_needed: bool) -> tuple[pandas.DataFrame, list[str]]:
  """The columns of --participants for each scan, over those of the table itself, and notes."""
  from anatcl_jax.evaluation import cohort as cohorts
  cohort = cohorts.of_table(participants, ages_needed)
  notes = list(cohort.notes)
  cohort, rows = cohorts.join(cohort, {str(features): identifiers})
  told = cohort.table.set_index(rows[str(features)]).reindex(range(len(identifiers)))
  own = identifiers.reset_index(drop=True)
  return told.assign(**{name: own[name] for name in own if name not in told}), notes


def _ages(features: pathlib.Path, table: pandas.DataFrame, participants: pathlib.Path | None,
          scans: list[str]) -> tuple[np.ndarray, list[str]]:
  """The age at each scan, NaN where it is not known, and a note of how many are so."""
  import numpy as np

  from anatcl_jax.cohorts import tables
  if 'age' not in table:
    return np.full(len(table), np.nan), [
        f'{features} has no column age, and no --participants is given: ages are predicted, and '
        'there is no gap']
  age = tables.numbers(participants or features, table['age'], scans).to_numpy(float)
  lacking = int(np.isnan(age).sum())
  return age, [f'{lacking} of {len(age)} scans have no age, and so no gap'] * bool(lacking)


def _with_sites(probe: SavedProbe, x: np.ndarray, features: pathlib.Path, table: pandas.DataFrame,
                scans: list[str]) -> tuple[np.ndarray, list[str]]:
  """Features beside what a harmonised probe needs of each scan, and notes.

  Raises:
    UserError: a column is not there, or a site is none that the probe was fitted on.
  """
  import numpy as np

  from anatcl_jax.cohorts import tables
  from anatcl_jax.evaluation.combat import PASS
  from anatcl_jax.evaluation.derived import with_sites
  coding, harmonizer = probe.coding, probe.probes[0].harmonizer
  by_name = {str(name).lower(): name for name in table}
  needed = [coding.column, *(name for name, _ in coding.keep)]
  if lacking := [name for name in needed if name.lower() not in by_name]:
    raise UserError(f'{features}: the probe is of features harmonised over {coding.column}, and '
                    f'there is no column {errors.listed(lacking)} of these scans; give '
                    '--participants with it')
  table = table.rename(columns={by_name[name.lower()]: name for name in needed})
  numbers, notes = coding.numbers(table)
  strange = ~np.all([one.knows(numbers[:, 0]) for one in probe.probes], 0)
  if not strange.any():
    return with_sites(x, numbers), notes
  sites = sorted(set(tables.categories(table[coding.column])[strange].fillna('unknown')))
  words = (f'{int(strange.sum())} scans, such as {scans[np.flatnonzero(strange)[0]]}, are of '
           f'{coding.column} {errors.listed(sites)}, which the probe was not fitted on')
  if harmonizer.unseen == PASS:
    return with_sites(x, numbers), [*notes, f'{words}: they are not harmonised']
  raise UserError(f'{features}: {words}; its features were harmonised over '
                  f'{errors.listed(list(coding.sites))}. Leave them out, or use the probe of '
                  'features as they are')


def _outside(probe: SavedProbe, age: np.ndarray) -> list[str]:
  """Says how many are younger or older than everybody whom the probe was fitted on."""
  low, high = (probe.record['fitted'][name] for name in ('low', 'high'))
  outside = int(((age < low) | (age > high)).sum())
  return [f'{outside} scans are of people outside the ages {low:g} to {high:g} that the probe was '
          'fitted on: their gap is extrapolated'] if outside else []


def _elsewhere(probe: SavedProbe, x: np.ndarray) -> list[str]:
  """Says where features lie far from those that were fitted on, as of another scanner."""
  import numpy as np
  arrays = probe.probes[0].arrays
  away = np.abs((x.mean(0) - arrays['mean']) / arrays['scale'])
  return [f'the mean of half of the features is {np.median(away):.1f} standard deviations or more '
          'from that of the people fitted on: other scanners, processing or people; compare only '
          'with controls of the same'] if len(x) >= 5 and np.median(away) > 1 else []


def _write(probe: SavedProbe, table: pandas.DataFrame, notes: list[str], options,
           command: list[str]) -> bool:
  """The table, and how it was made beside it; returns whether scans are SYNTHETIC."""
  import os

  from anatcl_jax.cohorts.write_tables import as_tsv
  from anatcl_jax.frozen import table as feature_table
  scans, _ = feature_table.read_synthetic(options.features)
  record, out = probe.record, options.out
  temporary = out.with_name(f'.{out.name}.new')
  try:
    feature_table.write_description(out, {
        'command': command, 'probe': str(options.probe),
        'probe_sha256': record['sha256'], 'fitted_on': said(probe),
        'features': str(options.features),
        'scans': len(table), 'notes': notes, 'synthetic': scans,
        'probe_fitted_on_synthetic': record['synthetic'],
        'encoder_trained_on_synthetic': record['trained_on_synthetic']})
    temporary.write_text(as_tsv(table, na_rep='n/a', float_format='%.6g'), encoding='utf-8')
    os.replace(temporary, out)
  except OSError as error:
    raise UserError(f'{out}: can\'t be written ({error.strerror}); choose another --out') from None
  return scans


if __name__ == '__main__':
  main()
