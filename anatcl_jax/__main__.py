"""Anatomical foundation models for brain MRI (AnatCL) in JAX, from a cohort to evaluation."""

from __future__ import annotations

from anatcl_jax import __version__, command_line

COMMANDS = {
    'prepare': ('anatcl_jax.prepare', 'a cohort on disk to shards, the input of training'),
    'pretrain': ('anatcl_jax.main', 'an encoder from shards, or the synthetic demo'),
    'features': ('anatcl_jax.features', 'images to a table of features, by a frozen encoder'),
    'probe': ('anatcl_jax.probe', 'what frozen features know: linear probes beside baselines'),
    'predict': ('anatcl_jax.predict', 'a saved probe, such as of brain age, applied to new people'),
    'convert': ('anatcl_jax.convert', 'weights from and to PyTorch, safetensors and Flax'),
    'bench': ('anatcl_jax.bench.__main__', 'speed of a config, the loss or prepare, here'),
    'study': ('anatcl_jax.studies.__main__', 'what kernels and objectives know, as tables'),
}


def main(arguments: list[str] | None = None) -> None:
  """Runs the command that the first argument names."""
  command_line.run(COMMANDS, arguments, command_line.program(), __doc__,
                   version=f'anatcl_jax {__version__}')


if __name__ == '__main__':
  main()
