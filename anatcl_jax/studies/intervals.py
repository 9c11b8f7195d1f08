"""Do the intervals of the probe cover, and its tests hold their level? On people of known truth.

  python -m anatcl_jax.studies intervals --out FILE.md
  python -m anatcl_jax.studies intervals --trials 200 --seed 1 --out FILE.md

The page says how people are drawn and what its columns are; coverage.py has the mathematics.
"""

from __future__ import annotations

import math
import pathlib

from anatcl_jax import command_line, errors, outputs

_HEADER = """<!-- {made_by} -->
# Do intervals cover, and do tests hold their level?

{trials} draws of each row, seed {seed}; 8 features where no other number stands. n people are
predicted: in {folds} folds, or in a single split by a probe that was fitted on {fitted} n others.
Covers: how often the 95 % interval holds the true score of the very probes of the draw / the mean
true score of such probes. Told apart: how often p is below 0.05 between two representations that
are equally good; in brackets, had the standard error only the people predicted (1/n for 1/n + 1/m).
First MAE or balanced accuracy, then R2 or ROC-AUC. A share of 0.95 has a standard error of
{error:.3f}.

Made by `python -m anatcl_jax.studies intervals --trials {trials} --seed {seed}`.

| what | n | split | covers | covers | told apart | told apart |
|---|---|---|---|---|---|---|
"""


def main(arguments: list[str], prog: str) -> None:
  """The command line."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  parser.add_argument('--trials', type=command_line.at_least(1), default=500, metavar='N',
                      help='draws of each row (default: %(default)s, minutes)')
  parser.add_argument('--seed', type=command_line.seed, default=0, metavar='N',
                      help='of all draws (default: %(default)s)')
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='FILE.md',
                      help='the page')
  with errors.reported():
    options = parser.parse_args(arguments)
    from anatcl_jax.progress import progress_bar
    from anatcl_jax.studies import coverage
    outputs.check_file(options.out, '--out')
    text = _HEADER.format(
        made_by=outputs.MADE_BY, trials=options.trials, seed=options.seed, folds=coverage.FOLDS,
        fitted=coverage.FITTED, error=math.sqrt(0.95 * 0.05 / options.trials))
    with progress_bar(2 * len(coverage.CASES), 'intervals', 'rows') as progress:
      for case, people in coverage.CASES:
        for single in (False, True):
          rows = coverage.measure(case, people, single, options.trials, options.seed)
          cells = [case.words, str(people), 'single' if single else f'{coverage.FOLDS} folds',
                   *(f'{row.own:.3f} / {row.mean:.3f}' for row in rows),
                   *(f'{row.told_apart:.3f} ({row.uncorrected:.3f})' for row in rows)]
          text += f'| {" | ".join(cells)} |\n'
          progress.update()
    outputs.write_page(options.out, text)
    print(text)
