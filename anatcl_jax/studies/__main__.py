"""What kernels and objectives know: studies that write tables and pages."""

from __future__ import annotations

from anatcl_jax import command_line

COMMANDS = {
    'kernels': ('anatcl_jax.studies.kernels',
                'do the anatomical kernels know a person again? and age, sex, site?'),
    'intervals': ('anatcl_jax.studies.intervals',
                  'do the intervals of the probe cover, do its tests hold? on drawn people'),
    'population': ('anatcl_jax.studies.population',
                   'how real cortex varies: the coefficients of the digital cohort'),
    'anatomy': ('anatcl_jax.studies.anatomy',
                'real and digital morphometry side by side, and where they disagree most'),
    'objectives': ('anatcl_jax.studies.objectives',
                   'which objective knows anatomy and disease? on people of known truth'),
    'page': ('anatcl_jax.studies.study_page',
             'the page and figures of a study of objectives, from its results file alone'),
}


def main(arguments: list[str] | None = None, prog: str = 'python -m anatcl_jax.studies') -> None:
  """Runs the study that the first argument names."""
  command_line.run(COMMANDS, arguments, prog, __doc__)


if __name__ == '__main__':
  main()
