"""The report of an evaluation: one HTML page and its pictures."""

from anatcl_jax.report.page import pictures, write

__all__ = ['pictures', 'write']
