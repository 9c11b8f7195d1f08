"""The brain-age gap by diagnosis: how large it is, and what tells as much without a probe."""

from __future__ import annotations

import html
import re

import numpy as np
import pandas
import scipy.stats

from anatcl_jax.evaluation.brain_age import CORRECTED, GAP
from anatcl_jax.evaluation.results import Evaluation, is_baseline, plain
from anatcl_jax.evaluation.write import shown
from anatcl_jax.report import style
from anatcl_jax.report.style import Picture
from anatcl_jax.report.tables import p_cell

TEXT = ('The gap is predicted less true age: above 0, a brain looks older than it is. Predictions '
        'lean towards the mean age, so the raw gap falls with age; the corrected gap is without '
        'that line, learned where the probe was fitted. A group whose brains are x years older '
        'shows about the slope times x. Gaps of other scanners or sites than those fitted on hold '
        'these too.')
_COLUMNS = ('gap', GAP), ('gap_corrected', CORRECTED)


def pictures(evaluation: Evaluation, task: str) -> list[Picture]:
  """Gaps of each encoder, and the effects of all representations and brain measures."""
  table = evaluation.gaps[(evaluation.gaps['task'] == task) & (evaluation.gaps['group'] != '')]
  first = table['estimator'].iloc[0]
  groups = evaluation.gap_groups[evaluation.gap_groups['task'] == task]
  control = groups['against'].iloc[0]
  found = [_gaps(evaluation, own, name, control)
           for name, own in table[table['estimator'] == first].groupby('features', sort=False)
           if not is_baseline(name)]
  effects = groups[np.isfinite(groups['d']) & groups['estimator'].isin([first, ''])]
  return found + ([_effects(evaluation, effects, control)] if len(effects) else [])


def tables(evaluation: Evaluation, task: str) -> list[str]:
  """Each group's gap, raw and corrected, and its difference from the healthy, as HTML."""
  groups = evaluation.gap_groups[evaluation.gap_groups['task'] == task]
  several = groups['estimator'].replace('', np.nan).nunique() > 1
  first = groups.iloc[0]
  control = f'{first["against"]} ({first["n_against"]})'
  ill = groups[groups['group'] != groups['against']]
  head = ['features', 'value', 'group', 'mean (SD)',
          *([f'{first["against"]}, mean (SD)', 'difference', "Cohen's d", 'p'] if len(ill) else []),
          'slope']
  rows = []
  for row in (ill if len(ill) else groups).itertuples():
    name = row.features + (f', {row.estimator}' if several and row.estimator else '')
    value, _, how = ('measure' if row.value == row.features else row.value).partition(', ')
    how = ', '.join(filter(None, (how, row.unit)))
    cells = [name, value + f' ({how})' * bool(how), f'{row.group} ({row.n})',
             f'{shown(row.mean)} ({shown(row.sd)})']
    if len(ill):
      cells += [f'{shown(row.mean_against)} ({shown(row.sd_against)})',
                (f'none ({row.note})' if row.note else
                 _with_interval(row.difference, row.low, row.high)),
                _with_interval(row.d, row.d_low, row.d_high),
                p_cell(row.p) if np.isfinite(row.p) else '']
    rows.append([*cells, shown(row.slope) if np.isfinite(row.slope) else ''])
  adjusted = f' adjusted for {first["adjusted_for"].replace("+", ", ")}' * bool(
      first['adjusted_for'])
  caption = (f'Each group, with its number of people, against {control}: difference and Cohen\'s d'
             f'{adjusted}, with 95 % intervals; p is not adjusted for the number of rows.'
             if len(ill) else 'Gaps of the healthy, with their number.')
  titles = ''.join(f'<th scope="col">{html.escape(title)}</th>' for title in head)
  body = ''.join(f'<tr><th scope="row">{html.escape(name)}</th>{"".join(map(_cell, cells))}</tr>'
                 for name, *cells in rows)
  return [f'<table class="figures gaps"><caption>{html.escape(caption)}</caption>'
          f'<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>']


def _cell(text: str) -> str:
  """A cell, with what stands in brackets at its end on a line of its own."""
  if found := re.fullmatch(r'(.+?) \(([^()]+)\)', text):
    wraps = ' class=wraps' * found[1].startswith('none')     # and why
    return f'<td>{html.escape(found[1])}<br><small{wraps}>{html.escape(found[2])}</small></td>'
  return f'<td>{html.escape(text)}</td>'


def _with_interval(value: float, low: float, high: float) -> str:
  return f'{shown(value)} ({shown(low)} to {shown(high)})' if np.isfinite(value) else ''


