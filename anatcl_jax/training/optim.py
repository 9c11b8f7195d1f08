"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import optax


def step_schedule(learning_rate: float, decay: float, decay_epochs: int,
                  steps_per_epoch: int) -> optax.Schedule:
  """learning_rate x decay^(epoch // decay_epochs), as a function of the step."""
  return optax.exponential_decay(learning_rate, transition_steps=decay_epochs * steps_per_epoch,
                                 decay_rate=decay, staircase=True)


def adam_with_l2(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
  """torch.optim.Adam: weight_decay x parameter is added to the gradient of every parameter.

  Not AdamW, whose decay bypasses the moments.
  """
  return optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam(),
                     optax.scale_by_learning_rate(schedule))
