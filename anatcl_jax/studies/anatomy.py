"""Real and digital morphometry side by side: a table, a picture, and where they disagree most.

  python -m anatcl_jax.studies anatomy --thickness TABLE --participants TABLE
      --sessions FIRST SECOND --sessions-participants TABLE --out docs/real-and-digital.md

Real people are those of `study population`, digital ones `prepare phantom --population ixi`, as
measured on their drawn maps. The picture lies beside the page.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from anatcl_jax import command_line, errors, outputs
from anatcl_jax.cohorts import atlas
from anatcl_jax.studies.real_people import People

if TYPE_CHECKING:
  from collections.abc import Mapping


REGIONS = atlas.regions('desikan')
PAIRS = tuple(f'{a} with {b}' for i, a in enumerate(REGIONS) for b in REGIONS[i + 1:])

_HEADER = """<!-- {made_by} -->
# Real and digital morphometry

{people} people of IXI (thickness) and {twice} of ds000174 (thickness, area and volume in two
sessions three years apart) beside {drawn} SYNTHETIC people of `prepare phantom --population ixi`,
as measured on maps of {spacing:g} mm, twice on one scanner. What age, its square and sex explain is
taken out of standard deviations (sd) and correlations; means are at {centre:g} years for IXI and at
{young:.3g} for ds000174. Columns real and digital are medians over the 68 regions, or over their
2,278 pairs; r is the correlation of real with digital values over regions or pairs; the last column
has the one where both differ most. Sampling alone leaves {error:.0%} of a real sd open in IXI,
{error_twice:.0%} in ds000174.

Made by `python -m anatcl_jax.studies anatomy` from
{source}.

![real and SYNTHETIC morphometry]({picture})

| | cohort | real | digital | r | most apart: real, digital |
|---|---|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Row:
  """One quantity, of each region (or pair of them): real and digital [R]."""

  name: str
  cohort: str
  real: np.ndarray
  digital: np.ndarray

  @property
  def label(self) -> str:
    """The region or pair where both differ most."""
    names = PAIRS if len(self.real) == len(PAIRS) else REGIONS
    return names[int(np.abs(self.digital - self.real).argmax())]

  def text(self) -> str:
    """A row of the page's table."""
    at = int(np.abs(self.digital - self.real).argmax())
    values = [_digits(x) for x in (
        np.median(self.real), np.median(self.digital), np.corrcoef(self.real, self.digital)[0, 1],
        self.real[at], self.digital[at])]
    return (f'| {self.name} | {self.cohort} | {values[0]} | {values[1]} | {values[2]} | '
            f'{self.label}: {values[3]}, {values[4]} |')


def _digits(x: float) -> str:
  return f'{x:.3g}' if abs(x) < 1000 else f'{x:.0f}'


def quantities(people: People, centre: float, again: np.ndarray | None = None
               ) -> dict[str, np.ndarray]:
  """What is compared, of each region or pair: people's values [N, R, M] as drawing.MEASURES.

  M is 1 for thickness alone. centre is the age of the means, years; again the second session.
  """
  from anatcl_jax.studies.population import residuals
  decades = (people.age - centre) / 10
  design = np.column_stack([np.ones(len(decades)), people.male - 0.5, decades, decades**2])
  (mean, sex, slope, _), left = residuals(design, people.values[..., 0])
  found = {'thickness, mm': mean, 'thickness, change a decade, mm': slope,
           'thickness, men less women, mm': sex, 'thickness, sd, mm': left.std(0),
           'thickness, correlation of regions': _pairs(left)}
  if people.values.shape[-1] > 1:
    for column, name in ((1, 'area'), (2, 'volume')):
      (mean, *_), own = residuals(design, np.log(people.values[..., column]))
      unit = 'mm^2' if name == 'area' else 'mm^3'
      found |= {f'{name}, {unit}': np.exp(mean), f'{name}, sd of the logarithm': own.std(0),
                f'{name}, correlation of regions': _pairs(own)}
      if name == 'area':
        found['thickness with area, correlation'] = _columns(left, own)
    found['volume / (area x thickness)'] = np.median(
        people.values[..., 2] / people.values[..., :2].prod(-1), 0)
  if again is not None:
    for column, name in enumerate(('thickness', 'area', 'volume')):
      found[f'{name}, correlation of two sessions'] = _columns(
          *(residuals(design, np.log(x[..., column]))[1] for x in (people.values, again)))
  return found


def _pairs(left: np.ndarray) -> np.ndarray:
  return np.corrcoef(left.T)[np.triu_indices(left.shape[1], 1)]


