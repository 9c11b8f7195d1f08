"""The methods paragraph of an evaluation and its references, from what was really done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anatcl_jax.cohorts.morphometry import FREESURFER
from anatcl_jax.cohorts.origins import Origin
from anatcl_jax.evaluation import rows
from anatcl_jax.evaluation.estimators import NETWORK
from anatcl_jax.evaluation.results import (
  BESIDE,
  FOLDS,
  GIVEN,
  HARMONISED,
  SEEN_AND_UNSEEN,
  UNSEEN_FOLDS,
  Evaluation,
  Outcome,
  is_baseline,
  is_derived,
)
from anatcl_jax.evaluation.tasks import BRAIN_AGE, CHALLENGE, CLASSIFICATION, REGRESSION

REFERENCES = {
    'anatcl': 'Barbano CA, Brunello M, Dufumier B, Grangetto M. Anatomical foundation models for '
              'brain MRIs. Pattern Recognition Letters 199, 2026; arXiv:2408.07079.',
    'jax': 'Bradbury J, Frostig R, Hawkins P, et al. JAX: composable transformations of '
           'Python+NumPy programs. 2018. https://github.com/jax-ml/jax',
    'sklearn': 'Pedregosa F, Varoquaux G, Gramfort A, et al. Scikit-learn: machine learning in '
               'Python. Journal of Machine Learning Research 12:2825-2830, 2011.',
    'nadeau': 'Nadeau C, Bengio Y. Inference for the generalization error. Machine Learning '
              '52:239-281, 2003.',
    'holm': 'Holm S. A simple sequentially rejective multiple test procedure. Scandinavian Journal '
            'of Statistics 6:65-70, 1979.',
    'tukey': 'Tukey JW. Bias and confidence in not-quite large samples. Annals of Mathematical '
             'Statistics 29:614, 1958.',
    'shrout': 'Shrout PE, Fleiss JL. Intraclass correlations: uses in assessing rater reliability. '
              'Psychological Bulletin 86:420-428, 1979.',
    'henderson': 'Henderson CR. Estimation of variance and covariance components. Biometrics '
                 '9:226-252, 1953.',
    'openbhb': 'Dufumier B, Grigis A, Victor J, et al. OpenBHB: a large-scale multi-site brain MRI '
               'data-set for age prediction and debiasing. NeuroImage 263:119637, 2022.',
    'beheshti': 'Beheshti I, Nugent S, Potvin O, Duchesne S. Bias-adjustment in '
                'neuroimaging-based brain age frameworks: a robust scheme. NeuroImage: Clinical '
                '24:102063, 2019.',
    'delange': 'de Lange AMG, Cole JH. Commentary: Correction procedures in brain-age prediction. '
               'NeuroImage: Clinical 26:102229, 2020.',
    'hc3': 'MacKinnon JG, White H. Some heteroskedasticity-consistent covariance matrix estimators '
           'with improved finite sample properties. Journal of Econometrics 29:305-325, 1985.',
    'johnson': 'Johnson WE, Li C, Rabinovic A. Adjusting batch effects in microarray expression '
               'data using empirical Bayes methods. Biostatistics 8:118-127, 2007.',
    'fortin': 'Fortin JP, Cullen N, Sheline YI, et al. Harmonization of cortical thickness '
              'measurements across scanners and sites. NeuroImage 167:104-120, 2018.',
    'cat12': 'Gaser C, Dahnke R, Thompson PM, Kurth F, Luders E. CAT: a computational anatomy '
             'toolbox for the analysis of structural MRI data. GigaScience 13:giae049, 2024.',
    'freesurfer': 'Fischl B. FreeSurfer. NeuroImage 62:774-781, 2012.',
    'desikan': 'Desikan RS, Ségonne F, Fischl B, et al. An automated labeling system for '
               'subdividing the human cerebral cortex on MRI scans into gyral based regions of '
               'interest. NeuroImage 31:968-980, 2006.',
    'destrieux': 'Destrieux C, Fischl B, Dale A, Halgren E. Automatic parcellation of human '
                 'cortical gyri and sulci using standard anatomical nomenclature. NeuroImage '
                 '53:1-15, 2010.',
    'dkt': 'Klein A, Tourville J. 101 labeled brain images and a consistent human cortical '
           'labeling protocol. Frontiers in Neuroscience 6:171, 2012.',
}

# For numbers and for classes, as `estimators.pipeline` makes them.
_ESTIMATORS = {
    'linear': ('ridge regression', 'logistic regression with balanced class weights'),
    'svm': ('linear support vector regression',
            'linear support vector classification with balanced class weights'),
    'mlp': ('a perceptron with one hidden layer of 64 units for numbers',
            'a perceptron with one hidden layer of 64 units for classes'),
}


def paragraph(evaluation: Evaluation, saliency_method: str | None = None) -> tuple[str, list[str]]:
  """Text with references as [1], and the list of them; only what this evaluation did."""
  made, cited = evaluation.made, []

  def cite(name: str) -> str:
    if name not in cited:
      cited.append(name)
    return f'[{cited.index(name) + 1}]'

  config, data = made.get('config', {}), made.get('data', {})
  outcomes = [one for one in evaluation.outcomes if not one.refused]
  kinds = {one.task.kind for one in outcomes}
  encoders = [name for name in evaluation.features if not is_baseline(name)]
  people = evaluation.table['participant_id'].nunique()
  text = [_features(encoders, made, cite) + f', for {len(evaluation.table):,} scans of {people:,} '
          + ('synthetic (computer-generated) subjects.' if evaluation.synthetic else 'people.')]
  if evaluation.trained_on_synthetic:
    text.append(f'{_listed(list(evaluation.trained_on_synthetic))} had been trained on synthetic '
                '(computer-generated) subjects.')
  if maps := Origin.of_record(data.get('maps')):
    text.append(f'Images are of {maps}.')
  text.append(f'Probes (scikit-learn {cite("sklearn")}) were {_listed(_probes(outcomes))}, fitted '
              'on standardised features; the strength of regularisation was chosen by an inner '
              'cross-validation'
              + (f' of {config["inner_folds"]} folds' if 'inner_folds' in config else '')
              + ' within the fitted side. No participant had scans on both sides of a split.')
  designs = {one.design for one in outcomes}
  if SEEN_AND_UNSEEN in designs:
    text.append('Participants seen in pretraining were used for fitting only, and performance was '
                'measured on those held out.')
  if GIVEN in designs:
    text.append(f'Who was fitted on and who was predicted was given ({config.get("splits")}).')
  if designs & {FOLDS, UNSEEN_FOLDS}:
    text.append('Folds were stratified and grouped by participant'
                + (', among participants held out in pretraining.'
                   if UNSEEN_FOLDS in designs else '.'))
  text.append('95 % intervals are of the jackknife over participants, with the standard error '
              f'corrected for shared fitted sides {cite("nadeau")}{cite("tukey")}.')
  if len(evaluation.comparisons):
    text.append('Encoders were compared with every other representation by the corrected t test '
                f'{cite("nadeau")} on the same participants. {_families(evaluation, cite)}')
  if networks := [one.features for one in outcomes if one.estimator == NETWORK]:
    text.append(f'{_listed(list(dict.fromkeys(networks)))}: networks of the encoder\'s kind '
                'with a linear layer were trained on the fitted side of each split, from scratch '
                '(supervised) or from the encoder\'s weights (finetuned), by the absolute error or '
                'cross-entropy with balanced classes, with Adam'
                + (' ({network_learning_rate:g}, batches of {network_batch_size}) for at most '
                   '{network_epochs} epochs'.format(**config)
                   if 'network_epochs' in config else '')
                + '; the best epoch for a fifth of the fitted participants was kept.')
  names = list(dict.fromkeys(one.features for one in outcomes))
  baselines = [name for name in names if is_baseline(name) and not is_derived(name)]
  text.append(f'Baselines on the same splits: {_listed(baselines)}.')
  if any(one.seeds > 1 for one in outcomes):
    text.append('Of the untrained encoder the first seed stands in all tables and figures.')
  if any(name.startswith(BESIDE) for name in names):
    text.append('What features add to covariates is the difference between probes of both and of '
                'covariates alone, covariates weighted as much as all features together.')
  if any(name.endswith(HARMONISED) for name in names):
    kept = {'auto': 'age and sex', 'none': 'nothing'}.get(config.get('keep'), config.get('keep'))
    text.append(f'Features were also harmonised over {config.get("harmonize")} by ComBat '
                f'{cite("johnson")}{cite("fortin")}, learned on the fitted side of each split, '
                f'with the part of {kept} kept, but never that of what is predicted.')
  if 'morphometry' in baselines:
    atlas = data.get('atlas', 'desikan')
    text.append(f'Morphometry is {_listed(data.get("measures", ["its measures"]))} of the regions '
                f'of the {"DKT" if atlas == "dkt" else atlas.capitalize()} atlas {cite(atlas)}'
                + ('.' if evaluation.synthetic else f' from {_cited_tool(data, cite)}.'))
  if BRAIN_AGE in kinds:
    text.append('Brain age was fitted on healthy participants alone; their gaps (predicted less '
                'chronological age) are out of fold, all others\' are means of the folds\' probes. '
                'Gaps are given raw and without what age explains of predicted age in the fitted '
                f'side {cite("beheshti")}{cite("delange")}; groups were compared with the healthy '
                'by least squares adjusted for '
                f'{_listed(_adjusted_for(evaluation))}, with HC3 standard errors {cite("hc3")}.')
  if CHALLENGE in kinds:
    text.append('The OpenBHB challenge score is the mean absolute error of age on external sites '
                f'times the balanced accuracy of site to the power of 0.3 {cite("openbhb")}.')
  if len(evaluation.reliability):
    text.append(f'Test-retest reliability is ICC(2,1) {cite("shrout")}.')
  if len(evaluation.scanners):
    text.append('Of people scanned on several scanners, the variance of each feature was divided '
                'into that of persons, of scanners and the rest by Henderson\'s method 3 '
                f'{cite("henderson")}, and the scanner was predicted in folds by person.')
  if saliency_method:
    text.append(f'Saliency maps are {saliency_method} maps of the linear probe.')
  return ' '.join(text), [REFERENCES[name] for name in cited]


def _families(evaluation: Evaluation, cite: Callable[[str], str]) -> str:
  """Which p values were adjusted together."""
  counts = evaluation.comparisons.query('family != ""').groupby('family', sort=False).size()
  words = {rows.ADDED: 'what features add to covariates',
           rows.HARMONISATION: 'what harmonisation changes',
           rows.MORE_BASELINES: 'networks trained on the task and other pooling'}
  secondary = [f'{said} ({counts[name]})' for name, said in words.items() if name in counts]
  text = []
  if rows.MAIN in counts:
    text.append(f'p values were adjusted after Holm {cite("holm")} over the {counts[rows.MAIN]} '
                'comparisons of encoders, as they are, with each other and with the untrained '
                'encoder, morphometry and covariates in all tasks.')
  if secondary:
    text.append('Secondary comparisons were adjusted '
                f'{"after Holm " + cite("holm") + " " if not text else ""}'
                f'in {"families" if len(secondary) > 1 else "a family"} of their own: '
                f'{_listed(secondary)}.')
  return ' '.join([*text, 'Comparisons with the mean were not adjusted.'])


def _cited_tool(data: dict[str, Any], cite: Callable[[str], str]) -> str:
  """Whose morphometry it is; sets of old say nothing, and are of FreeSurfer."""
  tool = data.get('measured_by') or FREESURFER
  return f'{tool} {cite(tool.lower())}' if tool.lower() in REFERENCES else tool


def _features(encoders: list[str], made: dict[str, Any], cite: Callable[[str], str]) -> str:
  """Which were computed here, and which came as tables of whoever made them."""
  if not encoders:
    return 'Morphometry was evaluated'
  given = made.get('data', {}).get('tables', {})
  own = [name for name in encoders if name not in given]
  brought = [name for name in encoders if name in given]
  kinds = ', '.join(sorted({card.get('encoder', '') for card in made.get('cards', {}).values()}
                           - {''}))
  parts = []
  if own:
    parts.append(f'Frozen features of {_listed(own)}{f" ({kinds})" if kinds else ""} were computed '
                 f'with anatcl_jax {made.get("versions", {}).get("anatcl_jax", "")} '
                 f'{cite("anatcl")} in JAX {cite("jax")}')
  if brought:
    parts.append(f'{"those" if own else "Features"} of {_listed(brought)} were taken from tables')
  return ', '.join(parts)


def _probes(outcomes: list[Outcome]) -> list[str]:
  """The estimators that predicted something, each by its name."""
  used = {(one.estimator, one.task.kind) for one in outcomes}
  words = []
  for estimator, (numbers, classes) in _ESTIMATORS.items():
    if any((estimator, kind) in used for kind in (REGRESSION, BRAIN_AGE, CHALLENGE)):
      words.append(numbers)
    if (estimator, CLASSIFICATION) in used:
      words.append(classes)
    if (estimator, CHALLENGE) in used:
      words.append('logistic regression of site without class weights for the challenge')
  return words


def _adjusted_for(evaluation: Evaluation) -> list[str]:
  """The columns that groups of a brain age were adjusted for."""
  return evaluation.gap_groups['adjusted_for'].iloc[0].split('+')


def _listed(names: list[str]) -> str:
  return ' and '.join([', '.join(names[:-1])] * (len(names) > 1) + list(names[-1:])) or 'none'