def _gaps(evaluation: Evaluation, own: pandas.DataFrame, name: str, control: str) -> Picture:
  names = [control, *sorted(set(own['group']) - {control})]
  looks = style.marks(names)
  figure = style.new_figure(8.2, 7.2, f'Brain-age gap of {name}',
                            style.people(own['participant_id'], len(own)), evaluation.synthetic,
                            plain(name) in evaluation.trained_on_synthetic)
  panels = figure.subplots(2, 2, sharey=True, sharex='col',
                           width_ratios=(1.25, max(1, 0.28 * len(names))))
  words = []
  for (over_age, by_group), (column, value) in zip(panels, _COLUMNS):
    for place, (group, look) in enumerate(looks.items()):
      rows = own[own['group'] == group]
      over_age.plot(rows['age'], rows[column], look.marker, color=look.color, markersize=4,
                    alpha=0.6, markeredgewidth=0, label=group)
      people = rows.groupby('participant_id')[column].mean().to_numpy()
      spread = np.random.default_rng(0).uniform(-0.28, 0.28, len(people))
      by_group.plot(place + spread, people, look.marker, color=look.color, markersize=3, alpha=0.35,
                    markeredgewidth=0)
      mean, half = people.mean(), 0.0
      if len(people) > 1:
        half = scipy.stats.t.ppf(0.975, len(people) - 1) * people.std(ddof=1) / len(people)**0.5
      by_group.errorbar(place, mean, half, color='black', marker='_', markersize=16, capsize=4,
                        linewidth=1.6, zorder=5)
      words.append(f'{value}, {group}: {mean:.2f} years (n = {len(people)})')
    for axes in (over_age, by_group):
      axes.axhline(0, color=style.GREY, linestyle=':')
      style.tidy(axes)
    over_age.set_ylabel(f'{value} (years)')
  panels[1][0].set_xlabel('age (years)')
  counts = [own[own['group'] == group]['participant_id'].nunique() for group in names]
  panels[1][1].set_xticks(range(len(names)), [f'{group}\nn = {count:,}' for group, count in zip(
      names, counts)], fontsize=9)
  panels[1][1].set_xlim(-0.6, len(names) - 0.4)
  if len(names) > 1:
    panels[0][0].legend(frameon=False, fontsize=8)
  file = 'brain-age-' + name.replace(':', '--').replace(', ', '-')
  return Picture(file, figure, f'Brain-age gap of {name}',
                 'Raw above, corrected for age below. Left, a point a scan; right, a point a '
                 'person, with the group\'s mean and its 95 % interval. The healthy are predicted '
                 'out of fold; nobody else is ever fitted on.', '; '.join(words))


def _effects(evaluation: Evaluation, rows: pandas.DataFrame, control: str) -> Picture:
  """Cohen's d of each group by each representation, and by thickness and volume beside them."""
  groups = list(dict.fromkeys(rows['group']))
  names = list(dict.fromkeys(rows['features']))
  looks = style.marks(names)
  count = len(rows.drop_duplicates(['group', 'features']))
  people = rows.drop_duplicates('group')['n'].sum() + rows['n_against'].max()
  figure = style.new_figure(7.4, 1.8 + 0.3 * (count + len(groups)),
                            f'How far groups are from {control}', f'n = {people:,} people',
                            evaluation.synthetic, bool(evaluation.trained_on_synthetic))
  axes = figure.subplots()
  place, ticks, words = 0, [], []
  for group in groups:
    own = rows[rows['group'] == group]
    axes.text(0, place - 0.15, f'{group}, n = {own["n"].max():,}', fontsize=9, fontweight='bold',
              va='center', transform=axes.get_yaxis_transform())
    place += 1
    for name, values in own.groupby('features', sort=False):
      look = looks[name]
      for row in values.itertuples():
        measure = not row.estimator
        sign = -1 if measure else 1      # the thinner or smaller, the older
        line = place + {GAP: 0.17, CORRECTED: -0.17}.get(row.value, 0)
        axes.plot([sign * row.d_low, sign * row.d_high], [line, line], color=look.color,
                  linewidth=1.2 if row.value == GAP else 2)
        axes.plot(sign * row.d, line, look.marker, color=look.color, markersize=6,
                  markerfacecolor='white' if row.value == GAP else look.color)
        words.append(f'{group}, {name}, {row.value}: d {row.d:.2f} ({row.d_low:.2f} to '
                     f'{row.d_high:.2f})')
      ticks.append((place, f'{name}, sign turned' if measure else name))
      place += 1
  axes.set_yticks(*zip(*ticks), fontsize=8)
  axes.set_ylim(place - 0.4, -0.7)
  axes.axvline(0, color=style.GREY, linestyle=':')
  adjusted = rows['adjusted_for'].iloc[0].replace('+', ', ')
  axes.set_xlabel('Cohen\'s d of the gap, or of the measure; older to the right')
  style.tidy(axes)
  return Picture('brain-age-effects', figure, 'Effect sizes by diagnosis',
                 f'Cohen\'s d from {control}' + f', adjusted for {adjusted}' * bool(adjusted)
                 + ', with 95 % intervals. Filled: corrected gap; hollow: raw. Where thickness or '
                 'volume lie as far to the right, they tell the groups apart as well as brain age '
                 'does.', '; '.join(words))
