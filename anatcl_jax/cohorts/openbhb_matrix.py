"""Reads OpenBHB's challenge matrices, a row a scan: memory-mapped, never read as a whole."""

from __future__ import annotations

import pathlib

import numpy as np
import pandas

from anatcl_jax.cohorts import cohort as cohorts
from anatcl_jax.cohorts import participants as participants_table
from anatcl_jax.cohorts.cohort import Cohort, Scan
from anatcl_jax.cohorts.openbhb_arrays import (
  MODALITIES,
  Affine,
  MatrixRow,
  from_roi_arrays,
  open_array,
  read_mask,
)
from anatcl_jax.errors import UserError

_MATRICES = ('train', 'test', 'internal_test', 'external_test')
# Blocks of columns in their order; later versions of the challenge's kit leave xhemi out.
_BLOCKS = {'vbm': 519_945, 'quasiraw': 1_827_095, 'xhemi': 1_310_736, 'vbm_roi': 284,
           'desikan': 476, 'destrieux': 1_036}


def find_matrices(root: pathlib.Path) -> list[pathlib.Path]:
  """The challenge's .npy files in a folder or in its data/."""
  return [path for folder in (root, root / 'data') for name in _MATRICES
          if (path := folder / f'{name}.npy').is_file()]


def read_cohort(root: pathlib.Path, mask: pathlib.Path | None, affine: Affine, atlas: str,
                modality: str, sources: dict[str, str]) -> Cohort:
  """A cohort of the rows of the matrices under `root`, labelled by the .tsv beside each.

  Rows of tables without identifiers are called after their file: sub-train00000. The column `split`
  is the table's, or else the file's name.

  Raises:
    UserError: no matrix, one of another width or without labels, or a mask that does not fit it.
  """
  kind = MODALITIES[modality]
  if mask is None:
    raise UserError(f'{root}: the matrix holds voxels without their places; give the template that '
                    f'masked them with --mask .../{kind.template}')
  voxels = np.count_nonzero(read_mask(mask, kind.threshold))
  if voxels != _BLOCKS[modality]:
    raise UserError(f'{mask}: has {voxels} voxels above {kind.threshold:g}, where the matrix has '
                    f'{_BLOCKS[modality]} columns of {modality}; give {kind.template}')
  paths = find_matrices(root)
  if not paths:
    raise UserError(f'{root}: holds none of {", ".join(f"{name}.npy" for name in _MATRICES)}, '
                    'nor does its data/; is it another --layout?')
  scans, parts, arrays = [], [], {}
  for path in paths:
    matrix, table, first = _open(path)
    columns = _columns(path, matrix)
    own = [Scan(row.participant_id, row.session,
                MatrixRow(path, first + i, columns[modality], mask, kind.threshold, affine))
           for i, row in enumerate(table.itertuples())]
    arrays |= {scan.key: row for scan, row in
               zip(own, np.array(matrix[first:, slice(*columns[atlas])]))}
    scans += own
    parts.append(table)
  labels = [path.with_suffix('.tsv') for path in paths]
  table = participants_table.concatenated(parts, labels)
  measured = from_roi_arrays(arrays, atlas, ' and '.join(map(str, paths)), {})
  return cohorts.join(tuple(scans), table, ' and '.join(map(str, labels)), measured, atlas, sources,
                      cohorts.says_synthetic(root))


def _open(path: pathlib.Path) -> tuple[np.ndarray, pandas.DataFrame, int]:
  """A matrix, its labels, and the row of the first scan."""
  matrix = open_array(path)
  if matrix.ndim != 2:
    raise UserError(f'{path}: has shape {matrix.shape}, where a row a scan is expected')
  labels = path.with_suffix('.tsv')
  table = participants_table.read_participants(labels, unnamed=path.stem)
  if 'split' not in table:
    table['split'] = path.stem
  # Some releases begin with a row that holds the number of internal scans and then NaN.
  first = int(len(matrix) > 0 and np.isnan(matrix[0, 1:1000]).all())
  if len(matrix) - first != len(table):
    raise UserError(f'{labels}: has {len(table)} rows, where {path.name} has '
                    f'{len(matrix) - first} scans; they must match row by row')
  return matrix, table, first


def _columns(path: pathlib.Path, matrix: np.ndarray) -> dict[str, tuple[int, int]]:
  """First and last + 1 column of every block."""
  for blocks in (_BLOCKS, {name: size for name, size in _BLOCKS.items() if name != 'xhemi'}):
    if matrix.shape[1] == sum(blocks.values()):
      ends = np.cumsum(list(blocks.values())).tolist()
      return {name: (end - size, end) for (name, size), end in zip(blocks.items(), ends)}
  raise UserError(f'{path}: has {matrix.shape[1]} columns, where the challenge\'s matrix has '
                  f'{sum(_BLOCKS.values())}; copy it again')
