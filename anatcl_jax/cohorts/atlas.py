"""Cortical atlases: the names of their regions, in the order in which shards store them."""

from __future__ import annotations

import functools
import re

# OpenBHB's order (not alphabetical: the poles, transverse temporal cortex and insula come last, as
# in FreeSurfer's colour table).
_DESIKAN_HEMISPHERE = (
    'bankssts', 'caudalanteriorcingulate', 'caudalmiddlefrontal', 'cuneus', 'entorhinal',
    'fusiform', 'inferiorparietal', 'inferiortemporal', 'isthmuscingulate', 'lateraloccipital',
    'lateralorbitofrontal', 'lingual', 'medialorbitofrontal', 'middletemporal', 'parahippocampal',
    'paracentral', 'parsopercularis', 'parsorbitalis', 'parstriangularis', 'pericalcarine',
    'postcentral', 'posteriorcingulate', 'precentral', 'precuneus', 'rostralanteriorcingulate',
    'rostralmiddlefrontal', 'superiorfrontal', 'superiorparietal', 'superiortemporal',
    'supramarginal', 'frontalpole', 'temporalpole', 'transversetemporal', 'insula')

# FreeSurfer's aparc.a2009s, without Unknown and Medial_wall.
_DESTRIEUX_HEMISPHERE = (
    'G_and_S_frontomargin', 'G_and_S_occipital_inf', 'G_and_S_paracentral', 'G_and_S_subcentral',
    'G_and_S_transv_frontopol', 'G_and_S_cingul-Ant', 'G_and_S_cingul-Mid-Ant',
    'G_and_S_cingul-Mid-Post', 'G_cingul-Post-dorsal', 'G_cingul-Post-ventral', 'G_cuneus',
    'G_front_inf-Opercular', 'G_front_inf-Orbital', 'G_front_inf-Triangul', 'G_front_middle',
    'G_front_sup', 'G_Ins_lg_and_S_cent_ins', 'G_insular_short', 'G_occipital_middle',
    'G_occipital_sup', 'G_oc-temp_lat-fusifor', 'G_oc-temp_med-Lingual', 'G_oc-temp_med-Parahip',
    'G_orbital', 'G_pariet_inf-Angular', 'G_pariet_inf-Supramar', 'G_parietal_sup', 'G_postcentral',
    'G_precentral', 'G_precuneus', 'G_rectus', 'G_subcallosal', 'G_temp_sup-G_T_transv',
    'G_temp_sup-Lateral', 'G_temp_sup-Plan_polar', 'G_temp_sup-Plan_tempo', 'G_temporal_inf',
    'G_temporal_middle', 'Lat_Fis-ant-Horizont', 'Lat_Fis-ant-Vertical', 'Lat_Fis-post',
    'Pole_occipital', 'Pole_temporal', 'S_calcarine', 'S_central', 'S_cingul-Marginalis',
    'S_circular_insula_ant', 'S_circular_insula_inf', 'S_circular_insula_sup',
    'S_collat_transv_ant', 'S_collat_transv_post', 'S_front_inf', 'S_front_middle', 'S_front_sup',
    'S_interm_prim-Jensen', 'S_intrapariet_and_P_trans', 'S_oc_middle_and_Lunatus',
    'S_oc_sup_and_transversal', 'S_occipital_ant', 'S_oc-temp_lat', 'S_oc-temp_med_and_Lingual',
    'S_orbital_lateral', 'S_orbital_med-olfact', 'S_orbital-H_Shaped', 'S_parieto_occipital',
    'S_pericallosal', 'S_postcentral', 'S_precentral-inf-part', 'S_precentral-sup-part',
    'S_suborbital', 'S_subparietal', 'S_temporal_inf', 'S_temporal_sup', 'S_temporal_transverse')

# Desikan-Killiany-Tourville: Klein and Tourville 2012 gave the regions of these three to their
# neighbours, so that regions of the same name are not quite the same cortex.
NOT_IN_DKT = ('bankssts', 'frontalpole', 'temporalpole')
_DKT_HEMISPHERE = tuple(name for name in _DESIKAN_HEMISPHERE if name not in NOT_IN_DKT)

HEMISPHERES = ('lh', 'rh')

# Regions of one hemisphere, by the atlas's name on the command line.
ATLASES = {'desikan': _DESIKAN_HEMISPHERE, 'destrieux': _DESTRIEUX_HEMISPHERE,
           'dkt': _DKT_HEMISPHERE}


def regions(atlas: str) -> tuple[str, ...]:
  """Regions of both hemispheres, all of lh before all of rh, as `lh_bankssts`."""
  return tuple(f'{hemisphere}_{name}' for hemisphere in HEMISPHERES for name in ATLASES[atlas])


def find_region(text: str, atlas: str) -> str | None:
  """A region of a hemisphere by any spelling of its name, or None.

  FreeSurfer 6.0 writes G&S_subcentral, others G_and_S_subcentral, R's data frames G.S_subcentral;
  case and punctuation are passed over.
  """
  return _by_bare_name(atlas).get(_bare(text))


@functools.cache
def _by_bare_name(atlas: str) -> dict[str, str]:
  return {_bare(name): name for name in ATLASES[atlas]}


def _bare(text: str) -> str:
  return ''.join(word for word in re.findall('[a-z0-9]+', text.lower()) if word != 'and')
