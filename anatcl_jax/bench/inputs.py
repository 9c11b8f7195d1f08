"""Volumes a second that the input pipeline delivers, beside the reference's way of loading."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import pathlib
import tempfile
import time

import jax
import ml_collections
import nibabel
import numpy as np

from anatcl_jax.bench import prepare as bench_prepare
from anatcl_jax.bench import steps
from anatcl_jax.bench.command import Figures
from anatcl_jax.cohorts import bids
from anatcl_jax.config import crop_sizes
from anatcl_jax.data import pipeline, shards
from anatcl_jax.data.make_shards import make_shards
from anatcl_jax.devices import parallel
from anatcl_jax.training import train

SCANS = 96
MASKED = 0.25   # of OpenBHB's grid lies in the template's mask: 519,945 of 2,122,945 voxels


def run(config: ml_collections.ConfigDict, dtype: str, spacing: float, rounds: int
        ) -> Figures:
  """Volumes a second: the pipeline on SYNTHETIC maps stored as `dtype`, and the reference.

  The reference is the predecessor's way: a row of a memory-mapped float32 matrix of masked voxels,
  nilearn.masking.unmask, transposed and reshaped, in one thread; NaN without nilearn.
  """
  ours, reference = [], []
  with tempfile.TemporaryDirectory(prefix='anatcl-bench-') as name:
    data = _synthetic(pathlib.Path(name), dtype, spacing)
    rng = np.random.default_rng(0)
    mask = rng.random(data.volume_shape(None)) < MASKED
    matrix = pathlib.Path(name) / 'matrix.npy'
    np.save(matrix, rng.random((SCANS, int(mask.sum())), np.float32))
    for _ in range(rounds):
      ours.append(bench_prepare.read_rate(data, crop_sizes(config.crop), 16, 3 * SCANS // 16,
                                          config.reader_threads))
      reference.append(reference_rate(matrix, mask))
  ratios = np.array(ours) / reference
  return {'pipeline_per_s': float(np.median(ours)), 'reference_per_s': float(np.median(reference)),
          'ratio': float(np.median(ratios)), 'ratio_min': float(ratios.min()),
          'ratio_max': float(ratios.max())}


def reference_rate(path: pathlib.Path, mask: np.ndarray) -> float:
  """Volumes a second of the reference's way of loading."""
  if importlib.util.find_spec('nilearn') is None:
    return np.nan
  image = nibabel.Nifti1Image(mask.astype(np.int32), np.eye(4))
  matrix = np.load(path, mmap_mode='r')
  as_the_reference(matrix[0], image)      # imports nilearn
  start = time.perf_counter()
  for row in matrix:
    as_the_reference(row, image)
  return len(matrix) / (time.perf_counter() - start)


def as_the_reference(row: np.ndarray, mask: nibabel.Nifti1Image) -> np.ndarray:
  """Masked voxels [M] as a volume [1, X, Y, Z], its axes permuted as the predecessor does it."""
  from nilearn.masking import unmask  # optional extra `bench`
  volume = unmask(row, mask).get_fdata().transpose(2, 0, 1)
  return volume.reshape(1, *mask.shape)


def end_to_end(config: ml_collections.ConfigDict, spacing: float, rounds: int) -> Figures:
  """Subjects a second from SYNTHETIC shards to updated parameters, once it runs."""
  mesh = parallel.make_mesh(config.batch_size)
  program = train.compile_program(config, mesh, steps_per_epoch=1)
  with tempfile.TemporaryDirectory(prefix='anatcl-bench-') as name:
    data = _synthetic(pathlib.Path(name), 'float16', spacing)
    attributes = steps.random_batch(config, (1, 1, 1), SCANS)['attributes']
    reader = pipeline.Reader(data, attributes, crop_sizes(config.crop))
    batches = pipeline.train_batches(reader, np.arange(SCANS), config.batch_size, 0,
                                     range(rounds + 1), config.reader_threads)
    state = parallel.replicate(
        program.init(jax.random.key(0), data.volume_shape(reader.crop)), mesh)
    start = None
    for batch in batches:
      state, metrics = program.train_step(state, parallel.shard_rows(batch, mesh))
      jax.block_until_ready(metrics)
      start = start or time.perf_counter()   # the first step compiles
    seconds = time.perf_counter() - start
  return {'subjects_per_s': rounds * config.batch_size / seconds, 'steps': rounds}


def _synthetic(directory: pathlib.Path, dtype: str, spacing: float) -> shards.ShardSet:
  volumes, participants = bench_prepare.linked_cohort(directory, SCANS, spacing)
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    make_shards(bids.read_cohort(volumes, participants, []), directory / 'shards', dtype=dtype)
  return shards.open_shards(directory / 'shards')
