"""Quantities of morphometry on people whose coefficients are known."""

from __future__ import annotations

import numpy as np
import pytest

from anatcl_jax.studies import anatomy
from anatcl_jax.studies.real_people import People


def _people(rng: np.random.Generator, scale: float = 1.0) -> tuple[People, np.ndarray]:
  """Thickness 2.5 - 0.05 d, men 0.1 thicker, sd 0.2; area 1000, log sd 0.3; volume 1.2 A T.

  Regions share nothing, but lh and rh of the first are one; the second session adds errors as
  large as the log area varies.
  """
  age, male = rng.uniform(20, 80, 2000), (rng.random(2000) < 0.5).astype(float)
  deviation = rng.standard_normal((2000, 68))
  deviation[:, 34] = deviation[:, 0]
  thickness = (2.5 - 0.05 * (age - 50) / 10 + 0.1 * (male - 0.5))[:, None] + 0.2 * scale * deviation
  area = 1000 * np.exp(0.3 * rng.standard_normal((2000, 68)))
  values = np.stack([thickness, area, 1.2 * thickness * area], -1)
  again = values * np.exp(0.3 * rng.standard_normal(values.shape))
  return People(age, male, np.full(2000, ''), np.ones(2000), values,
                np.arange(2000).astype(str)), again


def test_quantities_by_known_coefficients():
  people, again = _people(np.random.default_rng(0))
  found = anatomy.quantities(people, 30.0, again)
  expected = {'thickness, mm': 2.6, 'thickness, change a decade, mm': -0.05,
              'thickness, men less women, mm': 0.1, 'thickness, sd, mm': 0.2,
              'thickness, correlation of regions': 0, 'area, mm^2': 1000,
              'area, sd of the logarithm': 0.3, 'volume / (area x thickness)': 1.2,
              'thickness with area, correlation': 0,
              'area, correlation of two sessions': np.sqrt(0.5)}
  for name, value in expected.items():
    assert np.median(found[name]) == pytest.approx(value, rel=0.03, abs=0.02), name
  pair = anatomy.PAIRS.index('lh_bankssts with rh_bankssts')
  assert found['thickness, correlation of regions'][pair] == pytest.approx(1)
  assert len(anatomy.PAIRS) == len(found['thickness, correlation of regions']) == 2278
  only = People(people.age, people.male, people.site, people.intracranial,
                people.values[..., :1], people.name)
  assert list(anatomy.quantities(only, 30.0)) == list(found)[:5]


def test_the_largest_disagreement_is_named_with_its_region(tmp_path):
  real, digital = (anatomy.quantities(_people(np.random.default_rng(1), scale)[0], 50.0)
                   for scale in (1.0, 1.5))
  digital['thickness, sd, mm'][7] = 0.9
  compared = anatomy.rows(real, 'IXI', digital)
  digital['thickness with area, correlation'] = digital['thickness with area, correlation'] - 0.3
  row, correlation = anatomy.largest(anatomy.rows(real, 'IXI', digital))
  assert correlation.name == 'thickness with area, correlation'
  assert row.name == 'thickness, sd, mm' and row.label == anatomy.REGIONS[7]
  assert row.text().startswith('| thickness, sd, mm | IXI | 0.2') and (
      f'{anatomy.REGIONS[7]}: 0.2' in row.text() and row.text().endswith(', 0.9 |'))
  anatomy.picture(compared, tmp_path / 'picture.png')
  assert (tmp_path / 'picture.png').stat().st_size > 10_000
