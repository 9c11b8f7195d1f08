"""Tasks as data: labels out of tables, refusals with a reason, presets that match `prepare`."""

from __future__ import annotations

import collections
import pathlib
import re

import numpy as np
import pandas
import pytest

from anatcl_jax.cohorts.phenotypes import PRESETS
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation import tasks
from anatcl_jax.evaluation.target import read_target
from anatcl_jax.evaluation.tasks import CLASSIFICATION, REGRESSION, Task
from tests.evaluation.probing import cohort_of

ROOT = pathlib.Path(__file__).parents[2]
TASKS, COHORTS = tasks.read_tasks(ROOT / 'configs' / 'tasks.py')


def test_a_contrast_takes_its_classes_and_counts_the_others():
  table = cohort_of({'diagnosis': ['AD'] * 12 + ['cn'] * 15 + ['MCI'] * 7 + ['n/a', '']}).table
  target = read_target(TASKS['ad'], table, 10)
  assert target.classes == ('CN', 'AD')
  assert list(target.names(target.values)) == ['AD'] * 12 + ['CN'] * 15
  assert list(target.rows) == list(range(27))
  assert target.notes == ('ad: 2 scans without a value are left out',
                          'ad: 7 scans of other classes (MCI) are left out')


def test_small_classes_are_left_out_of_many_and_refused_of_two():
  sites = ['a'] * 20 + ['b'] * 12 + ['c'] * 3 + ['d'] * 15
  target = read_target(TASKS['site'], cohort_of({'site': sites}).table, 10)
  assert target.classes == ('a', 'b', 'd')
  assert collections.Counter(target.names(target.values)) == {'a': 20, 'b': 12, 'd': 15}
  assert target.notes == ('site: c (3) has fewer than 10 people and is left out',)
  with pytest.raises(UserError, match=r'at least 10 people.*CN \(30\), AD \(9\)'):
    read_target(TASKS['ad'], cohort_of({'diagnosis': ['AD'] * 9 + ['CN'] * 30}).table, 10)
  # People count, not scans.
  with pytest.raises(UserError, match=r'AD \(9\)'):
    read_target(TASKS['ad'], cohort_of({'diagnosis': ['AD'] * 9 + ['CN'] * 30}, 2).table, 10)


@pytest.mark.parametrize('columns, message', [
    ({'sex': ['M'] * 40}, r"no column 'age'; it has participant_id, session, sex"),
    ({'age': ['old'] * 40}, 'column age holds old, which is not a number'),
    ({'age': [50.0] * 40}, 'all values of age are 50'),
    ({'age': [50.0, 51] * 5}, '10 people have a value, fewer than 20')])
def test_a_task_that_can_not_be_done_says_why(columns, message):
  with pytest.raises(UserError, match=message):
    read_target(TASKS['age'], cohort_of(columns).table, 10)


@pytest.mark.parametrize('values, message', [
    ({'kind': 'ranking'}, "kind 'ranking' is none of"),
    ({'kind': CLASSIFICATION, 'positive': ('AD',)}, 'positive and control belong together'),
    ({'kind': CLASSIFICATION, 'positive': ('AD',), 'control': ('ad',)},
     'both positive and control'),
    ({'kind': CLASSIFICATION, 'positive': 'AD', 'control': ('CN',)}, 'positive is a text'),
    ({'kind': REGRESSION, 'metric': 'rmse'}, "unknown metric.*did you mean 'mae'"),
    ({'kind': REGRESSION, 'positive': ('a',), 'control': ('b',)}, 'to a classification')])
def test_a_task_that_makes_no_sense(values, message):
  with pytest.raises(UserError, match=message):
    Task('mine', 'column', **values)


def test_tasks_are_chosen_by_name_or_cohort():
  chosen = tasks.choose_tasks('age, adni,thickness:lh_insula', TASKS, COHORTS)
  assert [name for name, (_, named) in chosen.items() if named] == ['age', 'thickness:lh_insula']
  assert set(chosen) == {'thickness:lh_insula', *COHORTS['adni']}
  with pytest.raises(UserError, match="unknown task 'agee': did you mean 'age'"):
    tasks.choose_tasks('agee', TASKS, COHORTS)
  with pytest.raises(UserError, match='names no task'):
    tasks.choose_tasks(' ,', TASKS, COHORTS)


@pytest.mark.parametrize('name, kind, control, positive', [
    ('group', CLASSIFICATION, ('HC',), ('SCZ',)),
    ('group:HC/SCZ', CLASSIFICATION, ('SCZ',), ('HC',)),
    ('said', CLASSIFICATION, ('none',), ('a/b',)),
    ('said:a/b/none', CLASSIFICATION, ('none',), ('a/b',)),
    ('code', CLASSIFICATION, ('0',), ('1',)), ('score', REGRESSION, (), ()),
    ('patient', CLASSIFICATION, ('no',), ('yes',)), ('thickness:lh_insula', REGRESSION, (), ())])
def test_a_column_is_a_task(name, kind, control, positive):
  table = _table(group=['HC', 'SCZ', 'hc', None] * 5, said=['a/b', 'none'] * 10,
                 code=[1.0, 0.0] * 10, score=['1.5', '2', '3', 'n/a'] * 5,
                 patient=['yes', 'no'] * 10)
  (task, named), = tasks.choose_tasks(name, TASKS, COHORTS, table).values()
  assert named and (task.name, task.kind, task.control, task.positive) == (
      name, kind, control, positive)