def _columns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Correlation of a[N, R] with b[N, R], region by region: [R]."""
  a, b = (x - x.mean(0) for x in (a, b))
  return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def draw(subjects: int, seed: int, spacing: float) -> tuple[People, np.ndarray]:
  """Digital people with thickness, area and volume [N, R, 3], and those of a second session."""
  from anatcl_jax.cohorts.phantom import cohort as phantom
  from anatcl_jax.progress import progress_bar
  settings = phantom.PhantomSettings(subjects=subjects, seed=seed, spacing=spacing, sites=1,
                                     sessions=2, youngest=20, oldest=86, population='ixi')
  drawn = []
  with progress_bar(subjects, 'SYNTHETIC people', 'people') as progress:
    for index in range(subjects):
      subject = phantom.draw_subject(settings, index)
      drawn.append((subject.anatomy.age, subject.anatomy.sex == 'M', subject.scans[0].intracranial,
                    *(scan.morphometry.reshape(len(REGIONS), -1) for scan in subject.scans)))
      progress.update()
  age, male, intracranial, first, second = map(np.array, zip(*drawn))
  return People(age, male.astype(float), np.full(len(age), 'site-1'), intracranial, first,
                np.arange(len(age)).astype(str)), second


def rows(real: Mapping[str, np.ndarray], cohort: str, digital: Mapping[str, np.ndarray]
         ) -> list[Row]:
  """Those quantities that both have."""
  return [Row(name, cohort, values, digital[name]) for name, values in real.items()
          if name in digital]


def largest(compared: list[Row]) -> tuple[Row, Row]:
  """Where medians differ most: by a factor, of sizes; by a difference, of correlations."""
  def apart(row: Row) -> float:
    real, digital = np.median(row.real), np.median(row.digital)
    if 'correlation' in row.name:
      return abs(digital - real)
    one_sign = len(np.unique(np.sign(row.real))) == 1     # else it is no size
    return abs(np.log(digital / real)) if one_sign else 0.0

  return tuple(max((row for row in compared if ('correlation' in row.name) == correlation),
                   key=apart) for correlation in (False, True))


def picture(compared: list[Row], path: pathlib.Path) -> None:
  """Six panels, real against digital values."""
  from anatcl_jax import figures
  shown = ('thickness, mm', 'thickness, change a decade, mm', 'thickness, sd, mm',
           'thickness, correlation of regions', 'area, mm^2', 'area, sd of the logarithm')
  figure = figures.Figure((10.5, 7.2), layout='constrained')
  for axes, name in zip(figure.subplots(2, 3).flat, shown):
    row = next(row for row in compared if row.name == name)
    low, high = (f(*(f(x) for x in (row.real, row.digital))) for f in (min, max))
    axes.plot([low, high], [low, high], color='0.6', linewidth=1)
    many = len(row.real) > len(REGIONS)
    axes.scatter(row.real, row.digital, 3 if many else 14, color='tab:blue',
                 alpha=0.25 if many else 0.8, linewidths=0)
    axes.set_title(f'{name}, r = {np.corrcoef(row.real, row.digital)[0, 1]:.2f}', fontsize=9)
    axes.set_xlabel(f'real ({row.cohort})', fontsize=8)
    axes.set_ylabel('SYNTHETIC', fontsize=8)
    axes.tick_params(labelsize=7)
    if name.startswith('area, mm'):
      for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale('log')     # its own labels are formulas
        axis.set_ticks([500, 1000, 2000, 5000], ['500', '1000', '2000', '5000'])
        axis.set_ticks([], minor=True)
  figure.suptitle('Morphometry of real and of SYNTHETIC people, a point a region or a pair of '
                  'regions', fontsize=11)
  figures.save(figure, path, dpi=110)


def main(arguments: list[str], prog: str) -> None:
  """The command line."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  several = {'action': 'extend', 'nargs': '+', 'type': pathlib.Path, 'metavar': 'TABLE'}
  parser.add_argument('--thickness', required=True, help='thickness and eTIV of many ages',
                      **several)
  parser.add_argument('--participants', required=True, help='their ages and sexes', **several)
  parser.add_argument('--sex-codes', metavar='CODES', default='1=M,2=F',
                      help='what sexes that are no words mean there (default: %(default)s)')
  parser.add_argument('--sessions', required=True, nargs=2, type=pathlib.Path,
                      metavar=('FIRST', 'SECOND'),
                      help='thickness, area and volume of the same people')
  parser.add_argument('--sessions-participants', required=True, help='their ages and sexes',
                      **several)
  parser.add_argument('--subjects', type=command_line.at_least(50), default=400, metavar='N',
                      help='digital people (default: %(default)s)')
  parser.add_argument('--seed', type=command_line.seed, default=0, metavar='S',
                      help='of the digital people (default: %(default)s)')
  parser.add_argument('--spacing', type=float, default=4.0, metavar='MM',
                      help='of the maps that are measured (default: %(default)s)')
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='FILE.md',
                      help='the page; a picture of the same name lies beside it')
  with errors.reported():
    options = parser.parse_args(arguments)
    from anatcl_jax.studies import population, real_people
    path = options.out.with_suffix('.png')
    for file in (options.out, path):
      outputs.check_file(file, '--out')
    measures = ('thickness', 'area', 'volume')
    people, *_ = population.fit_thickness(real_people.read_people(
        options.thickness, options.participants, 'desikan', options.sex_codes, measures[:1]))
    first, second = real_people.twice(options.sessions, options.sessions_participants,
                                      options.sex_codes, measures)
    young = float(np.median(first.age))
    drawn, again = draw(options.subjects, options.seed, options.spacing)
    once = rows(quantities(people, population.CENTRE), 'IXI', quantities(drawn, population.CENTRE))
    twice = rows(quantities(first, young, second), 'ds000174', quantities(drawn, young, again))
    compared = [*once, *twice[5:]]     # thickness is compared with the larger cohort
    text = _HEADER.format(
        made_by=outputs.MADE_BY, people=len(people.age), twice=len(first.age),
        drawn=len(drawn.age), spacing=options.spacing,
        centre=population.CENTRE, young=young, error=1 / np.sqrt(2 * len(people.age)),
        error_twice=1 / np.sqrt(2 * len(first.age)), picture=path.name,
        source=', '.join(file.name for file in [*options.thickness, *options.participants,
                                                *options.sessions,
                                                *options.sessions_participants]))
    text += '\n'.join(row.text() for row in compared)
    text += '\n\nThe largest disagreements: ' + '; '.join(
        f'{row.name}, {_digits(np.median(row.real))} of real people ({row.cohort}) and '
        f'{_digits(np.median(row.digital))} of digital ones' for row in largest(compared)) + '.\n'
    picture(compared, path)
    outputs.write_page(options.out, text)
    print(text)
