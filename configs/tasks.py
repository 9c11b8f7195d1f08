"""What the probe can predict: the tasks by name, and which of them a cohort has.

Columns and codes are those that `python -m anatcl_jax.prepare` writes (docs/cohorts.md). Any other
column of your participants.tsv is a task by its name: `--config.tasks=group`, or `group:SCZ/HC` for
two of its values. What needs more is a Task in a file of your own, `--config.task_file=FILE`, whose
tasks stand beside these:

    Task('memory', 'ravlt_delayed', REGRESSION, unit='words'),
    Task('carrier', 'apoe4', CLASSIFICATION, positive=('1', '2'), control=('0',),
         classes=('no e4', 'e4'), covariates=('age', 'sex')),
"""

from anatcl_jax.evaluation.tasks import BRAIN_AGE, CHALLENGE, CLASSIFICATION, REGRESSION, Task


def _contrast(name, column, positive, control, classes):
  return Task(name, column, CLASSIFICATION, positive=positive, control=control, classes=classes)


def _score(name, column=None, unit='points'):
  return Task(name, column or name, REGRESSION, unit=unit)


TASKS = (
    # Any cohort
    Task('age', 'age', REGRESSION, unit='years'),
    Task('sex', 'sex', CLASSIFICATION, positive=('F',), control=('M',), classes=('M', 'F')),
    Task('site', 'site', CLASSIFICATION),
    Task('patient', 'diagnosis', CLASSIFICATION, positive=('patient',), control=('control',)),

    # Fitted on the healthy (config.healthy, or healthy_column and healthy here), then of everybody
    Task('brain_age', 'age', BRAIN_AGE, unit='years'),

    # OpenBHB: MAE of age on external sites x (balanced accuracy of site)^0.3, fitted on its split
    Task('openbhb_challenge', 'age', CHALLENGE, unit='years'),

    # ADNI and OASIS-3
    _contrast('ad', 'diagnosis', ('AD',), ('CN',), ('CN', 'AD')),
    _contrast('mci', 'diagnosis', ('MCI',), ('CN',), ('CN', 'MCI')),
    # Progressive: dementia within 36 months; stable: without it, and seen after 36 months or more.
    _contrast('progressive_mci', 'mci_course', ('progressive',), ('stable',),
              ('stable', 'progressive')),
    _score('mmse'), _score('cdr'), _score('cdr_sum_of_boxes'), _score('adas11'), _score('adas13'),
    _score('moca'), _score('faq'),

    # SchizConnect. The broad definition includes those who meet the strict one.
    _contrast('schizophrenia_broad', 'diagnosis', ('schizophrenia', 'schizophrenia_broad'),
              ('control',), ('control', 'schizophrenia, broad')),
    _contrast('schizophrenia_strict', 'diagnosis', ('schizophrenia',), ('control',),
              ('control', 'schizophrenia, strict')),
    _contrast('schizoaffective', 'diagnosis', ('schizoaffective',), ('control',),
              ('control', 'schizoaffective')),
    _contrast('bipolar', 'diagnosis', ('bipolar',), ('control',), ('control', 'bipolar')),

    # ABIDE I: the diagnosis of the study, and those of DSM-IV
    _contrast('autism', 'diagnosis', ('autism',), ('control',), ('control', 'autism')),
    _contrast('autistic_disorder', 'diagnosis_dsm_iv', ('autism',), ('control',),
              ('control', 'autistic disorder')),
    _contrast('asperger', 'diagnosis_dsm_iv', ('asperger',), ('control',),
              ('control', 'Asperger\'s')),
    _contrast('pdd_nos', 'diagnosis_dsm_iv', ('pdd-nos',), ('control',), ('control', 'PDD-NOS')),
    _score('fiq'), _score('viq'), _score('piq'),
    _contrast('handedness', 'handedness', ('L', 'left'), ('R', 'right'), ('right', 'left')),

    # Totals of a scale, from tables that a cohort keeps apart: join them as columns of these names.
    _score('depression'), _score('motor'),
)

_DEMOGRAPHICS = ('age', 'sex', 'site')

# A cohort's name in --config.tasks stands for all of these; those without a column are said.
COHORTS = {
    'demographics': _DEMOGRAPHICS,
    'openbhb': ('openbhb_challenge', *_DEMOGRAPHICS),
    'adni': ('ad', 'mci', 'progressive_mci', 'mmse', 'cdr_sum_of_boxes', 'adas11', 'adas13',
             'moca', 'faq', *_DEMOGRAPHICS),
    'oasis3': ('ad', 'mmse', 'cdr', 'cdr_sum_of_boxes', 'age', 'sex'),
    'schizconnect': ('schizophrenia_broad', 'schizophrenia_strict', 'schizoaffective', 'bipolar',
                     'motor', 'depression', *_DEMOGRAPHICS),
    'abide1': ('autism', 'autistic_disorder', 'asperger', 'pdd_nos', 'fiq', 'viq', 'piq',
               'handedness', *_DEMOGRAPHICS),
}
