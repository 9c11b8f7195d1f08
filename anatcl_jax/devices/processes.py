"""The processes of one run, over jax.distributed: they begin and end together."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from anatcl_jax.devices import signals
from anatcl_jax.errors import RunFailure, Stopped, UserError

_CONNECT_SECONDS = 300
_SAY_AFTER_SECONDS = 5
# What JAX's transports say of a process that is gone (gloo, NCCL, the coordination service).
_LOST = re.compile(r'gloo|nccl|peer|socket|heartbeat|coordination|unavailable|deadline', re.I)
_LOST_ONE = ('lost another process of the run, whose own last line may say why; the same command '
             'goes on from the last checkpoint')


def start(coordinator_address: str | None = None, num_processes: int | None = None,
          process_id: int | None = None, *, detect: bool = False,
          heartbeat_timeout: int = 30) -> None:
  """Joins the other processes of the run, before JAX is used; alone, it does nothing.

  What is None is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, then by
  JAX from SLURM, Open MPI or a TPU's metadata.

  Args:
    coordinator_address: host:port of process 0.
    detect: look for a cluster even where the environment names none, as on a Cloud TPU VM.
    heartbeat_timeout: seconds after which a silent process counts as dead.

  Raises:
    UserError: only some of the three are known, or SLURM's tasks were not started by srun.
    RunFailure: the others can't be reached.
  """
  environment = os.environ.get
  address = coordinator_address or environment('JAX_COORDINATOR_ADDRESS')
  count = num_processes if num_processes is not None else environment('JAX_NUM_PROCESSES')
  own = process_id if process_id is not None else environment('JAX_PROCESS_ID')
  given = [value is not None for value in (address, count, own)]
  if not (any(given) or detect or _on_a_cluster()):
    return
  if any(given) and not all(given) and not (detect or _on_a_cluster()):
    raise UserError('coordinator_address, num_processes and process_id belong together: give all '
                    'three, or none on SLURM, Open MPI or TPU')
  try:
    count, own = (None if value is None else int(value) for value in (count, own))
  except ValueError:
    raise UserError(f'JAX_NUM_PROCESSES {count!r} and JAX_PROCESS_ID {own!r} must be whole numbers'
                    ) from None
  if not all(given):
    _check_srun()
  try:
    with signals.ending_at_once(), _saying_that_it_waits(address, count):
      jax.distributed.initialize(
          address, count, own, cluster_detection_method='deactivate' if all(given) else None,
          initialization_timeout=_CONNECT_SECONDS, heartbeat_timeout_seconds=heartbeat_timeout)
  except Exception as error:  # ValueError of JAX, or what gRPC made of the network
    raise RunFailure(f'can\'t join the other processes (coordinator {address or "unknown"}, '
                     f'process {own} of {count}: {_first_line(error)}); see --help for '
                     '--coordinator_address, --num_processes and --process_id') from None
  if jax.process_count() > 1:
    # Python's own handlers wait for the interpreter's main thread, which abort() does not.
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Around a whole run: ends this process when it, or another of the run, has failed.

  Raises:
    Stopped: another process is gone; exit code 75, since the same command goes on.
  """
  try:
    yield
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('finished')   # process 0 may still be drawing
  except (jax.errors.JaxRuntimeError, ValueError) as error:   # JAX makes either of gloo's
    if jax.process_count() == 1 or not _LOST.search(str(error)):
      raise
    raise Stopped(f'{_LOST_ONE} ({_first_line(error)})') from None


@contextlib.contextmanager
def leaving() -> Iterator[None]:
  """Around the whole command: a process that fails leaves at once.

  Python's own way out would wait minutes for other processes, and they for it, and would print
  tracebacks of TensorStore's writes that are still under way on a full disk.
  """
  try:
    yield
  except SystemExit as leave:
    if leave.code:
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(leave.code if isinstance(leave.code, int) else 1)
    raise


def is_first() -> bool:
  """Whether this process is the one that writes and prints."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Returns when every process has called it."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def on_any(*flags: bool) -> tuple[bool, ...]:
  """Each flag, True on every process if it is on any; all processes call it after the same step."""
  if jax.process_count() == 1:
    return flags
  return tuple(multihost_utils.process_allgather(np.array(flags)).any(axis=0).tolist())


def on_any_soon(flags: Callable[[], tuple[bool, ...]]) -> Callable[[], tuple[bool, ...]]:
  """As `on_any`, without waiting: asks all processes, and gives what reads their answer.

  Several processes take their flags now, and call it after the same work for the devices; a single
  one takes them when the answer is read.
  """
  if jax.process_count() == 1:
    return flags
  mesh = _all_devices()
  rows = np.tile(np.array(flags(), np.int32), (jax.local_device_count(), 1))
  rows = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec('all')), rows)
  most = _most(mesh)(rows)
  return lambda: tuple(bool(flag) for flag in np.asarray(most.addressable_data(0)))


@functools.cache
def _all_devices() -> jax.sharding.Mesh:
  ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
  return jax.sharding.Mesh(np.array(ordered), ('all',))


@functools.cache
def _most(mesh: jax.sharding.Mesh) -> Callable[[jax.Array], jax.Array]:
  """Of each column, on every device."""
  return jax.jit(lambda rows: rows.max(0), out_shardings=NamedSharding(mesh, PartitionSpec()))


def of_first(values: list[int]) -> list[int]:
  """The values that process 0 has; all processes call it."""
  if jax.process_count() == 1:
    return values
  count = int(multihost_utils.broadcast_one_to_all(np.int32(len(values))))
  own = np.resize(np.array(values or [0], np.int32), count)
  return multihost_utils.broadcast_one_to_all(own).tolist() if count else []


def _on_a_cluster() -> bool:
  """Whether the environment is that of one process among several."""
  environment = os.environ.get
  return ('SLURM_PROCID' in os.environ and int(environment('SLURM_NTASKS', 1)) > 1
          or int(environment('OMPI_COMM_WORLD_SIZE', 1)) > 1
          or ',' in environment('TPU_WORKER_HOSTNAMES', ''))


def _check_srun() -> None:
  """Stops where the variables are those of a SLURM job of several tasks, and this is none of them.

  The script of a job and a shell in it have SLURM_NTASKS; a step that srun started says how many
  tasks it has itself.
  """
  tasks = os.environ.get('SLURM_NTASKS', '1')
  if 'SLURM_PROCID' in os.environ and tasks != '1' and tasks != os.environ.get(
      'SLURM_STEP_NUM_TASKS', tasks if 'SLURM_STEP_NODELIST' in os.environ else '1'):
    raise UserError(f'this SLURM job has {tasks} tasks, and srun did not start this process as one '
                    'of them: put srun before the command, as launch/slurm.sbatch does, or ask for '
                    'one task (--ntasks=1)')


@contextlib.contextmanager
def _saying_that_it_waits(address: str | None, count: int | None) -> Iterator[None]:
  """A line on stderr where the others do not come soon."""
  what = (f'waiting for the other processes{f" of {count}" if count else ""}'
          f'{f" at {address}" if address else ""}, at most {_CONNECT_SECONDS} s: each runs the '
          'same command; on SLURM, srun starts them all\n')
  timer = threading.Timer(_SAY_AFTER_SECONDS, lambda: os.write(2, what.encode()))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
  """When heartbeats cease, JAX's C++ runtime aborts the process: says so, and exits with 75."""
  del number
  os.write(2, f'stopped: {_LOST_ONE}\n'.encode())
  os._exit(Stopped.exit_code)


def _first_line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
