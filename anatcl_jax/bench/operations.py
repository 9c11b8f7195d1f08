"""Time by operation on a CPU: this project's, beside PyTorch's and OpenVINO's, at batch 1.

  python -m anatcl_jax.bench operations --config=configs/pretrain.py

For each shape of a convolution of config.encoder on volumes of config.crop (121,145,121 where that
is none), and of what follows one (BatchNorm, ReLU, and the stem's max-pool): the least milliseconds
of some rounds in turn, of one call; in float32 with all cores. `train` is forward and gradients.
OpenVINO's are its own figures within the whole network, bias, ReLU and shortcut included. The last
columns are one product of the patches' shape, copies not counted, in GFLOP/s: what a convolution
could reach. PyTorch and OpenVINO are extras (pip install -e '.[torch,openvino]'); where one is
absent its columns are empty.
"""

from __future__ import annotations

from anatcl_jax import command_line, errors


def main(arguments: list[str], prog: str) -> None:
  """Prints the table."""
  with errors.reported():
    parser = command_line.ConfigParser(prog=prog, description=__doc__, config='pretrain')
    parser.add_argument('--rounds', type=command_line.at_least(1), default=5, metavar='N',
                        help='how often each is timed (default: %(default)s)')
    options, config = parser.parse(arguments)
    from anatcl_jax.bench import operation_times  # here, since --help need not wait for JAX
    operation_times.show(config, options.rounds)
