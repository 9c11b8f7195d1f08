"""How real people's cortex varies: the coefficients of `prepare phantom --population ixi`.

  python -m anatcl_jax.studies population --thickness TABLE --participants TABLE
      --sites-thickness TABLE ... --sites-area TABLE ... --sessions FIRST SECOND
      --sessions-participants TABLE --out FILE.json

Thickness and head size are fitted on the people of --thickness, a table of the 68 Desikan-Killiany
regions with the column eTIV. Of area, the whole cortex's variation and how sites differ come from
Destrieux tables of several sites; each region's own and the errors of measuring from --sessions,
thickness and area of the same people twice.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from anatcl_jax import command_line, errors, outputs
from anatcl_jax.studies.real_people import FEWEST, People, read_people, twice

if TYPE_CHECKING:   # what is heavy is imported where it is used: --help need not wait for it
  from anatcl_jax.cohorts.phantom.population import Population

CENTRE = 50.0                 # years at which the means hold
FACTORS = 20                  # leave correlations 0.015 off; sampling alone 0.04, of 550 people
_FAILED = 4.0                 # robust standard deviations of a person's mean over regions
_ADULT = 18.0                 # years; of --sites, where area no longer grows
_MOST_ERROR = 0.5             # share of a region's own variance that measuring may make
_TO_SD = 1.4826               # of the median absolute deviation of a normal distribution

_EXPLAINED = {
    'head_sex': 'mean log head size of men less that of women; head size is the cube root of eTIV',
    'head_sd': 'sd of log head size among one sex',
    'area_head': 'slope of log whole area on log head size among one sex, age and site',
    'area_sd': 'sd of log whole area among people of one head size, sex, age and site',
    'area_sex': 'mean log whole area of men less that of women',
    'area_age': 'change of log whole area a decade of adult life',
    'area_homologous': 'correlation of a region\'s log area in lh and rh beyond the whole\'s',
} | {f'site_{measure}_{kind}{part}': f'sd between sites of {text} log {measure}{where}'
     for measure in ('thickness', 'area')
     for kind, text in (('location', 'mean'), ('scale', 'the log sd of'))
     for part, where in (('', ', shared by all regions'), ('_region', ', of a region itself'))}


def residuals(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Least squares of y [N, ...] on design [N, C]: coefficients [C, ...] and what is left."""
  coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
  return coefficients, y - design @ coefficients


def failed(left: np.ndarray) -> np.ndarray:
  """Whose segmentation failed: residuals [N, R], in robust units, are off in the mean: [N]."""
  mean = (left / robust_sd(left)).mean(1)
  return np.abs(mean - np.median(mean)) > _FAILED * robust_sd(mean)


def robust_sd(x: np.ndarray) -> np.ndarray:
  """Standard deviation over the first axis by the median absolute deviation."""
  return _TO_SD * np.median(np.abs(x - np.median(x, 0)), 0)


def thickness_design(people: People) -> np.ndarray:
  """One, decades from CENTRE, their square, and sex about its middle: [N, 4]."""
  decades = (people.age - CENTRE) / 10
  return np.column_stack([np.ones(len(decades)), decades, decades**2, people.male - 0.5])


def fit_thickness(people: People) -> tuple[People, np.ndarray, np.ndarray]:
  """Without failed segmentations: the people, the coefficients [4, R], the residuals [N, R]."""
  left = residuals(thickness_design(people), people.values[..., 0])[1]
  people = people.select(~failed(left))
  return people, *residuals(thickness_design(people), people.values[..., 0])


def curved(people: People) -> int:
  """In how many regions a square of age betters the Bayesian information criterion."""
  design, thickness = thickness_design(people), people.values[..., 0]
  straight, bent = (np.square(residuals(x, thickness)[1]).sum(0)
                    for x in (design[:, [0, 1, 3]], design))
  return int((len(thickness) * np.log(straight / bent) > np.log(len(thickness))).sum())


def factors(left: np.ndarray, count: int = FACTORS) -> tuple[np.ndarray, np.ndarray]:
  """Factor analysis of residuals [N, R]: loadings [R, K] and the sd [R] of what is a region's own.

  Maximum likelihood (Barber 2012, Bayesian Reasoning and Machine Learning, algorithm 21.1), on
  correlations, so that no region counts for more.
  """
  from sklearn.decomposition import FactorAnalysis
  scale = left.std(0)
  model = FactorAnalysis(count, svd_method='lapack', tol=1e-4, max_iter=5000).fit(left / scale)
  loadings = model.components_.T * np.where(model.components_.sum(1) < 0, -1, 1)
  return loadings * scale[:, None], np.sqrt(model.noise_variance_) * scale


