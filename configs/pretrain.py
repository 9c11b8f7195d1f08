"""Pretraining an AnatCL encoder; without arguments, the published recipe (arXiv 2408.07079).

Arguments follow a colon, joined by commas:

    configs/pretrain.py:demo                            small, synthetic, minutes on a laptop
    configs/pretrain.py:variant=local,encoder=resnet50

    recommended             what docs/study.md supports, in place of the published objective:
                            variant=rbf,effective_positives=0.1,normalization=zscore
    demo                    the digital cohort (SYNTHETIC subjects) and a tiny encoder
    variant=global|local    which anatomical descriptor; or a sharper one, rbf or whitened
    measures=...            joined by +, or all; default thickness+volume+area
    atlas=desikan|destrieux|dkt  cortical atlas of the shards
    normalization=...       of morphometry: minmax_region (default), minmax_measure, minmax_subject,
                            zscore or none
    effective_positives=0.1 each subject is attracted to so large a share of the batch by anatomy,
                            whatever the kernel; default 0: as the kernel has it
    without=site+age+sex    morphometry less what these columns of participants.tsv explain; of a
                            site location and scale, as ComBat
    keeping=age+sex         columns that the site effect is told apart from, and that stay
    also=sex+site           more terms of the loss, by columns of participants.tsv; equal values
                            attract, or set their kernel, as --config.loss.terms.bmi.kernel=rbf
    regress=age             no contrast: a network trained to predict a column of participants.tsv,
                            L1 of a number; runs/mine@best is the epoch that is best held out
    classify=sex            the same, cross-entropy of classes, which count alike
    encoder=...             resnet18 (default), resnet34, resnet50, resnet101, densenet121,
                            alexnet, or tiny (for tests and CPU)

This file is Python that is run, and so is one of your own. One that changes only what it must goes
on working when keys are added:

    from anatcl_jax import config_files

    def get_config(arguments=None):
      config = config_files.load('pretrain')
      config.learning_rate = 3e-4
      return config
"""

import pathlib

from ml_collections import ConfigDict

from anatcl_jax.config import parse_arguments
from anatcl_jax.errors import UserError

# Their defaults.
ARGUMENTS = {'demo': False, 'recommended': False, 'variant': 'global',
             'measures': 'thickness+volume+area', 'atlas': 'desikan', 'encoder': 'resnet18',
             'also': '', 'normalization': 'minmax_region', 'effective_positives': 0.0,
             'without': '', 'keeping': '', 'regress': '', 'classify': ''}

# What docs/study.md supports. On SYNTHETIC people of known truth a kernel that is sharpened until
# each subject is drawn to a tenth of the batch makes features that know more of thickness than the
# published one's and are shown to be worse in nothing that was asked; in disease no difference is
# shown. The published recipe stays the default.
RECOMMENDED = {'variant': 'rbf', 'effective_positives': 0.1, 'normalization': 'zscore'}


