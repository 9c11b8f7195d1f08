"""Which region and measure a column of a table is: FreeSurfer's names and those of large studies.

Sources of the names: ENIGMA's scripts of extraction (CorticalMeasuresENIGMA_ThickAvg.csv), HCP's
unrestricted data, ABCD's tables to release 5.1 (smri_*_cdk_*) and since 6.0 (mr_y_smri__*__dsk__*),
UK Biobank's categories 192 (Desikan, white surface) and 196 (DKT). docs/inputs.md says what of it
is certain.
"""

from __future__ import annotations

import dataclasses
import re

from anatcl_jax.cohorts import atlas as atlases

# FreeSurfer's measures by aparcstats2table's names, the headers of stats files, and the studies'.
_MEASURES = {
    'thickness': 'thickness', 'area': 'area', 'volume': 'volume', 'thicknessstd': 'thicknessstd',
    'meancurv': 'meancurv', 'gauscurv': 'gauscurv', 'foldind': 'foldind', 'curvind': 'curvind',
    'thickavg': 'thickness', 'surfarea': 'area', 'grayvol': 'volume', 'thickstd': 'thicknessstd',
    'surfavg': 'area', 'thck': 'thickness', 'thick': 'thickness', 'thk': 'thickness',
    'vol': 'volume', 'mean thickness': 'thickness'}
_FREESURFER = ('thickness|area|volume|thicknessstd|meancurv|gauscurv|foldind|curvind|thickavg|'
               'surfarea|grayvol|thickstd')

# Each with groups hemisphere, region and measure; the whole name must match, in any case.
_NAMES = tuple(re.compile(pattern, re.IGNORECASE) for pattern in (
    rf'(?P<hemisphere>lh|rh)[_.](?P<region>.+)[_.](?P<measure>{_FREESURFER})',
    r'(?P<hemisphere>l|r)[_.](?P<region>.+)[_.](?P<measure>thickavg|surfavg)',     # ENIGMA
    r'fs_(?P<hemisphere>l|r)_(?P<region>.+)_(?P<measure>thck|area|grayvol)'))      # HCP

# UK Biobank's titles, with or without the field's number and instance.
_TITLE = re.compile(r'(?P<measure>area|mean thickness|volume) of (?P<region>.+) '
                    r'(?P<hemisphere>left|right) hemisphere(?: f?\d{5} (?P<instance>\d) \d)?'
                    r'(?: instance (?P<also>\d))?')
_FIELD = re.compile(r'(?:n_|f\.?|x|p)?(?P<field>2[67]\d{3})'
                    r'(?:[-._]i?(?P<instance>\d)(?:[._a]\d)?)?', re.IGNORECASE)

# ABCD's abbreviations, to release 5.1 and since 6.0, in the order of our Desikan regions.
_ABCD_5 = re.compile(r'smri_(?P<measure>thick|area|vol)_cdk_(?P<region>[a-z]+)'
                     r'(?P<hemisphere>lh|rh)')
_ABCD_6 = re.compile(r'mr_y_smri__(?P<measure>thk|area|vol)__dsk__(?P<region>[a-z]+)__'
                     r'(?P<hemisphere>lh|rh)_(?:mean|sum)')
_ABCD_REGIONS = {abbreviation: region for abbreviations in (
    'bankssts cdacate cdmdfr cuneus ehinal fusiform ifpl iftm ihcate locc lobfr lingual mobfr mdtm '
    'parahpal paracn parsopc parsobis parstgris pericc postcn ptcate precn pc rracate rrmdfr sufr '
    'supl sutm sm frpole tmpole trvtm insula',
    'bstmps cac cmfrt cn er ff iprt itmp ic locc lobfrt lg mobfrt mtmp ph pactr pop pob ptg pcc '
    'poctr pcg prctr prcn rac rmfrt sfrt sprt stmp sm pfrt ptmp ttmp ins')
    for abbreviation, region in zip(abbreviations.split(), atlases.ATLASES['desikan'], strict=True)}


@dataclasses.dataclass(frozen=True)
class RegionColumn:
  """What a column holds; `session` where its name says so, as UK Biobank's instances do.

  `coded`: the name is of one study's one atlas, not of a region that other atlases have too.
  """

  region: str                # lh_bankssts
  measure: str               # thickness
  session: str = ''         # ses-2
  coded: bool = False


def region_column(name: str, atlas: str, corner: re.Match | None = None) -> RegionColumn | None:
  """The region of an atlas and the measure that a column holds by its name, or None.

  `corner` is the match of a table whose corner cell says hemisphere and measure, so that columns
  are bare names of regions. Columns repeated by a tool (lh_bankssts_area.1) are the same.
  """
  name = re.sub(r'(?<=[A-Za-z])\.+\d+$', '', name.strip())
  for pattern in _NAMES:
    match = pattern.fullmatch(name)
    if match and (region := atlases.find_region(match['region'], atlas)):
      return _column(match, region)
  if atlas == 'desikan':
    match = _ABCD_5.fullmatch(name) or _ABCD_6.fullmatch(name)
    if match and (region := _ABCD_REGIONS.get(match['region'])):
      return dataclasses.replace(_column(match, region), coded=True)
  if match := _TITLE.fullmatch(' '.join(re.findall('[a-z0-9]+', name.lower()))):
    if region := atlases.find_region(match['region'], atlas):
      return _column(match, region, match['instance'] or match['also'])
  match = _FIELD.fullmatch(name)
  if match and (found := _FIELDS[atlas].get(int(match['field']))):
    session = f'ses-{match["instance"]}' if match['instance'] else ''
    return RegionColumn(*found, session, coded=True)
  if corner and (region := atlases.find_region(name, atlas)):
    return RegionColumn(f'{corner["hemisphere"]}_{region}', corner['measure'])
  return None


def _column(match: re.Match, region: str, instance: str | None = None) -> RegionColumn:
  hemisphere = 'lh' if match['hemisphere'][0] in 'lL' else 'rh'
  return RegionColumn(f'{hemisphere}_{region}', _MEASURES[match['measure'].lower()],
                      f'ses-{instance}' if instance else '')


def _fields(first: int, names: tuple[str, ...], totals: bool) -> dict[int, tuple[str, str]]:
  """UK Biobank's fields, a run of regions a measure, left before right.

  With `totals` the runs of area and thickness begin with the whole hemisphere.
  """
  fields = {}
  for hemisphere in atlases.HEMISPHERES:
    for measure in ('area', 'thickness', 'volume'):
      first += totals and measure != 'volume'
      fields |= {first + i: (f'{hemisphere}_{name}', measure) for i, name in enumerate(names)}
      first += len(names)
  return fields


# Category 192 has no temporalpole. The order of category 197 (Destrieux) could not be checked: it
# is read by its titles.
_FIELDS = {
    'desikan': _fields(26721, tuple(name for name in atlases.ATLASES['desikan']
                                    if name != 'temporalpole'), True),
    'dkt': _fields(27143, atlases.ATLASES['dkt'], False), 'destrieux': {}}
