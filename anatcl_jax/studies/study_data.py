"""The study's SYNTHETIC people: shards to pretrain on, shards of those who are asked, the truth."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import sys
import tempfile
from typing import Any

import numpy as np
import pandas

from anatcl_jax.cohorts import atlas, bids
from anatcl_jax.cohorts.phantom import cohort as phantom
from anatcl_jax.data import make_shards, shards
from anatcl_jax.errors import UserError

PRETRAINING, ASKED, TRUTH = 'pretraining', 'asked', 'truth'
_BIN = 10                                 # years, of the column age_bin


@dataclasses.dataclass(frozen=True)
class Asked:
  """N people who took no part in pretraining, each scanned twice; R regions.

  first and second are the records of their sessions in the shards. unseen: whether their sites are.
  morphometry and morphometry_again [N, R M] as measured then, thickness [N, R] the truth.
  """

  first: np.ndarray
  second: np.ndarray
  age: np.ndarray
  male: np.ndarray
  site: np.ndarray
  unseen: np.ndarray
  patient: np.ndarray
  subtype: np.ndarray
  head_size: np.ndarray
  morphometry: np.ndarray
  morphometry_again: np.ndarray
  thickness: np.ndarray


def make(settings: phantom.PhantomSettings, share: float, out: pathlib.Path) -> None:
  """Draws the cohort and splits it, unless it is there: out/pretraining, out/asked, out/truth.

  Of `share` of the people of seen sites the first scan is for pretraining; all others are asked.

  Raises:
    UserError: too few people for it, or `out` holds other people.
  """
  record = {'phantom': settings.as_record()}
  made = out / ASKED / 'dataset.json'
  if made.is_file():
    there = shards.open_shards(out / ASKED).info['sources']
    if there != record | {'share': share}:
      raise UserError(f'{out} holds people of other settings ({there}); choose another --out')
    return
  print(f'drawing {settings.subjects} SYNTHETIC people at {settings.spacing:g} mm',
        file=sys.stderr)
  out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=out, prefix='.cohort-') as temporary:
    paths = phantom.write_cohort(pathlib.Path(temporary) / 'cohort', settings)
    cohort = bids.read_cohort(paths.volumes, paths.participants, list(paths.morphometry))
    bins = (cohort.table['age'].astype(float) // _BIN * _BIN).astype(int).astype(str)
    cohort = dataclasses.replace(cohort, table=cohort.table.assign(age_bin=bins),
                                 sources=record | {'share': share})
    seen = cohort.table[(cohort.table['split'] == 'train')]['participant_id'].unique()
    chosen = set(seen[:round(share * len(seen))])
    for name, keep in ((PRETRAINING, lambda scan: scan.participant_id in chosen
                        and scan.session == 'ses-1'),
                       (ASKED, lambda scan: scan.participant_id not in chosen)):
      make_shards.make_shards(cohort.select(keep), out / name, dtype='float16')
    shutil.copytree(paths.truth, out / TRUTH, dirs_exist_ok=True)


def read_asked(out: pathlib.Path) -> tuple[shards.ShardSet, Asked]:
  """Those who are asked, as `make` left them."""
  data = shards.open_shards(out / ASKED)
  table = data.table.reset_index(drop=True)
  truth = {name: pandas.read_csv(out / TRUTH / f'{name}.tsv', sep='\t')
           for name in ('subjects', 'thickness')}
  first = table[table['session'] == 'ses-1']
  second = table[table['session'] == 'ses-2']
  names = first['participant_id'].to_numpy()
  places = dict(zip(second['participant_id'], second.index))
  sizes = truth['subjects'].drop_duplicates('participant_id').set_index('participant_id')
  thickness = truth['thickness'].set_index('participant_id')[list(atlas.regions('desikan'))]
  records = first.index.to_numpy(), np.array([places[name] for name in names])
  morphometry = np.asarray(data.select_measures(data.measures), float).reshape(len(table), -1)
  return data, Asked(
      *records,
      first['age'].to_numpy(float), (first['sex'] == 'M').to_numpy(float),
      first['site'].to_numpy(str), (first['split'] == 'test').to_numpy(),
      (first['diagnosis'] == 'patient').to_numpy(), first['subtype'].fillna('').to_numpy(str),
      sizes.loc[names, 'head_size'].to_numpy(float),
      *(morphometry[rows] for rows in records),
      thickness.loc[names].to_numpy(float))


def described(config: Any) -> dict[str, Any]:
  """What of a study's config all its runs must share, for the results file."""
  return {name: config[name].to_dict() if hasattr(config[name], 'to_dict') else config[name]
          for name in ('phantom', 'pretraining', 'training', 'folds', 'labels', 'replicates')}