def get_config(arguments=None):
  chosen = parse_arguments(arguments, **ARGUMENTS)
  # Both change defaults: what is given by name counts. With the published normalisation every
  # subject of the demo is nearly as positive as every other, so that the anatomical loss can't fall
  # in minutes; on z-scores it can.
  chosen = parse_arguments(arguments, **(
      ARGUMENTS | ({'normalization': 'zscore'} if chosen.demo else {})
      | (RECOMMENDED if chosen.recommended else {})))
  config = ConfigDict()

  # Data
  config.data_dir = 'data/openbhb'     # folder of shards, made by `anatcl_jax.prepare`
  config.crop = '121,128,121'          # three sizes: most voxels along each axis, cut about the
                                       # centre; or none
  config.measures = chosen.measures    # thickness, volume, area, ... of the shards, joined by +; or
                                       # all
  config.atlas = chosen.atlas          # of the shards: desikan, destrieux or dkt
  config.num_folds = 5                 # participants are split into so many, from 2
  config.fold = 0                      # the one held out, from 0
  config.reader_threads = 4            # threads that read shards, from 1
  config.cache = 'auto'                # where volumes stay, once read: device, memory or none; or
                                       # auto, by what fits
  config.data = ConfigDict()
  config.data.on_error = 'stop'        # at a damaged record; or skip: leave it out, and count it

  # Model
  config.encoder = chosen.encoder      # resnet18, resnet34, resnet50, resnet101, densenet121,
                                       # alexnet or tiny
  config.encoder_width = 0             # channels of the stem; 0: the encoder's own, 64
  config.small_input = False           # True: 3^3 stem without early pooling, for coarse grids
  config.head = 'mlp'                  # 512-512-128 on ResNet-18; or linear, none
  config.feature_dim = 128             # of the head's output, from 1
  config.init = ''                     # weights to begin with: a run (also @best, @STEP), a folder
                                       # of convert, a .pth, a name such as anatcl-global-0; '':
                                       # drawn by seed
  config.precision = 'bfloat16'        # of compute, or float32; parameters, statistics and loss are
                                       # float32
  config.remat = 'none'                # or blocks: less memory, more time, the same numbers

  # Objective
  config.views = 2                     # of a volume in a step, from 1
  # Published: two identical views. Or a preset, crop, cutout, all (Barbano et al.) or yaware; or
  # any of crop, zoom, cutout, mean_cutout, blur, noise, translation, intensity, flip, joined by +.
  config.augment = 'none'
  config.loss = ConfigDict()
  config.loss.method = 'yaware'        # or supcon, expw, threshold; supervised, see regress=
  config.loss.delta_reduction = 'sum'  # of threshold: sum or mean
  config.loss.temperature = 0.1        # above 0
  config.loss.base_temperature = 0.07  # above 0; the loss is scaled by temperature / it
  config.loss.memory_budget_mb = 1024  # of a device, for the pairs of the batch; blocks beyond
  # A term attracts subjects by one attribute: a column of participants.tsv (kernels rbf, gaussian,
  # cauchy with sigma in its unit, or equality) or morphometry (local, global, rbf, whitened).
  # Which minimum and maximum the published normalisation of morphometry takes is not known.
  config.loss.terms = ConfigDict({'age': {}, 'anatomy': {}})
  config.loss.terms.age.attribute = 'age'   # a column of participants.tsv, or morphometry
  config.loss.terms.age.weight = 1.0   # 0 or above, not 0 in every term
  config.loss.terms.age.kernel = 'rbf'   # or gaussian, cauchy, equality
  config.loss.terms.age.sigma = 2.0    # above 0, in the attribute's unit, here years
  config.loss.terms.age.effective_positives = 0.0   # share of the batch that a subject is drawn
                                       # to, whatever sigma; 0: as the kernel has it
  config.loss.terms.anatomy.attribute = 'morphometry'   # or a column of participants.tsv
  config.loss.terms.anatomy.weight = 1.0   # as above
  config.loss.terms.anatomy.kernel = chosen.variant   # global, local, rbf or whitened
  # minmax_region, minmax_measure and minmax_subject are readings of the published one; or zscore,
  # none.
  config.loss.terms.anatomy.normalization = chosen.normalization
  config.loss.terms.anatomy.effective_positives = chosen.effective_positives   # as above
  # Columns of participants.tsv joined by +, or '': what they explain is taken out of morphometry,
  # by statistics of the training subjects; of `site` (site..., scanner...) location and scale.
  config.loss.terms.anatomy.without = chosen.without
  config.loss.terms.anatomy.keeping = chosen.keeping   # or '': columns that the effects of those
                                       # taken out are told apart from, and that stay
  for column in filter(None, chosen.also.split('+')):
    if column in config.loss.terms or '.' in column:
      raise UserError(f'also={column}: ' + ('a term of this name is there already'
                                            if column in config.loss.terms else 'no dots in names'))
    config.loss.terms[column] = ConfigDict(
        {'attribute': column, 'weight': 1.0, 'kernel': 'equality', 'sigma': 1.0,
         'effective_positives': 0.0})

  # Optimisation
  config.epochs = 300                  # from 1
  config.batch_size = 32               # of all devices together, from 2
  config.micro_batch_size = 0          # encoded at a time, of all devices; 0 for the whole batch
  config.learning_rate = 1e-4          # above 0
  config.decay = 0.9                   # above 0; the learning rate is multiplied by it ...
  config.decay_epochs = 10             # ... every so many epochs, from 1
  config.weight_decay = 5e-5           # 0 or above: L2, added to the gradient (Adam, not AdamW)
  config.seed = 0                      # of parameters, order and views, 0 to 2^32 - 1

  # Running
  config.mapper = 'jit'                # or pmap
  config.log_every_steps = 50          # a row of metrics.jsonl, from 1
  config.heartbeat_seconds = 60.0      # a wait so long is told on stderr; 0: never
  config.profile_steps = ''            # such as 10:12: profiled into profile/ of the workdir
  config.compilation_cache = 'auto'    # of programs: the user's cache; or a folder, or none
  config.heldout_every_epochs = 1      # the loss of the fold held out, from 1
  config.probe_every_epochs = 0        # age, sex and site from frozen features; 0: never
  config.report_at_end = ''            # a config file of the probe, applied when the run is done
  config.checkpoint_every_epochs = 1   # from 1 ...
  config.checkpoint_every_seconds = 30.0   # ... and no sooner than so long after the last; 0: each
  config.keep_checkpoints = 3          # the last ones, from 1
  config.keep_every_epochs = 0         # also those of every n-th epoch, for ever; 0: none
  config.keep_best_metric = 'heldout/loss'   # and the best by a name in metrics.jsonl; '': none
  config.keep_best_mode = 'min'        # or max

  if chosen.demo:
    config.update(_demo(chosen.encoder))
  if chosen.regress or chosen.classify:
    _supervise(config, chosen)
  return config


def _supervise(config, chosen):
  """A network trained on tasks: a linear head over what would be frozen, one view."""
  config.loss.method = 'supervised'
  config.loss.terms = ConfigDict()
  for kernel, columns in (('l1', chosen.regress), ('cross_entropy', chosen.classify)):
    for column in filter(None, columns.split('+')):
      if column in config.loss.terms or '.' in column:
        raise UserError(f'{column}: stands twice in regress= and classify=, or has a dot')
      config.loss.terms[column] = ConfigDict(
          {'attribute': column, 'weight': 1.0, 'kernel': kernel})
  config.head = 'linear'
  config.views = 1
  config.keep_best_metric = 'heldout/loss'


def _demo(encoder):
  """What the demo changes: SYNTHETIC subjects, drawn into data_dir, at a size for two cores."""
  return {
      'data_dir': 'data/phantom-demo',
      'phantom': {'subjects': 320, 'seed': 0, 'spacing': 5.0, 'sites': 3},
      'encoder': 'tiny' if encoder == 'resnet18' else encoder,
      'precision': 'float32',
      'epochs': 20,
      'learning_rate': 1e-3,
      'report_at_end': f'{pathlib.Path(__file__).with_name("probe.py")}:demo',
  }
