"""What dataset.json may hold: the types and ranges that readers of a shard set rely on."""

from __future__ import annotations

import math
from typing import Any

DTYPES = ('float32', 'float16', 'uint8')


def problem(info: dict[str, Any]) -> str:
  """What is wrong with the content of a dataset.json of a known schema, '' where nothing is."""
  if lacking := {'grid', 'dtype', 'atlas', 'regions', 'measures', 'shards'} - set(info):
    return f'lacks {", ".join(sorted(lacking))}'
  grid = info['grid']
  if not (isinstance(grid, dict) and _are(grid.get('shape'), _is_count, 3)
          and all(grid['shape']) and _are(grid.get('affine'), _is_row, 4)):
    return 'describes no grid of three sizes and a 4x4 affine'
  if info['dtype'] not in DTYPES:
    return f'has no dtype of {", ".join(DTYPES)}'
  if not (isinstance(info['atlas'], str) and _are(info['regions'], _is_text)
          and _are(info['measures'], _is_measure)):
    return 'does not name its atlas, regions and measures'
  if not (isinstance(info.get('synthetic'), bool)
          and isinstance(info.get('sources', {}), dict)):
    return 'does not say what it was made of'
  maps = info.get('maps') or {}
  if not (isinstance(maps, dict) and _are(list(maps.values()), _is_text)
          and _is_text(info.get('measured_by', '')) and _are(info.get('notes', []), _is_text)):
    return 'does not say what kind of maps and morphometry it holds'
  if not _are(info['shards'], _is_shard):
    return 'does not describe its shards'
  for shard in info['shards']:
    if not _is_plain_name(shard['file']):
      return f'names a shard outside of its folder, {shard["file"]!r}'
  if info['schema_version'] > 1 and not (isinstance(info.get('scans'), str)
                                         and isinstance(info.get('labels'), dict)):
    return 'does not describe its labels'
  return ''


def _are(values: Any, kind, count: int | None = None) -> bool:
  return (isinstance(values, list) and (count is None or len(values) == count)
          and all(map(kind, values)))


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _is_count(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _is_number(value: Any) -> bool:
  return (isinstance(value, (int, float)) and not isinstance(value, bool)
          and abs(value) < 1e300 and math.isfinite(value))


def _is_row(value: Any) -> bool:
  return _are(value, _is_number, 4)


def _is_measure(value: Any) -> bool:
  return (isinstance(value, dict) and _is_text(value.get('name'))
          and _is_text(value.get('unit')))


def _is_shard(value: Any) -> bool:
  return (isinstance(value, dict) and _is_text(value.get('file')) and _is_text(value.get('sha256'))
          and _is_count(value.get('records')) and _is_count(value.get('bytes'))
          and all(_is_number(value.get(name, 0)) for name in ('lowest', 'highest', 'largest_error'))
          and _are(value.get('level_and_spread', []), lambda pair: _are(pair, _is_number, 2)))


def _is_plain_name(name: str) -> bool:
  """A name in the set's own folder: no path, nothing that a library reads as more than a name."""
  return bool(name) and name not in ('.', '..') and not set(name) & set('/\\\0[]:') and (
      name.isprintable())
