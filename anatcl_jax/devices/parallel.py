"""Devices as one named axis, and a per-device function mapped over it."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from anatcl_jax.errors import UserError, check_name

AXIS = 'batch'
MAPPERS = ('jit', 'pmap')


def make_mesh(batch_size: int) -> jax.sharding.Mesh:
  """All devices of all processes along the axis `batch`, those of process 0 first.

  The rows of a batch then have the same order whatever the number of processes and devices;
  jax.make_mesh may order devices by how they are wired.

  Raises:
    UserError: the global batch does not divide over them.
  """
  devices = jax.device_count()
  if batch_size % devices:
    nearest = max(devices, round(batch_size / devices) * devices)
    raise UserError(f'batch_size {batch_size} does not divide over {devices} devices; '
                    f'try {nearest}')
  ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
  return jax.sharding.Mesh(np.array(ordered), (AXIS,),
                           axis_types=(jax.sharding.AxisType.Auto,))


def map_over_devices(function: Callable[..., Any], mesh: jax.sharding.Mesh, mapper: str = 'jit',
                     donate_state: bool = False, resident: bool = False,
                     compiler_options: dict[str, Any] | None = None) -> Callable[..., Any]:
  """Compiles a per-device function(state, batch) for a replicated state and a sharded batch.

  `function` runs on every device with its share of the batch's rows, may use collectives over
  AXIS, and returns values that are the same on every device. Where `resident`, it takes a third
  argument: arrays that stay on every device, whole. `compiler_options` are XLA's; pmap takes none.

  Raises:
    UserError: no such mapper.
  """
  check_name(mapper, MAPPERS, 'mapper')
  if mapper == 'pmap':
    mapped = jax.pmap(function, axis_name=AXIS, in_axes=(None, 0) + (None,) * resident,
                      out_axes=None, devices=list(mesh.devices.flat))
    # Of the global batch: jax.pmap takes an array that spans processes as a whole.
    def split(rows):
      return rows.reshape(mesh.size, rows.shape[0] // mesh.size, *rows.shape[1:])
    return lambda state, batch, *whole: mapped(state, jax.tree.map(split, batch), *whole)
  # check_vma=False: collectives differentiate as they do under pmap, so that one way of averaging
  # gradients (step.py) serves both mappers.
  in_specs = (PartitionSpec(), PartitionSpec(AXIS)) + (PartitionSpec(),) * resident
  mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec(),
                         check_vma=False)
  return jax.jit(mapped, donate_argnums=0 if donate_state else (),
                 compiler_options=compiler_options or None)


def replicate(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """The same values on every device; every process has them all."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_rows(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """This process's rows of the global batch, arrays of any tree, spread over its devices."""
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def sent_ahead(batches: Iterator[Any], mesh: jax.sharding.Mesh, depth: int = 2) -> Iterator[Any]:
  """Batches as `shard_rows` makes them; a thread reads and sends `depth` of them ahead.

  Close it where it is left before its end: its thread ends with the batch that it is at.
  """

  def send() -> Any:
    batch = next(batches, None)
    return None if batch is None else shard_rows(batch, mesh)

  pool = concurrent.futures.ThreadPoolExecutor(1, 'sent-ahead')
  try:
    sent = collections.deque(pool.submit(send) for _ in range(depth))
    while (batch := sent.popleft().result()) is not None:
      sent.append(pool.submit(send))
      yield batch
  finally:
    pool.shutdown(cancel_futures=True)
