"""Volumes a minute from compressed files to features, beside the released module's way."""

from __future__ import annotations

import glob
import pathlib
import tempfile

import ml_collections
import nibabel
import numpy as np

from anatcl_jax.bench import prepare as bench_prepare
from anatcl_jax.bench import timing, versus_torch
from anatcl_jax.bench.command import Figures
from anatcl_jax.frozen import image_encoder

SCANS = 16
_BATCH, _WORKERS = 8, 8      # of the README's DataLoader


class Files:
  """Images as a data set of PyTorch, as the README of the released module has them."""

  def __init__(self, paths: list[str]):
    self.paths = paths

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int):
    import torch
    volume = nibabel.load(self.paths[index]).get_fdata(dtype=np.float32)
    return torch.from_numpy(volume[None].copy()).float()    # Normalize(0, 1) of it is itself


def run(config: ml_collections.ConfigDict, spacing: float, rounds: int) -> Figures:
  """SYNTHETIC .nii.gz maps encoded with random weights by either, in turn, with all cores.

  PyTorch's worker processes stay between the rounds; neither start nor compilation counts.
  """
  torch, model = versus_torch.released(config)
  model = model.encoder.eval()
  encoder = image_encoder.load(f'untrained:{config.encoder}')
  with tempfile.TemporaryDirectory(prefix='anatcl-bench-') as name:
    pattern, _ = bench_prepare.linked_cohort(pathlib.Path(name), SCANS, spacing)
    paths = sorted(glob.glob(pattern))
    loader = torch.utils.data.DataLoader(Files(paths), batch_size=_BATCH, num_workers=_WORKERS,
                                         persistent_workers=True, multiprocessing_context='spawn')

    def theirs():
      with torch.no_grad():
        for volumes in loader:
          model(volumes)

    seconds = timing.interleaved({'torch': theirs, 'ours': lambda: encoder(paths)}, rounds)
  ratios = timing.ratio(seconds['ours'], seconds['torch'])
  return {'batch': _BATCH, 'rounds': rounds, 'engine': encoder.engine,
          'ours_per_minute': 60 * SCANS / timing.summary(seconds['ours']),
          'torch_per_minute': 60 * SCANS / timing.summary(seconds['torch']),
          **{f'{name}_s': timing.summary(values) for name, values in seconds.items()},
          **{f'ratio_{name}': value for name, value in ratios.items()}}
