"""Speed on the machine at hand: of a config, or of a part by its name.

  python -m anatcl_jax.bench --config=configs/pretrain.py    encoder, step, loss, input pipeline
  python -m anatcl_jax.bench accelerator --config=configs/pretrain.py
  python -m anatcl_jax.bench loop --config=configs/pretrain.py:demo
  python -m anatcl_jax.bench loss
  python -m anatcl_jax.bench operations --config=configs/pretrain.py
  python -m anatcl_jax.bench prepare
  python -m anatcl_jax.bench t1 --volumes GLOB --labels TEXT
"""

from __future__ import annotations

from anatcl_jax import command_line
from anatcl_jax.bench import training

COMMANDS = {
    'accelerator': ('anatcl_jax.bench.accelerator', 'encoder, step and loop on a GPU or TPU'),
    'loop': ('anatcl_jax.bench.loop', 'what the host adds to a step of a config'),
    'loss': ('anatcl_jax.bench.loss', 'time and memory of the losses up to 8,192 subjects'),
    't1': ('anatcl_jax.bench.t1', 'what prepare t1 reaches, beside a reference, and its cost'),
    'operations': ('anatcl_jax.bench.operations', 'convolutions and the rest, beside PyTorch'),
    'prepare': ('anatcl_jax.bench.prepare', 'volumes a second of prepare, and of reading shards'),
}


def main(arguments: list[str] | None = None, prog: str = 'python -m anatcl_jax.bench') -> None:
  """Measures what the first argument names, else the config."""
  command_line.run(COMMANDS, arguments, prog, __doc__, otherwise=training.main)


if __name__ == '__main__':
  main()
