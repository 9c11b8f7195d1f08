"""The report of an evaluation: one HTML page and its pictures."""

from anatcl_jax.report.page import write

__all__ = ['write']
