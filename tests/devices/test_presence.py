"""A GPU that is there and unused is told once, and not where the CPU was asked for."""

from __future__ import annotations

import jax
import pytest

from anatcl_jax.devices import presence


@pytest.mark.parametrize('there, platforms, told', [
    (True, None, True), (True, '', True), (True, 'cpu', False), (False, None, False)])
def test_an_unused_gpu_is_told(monkeypatch, capsys, there, platforms, told):
  before = jax.config.jax_platforms
  monkeypatch.setattr(presence, 'has_nvidia_gpu', lambda: there)
  try:
    jax.config.update('jax_platforms', platforms)
    presence.warn_of_unused_gpu()
  finally:
    jax.config.update('jax_platforms', before)
  line = capsys.readouterr().err
  assert ('pip install "jax[cuda' in line) == told and line.count('\n') == told
