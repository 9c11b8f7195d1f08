"""What frozen features know: probes of a trained encoder beside its baselines.

Arguments follow a colon, joined by commas:

    configs/probe.py:demo             the run and SYNTHETIC subjects of configs/pretrain.py:demo
    configs/probe.py:brainfmbench     age and sex also by the protocol of BrainFMBench
    configs/probe.py:brain_age        age of the healthy (--config.healthy=group:HC), the gap of all
                                      by diagnosis, and the probe saved (docs/brain-age.md)
    configs/probe.py:cohort=adni      the tasks of a cohort: openbhb, adni, oasis3, schizconnect,
                                      abide1 (configs/tasks.py)

For example

    python -m anatcl_jax.probe --config=configs/probe.py --config.checkpoint=runs/mine
    python -m anatcl_jax.probe --config=configs/probe.py:cohort=adni \\
        --config.checkpoint=global=runs/global,local=runs/local --config.data_dir=data/adni
    python -m anatcl_jax.probe --config=configs/probe.py --config.tasks=age,mmse \\
        --config.features=ours.tsv,theirs=other.tsv --config.participants=participants.tsv
"""

from ml_collections import ConfigDict

from anatcl_jax.config import parse_arguments


def get_config(arguments=None):
  chosen = parse_arguments(arguments, demo=False, brainfmbench=False, brain_age=False,
                           cohort='demographics')
  config = ConfigDict()

  # What is evaluated; several are separated by commas, each perhaps with a name before an `=`
  config.checkpoint = ''               # workdirs (or their @best, @STEP), weights, also by name
                                       # (anatcl-global-0); on data_dir
  config.pool = 'mean'                 # of checkpoints, fresh ones too: levels, covariance, mean,
                                       # or several as in mean+levels (docs/features.md)
  config.features = ''                 # tables that `anatcl_jax.features` made before

  # Whose scans
  config.data_dir = ''                 # folder of shards; '': those of a single workdir's training
  config.participants = ''             # a TSV, in place of data_dir, for tables of features
  config.morphometry = ''              # tables or SUBJECTS_DIRs, separated by commas, or a glob of
                                       # them, in place of that of shards; alone, too
  config.atlas = 'desikan'             # of config.morphometry: desikan, destrieux, dkt
  config.loose_names = False           # its names and those of the labels that differ only in
                                       # punctuation are one
  config.trained_on = ''               # workdirs that made the tables: who they saw isn't predicted
  config.same_people = 'auto'          # are people of one name, in other shards than those of the
                                       # training, the same? auto: by age and sex; or yes, or no

  # What is predicted
  config.tasks = chosen.cohort         # names of tasks (configs/tasks.py) and of cohorts, columns
                                       # of your own (group, or two of its values: group:SCZ/HC),
                                       # and thickness:lh_insula
  config.task_file = ''                # tasks of your own beside those: Python that is run
  config.healthy = ''                  # of brain_age: a column and its values, as in group:HC/CN;
                                       # '': controls of diagnosis or group; all: everybody is

  # How
  config.estimators = 'linear'         # linear, svm, mlp; several are separated by commas
  config.splits = ''                   # a table of participant_id[, session] and split (train,
                                       # test) or fold, in place of folds drawn here
  config.harmonize = ''                # a column such as site: rows of features without its part
                                       # (ComBat, learned on the fitted side), beside those with it
  config.keep = 'auto'                 # covariates whose part harmonisation keeps, never the one
                                       # predicted; auto: age and sex as far as there; or none
  config.unseen_sites = 'refuse'       # of a site with nobody on the fitted side: refuse to
                                       # harmonise the task, or pass those scans as they are
  config.protocol = 'auto'             # of people seen in pretraining: auto fits on them and tests
                                       # on the others, cross_validation leaves them out
  config.benchmark = ''                # brainfmbench: each task also by its random forests, written
                                       # as its CSV (docs/probe.md)
  config.folds = 5                     # by participant, stratified; from 2
  config.inner_folds = 5               # of the grid search, from 2
  config.fewest = 10                   # people a class, from 2
  config.networks = ''                 # rows of networks trained on each task: supervised, from
                                       # scratch, of the checkpoint's architecture; finetuned, from
                                       # its weights; or both, supervised,finetuned (slow)
  config.network_epochs = 30           # at most; the best by people held out of those fitted on
  config.network_learning_rate = 1e-3  # above 0, of Adam; 1e-4 is usual for finetuned
  config.network_batch_size = 16       # from 2
  config.untrained_seeds = 3           # seed 0 stands for it, a note tells the others; 0: none
  config.untrained_pool = ''           # such as covariance: also a row of the untrained encoder
                                       # that is pooled so, which knows far more than its mean
  config.learning_curve = 'auto'       # numbers of labelled people such as 25,50,100; or none
  config.leave_one_site_out = True     # or False
  config.saliency = 'gradient'         # of the first task, by checkpoints; or occlusion, or none
  config.saliency_scans = 8            # averaged over so many at most, from 1
  config.seed = 0                      # of folds, 0 to 2^32 - 1
  config.jobs = 0                      # processes; 0 takes one a core
  config.batch_size = 32               # of volumes through the encoder, from 1

  # Where it goes
  config.save = False                  # True: the fitted probes too, for `anatcl-jax predict`
  config.out = ''                      # a folder; '': probe/ of the workdir, else runs/probe
  config.sections = 'all'              # of report.html beside its summary and methods, by commas:
                                       # tasks, saliency, comparisons, benchmark,
                                       # embedding, leakage, sites, labels, reliability, training

  if chosen.brainfmbench:
    config.benchmark, config.tasks = 'brainfmbench', 'age,sex'
    config.learning_curve, config.leave_one_site_out, config.saliency = 'none', False, 'none'
  if chosen.brain_age:
    config.tasks, config.save, config.learning_curve = 'brain_age', True, 'none'
  if chosen.demo:
    config.checkpoint = 'trained=runs/pretrain-demo-global-tiny-fold0'
    config.tasks = 'age,sex,site,thickness:lh_superiortemporal'
  return config
