"""Speed on the machine at hand: `python -m anatcl_jax.bench`."""