def fit_area(people: People) -> dict[str, float]:
  """The whole cortex's area of adults of several sites: scalars of `_EXPLAINED`."""
  sites = _indicators(people.site)
  whole = np.log(people.values[..., 1].sum(1))
  person = np.column_stack([(people.age - CENTRE) / 10, people.male])
  (age, sex), left = _last(residuals(np.column_stack([sites, person]), whole), 2)
  head = residuals(np.column_stack([sites, person]), np.log(people.intracranial) / 3)[1]
  slope = (head @ left) / (head @ head)
  return {'area_head': slope, 'area_sd': np.std(left - slope * head), 'area_sex': sex,
          'area_age': age}


def fit_sites(people: People) -> dict[str, float]:
  """How sites differ in location and scale of log thickness and log area: sd, of `_EXPLAINED`.

  What sampling alone makes of a region's difference is subtracted.
  """
  sites, result = _indicators(people.site), {}
  person = np.column_stack([(people.age - CENTRE) / 10, people.male])
  each = 1 / sites.sum(0)
  for column, measure in enumerate(('thickness', 'area')):
    coefficients, left = residuals(np.column_stack([sites, person]),
                                   np.log(people.values[..., column]))
    own = left - left.mean(1, keepdims=True)
    scale = np.log([left[of == 1].std(0) for of in sites.T])
    for kind, found, sampling in (('location', coefficients[:sites.shape[1]],
                                   own.var() * each.mean()), ('scale', scale, each.mean() / 2)):
      found = found - found.mean(0)
      shared = found.mean(1)
      rest = np.square(found - shared[:, None]).sum() / found[:-1].size
      result |= {f'site_{measure}_{kind}': shared.std(ddof=1),
                 f'site_{measure}_{kind}_region': np.sqrt(max(rest - sampling, 0))}
  return result


