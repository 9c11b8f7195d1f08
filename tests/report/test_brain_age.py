"""Brain age in the report, on SYNTHETIC numbers: what stands there is what was found."""

from __future__ import annotations

import numpy as np
import pytest

from anatcl_jax import report
from anatcl_jax.evaluation import tasks, write
from anatcl_jax.evaluation.brain_age import CORRECTED, GAP
from anatcl_jax.evaluation.evaluate import Settings
from anatcl_jax.evaluation.run import Extent, run
from anatcl_jax.evaluation.write import shown
from anatcl_jax.report import brain_age, methods
from tests.evaluation.probing import cohort_of

pytestmark = pytest.mark.usefixtures('coarse')
TASKS, COHORTS = tasks.read_tasks('configs/tasks.py')


@pytest.fixture(scope='module')
def evaluation():
  rng = np.random.default_rng(0)
  group = np.resize(['HC', 'HC', 'SCZ'], 90)
  age = rng.uniform(20, 60, 90)
  cohort = cohort_of({'age': age, 'sex': np.resize(['M', 'F'], 90), 'group': group})
  x = ((age + 4 * (group == 'SCZ'))[:, None] - 40) / 12 + rng.normal(0, 0.4, (90, 3))
  cohort.morphometry[group == 'SCZ'] -= 0.1
  return run(cohort, {'ours:a': (x.astype(np.float32),)},
             tasks.choose_tasks('brain_age', TASKS, COHORTS, cohort.table),
             Settings(folds=2, inner_folds=2), Extent('none', False), {}, progress=False)


def _row(evaluation, features, value):
  rows = evaluation.gap_groups
  return next(rows[(rows['features'] == features) & (rows['value'] == value)
                   & (rows['group'] == 'SCZ')].itertuples())


def test_pictures_say_the_table_s_figures(evaluation):
  gaps, effects = brain_age.pictures(evaluation, 'brain_age')
  assert (gaps.name, effects.name) == ('brain-age-ours--a', 'brain-age-effects')
  own = evaluation.gaps[evaluation.gaps['features'] == 'ours:a'].groupby('group')
  for column, value in (('gap', GAP), ('gap_corrected', CORRECTED)):
    for group, count in (('HC', 60), ('SCZ', 30)):
      assert f'{value}, {group}: {own[column].mean()[group]:.2f} years (n = {count})' in gaps.text
    row = _row(evaluation, 'ours:a', value)
    assert f'SCZ, ours:a, {value}: d {row.d:.2f} ({row.d_low:.2f} to' in effects.text
  thickness = _row(evaluation, 'mean cortical thickness', 'mean cortical thickness')
  assert thickness.d < -2 and f'd {thickness.d:.2f}' in effects.text
  # Thinner is to the right.
  axes, = effects.figure.axes
  assert min(line.get_xdata()[0] for line in axes.lines[-3:-1]) > 2
  assert {text.get_text() for text in axes.get_yticklabels()} == {
      'ours:a', 'morphometry', 'covariates', 'mean cortical thickness, sign turned'}


def test_the_corrected_gap_is_never_without_the_raw_one(evaluation, tmp_path):
  table, = brain_age.tables(evaluation, 'brain_age')
  values = [table.count(f'<td>gap<br><small>{how}</small></td>')
            for how in ('years', 'corrected for age, years')]
  assert values == [3, 3]
  row, raw = _row(evaluation, 'ours:a', CORRECTED), _row(evaluation, 'ours:a', GAP)
  said = f'{shown(row.difference)}<br><small>{shown(row.low)} to {shown(row.high)}</small>'
  assert f'<td>{said}</td>' in table and 'adjusted for age, sex' in table
  assert 'against HC (60): ' in table and 'HC, mean (SD)' in table
  assert '<td>SCZ<br><small>30</small></td>' in table
  assert (f'the gap of 30 SCZ is {shown(row.difference)} years ({shown(row.low)} to '
          f'{shown(row.high)}) above that of 60 HC, d {shown(row.d)}; raw {shown(raw.difference)}'
          ) in write.summary(evaluation)
  page = report.write(evaluation, tmp_path, names='tasks').read_text()
  assert 'of them predicted' not in page              # the patients are, too
  assert 'Brain-age gap of ours:a' in page and said in page
  text, references = methods.paragraph(evaluation)
  assert 'healthy participants alone' in text and 'adjusted for age and sex, with HC3' in text
  assert any('Beheshti' in one for one in references) and any('Lange' in one for one in references)
