"""What a shard set holds: figures for the terminal, and a picture in which a bad scan shows."""

from __future__ import annotations

import pathlib

import numpy as np
import pandas

from anatcl_jax import figures, paths
from anatcl_jax.cohorts import tables
from anatcl_jax.data import intensity
from anatcl_jax.data.shards import ShardSet, open_shards
from anatcl_jax.errors import RunFailure, UserError, listed
from anatcl_jax.progress import progress_bar

# A scan whose distance to the mean scan, 1 - correlation, is so many times the median is unusual.
_UNUSUAL = 4.0
# Asymmetries tell left from right where scans share them; mirrored ones have the opposite sign.
_SHARED_ASYMMETRY, _MIRRORED = 0.2, -0.1


def inspect(data_dir: pathlib.Path, sheet: pathlib.Path, most: int) -> None:
  """Prints what is in a shard set and draws its contact sheet of at most `most` scans.

  Raises:
    UserError: no shard set there, or the picture can't be written.
    RunFailure: a file does not have the checksum that it was written with.
  """
  if most < 1:
    raise UserError(f'--scans {most} must be at least 1')
  data = open_shards(data_dir)
  _check_files(data)
  print('\n'.join([*_describe_labels(data), *_describe_volumes(data)]))
  try:
    contact_sheet(data, sheet, most)
  except OSError as error:
    raise UserError(f'{sheet}: can\'t be written ({error.strerror}); choose another --sheet'
                    ) from None
  print(f'contact sheet: {sheet}')


def _check_files(data: ShardSet) -> None:
  with progress_bar(len(data.info['shards']), 'checksums', 'shards') as bar:
    for shard in data.info['shards']:
      if paths.sha256(data.directory / shard['file']) != shard['sha256']:
        raise RunFailure(f'{data.directory / shard["file"]} is damaged: it has not the checksum '
                         'that it was written with; prepare the set again')
      bar.update()


def _describe_labels(data: ShardSet) -> list[str]:
  table = data.table.replace(list(tables.MISSING), np.nan)
  ages = table['age'].astype(float)
  lines = [f'{data.directory}: {"SYNTHETIC, " if data.synthetic else ""}{len(data)} scans of '
           f'{table["participant_id"].nunique()} participants, '
           f'{table["session"].nunique() or 1} session names, checksums right',
           f'maps: {data.maps or "of a kind that is not known"}'
           + (f'; morphometry by {data.measured_by}' if data.measured_by else '')]
  for column in ('site', 'sex'):
    if column in table:
      lines += [f'  {column} {name}: {len(group)} scans, ages {_spread(group)}'
                for name, group in ages.groupby(table[column].fillna('n/a'))]
  lines.append(f'  all: ages {_spread(ages)}')
  lacking = {column: int(missing) for column, missing in table.drop(columns='session').isna()
             .sum().items() if missing}
  for j, measure in enumerate(data.measures):
    if missing := int(np.isnan(data.morphometry[:, :, j]).any(1).sum()):
      lacking[measure] = missing
  lines.append('missing: ' + (', '.join(f'{name} {count}' for name, count in lacking.items())
                              or 'nothing'))
  for j, measure in enumerate(data.info['measures']):
    values = data.morphometry[:, :, j]
    lines.append(f'{measure["name"]}: {np.nanmin(values):.4g} to {np.nanmax(values):.4g} '
                 f'{measure["unit"]}, median {np.nanmedian(values):.4g}')
  return lines


def _spread(ages: pandas.Series) -> str:
  known = ages.dropna()
  if known.empty:
    return 'unknown'
  return f'{known.min():.4g} to {known.max():.4g}, mean {known.mean():.1f}'