def fit_sessions(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
  """Two sessions [N, R, 2] of thickness and area: error [R, 2], area_sd [R], area_homologous.

  error: robust sd of a session's log about the person's, after the mean change of all and the
  person's own mean change; years between sessions make it an upper bound.
  """
  change = np.log(second / first)
  change = change - change.mean(0)
  error = robust_sd(change - change.mean(1, keepdims=True)) / np.sqrt(2)
  area = np.log(first[..., 1])
  whole = np.log(first[..., 1].sum(1))
  left = residuals(np.column_stack([np.ones(len(whole)), whole]), area)[1]
  half = left.shape[1] // 2
  both = [np.corrcoef(left[:, region], left[:, half + region])[0, 1] for region in range(half)]
  return error, left.std(0, ddof=2), float(np.median(both))


def fit(people: People, several: People, first: np.ndarray,
        second: np.ndarray) -> tuple[Population, list[str]]:
  """All coefficients, and what there is to say about the fit."""
  from anatcl_jax.cohorts.phantom.population import Population
  kept, (mean, slope, bend, sex), left = fit_thickness(people)
  loadings, unique = factors(left)
  adults = several.select(several.age >= _ADULT)
  known = [site for site in np.unique(adults.site) if (adults.site == site).sum() >= FEWEST]
  adults = adults.select(np.isin(adults.site, known))
  kept_adults = adults.select(~failed(residuals(np.column_stack(
      [_indicators(adults.site), adults.age, adults.male]), np.log(adults.values[..., 0]))[1]))
  logarithm = np.log(kept.intracranial) / 3
  men, women = logarithm[kept.male == 1], logarithm[kept.male == 0]
  error, area_sd, both = fit_sessions(first, second)
  most = unique * np.sqrt(_MOST_ERROR) / mean
  capped = int((error[:, 0] > most).sum())
  error[:, 0] = np.minimum(error[:, 0], most)
  scalars = {'head_sex': np.median(men) - np.median(women),
             'head_sd': robust_sd(np.concatenate([men - np.median(men),
                                                  women - np.median(women)])),
             **fit_area(kept_adults), 'area_homologous': both, **fit_sites(kept_adults)}
  correlation = np.corrcoef(left.T)
  spread = np.sqrt(np.square(loadings).sum(1) + unique**2)
  off = (loadings @ loadings.T / np.outer(spread, spread) - correlation)[
      np.triu_indices(len(spread), 1)]
  notes = [
      f'thickness: {len(kept.age)} people of {kept.age.min():.1f} to {kept.age.max():.1f} years; '
      f'{len(people.age) - len(kept.age)} more, whose mean over regions is {_FAILED:g} robust '
      'standard deviations off, are left out as failed segmentations',
      f'a square of age betters the BIC of {curved(kept)} of {len(mean)} regions',
      f'{FACTORS} factors leave correlations {np.sqrt(np.mean(off**2)):.3f} off (root mean square)',
      f'area and sites: {len(kept_adults.age)} adults of {len(known)} sites '
      f'({len(adults.age) - len(kept_adults.age)} failed)',
      f'errors and regional area: {len(first)} people in two sessions; in {capped} of {len(mean)} '
      f'regions the error of thickness is set to {_MOST_ERROR:g} of the variance that no other '
      'region shares']
  return Population(CENTRE, float(kept.age.min().round()), float(kept.age.max().round()), mean,
                    slope, bend, sex, loadings, unique, area_sd, error,
                    {name: float(f'{value:.4g}') for name, value in scalars.items()}), notes


def _indicators(site: np.ndarray) -> np.ndarray:
  return (site[:, None] == np.unique(site)).astype(float)


def _last(found: tuple[np.ndarray, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
  return found[0][-count:], found[1]


def main(arguments: list[str], prog: str) -> None:
  """The command line."""
  parser = command_line.Parser(prog=prog, description=__doc__)
  several = {'action': 'extend', 'nargs': '+', 'type': pathlib.Path, 'metavar': 'TABLE'}
  parser.add_argument('--thickness', required=True, help='thickness and eTIV of many ages',
                      **several)
  parser.add_argument('--participants', required=True, help='their ages and sexes', **several)
  parser.add_argument('--sex-codes', metavar='CODES', default='1=M,2=F',
                      help='what sexes that are no words mean there (default: %(default)s)')
  parser.add_argument('--sites-thickness', required=True,
                      help='Destrieux thickness with age, sex, site and eTIV, of several sites',
                      **several)
  parser.add_argument('--sites-area', required=True, help='Destrieux area of the same people',
                      **several)
  parser.add_argument('--sites-sex-codes', metavar='CODES', default='0=F,1=M',
                      help='what their sexes mean (default: %(default)s)')
  parser.add_argument('--sessions', required=True, nargs=2, type=pathlib.Path,
                      metavar=('FIRST', 'SECOND'), help='thickness and area of the same people')
  parser.add_argument('--sessions-participants', required=True, help='their ages and sexes',
                      **several)
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='FILE.json',
                      help='the coefficients')
  with errors.reported():
    options = parser.parse_args(arguments)
    outputs.check_file(options.out, '--out')
    found, notes = fit(*read_sources(options))
    outputs.write_page(options.out, as_text(found, notes))
    print('\n'.join(notes))


def as_text(found: Population, notes: list[str]) -> str:
  """The file of coefficients: JSON with a line a region."""
  content = {'made_by': outputs.MADE_BY, 'notes': notes, 'explained': _EXPLAINED} | found.as_json()
  regions = content.pop('regions')
  rows = ',\n'.join(f'  {json.dumps(name)}: {json.dumps(row)}' for name, row in regions.items())
  return json.dumps(content, indent=1)[:-2] + ',\n "regions": {\n' + rows + '\n }\n}\n'


def read_sources(options: argparse.Namespace) -> tuple[People, People, np.ndarray, np.ndarray]:
  """What `fit` takes, of the files that the command line names.

  Raises:
    UserError: files that don't hold it.
  """
  people = read_people(options.thickness, options.participants, 'desikan', options.sex_codes,
                       ('thickness',))
  several = read_people([*options.sites_thickness, *options.sites_area], options.sites_thickness,
                        'destrieux', options.sites_sex_codes, ('thickness', 'area'), loose=True)
  first, second = twice(options.sessions, options.sessions_participants, options.sex_codes,
                        ('thickness', 'area'))
  return people, several, first.values, second
