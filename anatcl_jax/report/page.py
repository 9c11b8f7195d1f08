"""One self-contained HTML page of an evaluation: its tables, its pictures, and how it was made."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import shutil
from collections.abc import Iterable

import jinja2

from anatcl_jax import outputs
from anatcl_jax.errors import UserError
from anatcl_jax.evaluation.results import SEEN_AND_UNSEEN, Evaluation
from anatcl_jax.evaluation.saliency import Saliency
from anatcl_jax.report import methods, style, tables
from anatcl_jax.report.sections import ALL, Found, chosen, sections
from anatcl_jax.report.style import Picture

PAGE, FIGURES = 'report.html', 'figures'
_TEMPLATES = pathlib.Path(__file__).parent


def write(evaluation: Evaluation, out: pathlib.Path, *,
          training: Iterable[Picture] = (), saliencies: Iterable[Saliency] = (),
          names: str = ALL) -> pathlib.Path:
  """Writes report.html, with all pictures inside, and the pictures to figures/ beside it.

  Those that this program drew there before are replaced.

  Args:
    training: curves of the encoders that are runs.
    names: of sections, by commas.

  Returns:
    The path of the page.

  Raises:
    UserError: `out` can't be written, or a name is none.
  """
  saliencies = tuple(saliencies)
  shown = sections(Found(evaluation, tuple(training), saliencies), chosen(names))
  text, references = methods.paragraph(evaluation, saliencies[0].method if saliencies else None)
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True,
      lstrip_blocks=True, undefined=jinja2.StrictUndefined)
  temporary = out / '.figures.writing'
  try:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    old = [path for path in (out / FIGURES).glob('*') if outputs.is_own(path)]
    embedded = {picture.name: _as_url(*style.save(picture, temporary))
                for section in shown for picture in section.pictures}
    page = environment.get_template('page.html.j2').render(
        evaluation=evaluation, sections=shown, embedded=embedded, methods=text,
        references=references, made_by=outputs.MADE_BY, summary=tables.summary(evaluation),
        facts=_facts(evaluation), made=json.dumps(evaluation.made, indent=1, default=str),
        lead=lead(evaluation))
    for path in old:
      path.unlink()
    (out / FIGURES).mkdir(exist_ok=True)
    for path in temporary.iterdir():
      os.replace(path, out / FIGURES / path.name)
    temporary.rmdir()
    (out / '.report.writing').write_text(page, encoding='utf-8')
    os.replace(out / '.report.writing', out / PAGE)
  except OSError as error:
    raise UserError(f'{out}: can\'t be written ({error.strerror}); choose another '
                    '--config.out') from None
  return out / PAGE


def pictures(evaluation: Evaluation, *, training: Iterable[Picture] = (),
             saliencies: Iterable[Saliency] = (), names: str = ALL) -> list[Picture]:
  """All pictures of the page, drawn and not written; Args: as of `write`."""
  shown = sections(Found(evaluation, tuple(training), tuple(saliencies)), chosen(names))
  return [picture for section in shown for picture in section.pictures]


def _as_url(mime: str, content: bytes) -> str:
  return f'data:{mime};base64,{base64.b64encode(content).decode()}'


def lead(evaluation: Evaluation) -> str:
  """Of whom the page is, and how many of them its scores are of."""
  words = f'Probes of {style.people(evaluation.table["participant_id"], len(evaluation.table))}'
  everybody = evaluation.table['participant_id'].nunique()
  predicted = len({who for one in evaluation.outcomes for who in one.participant_id}
                  | set(evaluation.gaps.get('participant_id', ())))
  if predicted == everybody:
    return words
  seen = any(one.design == SEEN_AND_UNSEEN for one in evaluation.outcomes)
  return f'{words}, {predicted:,} of them predicted' + (
      ': those seen in pretraining are fitted on alone' if seen else '')


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
  """How it was made, a line each."""
  made = evaluation.made
  facts = [(name, str(made[name])) for name in ('command', 'date') if name in made]
  for name in ('versions', 'seeds'):
    if made.get(name):
      facts.append((name, ', '.join(f'{key} {value}' for key, value in made[name].items())))
  if data := made.get('data'):
    facts.append(('data', f'{data.get("labels")} ({data.get("scans")} scans of '
                          f'{data.get("participants")} participants)'))
  facts += [(f'weights of {name}', f'{card.get("encoder")} from {card.get("source")}'
             + ', trained on SYNTHETIC subjects' * (name in evaluation.trained_on_synthetic))
            for name, card in made.get('cards', {}).items()]
  return facts