def _describe_volumes(data: ShardSet) -> list[str]:
  info = data.info['shards']
  lines = [f'volumes: {data.grid}, RAS, {data.info["dtype"]}, values '
           f'{min(s["lowest"] for s in info):.4g} to {max(s["highest"] for s in info):.4g}, '
           f'{sum(s["bytes"] for s in info) / 1e6:.1f} MB in {len(info)} shards']
  labels = [data.label(record) for record in range(len(data))]
  lines += [f'WARNING: {line}' for line in intensity.warnings(labels, intensity.of_set(data))]
  alike, asymmetry = resemblance(data)
  if len(data) >= 5:
    mirrored = (asymmetry < _MIRRORED) & (np.median(asymmetry) > _SHARED_ASYMMETRY)
    unlike = (1 - alike > _UNUSUAL * np.median(1 - alike)) & ~mirrored
    for which, figures, what in (
        (mirrored, asymmetry, 'look mirrored, left for right (correlation of their asymmetry)'),
        (unlike, alike, 'look unlike the others, shifted or of another kind (correlation)')):
      if which.any():
        names = [f'{data.label(i)} ({figures[i]:.2f})' for i in np.flatnonzero(which)]
        lines.append(f'WARNING: {which.sum()} scans {what}: {listed(names, 10)}')
  return lines


def resemblance(data: ShardSet) -> tuple[np.ndarray, np.ndarray]:
  """Correlation of every scan, and of its left-right asymmetry, with the mean of the others.

  Returns [records], [records]; memory does not grow with the number of records.
  """
  with progress_bar(2 * len(data), 'volumes', 'volumes') as bar:
    total = 0.0
    for record in range(len(data)):
      total = total + _values(data, record)
      bar.update()
    correlations = np.zeros((2, len(data)))
    for record in range(len(data)):
      values = _values(data, record)
      others = total - values
      correlations[:, record] = (_correlation(values, others),
                                 _correlation(values - values[::-1], others - others[::-1]))
      bar.update()
  return correlations[0], correlations[1]


def radiological_slices(volume: np.ndarray) -> list[np.ndarray]:
  """Middle sagittal (anterior left), coronal and axial (patient's right on the left) slices.

  `volume` is [X, Y, Z] in RAS order; rows of a slice go downwards.
  """
  x, y, z = (n // 2 for n in volume.shape)
  # A little beside the midline, where there is brain in a sagittal slice.
  beside = volume[x - max(1, volume.shape[0] // 8)]
  return [beside[::-1, ::-1].T, volume[::-1, y, ::-1].T, volume[::-1, ::-1, z].T]


def contact_sheet(data: ShardSet, path: pathlib.Path, most: int) -> None:
  """Draws the middle slices of evenly chosen scans, left and right marked, as a PNG."""
  chosen = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int))
  columns = min(4, len(chosen))
  rows = -(-len(chosen) // columns)
  brightest = max(shard['highest'] for shard in data.info['shards'])
  figure = figures.Figure((4.2 * columns, 1.75 * rows + 0.7), layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis in axes:
    axis.axis('off')
  for axis, record in zip(axes, chosen):
    slices = radiological_slices(_values(data, record))
    height = max(s.shape[0] for s in slices)
    padded = [np.pad(s, ((0, height - s.shape[0]), (1, 1))) for s in slices]
    axis.imshow(np.concatenate(padded, 1), cmap='gray', vmin=0, vmax=0.7 * brightest)
    left = 0
    for image, marks in zip(padded, ('AP', 'RL', 'RL')):
      for mark, at, side in ((marks[0], left + 1, 'left'), (marks[1], left + image.shape[1] - 2,
                                                            'right')):
        axis.text(at, 1, mark, color='#E69F00', fontsize=8, va='top', ha=side)
      left += image.shape[1]
    age = data.table['age'][record]
    axis.set_title(data.label(record) + (f', {age:.4g} y' if np.isfinite(age) else ''), fontsize=8)
  figure.suptitle(f'{data.directory.name}: {len(chosen)} of {len(data)} scans'
                  f'{" (SYNTHETIC)" if data.synthetic else ""}; sagittal beside the midline, '
                  'coronal, axial; L, R of the patient', fontsize=9)
  figures.save(figure, path, dpi=110)


def _values(data: ShardSet, record: int) -> np.ndarray:
  stored, scale = data.read_volume(record)
  return stored.astype(np.float32) * np.float32(scale)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  a, b = a - a.mean(), b - b.mean()
  norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
  return float((a * b).sum() / norm) if norm else 0.0
