"""Applies a saved probe to new tables of features, such as a brain age to new people.

  python -m anatcl_jax.probe --config=probe --config.tasks=brain_age --config.save=True ...
  python -m anatcl_jax.predict --probe runs/probe/probes/brain_age-ours --features new.tsv \\
      --participants participants.tsv --out predicted.tsv

The table must be of the encoder that the probe was fitted on: features of another, or made with
another pool, axes or crop, missing columns and values that are no numbers are errors. A row a scan:
prediction, or predicted_class and probability; of a brain age age, predicted_age, gap (predicted
less age) and gap_corrected, without what age explains of it. For these, ages are needed: a column
`age` of the table of features, or --participants. TABLE's name with .json says how it was made.
docs/probe.md has what a gap is, and is not.
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
                      help='ages of the same people, for the gap of a brain age')
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
      holds values that are not finite; ages can't be read.
  """
  import numpy as np

  from anatcl_jax.cohorts import tables
  from anatcl_jax.evaluation import estimators, identity
  from anatcl_jax.frozen import table as feature_table
  identifiers, encoders = feature_table.read_encoders(features)
  names, notes = identity.matched(features, probe.record['encoders'])
  x = np.concatenate([encoders[name] for name in names], 1)
  keys = list(zip(identifiers['participant_id'], identifiers['session']))
  estimators.check_finite(str(features), x, [tables.joined_identifier(*key) for key in keys])
  age = None
  if probe.is_brain_age:
    age, told = _ages(features, identifiers, participants)
    notes += [*told, *_outside(probe, age)]
  notes += _elsewhere(probe, x)
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


def _ages(features: pathlib.Path, identifiers: pandas.DataFrame,
          participants: pathlib.Path | None) -> tuple[np.ndarray, list[str]]:
  """The age at each scan, NaN where it is not known, and a note of how many are so."""
  import numpy as np

  from anatcl_jax.cohorts import tables
  from anatcl_jax.evaluation import cohort as cohorts
  count = len(identifiers)
  if participants:
    cohort = cohorts.of_table(participants)
    notes = list(cohort.notes)
    cohort, rows = cohorts.join(cohort, {str(features): identifiers})
    age = np.full(count, np.nan)
    age[rows[str(features)]] = cohort.table['age'].to_numpy(float)
  elif 'age' in identifiers:
    notes, labels = [], [tables.joined_identifier(*key) for key in zip(
        identifiers['participant_id'], identifiers['session'])]
    age = tables.numbers(features, identifiers['age'], labels).to_numpy(float)
  else:
    return np.full(count, np.nan), [
        f'{features} has no column age, and no --participants is given: ages are predicted, and '
        'there is no gap']
  lacking = int(np.isnan(age).sum())
  return age, notes + [f'{lacking} of {count} scans have no age, and so no gap'] * bool(lacking)


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