@pytest.mark.parametrize('name, message', [
    ('site', "no column 'site'"), ('session', 'unknown task or column'),
    ('group:SCZ', r'column group holds HC \(10 scans\), SCZ .*give two of these.*group:HC/SCZ'),
    ('group:SCZ/NC', 'give two of these values'), ('one', r'holds x \(20 scans\); two values'),
    ('empty', 'holds no value'), ('mixed', 'holds old, which is not a number'),
    ('group:HC/hc', 'both positive and control')])
def test_a_column_that_is_no_task(name, message):
  table = _table(group=['HC', 'SCZ'] * 10, one=['x'] * 20, empty=[None] * 20,
                 mixed=['1', '2', '3', 'old'] * 5)
  with pytest.raises(UserError, match=message):
    for task, _ in tasks.choose_tasks(name, TASKS, COHORTS, table).values():
      read_target(task, table, 5)


def test_a_number_of_few_values_may_be_a_code():
  target = read_target(Task('arm', 'arm', REGRESSION), _table(arm=['0', '1', '2'] * 10), 5)
  assert 'are predicted as numbers; codes of classes would be written arm:1/0' in target.notes[0]


def test_codings_of_the_presets_are_those_that_prepare_writes():
  """Every class of a cohort's contrasts is a code that its phenotype preset can give."""
  derived = {'adni': {'mci_course': {'stable', 'progressive'}},
             'oasis3': {'diagnosis': {'CN', 'AD', 'other'}}}
  for cohort, preset in PRESETS.items():
    if not preset.columns:
      continue
    known = {column.name: set((column.codes or {}).values()) for column in preset.columns}
    known |= derived.get(cohort, {})
    for name in COHORTS[cohort]:
      task = TASKS[name]
      if name in ('motor', 'depression', 'site') or not task.positive:
        assert task.column in known or name in ('motor', 'depression'), (cohort, name)
      elif task.column != 'handedness':     # as it is
        assert {*task.positive, *task.control} <= known[task.column], (cohort, name)


def test_the_five_lines_of_the_docs_add_two_tasks(tmp_path):
  text = (ROOT / 'docs' / 'probe.md').read_text()
  lines = re.search(r'```python\n(.*?)```', text, re.DOTALL)[1]
  assert len([line for line in lines.splitlines() if line.strip()]) <= 7
  path = tmp_path / 'mine.py'
  path.write_text(lines)
  mine, _ = tasks.read_tasks(path)
  chosen = tasks.choose_tasks(','.join(mine), mine, {})
  assert len(chosen) == 2
  rng = np.random.default_rng(0)
  for task, _ in chosen.values():
    values = (rng.choice([*task.positive, *task.control], 60) if task.positive
              else rng.normal(size=60))
    assert len(read_target(task, cohort_of({task.column: values}).table, 10).rows) == 60
  both, _ = tasks.read_tasks(ROOT / 'configs' / 'tasks.py', path)
  assert set(both) == {*TASKS, *mine}
  path.write_text('TASKS = 1 / 0')
  with pytest.raises(UserError, match='mine.py, line 1: ZeroDivisionError'):
    tasks.read_tasks(path)
  with pytest.raises(UserError, match='no such file of tasks'):
    tasks.read_tasks(tmp_path / 'none.py')
  path.write_text('')
  with pytest.raises(UserError, match='defines no TASKS'):
    tasks.read_tasks(path)


def test_numbers_as_text_and_pandas_missing_values():
  column = pandas.Series(['20', '30.5', 'n/a', None, *map(str, range(40))], dtype=object)
  target = read_target(TASKS['mmse'], cohort_of({'mmse': column}).table, 10)
  assert list(target.values[:3]) == [20, 30.5, 0] and len(target.rows) == 42


@pytest.mark.parametrize('written', [('0', '1', '2'), ('0.0', '1.0', '2.0'), (0.0, 1.0, 2.0),
                                     (' 0', '1 ', '2.00')])
def test_codes_written_as_floats_are_the_same_codes(written):
  task = Task('carrier', 'apoe4', CLASSIFICATION, positive=('1', '2'), control=('0',))
  cells = [written[row % 3] for row in range(30)] + [None, '<NA>', 'null', 'None', 'n/a', '']
  target = read_target(task, _table(apoe4=cells), 10)
  assert target.rows.tolist() == list(range(30))
  assert target.values.tolist() == [min(row % 3, 1) for row in range(30)]


def test_missing_values_of_any_tool_are_no_class():
  task = Task('group', 'group', CLASSIFICATION)
  cells = ['a', 'b'] * 10 + ['None', 'NULL', '<NA>', '#N/A', '.', 'NaT', np.nan, None]
  assert read_target(task, _table(group=cells), 10).classes == ('a', 'b')
  kept = read_target(task, _table(group=['none', 'insulin'] * 10), 10)   # an answer
  assert kept.classes == ('insulin', 'none')


def test_codes_that_a_task_does_not_know_are_listed():
  task = Task('sex', 'sex', CLASSIFICATION, positive=('F',), control=('M',), classes=('M', 'F'))
  with pytest.raises(UserError, match=(
      r"nobody is 'M'; column sex holds 1 \(20 scans\), 2 \(10 scans\).*--config.task_file.*"
      r"positive=\('1',\), control=\('2',\), classes=\('M', 'F'\)")):
    read_target(task, _table(sex=['1', '1', '2'] * 10), 5)


def _table(**columns):
  count = len(next(iter(columns.values())))
  return pandas.DataFrame({'participant_id': [f'sub-{row}' for row in range(count)],
                           'session': [''] * count} | columns)
