"""The optimizer against torch.optim.Adam's update written out in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from anatcl_jax.training import optim


def test_adam_with_l2_adds_decay_to_the_gradient():
  rng = np.random.default_rng(0)
  parameter, gradients = rng.normal(size=5), rng.normal(size=(4, 5))
  optimizer = optim.adam_with_l2(lambda _: 1e-2, 0.3)
  params = jnp.asarray(parameter, jnp.float32)
  state = optimizer.init(params)
  m = v = np.zeros(5)
  for t, gradient in enumerate(gradients, start=1):
    updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
    params = params + updates
    decayed = gradient + 0.3 * parameter
    m, v = 0.9 * m + 0.1 * decayed, 0.999 * v + 0.001 * decayed**2
    parameter = parameter - 1e-2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(params, parameter, rtol=1e-5)


def test_schedule_steps_every_ten_epochs():
  schedule = optim.step_schedule(1e-4, 0.9, 10, steps_per_epoch=7)
  np.testing.assert_allclose([schedule(step) for step in (0, 69, 70, 139, 140)],
                             [1e-4, 1e-4, 9e-5, 9e-5, 8.1e-5], rtol=1e-6)
