"""Tissue classes of brains whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage

from anatcl_jax.cohorts.t1 import tissue
from anatcl_jax.cohorts.t1.volume import dice

MEANS = {'csf': 300.0, 'gray': 700.0, 'white': 1000.0}


@pytest.fixture(scope='module')
def shells():
  """Shares of white matter in gray in CSF: balls about one centre, with partial volume."""
  x, y, z = np.meshgrid(*[np.arange(32.0)] * 3, indexing='ij')
  radius = np.sqrt((x - 15.5) ** 2 + (y - 15.5) ** 2 + (z - 15.5) ** 2)
  white, brain, all_of_it = (np.clip(edge + 0.5 - radius, 0, 1) for edge in (8, 11.5, 13.5))
  shares = {'white': white, 'gray': brain - white, 'csf': all_of_it - brain}
  mask = all_of_it == 1
  return {name: np.where(mask, share, 0) for name, share in shares.items()}, mask


def classified(shells, noise: float, moved: float = 0.0, **settings):
  shares, mask = shells
  rng = np.random.default_rng(0)
  values = sum(MEANS[name] * share for name, share in shares.items())
  values = (values + rng.normal(0, noise, mask.shape)) * mask
  # A template: the truth, blurred as an average of people is, perhaps not quite in place.
  prior = {name: scipy.ndimage.shift(scipy.ndimage.gaussian_filter(share, 1.5), moved, order=1)
           for name, share in shares.items()}
  return tissue.classify(values, mask, prior['gray'], prior['white'],
                         **{'neighbours': 0.3, 'doubt': 0.01} | settings)


def test_shares_and_intensities_come_back(shells):
  shares, mask = shells
  found = classified(shells, noise=25)
  np.testing.assert_allclose(found.means, list(MEANS.values()), rtol=0.06)
  assert 15 < found.noise < 60
  for name, share in shares.items():
    part = getattr(found, name)
    assert part[~mask].max() == 0
    assert part.sum() == pytest.approx(share.sum(), rel=0.1), name
  np.testing.assert_allclose((found.gray + found.white + found.csf)[mask], 1, atol=1e-5)
  mixed = (shares['gray'] > 0.2) & (shares['gray'] < 0.8)
  assert np.corrcoef(found.gray[mixed], shares['gray'][mixed])[0, 1] > 0.7
  assert dice(found.gray > 0.5, shares['gray'] > 0.5) > 0.9


def test_neighbours_help_where_there_is_noise(shells):
  truth = shells[0]['gray'] > 0.5
  alone = classified(shells, noise=130, doubt=0.3, neighbours=0.0).gray > 0.5
  together = classified(shells, noise=130, doubt=0.3, neighbours=0.5).gray > 0.5
  assert dice(together, truth) > dice(alone, truth) + 0.03


def test_a_template_that_lies_a_little_off_is_no_harm(shells):
  truth = shells[0]['gray'] > 0.5
  assert dice(classified(shells, noise=25, moved=1.0).gray > 0.5, truth) > 0.85
