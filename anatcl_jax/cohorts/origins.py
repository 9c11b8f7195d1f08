"""Which tool made a map and what its voxels mean, by its name, its folders and what lies beside it.

All that is recognised is in the tables below, from the tools' own lists of outputs: CAT12's manual
(naming of output files), T1Prep's Names.tsv, deepmriprep's preprocess.py, SPM's prefixes,
fslvbm_3_proc, BIDS derivatives (fMRIPrep, sMRIPrep) and OpenBHB's release.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable

import numpy as np

from anatcl_jax.cohorts.volume_files import opened, stem
from anatcl_jax.cohorts.volumes import NAMED_GRIDS, Grid, VolumeSource
from anatcl_jax.errors import UserError

MODULATED = 'modulated gray matter'
NONLINEAR = 'gray matter modulated for nonlinear change only'
AGEING = 'modulated gray matter of the longitudinal ageing model'
PROBABILITY = 'gray-matter probability, not modulated'
OWN_SPACE = "gray-matter probability in the scan's own space"
QUASI_RAW = 'quasi-raw T1-weighted intensities'
UNKNOWN, NONE = 'not known', 'none'

NEW_MNI = 'MNI152NLin2009cAsym'
# CAT12's template changed within 12.8, its box later: the lower corner of the box, mm.
_BOXES = {(-84, -120, -72): NEW_MNI,
          (-90, -126, -72): f'IXI555_MNI152 (CAT12 to 12.7) or {NEW_MNI} (early 12.8)'}


@dataclasses.dataclass(frozen=True)
class Origin:
  """The kind of a map: maps of two kinds are not compared, nor trained on together."""

  tool: str
  values: str
  smoothing: str = NONE          # FWHM, as `6 mm`
  template: str = UNKNOWN

  def __str__(self) -> str:
    smooth = {NONE: 'not smoothed', UNKNOWN: 'smoothed, not known how much'}.get(
        self.smoothing, f'smoothed by {self.smoothing}')
    return f'{self.tool}: {self.values}, {smooth}, template {self.template}'

  @classmethod
  def of_record(cls, record: object) -> Origin | None:
    """From what dataset.json or a card holds; None for anything else."""
    if not isinstance(record, dict) or not all(isinstance(one, str) for one in record.values()):
      return None
    try:
      return cls(**record)
    except TypeError:
      return None


@dataclasses.dataclass(frozen=True)
class _Names:
  """Names of one kind; the pattern matches folder/stem and names what is left as `scan`."""

  pattern: str
  tool: str
  values: str
  template: str = UNKNOWN


# OpenBHB's two kinds of images; released weights were trained on the first.
OPENBHB = {'vbm': Origin('CAT12', MODULATED, NONE, _BOXES[-90, -126, -72]),
           'quasiraw': Origin('OpenBHB', QUASI_RAW, NONE, 'MNI152, affine')}


# ---- The tables ----------------------------------------------------------------------------------

_SMOOTH = r'(?P<smooth>s(?P<fwhm>\d+)?)?'
_BARE = r'(?:.*/)?'            # any folders
# CAT12's prefixes, which T1Prep and deepmriprep have too. `p1` alone may begin a participant's
# name, so that it counts before sub- only.
_CAT12_WORDS = {r'm0?wm0?wp1': AGEING, r'mwp1': MODULATED, r'm0wp1': NONLINEAR, r'wp1': PROBABILITY,
                r'r?p1(?=sub-)': OWN_SPACE}
_NIPREPS = 'fMRIPrep or sMRIPrep'
_GRAY = '_(?:label-GM(?:_desc-[^_/]+)?_probseg|class-GM_probtissue)'     # the latter to 1.1
_TABLE = (
    *(_Names(rf'{_BARE}{_SMOOTH}{word}(?P<scan>[^/]+)', 'CAT12', values)
      for word, values in _CAT12_WORDS.items()),
    # deepmriprep's other layouts: a folder a kind (dir_format mod), and BIDS
    *(_Names(pattern, 'deepmriprep', values, NEW_MNI)
      for word, values in {'mwp1': MODULATED, 'wp1': PROBABILITY, 'p1': OWN_SPACE}.items()
      for pattern in (rf'{_BARE}{_SMOOTH}{word}/(?P<scan>[^/]+)',
                      rf'{_BARE}(?P<scan>[^/]+)_{_SMOOTH}{word}')),
    # T1Prep --bids
    _Names(rf'{_BARE}(?P<scan>[^/]+)_space-{NEW_MNI}-nonlinear(?:-modulated){{2}}'
           '_label-GM_probseg', 'T1Prep', AGEING, NEW_MNI),
    _Names(rf'{_BARE}(?P<scan>[^/]+)_space-{NEW_MNI}-nonlinear-modulated_label-GM_probseg',
           'T1Prep', MODULATED, NEW_MNI),
    _Names(rf'{_BARE}(?P<scan>[^/]+)_space-{NEW_MNI}-(?:nonlinear|affine)_label-GM_probseg',
           'T1Prep', PROBABILITY, NEW_MNI),
    _Names(rf'{_BARE}{_SMOOTH}mwr?c1(?P<scan>[^/]+)', 'SPM', MODULATED, "SPM's (TPM or DARTEL)"),
    _Names(rf'{_BARE}{_SMOOTH}wr?c1(?P<scan>[^/]+)', 'SPM', PROBABILITY, "SPM's (TPM or DARTEL)"),
    _Names(rf'{_BARE}r?c1(?P<scan>sub-[^/]+)', 'SPM', OWN_SPACE),
    _Names(rf'{_BARE}(?P<scan>[^/]+?)(?:_struc)?_GM_to_template_GM_mod', 'FSL-VBM', NONLINEAR,
           "the study's"),
    _Names(rf'{_BARE}(?P<scan>[^/]+?)(?:_struc)?_GM_to_template_GM', 'FSL-VBM', PROBABILITY,
           "the study's"),
    _Names(rf'{_BARE}(?P<scan>GM_mod_merg)(?P<smooth>_s(?P<sigma>\d+))?', 'FSL-VBM', NONLINEAR,
           "the study's"),
    _Names(rf'{_BARE}(?P<scan>GM_merg)', 'FSL-VBM', PROBABILITY, "the study's"),
    _Names(rf'{_BARE}(?P<scan>[^/]+)_preproc-cat12vbm_desc-gm_T1w', 'CAT12', MODULATED),
    _Names(rf'{_BARE}(?P<scan>[^/]+)_preproc-quasiraw_T1w', 'OpenBHB', QUASI_RAW, 'MNI152, affine'),
    _Names(rf'{_BARE}(?P<scan>(?:(?!_space-)[^/])+?)(?:_space-(?:T1w|orig|individual)[^/]*)?'
           + _GRAY, _NIPREPS, OWN_SPACE),
    _Names(rf'{_BARE}(?P<scan>[^/]+?)_space-(?P<space>[A-Za-z0-9]+)(?:_[^/]+)?'
           + _GRAY, _NIPREPS, PROBABILITY),
)
_COMPILED = tuple((re.compile(names.pattern), names) for names in _TABLE)

# Who wrote names of CAT12: words in folders' names, and files in the folder or those around it.
_MAKERS = {'t1prep': 'T1Prep', 'deepmriprep': 'deepmriprep', 'cat12': 'CAT12'}
_BESIDE = (('report/cat_*.xml', 'CAT12'), ('report/catlog_*', 'CAT12'),
           ('report/T1Preplog_*', 'T1Prep'), ('report/log_*.json', 'T1Prep'),
           ('*T1Preplog*.txt', 'T1Prep'),
           ('deepmriprep_outputs.csv', 'deepmriprep'), ('warp_mse*.csv', 'deepmriprep'),
           ('label/warp_mse*.csv', 'deepmriprep'))


# ---- By name -------------------------------------------------------------------------------------


def by_name(path: pathlib.Path, maker: Callable[[pathlib.Path], str | None] | None = None
            ) -> Origin | None:
  """The kind of a map by its path and what lies around it, None where no name is known.

  `maker` is one of `makers`, for many maps.
  """
  if not (matched := _match(path)):
    return None
  names, match = matched
  groups = match.groupdict()
  smoothing = NONE if not groups.get('smooth') else UNKNOWN
  if groups.get('fwhm'):
    smoothing = f'{groups["fwhm"]} mm'
  elif groups.get('sigma'):
    smoothing = f'{int(groups["sigma"]) * 2.3548:.2g} mm'    # fslmaths -s is a standard deviation
  tool, template = names.tool, groups.get('space') or names.template
  if tool == 'CAT12' and (found := (maker or makers())(path.parent)):
    tool, template = found, template if found == 'CAT12' else NEW_MNI
  return Origin(tool, names.values, smoothing,
                UNKNOWN if names.values == OWN_SPACE else template)


def scan_name(path: pathlib.Path) -> str | None:
  """What a tool's name leaves of the scan's: `sub-01_T1w` of s6mwp1sub-01_T1w.nii; None of none."""
  found = _match(path)
  return found[1]['scan'] if found else None


def _match(path: pathlib.Path) -> tuple[_Names, re.Match] | None:
  name = re.sub(r'\.npy$', '', f'{path.parent.name}/{stem(path)}')
  return next(((names, match) for pattern, names in _COMPILED
               if (match := pattern.fullmatch(name))), None)


def makers() -> Callable[[pathlib.Path], str | None]:
  """A function that says who made what lies in a folder, and looks into each folder only once.

  By other outputs in it and around it, else by sidecars and the names of folders.
  """
  beside, named = functools.cache(_beside), functools.cache(_named)

  @functools.cache
  def maker(folder: pathlib.Path) -> str | None:
    around = [folder.absolute(), *folder.absolute().parents][:5]
    return next(filter(None, (*map(beside, around[:3]), *map(named, around))), None)

  return maker


def _beside(place: pathlib.Path) -> str | None:
  return next((tool for pattern, tool in _BESIDE if any(place.glob(pattern))), None)


def _named(place: pathlib.Path) -> str | None:
  return (next((tool for word, tool in _MAKERS.items() if word in place.name.lower()), None)
          or _generated_by(place / 'dataset_description.json'))


def _generated_by(path: pathlib.Path) -> str | None:
  try:
    makers = json.loads(path.read_text(encoding='utf-8'))['GeneratedBy']
    names = [str(maker['Name']).lower() for maker in makers]
  except (OSError, ValueError, LookupError, TypeError, RecursionError):
    return None
  return next((tool for word, tool in _MAKERS.items() for name in names if word in name), None)


# ---- With what is in the file --------------------------------------------------------------------


def of_volume(volume: VolumeSource, grid: Grid | None,
              maker: Callable[[pathlib.Path], str | None] | None = None) -> Origin | None:
  """The kind of a map: as its sidecar says, else by its name, and its header for what is open.

  The sidecar is the JSON of the same name, with the fields of an Origin under `maps`.
  """
  if said := _of_sidecar(volume.path):
    return said
  origin = by_name(volume.path, maker)
  if origin and origin.smoothing == UNKNOWN and (width := _width(volume.path)):
    origin = dataclasses.replace(origin, smoothing=width)
  if origin and origin.tool == 'CAT12' and origin.template == UNKNOWN and grid:
    corner = tuple(round(row[3]) for row in grid.affine[:3])
    origin = dataclasses.replace(origin, template=_BOXES.get(corner, UNKNOWN))
  return origin


def _of_sidecar(path: pathlib.Path) -> Origin | None:
  try:
    content = json.loads(path.with_name(f'{stem(path)}.json').read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError):
    return None
  return Origin.of_record(content.get('maps')) if isinstance(content, dict) else None


def _width(path: pathlib.Path) -> str | None:
  """The FWHM that SPM notes in the header of what it smoothed, `... - conv(8,8,8)`."""
  try:
    text = str(opened(path).header['descrip'].item().decode('latin-1'))
  except (UserError, KeyError, ValueError, AttributeError):
    return None
  match = re.search(r'conv\(([\d.]+),([\d.]+),([\d.]+)\)', text)
  return match and (f'{match[1]} mm' if len({*match.groups()}) == 1
                    else f'{"x".join(match.groups())} mm')


# ---- Of a cohort ---------------------------------------------------------------------------------


def one_kind(maps: Iterable[tuple[VolumeSource, Grid | None]]) -> Origin | None:
  """The kind of all maps of a cohort; None where no name is known. Unknown names go with any kind.

  Raises:
    UserError: maps of several kinds; the text says why they do not go together, and a glob.
  """
  kinds: dict[Origin, list[pathlib.Path]] = collections.defaultdict(list)
  maker = makers()
  for volume, grid in maps:
    if origin := of_volume(volume, grid, maker):
      kinds[origin].append(volume.path)
  if len(kinds) < 2:
    return next(iter(kinds), None)
  (first, paths), (second, others) = sorted(kinds.items(), key=lambda kind: -len(kind[1]))[:2]
  told = ' and '.join(f'{len(own)} of {kind} (such as {own[0]})' for kind, own in kinds.items())
  raise UserError(f'the maps are of {len(kinds)} kinds: {told}. {_why(first, second)} Choose one '
                  f'kind with the pattern, such as --volumes {_glob(paths, others)!r}')


def _why(a: Origin, b: Origin) -> str:
  if a.values != b.values:
    return ('Modulated maps hold volumes, probabilities do not, and neither can be told from the '
            'other once they are mixed.')
  if a.smoothing != b.smoothing:
    return 'Smoothing changes every voxel, so that kinds differ more than people do.'
  if a.tool != b.tool:
    return 'Another segmentation and registration put tissue elsewhere, as a scanner does.'
  return 'The same place is at other coordinates in another template.'


def _glob(paths: list[pathlib.Path], others: list[pathlib.Path]) -> str:
  """A pattern that matches the first paths, and if possible none of the others."""
  folder = pathlib.Path(os.path.commonpath([path.parent for path in paths]))
  name, scan = paths[0].name, scan_name(paths[0]) or ''
  depth = '**' if any(path.parent != folder for path in paths) else ''
  word = name.replace(scan, '*', 1)
  word = word[:word.index('*') + 1] if not word.startswith('*') else word
  if any(folder in path.parents for path in others) and not depth and folder.name:
    return f'{folder}/{word}'
  return str(folder / depth / word)


# ---- What there is to be said --------------------------------------------------------------------


def warnings(origin: Origin | None) -> list[str]:
  """What a user of such maps must know, a sentence each; of most none."""
  if not origin:
    return []
  if origin.values == OWN_SPACE:
    return [f"{origin}: these maps are not in a template's space, so that no voxel is the same "
            'place in two of them; give the warped ones (mwp1..., space-MNI...)']
  if origin.values == PROBABILITY:
    return [f'{origin}: where tissue was stretched or shrunk to fit the template its amount is '
            'lost; they are NOT what weights that were trained on modulated maps (mwp1) expect']
  return []


def box_note(origin: Origin | None, grid: Grid, target: Grid) -> str | None:
  """What it means to put maps of the smaller box and newer template on `mni1.5`, or None."""
  corner = tuple(round(row[3]) for row in grid.affine[:3])
  # Whatever its spacing, a grid made of mni1.5 has its centre.
  centres = [np.asarray(one.affine)[:3] @ [*((np.array(one.shape) - 1) / 2), 1]
             for one in (target, NAMED_GRIDS['mni1.5'])]
  if not origin or corner != (-84, -120, -72) or not np.allclose(*centres, atol=0.1):
    return None
  return (f'maps of {NEW_MNI} are put by their coordinates into the box of 121x145x121 (1.5 mm): '
          'where voxels are 1.5 mm they stay as they are, with zeros around. It stays another '
          'template than that of OpenBHB\'s maps: the same place may be some mm away')


def difference(trained: Origin | None, given: Origin | None) -> str | None:
  """What to say where an encoder meets maps of another kind than it was trained on, or None."""
  if not trained or not given or trained == given:
    return None
  return (f'the encoder was trained on maps of another kind ({trained}) than these ({given}): how '
          'far its features hold there is not known')
