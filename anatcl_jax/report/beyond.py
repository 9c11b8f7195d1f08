"""Figures beyond single tasks: embedding, sites, fewer labels, and second scans."""

from __future__ import annotations

import numpy as np
import pandas
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from anatcl_jax.cohorts import tables
from anatcl_jax.evaluation import healthy
from anatcl_jax.evaluation.results import Evaluation, is_baseline
from anatcl_jax.evaluation.tasks import Task
from anatcl_jax.report import style
from anatcl_jax.report.style import Picture

_COLUMNS = ('age', 'sex', 'site')
_MOST_CLASSES, _MOST_PANELS = 12, 8


def embedding(evaluation: Evaluation) -> list[Picture]:
  """Principal components of each encoder's features, coloured by what the table knows."""
  table, found = evaluation.table, []
  columns = _columns(evaluation)
  units = {'age': 'years'} | {one.task.column: style.unit_of(one.task)
                              for one in evaluation.outcomes if not one.classes}
  for name, features in evaluation.features.items():
    if is_baseline(name) or len(features) < 3 or not columns:
      continue
    components = PCA(2)
    places = components.fit_transform(StandardScaler().fit_transform(features))
    shares = components.explained_variance_ratio_
    rows = -(-len(columns) // 2)
    figure = style.new_figure(style.COLUMN, 2.4 * rows + 0.8,
                              f'Features of {name}',
                              style.people(table['participant_id'], len(table)),
                              evaluation.synthetic, name in evaluation.trained_on_synthetic)
    for place, column in enumerate(columns, 1):
      _coloured(figure, figure.add_subplot(rows, min(len(columns), 2), place), places,
                table[column], column, units.get(column, ''))
    for axis, order, share in zip((figure.supxlabel, figure.supylabel), ('first', 'second'),
                                  shares):
      axis(f'{order} component, {share:.0%} of the variance (standard deviations)', fontsize=8)
    found.append(Picture(
        f'embedding-{name.replace(":", "--")}', figure, f'Embedding of {name}',
        'The first two principal components of the standardised features, a point a scan, '
        'coloured by columns of the table. Grey: not known.',
        f'Two principal components hold {shares.sum():.0%} of the variance.'))
  return found


def _columns(evaluation: Evaluation) -> list[str]:
  """Columns to colour by: diagnoses, what is predicted, then age, sex and site, where they vary."""
  table = evaluation.table
  named = [name for name in table if tables.plain(str(name)) in healthy.COLUMNS]
  predicted = [one.task.column for one in evaluation.outcomes if not one.refused]
  return [name for name in dict.fromkeys([*named, *predicted, *_COLUMNS]) if name in table
          and tables.categories(table[name]).nunique() > 1][:_MOST_PANELS]


def _coloured(figure, axes, places: np.ndarray, column: pandas.Series, name: str,
              unit: str) -> None:
  """One panel; a column with a unit is of numbers, all others are of classes."""
  text = tables.categories(column)
  missing = text.isna().to_numpy()
  axes.plot(*places[missing].T, 'x', color='#BBBBBB', markersize=4)
  numbers = pandas.to_numeric(text, errors='coerce').to_numpy(float)
  if unit and np.isfinite(numbers[~missing]).all():
    drawn = axes.scatter(*places[~missing].T, c=numbers[~missing], cmap='viridis', s=7)
    bar = figure.colorbar(drawn, ax=axes)
    bar.set_label(f'{name} ({unit})', fontsize=7)
    bar.ax.tick_params(labelsize=7)
  else:
    counts = text[~missing].value_counts()
    classes = sorted(counts.index[:_MOST_CLASSES])
    for value, look in style.marks(classes).items():
      own = (text == value).to_numpy() & ~missing
      axes.plot(*places[own].T, look.marker, color=look.color, markersize=3, alpha=0.8,
                markeredgewidth=0, label=f'{value} ({own.sum()})')
    others = ~text.isin(classes).to_numpy() & ~missing
    if others.any():
      axes.plot(*places[others].T, '.', color=style.GREY, markersize=3,
                label=f'{len(counts) - len(classes)} others ({others.sum()})')
    axes.legend(fontsize=6, framealpha=0.6, edgecolor='none')
  axes.set_title(name, fontsize=9)
  axes.tick_params(labelsize=7)
  axes.spines[['top', 'right']].set_visible(False)


def learning_curves(evaluation: Evaluation) -> list[Picture]:
  """The main metric of each task over the number of labelled people."""
  found, kinds = [], _tasks(evaluation)
  for task, rows in evaluation.learning_curves.groupby('task', sort=False):
    metric = rows['metric'].iloc[0]
    figure = style.new_figure(style.COLUMN, 4, f'{task}: fewer labels',
                              f'up to {rows["subjects"].max():,} labelled people',
                              evaluation.synthetic, bool(evaluation.trained_on_synthetic))
    axes = figure.subplots()
    for name, look in style.marks(list(dict.fromkeys(rows['features']))).items():
      own = rows[rows['features'] == name].sort_values('subjects')
      axes.errorbar(own['subjects'], own['mean'], own['sd'], color=look.color, marker=look.marker,
                    linestyle=look.linestyle, capsize=3, label=name)
    axes.set(xlabel='number of labelled people', xscale='log',
             ylabel=style.metric_label(kinds[task], metric))
    ticks = sorted(rows['subjects'].unique())
    axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.legend(frameon=False, fontsize=8)
    style.tidy(axes)
    most = rows[rows['subjects'] == rows['subjects'].max()]
    found.append(Picture(
        f'labels-{len(found)}', figure, f'{task} from fewer labels',
        'Mean and standard deviation of linear probes fitted on people drawn at random.',
        f'With {rows["subjects"].max()} people: '
        + ', '.join(f'{name} {score:.3g}' for name, score in zip(most['features'], most['mean']))))
  return found


def _tasks(evaluation: Evaluation) -> dict[str, Task]:
  return {one.task.name: one.task for one in evaluation.outcomes}


def leakage(evaluation: Evaluation) -> list[Picture]:
  """How well each representation tells the site."""
  rows = evaluation.leakage
  if not len(rows):
    return []
  first = rows.iloc[0]
  figure = style.new_figure(style.COLUMN, 1.5 + 0.34 * len(rows),
                            'Site read from the representation',
                            f'n = {first["n"]:,} scans of {first["sites"]} sites',
                            evaluation.synthetic, bool(evaluation.trained_on_synthetic))
  axes = figure.subplots()
  for place, (row, look) in enumerate(zip(rows.itertuples(),
                                          style.marks(list(rows['features'])).values())):
    axes.plot([row.low, row.high], [place, place], color=look.color, linewidth=2)
    axes.plot(row.balanced_accuracy, place, look.marker, color=look.color,
              markerfacecolor=look.face, markersize=8)
  axes.set_yticks(range(len(rows)), rows['features'])
  axes.invert_yaxis()
  axes.axvline(first['chance'], color=style.GREY, linestyle=':')
  axes.set_xlabel('balanced accuracy of site (0 to 1; dotted: chance)')
  style.tidy(axes)
  return [Picture('leakage', figure, 'Site leakage',
                  'A representation of anatomy alone would be at chance, unless sites differ in '
                  'whom they scan. 95 % intervals by the people.',
                  ', '.join(f'{row.features} {row.balanced_accuracy:.2f}'
                            for row in rows.itertuples()))]


def left_out_sites(evaluation: Evaluation) -> list[Picture]:
  """The main metric at each site, of probes fitted on all others."""
  found, kinds = [], _tasks(evaluation)
  for task, rows in evaluation.leave_one_site_out.groupby('task', sort=False):
    sites = list(dict.fromkeys(rows['site']))
    names = list(dict.fromkeys(rows['features']))
    count = rows.drop_duplicates('site')['n'].sum()
    figure = style.new_figure(max(style.COLUMN, 0.5 * len(sites) + 3.4), 4,
                              f'{task}: a site left out',
                              f'n = {count:,} scans of {len(sites)} sites',
                              evaluation.synthetic, bool(evaluation.trained_on_synthetic))
    axes = figure.subplots()
    for shift, (name, look) in enumerate(style.marks(names).items()):
      own = rows[rows['features'] == name].set_index('site').loc[sites]
      x = np.arange(len(sites)) + 0.7 * (shift / max(len(names) - 1, 1) - 0.5)
      axes.vlines(x, own['low'], own['high'], color=look.color)
      axes.plot(x, own['score'], look.marker, color=look.color, markerfacecolor=look.face,
                label=name)
    labels = [f'{site}\n(n = {rows[rows["site"] == site]["n"].iloc[0]})' for site in sites]
    axes.set_xticks(range(len(sites)), labels, fontsize=8)
    metric = rows['metric'].iloc[0]
    axes.set_ylabel(style.metric_label(kinds[task], metric))
    figure.legend(*axes.get_legend_handles_labels(), loc='outside right', frameon=False, fontsize=8)
    style.tidy(axes)
    found.append(Picture(f'sites-{len(found)}', figure, f'{task} at a site left out',
                         'Fitted on all other sites; 95 % intervals by the people.',
                         f'{task} at {len(sites)} sites, each predicted from the others.'))
  return found


def reliability(evaluation: Evaluation) -> list[Picture]:
  """The distribution over features of the test-retest ICC."""
  rows = evaluation.reliability
  if not len(rows):
    return []
  figure = style.new_figure(style.COLUMN, 4, 'Test-retest reliability of each feature',
                            f'n = {rows["subjects"].max():,} people with two sessions',
                            evaluation.synthetic, bool(evaluation.trained_on_synthetic))
  axes = figure.subplots()
  for name, look in style.marks(list(rows['features'])).items():
    values = np.sort(evaluation.icc[name][np.isfinite(evaluation.icc[name])])
    if len(values):
      axes.step(values, np.arange(1, len(values) + 1) / len(values), color=look.color,
                linestyle=look.linestyle, where='post', linewidth=2,
                label=f'{name} ({len(values)} features)')
  axes.set(xlabel='ICC(2,1) (1: sessions agree)',
           ylabel='share of the features at or below (0 to 1)')
  axes.legend(frameon=False, fontsize=8)
  style.tidy(axes)
  return [Picture('reliability', figure, 'Reliability',
                  'Curves further to the right are more reliable. Identification: how often '
                  'someone\'s second session is nearest to their own first.',
                  '; '.join(f'{row.features}: median {row.icc_median:.2f}, identification '
                            f'{row.identification:.2f}' for row in rows.itertuples()))]


def scanners(evaluation: Evaluation) -> list[Picture]:
  """Of people on several scanners: shares of the variance, and how well the scanner is named."""
  rows = evaluation.scanners
  if not len(rows):
    return []
  first = rows.iloc[0]
  figure = style.new_figure(7, 1.9 + 0.34 * len(rows), 'Person, scanner and rest',
                            f'n = {first["subjects"]:,} people, {first["scans"]:,} scans on '
                            f'{first["scanners"]} scanners', evaluation.synthetic,
                            bool(evaluation.trained_on_synthetic))
  variance, named = figure.subplots(1, 2, sharey=True, width_ratios=(1.3, 1))
  left = np.zeros(len(rows))
  for (name, hatch), color in zip((('person', ''), ('scanner', '//'), ('rest', '')),
                                  (style.COLOURS[0], style.COLOURS[1], '#BBBBBB')):
    variance.barh(range(len(rows)), rows[name], left=left, color=color, hatch=hatch, label=name,
                  edgecolor='white', height=0.7)
    left += rows[name].to_numpy()
  variance.set(xlim=(0, 1), xlabel='share of the variance,\nmean over features (0 to 1)')
  variance.set_yticks(range(len(rows)), rows['features'])
  variance.invert_yaxis()
  for place, row in enumerate(rows.itertuples()):
    named.plot([row.low, row.high], [place, place], color=style.GREY, linewidth=2)
    named.plot(row.balanced_accuracy, place, 'o', color='black', markersize=7)
  if np.isfinite(first['chance']):
    named.axvline(first['chance'], color=style.GREY, linestyle=':')
  named.set_xlabel('balanced accuracy of scanner\n(0 to 1; dotted: chance)')
  figure.legend(*variance.get_legend_handles_labels(), loc='outside lower center', ncols=3,
                frameon=False, fontsize=8)
  for axes in (variance, named):
    style.tidy(axes)
  return [Picture('scanners', figure, 'Person, scanner and rest',
                  'Of people scanned on several scanners. Left: the variance of a feature by '
                  'person, by scanner, and what is neither. Right: a probe that names the scanner '
                  'of people it was not fitted on, with 95 % intervals.',
                  '; '.join(f'{row.features}: person {row.person:.2f}, scanner {row.scanner:.2f}, '
                            f'rest {row.rest:.2f}, scanner named {row.balanced_accuracy:.2f}'
                            for row in rows.itertuples()))]
