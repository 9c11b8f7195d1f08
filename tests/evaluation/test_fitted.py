"""Probes as arrays predict what scikit-learn predicts, of SYNTHETIC numbers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.special

from anatcl_jax.evaluation import estimators, fitted


@pytest.mark.parametrize('name', estimators.ESTIMATORS)
@pytest.mark.parametrize('classes', [0, 2, 3])
def test_arrays_predict_as_the_pipeline_does(name, classes):
  rng = np.random.default_rng(0)
  x = rng.normal(2, 3, (60, 5))
  x[rng.uniform(size=x.shape) < 0.1] = np.nan
  # Of four classes the first is not fitted on, as of a site that a fold lacks.
  y = (rng.integers(1, classes + 1, 60) if classes else rng.normal(50, 20, 60))
  steps, _ = estimators.pipeline(name, bool(classes), 0, impute=True)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    steps.fit(x, y)
  probe = fitted.of_pipeline(steps, bool(classes))
  if not classes:
    np.testing.assert_allclose(probe.predict(x), steps.predict(x), rtol=1e-9)
    return
  np.testing.assert_array_equal(probe.predict(x), steps.predict(x))
  if name == 'svm':
    distance = steps.decision_function(x)
    expected = scipy.special.expit(distance if classes > 2 else np.stack([-distance, distance], 1))
  else:
    expected = steps.predict_proba(x)
  found = probe.probability(x, classes + 1)
  np.testing.assert_allclose(found[:, 1:], expected, rtol=1e-9, atol=1e-12)
  assert not found[:, 0].any()
