"""SYNTHETIC shards of any size, in little time: many subjects, and few volumes among them."""

from __future__ import annotations

import contextlib
import io
import pathlib
import tempfile

import nibabel
import numpy as np
import pandas

from anatcl_jax.cohorts.atlas import regions
from anatcl_jax.cohorts.cohort import Cohort, Scan
from anatcl_jax.cohorts.morphometry import MEASURES
from anatcl_jax.cohorts.volumes import NiftiFile
from anatcl_jax.data import shards
from anatcl_jax.data.make_shards import make_shards

_DISTINCT = 8     # volumes
_BLOB = 8         # voxels
_HEAD = 200       # mm, its longest side
_EMPTY = 0.6      # share of the voxels, which are 0 as outside of the brain


def make(out: pathlib.Path, scans: int, shape: tuple[int, ...], dtype: str = 'uint8'
         ) -> shards.ShardSet:
  """Shards of `scans` subjects with drawn ages and morphometry, which mean nothing.

  Volumes are blobs with noise, of the size and about as compressible as gray-matter maps.
  """
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory(prefix='anatcl-bench-') as name, contextlib.ExitStack() as quiet:
    for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
      quiet.enter_context(redirect(io.StringIO()))
    files = [_volume(pathlib.Path(name) / f'{i}.nii', shape, rng) for i in range(_DISTINCT)]
    found = tuple(Scan(f'sub-{i:05d}', '', NiftiFile(files[i % len(files)])) for i in range(scans))
    table = pandas.DataFrame({'participant_id': [scan.participant_id for scan in found],
                              'session': '', 'age': rng.uniform(6, 90, scans).round(1)})
    morphometry = rng.uniform(1, 5, (scans, len(regions('desikan')), len(MEASURES)))
    cohort = Cohort(found, table, morphometry.astype(np.float32), 'desikan', tuple(MEASURES),
                    {'drawn': 'bench'}, synthetic=True)
    return make_shards(cohort, out, dtype=dtype)


def _volume(path: pathlib.Path, shape: tuple[int, ...], rng: np.random.Generator) -> pathlib.Path:
  blobs = rng.random([-(-n // _BLOB) for n in shape], np.float32)
  near = np.ix_(*(np.arange(n) // _BLOB for n in shape))
  volume = (blobs.clip(_EMPTY) - _EMPTY)[near] / (1 - _EMPTY) * rng.normal(1, 0.05, shape)
  spacing = _HEAD / max(shape)
  nibabel.save(nibabel.Nifti1Image(volume.clip(0).astype(np.float32),
                                   np.diag([spacing, spacing, spacing, 1])), path)
  return path
