"""What all pictures have in common: colours and marks that survive colour blindness and paper."""

from __future__ import annotations

import dataclasses
import io
import itertools
import pathlib
import textwrap
from collections.abc import Sequence

from anatcl_jax import figures
from anatcl_jax.evaluation.results import METRIC_NAMES, is_derived, plain
from anatcl_jax.evaluation.tasks import Task

# Okabe and Ito's, told apart by colour-blind readers; marks and line styles tell them apart again.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000',
           '#999999')
_MARKS = 'os^DvP*X'
_LINES = ('-', '--', '-.', ':', (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
GREY = '#666666'
DPI = 110              # of a screen
PRINT_DPI = 300
COLUMN = 5.2           # inches; two such figures stand side by side on paper


@dataclasses.dataclass(frozen=True)
class Picture:
  """A drawn figure, the name of its file without ending, and its words."""

  name: str
  figure: figures.Figure
  title: str
  caption: str       # what is shown, and of how many people
  text: str          # what a reader who can't see it is told
  synthetic: str = ''     # what is SYNTHETIC, a sentence

  def _repr_png_(self) -> bytes:     # in a notebook
    file = io.BytesIO()
    self.figure.savefig(file, format='png', dpi=DPI)
    return file.getvalue()


@dataclasses.dataclass(frozen=True)
class Mark:
  """How one representation looks in every figure."""

  color: str
  marker: str
  linestyle: str | tuple
  face: str          # of the marker


def marks(names: list[str]) -> dict[str, Mark]:
  """A look for each name, in their order; a row made of another has that one's, hollow."""
  own = dict.fromkeys(map(plain, names))
  looks = dict(zip(own, zip(itertools.cycle(COLOURS), itertools.cycle(_MARKS),
                            itertools.cycle(_LINES))))
  return {name: Mark(*looks[plain(name)], 'white' if is_derived(name) else looks[plain(name)][0])
          for name in names}


def new_figure(width: float, height: float, title: str, count: str, synthetic: bool,
               trained_on_synthetic: bool = False) -> figures.Figure:
  """An empty figure (inches) whose title says of how many people, and what is made up.

  Args:
    synthetic: the scans.
    trained_on_synthetic: an encoder was trained on such subjects, whatever the scans are.
  """
  figure = figures.Figure((width, height), layout='constrained')
  said = ['SYNTHETIC'] * synthetic
  said += ['encoder trained on SYNTHETIC subjects'] * trained_on_synthetic
  most = int(width * 12)      # letters of the title's size in a line
  lines = [*textwrap.wrap(title, most), count]
  for part in said:
    lines[-1:] = ([f'{lines[-1]} · {part}'] if len(lines[-1]) + len(part) + 3 <= most
                  else [lines[-1], part])
  figure.suptitle('\n'.join(lines), fontsize=11)
  return figure


def metric_label(task: Task, metric: str) -> str:
  """A metric with its unit or range, for an axis."""
  unit = ('0 to 1' if metric in ('roc_auc', 'average_precision') or 'accuracy' in metric
          else '-1 to 1' if metric == 'pearson_r' else 'share of variance'
          if metric.startswith('r2') else unit_of(task))
  return f'{METRIC_NAMES.get(metric, metric)} ({unit})'


def unit_of(task: Task) -> str:
  """The unit of what a task predicts, in words where none is known."""
  return task.unit or f'unit of {task.column}'


def said_synthetic(scans: bool, encoders: Sequence[str] = ()) -> str:
  """The same in a caption: the scans, and encoders that were trained on such subjects."""
  return ('SYNTHETIC subjects.' * scans + ' ' * (scans and bool(encoders))
          + (f'Trained on SYNTHETIC subjects: {", ".join(encoders)}.' if encoders else ''))


def tidy(axes) -> None:
  """Only the lines that carry something."""
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(alpha=0.25)
  axes.set_axisbelow(True)


def people(participants, scans: int) -> str:
  """`n = 64 people` or `n = 64 people, 128 scans`."""
  count = len(set(participants))
  return f'n = {count:,} people' + (f', {scans:,} scans' if scans != count else '')


def save(picture: Picture, directory: pathlib.Path) -> tuple[str, bytes]:
  """Writes NAME.svg and NAME.png; returns the type and bytes of the smaller one, for a page."""
  written = []
  for kind, mime in (('svg', 'image/svg+xml'), ('png', 'image/png')):
    path = directory / f'{picture.name}.{kind}'
    figures.save(picture.figure, path, PRINT_DPI)
    written.append((mime, path.read_bytes()))
  return min(written, key=lambda one: len(one[1]))
