"""The notebooks of docs/ run from their first cell to their last, in a folder of their own."""

from __future__ import annotations

import os
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))


def test_the_index_names_them_all():
  index = (ROOT / 'docs' / 'notebooks' / 'README.md').read_text()
  assert len(NOTEBOOKS) == 4 and all(f'({path.name})' in index for path in NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
  nbformat = pytest.importorskip('nbformat', reason="needs the extra 'notebooks'")
  nbclient = pytest.importorskip('nbclient', reason="needs the extra 'notebooks'")
  python = pathlib.Path(sys.executable).parent
  monkeypatch.setenv('PATH', f'{python}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  book = nbformat.read(path, 4)
  nbclient.NotebookClient(book, timeout=600, kernel_name='python3',
                          resources={'metadata': {'path': str(tmp_path)}}).execute()
  said = [output.get('text', '') for cell in book.cells for output in cell.get('outputs', [])]
  assert not re.search('^(error:|Traceback)', '\n'.join(said), re.MULTILINE)
