"""Pictures of a run, and the report of an evaluation: one HTML page."""

from anatcl_jax.report.page import write
from anatcl_jax.report.training import training_curves

__all__ = ['training_curves', 'write']
