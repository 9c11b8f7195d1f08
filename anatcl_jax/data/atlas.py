"""Cortical atlases: the names of their regions, in the order in which shards store them."""

from __future__ import annotations

# OpenBHB's order (not alphabetical: the poles, transverse temporal cortex and insula come last, as
# in FreeSurfer's colour table).
_DESIKAN_HEMISPHERE = (
    'bankssts', 'caudalanteriorcingulate', 'caudalmiddlefrontal', 'cuneus', 'entorhinal', 'fusiform',
    'inferiorparietal', 'inferiortemporal', 'isthmuscingulate', 'lateraloccipital',
    'lateralorbitofrontal', 'lingual', 'medialorbitofrontal', 'middletemporal', 'parahippocampal',
    'paracentral', 'parsopercularis', 'parsorbitalis', 'parstriangularis', 'pericalcarine',
    'postcentral', 'posteriorcingulate', 'precentral', 'precuneus', 'rostralanteriorcingulate',
    'rostralmiddlefrontal', 'superiorfrontal', 'superiorparietal', 'superiortemporal',
    'supramarginal', 'frontalpole', 'temporalpole', 'transversetemporal', 'insula')

HEMISPHERES = ('lh', 'rh')

# Regions of one hemisphere, by the atlas's name on the command line.
ATLASES = {'desikan': _DESIKAN_HEMISPHERE}


def regions(atlas: str) -> tuple[str, ...]:
  """Regions of both hemispheres, all of lh before all of rh, as `lh_bankssts`."""
  return tuple(f'{hemisphere}_{name}' for hemisphere in HEMISPHERES for name in ATLASES[atlas])
