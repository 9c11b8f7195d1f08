"""Anatomical foundation models for brain MRI (AnatCL) in JAX, data to evaluation."""

__version__ = '0.1.0'
