"""Pretraining an AnatCL encoder; without arguments, the published recipe (arXiv 2408.07079).

Arguments follow a colon, joined by commas:

    configs/pretrain.py:demo                            small, synthetic, minutes on a laptop
    configs/pretrain.py:variant=local,encoder=resnet50

    demo                    the digital cohort (SYNTHETIC subjects) and a tiny encoder
    variant=global|local    which anatomical descriptor; or a sharper one, rbf or whitened
    measures=...            joined by +, or all; default thickness+volume+area
    atlas=desikan|destrieux cortical atlas of the shards
    also=sex+site           more terms of the loss, by columns of participants.tsv; equal values
                            attract, or set their kernel, as --config.loss.terms.bmi.kernel=rbf
    encoder=...             resnet18 (default), resnet34, resnet50, resnet101, densenet121,
                            alexnet, or tiny (for tests and CPU)
"""

import pathlib

from ml_collections import ConfigDict

from anatcl_jax.config import parse_arguments
from anatcl_jax.errors import UserError


def get_config(arguments=None):
  chosen = parse_arguments(arguments, demo=False, variant='global',
                           measures='thickness+volume+area', atlas='desikan', encoder='resnet18',
                           also='')
  config = ConfigDict()

  # Data
  config.data_dir = 'data/openbhb'     # shards, made by `python -m anatcl_jax.prepare`
  config.crop = '121,128,121'          # most voxels along each axis, cut about the centre; or none
  config.measures = chosen.measures
  config.atlas = chosen.atlas
  config.num_folds = 5                 # by participant
  config.fold = 0                      # the one held out
  config.reader_threads = 4
  config.cache = 'none'                # or memory: volumes are read from disk once, if they fit
  config.data = ConfigDict()
  config.data.on_error = 'stop'        # at a damaged record; or skip: leave it out, and count it

  # Model
  config.encoder = chosen.encoder
  config.encoder_width = 0             # channels of the stem; 0: the encoder's own, 64
  config.small_input = False           # 3^3 stem without early pooling, for coarse grids
  config.head = 'mlp'                  # 512-512-128 on ResNet-18
  config.feature_dim = 128
  config.precision = 'bfloat16'        # of compute; parameters, statistics and loss are float32
  config.remat = 'none'                # or blocks: less memory, more time, the same numbers

  # Objective
  config.views = 2
  # Published: two identical views. Or a preset, crop, cutout, all (Barbano et al.) or yaware; or any
  # of crop, zoom, cutout, mean_cutout, blur, noise, translation, intensity, flip, joined by +.
  config.augment = 'none'
  config.loss = ConfigDict()
  config.loss.method = 'yaware'        # or supcon, expw, threshold
  config.loss.delta_reduction = 'sum'  # of threshold: sum or mean
  config.loss.temperature = 0.1
  config.loss.base_temperature = 0.07  # the loss is scaled by temperature / base_temperature
  config.loss.memory_budget_mb = 1024  # of a device, for the pairs of the batch; blocks beyond
  # A term attracts subjects by one attribute: a column of participants.tsv (kernels rbf, gaussian,
  # cauchy with sigma in its unit, or equality) or morphometry (local, global, rbf, whitened).
  # Which minimum and maximum the published normalisation of morphometry takes is not known.
  config.loss.terms = ConfigDict({
      'age': {'attribute': 'age', 'weight': 1.0, 'kernel': 'rbf', 'sigma': 2.0},
      'anatomy': {'attribute': 'morphometry', 'weight': 1.0, 'kernel': chosen.variant,
                  'normalization': 'minmax_region'}})
  for column in filter(None, chosen.also.split('+')):
    if column in config.loss.terms or '.' in column:
      raise UserError(f'also={column}: ' + ('a term of this name is there already'
                                            if column in config.loss.terms else 'no dots in names'))
    config.loss.terms[column] = ConfigDict(
        {'attribute': column, 'weight': 1.0, 'kernel': 'equality', 'sigma': 1.0})

  # Optimisation
  config.epochs = 300
  config.batch_size = 32               # of all devices together
  config.micro_batch_size = 0          # encoded at a time, of all devices; 0 for the whole batch
  config.learning_rate = 1e-4
  config.decay = 0.9                   # the learning rate is multiplied by it ...
  config.decay_epochs = 10             # ... every so many epochs
  config.weight_decay = 5e-5           # L2, added to the gradient (Adam, not AdamW)
  config.seed = 0

  # Running
  config.mapper = 'jit'                # or pmap
  config.log_every_steps = 50
  config.heartbeat_seconds = 60.0      # a wait so long is told on stderr; 0: never
  config.profile_steps = ''            # such as 10:12: profiled into profile/ of the workdir
  config.compilation_cache = 'auto'    # of programs: the user's cache; or a folder, or none
  config.heldout_every_epochs = 1
  config.probe_every_epochs = 0        # age, sex and site from frozen features; 0: never
  config.report_at_end = ''            # a config of the probe, applied when the run is done
  config.checkpoint_every_epochs = 1
  config.keep_checkpoints = 3          # the last ones
  config.keep_every_epochs = 0         # also those of every n-th epoch, for ever; 0: none
  config.keep_best_metric = 'heldout/loss'   # and the best by a name in metrics.jsonl; '': none
  config.keep_best_mode = 'min'        # or max

  if chosen.demo:
    config.update(_demo(chosen.encoder))
  return config


def _demo(encoder):
  """What the demo changes: SYNTHETIC subjects, drawn into data_dir, at a size for two cores."""
  return {
      'data_dir': 'data/phantom-demo',
      'phantom': {'subjects': 320, 'seed': 0, 'spacing': 5.0, 'sites': 3},
      'encoder': 'tiny' if encoder == 'resnet18' else encoder,
      'precision': 'float32',
      'epochs': 15,
      'learning_rate': 1e-3,
      'report_at_end': f'{pathlib.Path(__file__).with_name("probe.py")}:demo',
      # With the published normalisation every subject is nearly as positive as every other, so that
      # the anatomical loss can't fall in minutes; on z-scores it can.
      'loss': {'terms': {'anatomy': {'normalization': 'zscore'}}},
  }
