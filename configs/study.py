"""Which objective makes features that know anatomy and disease, on SYNTHETIC people of known truth.

Arguments follow a colon, joined by commas:

    configs/study.py:demo             two objectives, few people and epochs: minutes on a laptop

For example

    python -m anatcl_jax.studies objectives --config=study --out=runs/study
    python -m anatcl_jax.studies objectives --config=study --out=runs/study --only=yaware,rbf-10

An objective is a command line of pretraining: a config with its arguments, then keys. Each is
trained on the same people, shards and steps; what differs is what its line says.
"""

from ml_collections import ConfigDict

from anatcl_jax.config import parse_arguments

AGE_ONLY = '--config.loss.terms.anatomy.weight=0'
ANATOMY_ONLY = '--config.loss.terms.age.weight=0'

OBJECTIVES = {
    # Baselines. untrained has no step; supervised-age no contrast.
    'untrained': 'pretrain',
    'simclr': f'pretrain:also=participant_id {AGE_ONLY} {ANATOMY_ONLY} '
              '--config.loss.method=supcon --config.augment=all',
    'supervised-age': 'pretrain:regress=age',
    'supcon-age-bins': f'pretrain:also=age_bin {AGE_ONLY} {ANATOMY_ONLY} '
                       '--config.loss.method=supcon',
    # Age alone, as published, and with the augmentations that SimCLR has.
    'yaware': f'pretrain {AGE_ONLY}',
    'yaware-augmented': f'pretrain {AGE_ONLY} --config.augment=all',
    'expw': f'pretrain {AGE_ONLY} --config.loss.method=expw',
    'threshold': f'pretrain {AGE_ONLY} --config.loss.method=threshold',
    # AnatCL with each reading of the published normalisation.
    **{f'{variant}-{how}': f'pretrain:variant={variant} '
                           f'--config.loss.terms.anatomy.normalization=minmax_{how}'
       for variant in ('global', 'local') for how in ('region', 'measure', 'subject')},
    # Sharper kernels, at several shares of the batch that attract.
    **{f'{variant}-{percent:02d}': f'pretrain:variant={variant},'
                                   f'effective_positives={percent / 100:g} '
                                   '--config.loss.terms.anatomy.normalization=zscore'
       for variant, percents in (('rbf', (3, 10, 30)), ('global', (10,)), ('whitened', (10,)))
       for percent in percents},
    # Morphometry without what columns explain.
    'rbf-10-without-site': 'pretrain:variant=rbf,effective_positives=0.1,without=site,'
                           'keeping=age+sex --config.loss.terms.anatomy.normalization=zscore',
    'rbf-10-without-site-age-sex': 'pretrain:variant=rbf,effective_positives=0.1,'
                                   'without=site+age+sex '
                                   '--config.loss.terms.anatomy.normalization=zscore',
    # Anatomy alone.
    'only-global-region': f'pretrain {ANATOMY_ONLY}',
    'only-rbf-10': f'pretrain:variant=rbf,effective_positives=0.1 {ANATOMY_ONLY} '
                   '--config.loss.terms.anatomy.normalization=zscore',
    'only-rbf-10-without-site-age-sex':
        f'pretrain:variant=rbf,effective_positives=0.1,without=site+age+sex {ANATOMY_ONLY} '
        '--config.loss.terms.anatomy.normalization=zscore',
}


def get_config(arguments=None):
  chosen = parse_arguments(arguments, demo=False)
  config = ConfigDict()

  # Who is drawn: SYNTHETIC people, PhantomSettings' names
  config.phantom = ConfigDict()
  config.phantom.population = 'ixi'
  config.phantom.subjects = 1200
  config.phantom.seed = 18
  config.phantom.spacing = 6.0         # mm
  config.phantom.youngest = 20.0       # years
  config.phantom.oldest = 86.0         # years
  config.phantom.sites = 8
  config.phantom.held_out_sites = 3    # for tests alone
  config.phantom.site_bias = 1.0       # of morphometry, as between real sites
  config.phantom.sessions = 2          # the second on another scanner
  config.phantom.second_scanner = True
  config.phantom.patients = 0.3        # share
  config.phantom.subtypes = 4
  config.phantom.confounded = 'age+site'
  config.pretraining = 0.6             # share of the people of seen sites; one scan of each

  # What is trained: a config of pretraining and keys, and for each objective its own
  config.training = ('--config.encoder=tiny --config.precision=float32 --config.epochs=100 '
                     '--config.batch_size=64 --config.learning_rate=1e-3 --config.num_folds=20 '
                     '--config.heldout_every_epochs=100 --config.checkpoint_every_epochs=25 '
                     '--config.keep_checkpoints=1 --config.log_every_steps=20')
  config.objectives = ConfigDict(OBJECTIVES)
  config.seeds = 3                     # of an objective ...
  config.more_seeds = 5                # ... and of those that the answer rests on
  config.matter = ('untrained,supervised-age,yaware,global-region,local-region,rbf-10,'
                   'rbf-10-without-site,only-rbf-10')

  # What is asked of the features
  config.folds = 5                     # of people of seen sites
  config.labels = '25,50,100,200'      # people with labels, of the learning curves
  config.replicates = 100              # of the people, for intervals, the same for all runs

  if chosen.demo:
    config.phantom.update({'subjects': 160, 'spacing': 12.0, 'sites': 4, 'held_out_sites': 2})
    for long, short in (('=100 ', '=3 '), ('=25 ', '=3 '), ('=20', '=3'), ('=64', '=16')):
      config.training = config.training.replace(long, short)
    config.objectives = ConfigDict({name: OBJECTIVES[name] for name in ('untrained', 'rbf-10')})
    config.seeds = config.more_seeds = 1
    config.matter, config.labels = '', '25'
    config.replicates = 20
  return config
