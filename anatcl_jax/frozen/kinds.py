"""What kind of maps an encoder is given, and what there is to be said of that."""

from __future__ import annotations

from anatcl_jax.cohorts import origins
from anatcl_jax.cohorts.origins import Origin
from anatcl_jax.cohorts.volumes import Grid, read_grid
from anatcl_jax.errors import UserError
from anatcl_jax.frozen import extract
from anatcl_jax.frozen.image_encoder import Encoder
from anatcl_jax.frozen.rows import File, Input, Record


def of_inputs(inputs: list[Input], encoders: list[Encoder]) -> tuple[Origin | None, list[str]]:
  """The one kind of all maps, None where no name tells it, and sentences that its user must know.

  Raises:
    UserError: files of several kinds.
  """
  notes: dict[str, None] = {}       # each once, in their order
  if isinstance(inputs[0], Record):
    data = inputs[0].data
    notes |= dict.fromkeys(data.info.get('notes', []))
    for encoder in encoders:
      notes |= dict.fromkeys(extract.warnings(encoder.weights, data))
    return data.maps, list(notes)
  grids = [_grid(one) for one in inputs]
  maps = origins.one_kind((one.volume, grid) for one, grid in zip(inputs, grids))
  notes |= dict.fromkeys(origins.warnings(maps))
  for encoder in encoders:
    boxes = {origins.box_note(maps, grid, encoder.grid)
             for grid in set(grids) - {None}} if encoder.grid else set()
    trained = Origin.of_record(encoder.weights.card.get('maps'))
    notes |= dict.fromkeys([*sorted(boxes - {None}),
                            *filter(None, [origins.difference(trained, maps)])])
  return maps, list(notes)


def _grid(one: File) -> Grid | None:
  try:
    return read_grid(one.volume)
  except UserError:       # named when it is read
    return None
