"""Checkpoints: which are kept, what a damaged one does, and that no damage goes unnoticed."""

from __future__ import annotations

import collections
import errno
import os
import pathlib
import random
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from anatcl_jax.errors import RunFailure, UserError
from anatcl_jax.training import checkpoint, heldout, tracking, train
from anatcl_jax.weights import choice, stored
from tests.small_run import small_config


@pytest.fixture
def finished(small_model, training_set, tmp_path_factory) -> pathlib.Path:
  """Four epochs of four steps, kept as they are; the same for all tests of a session."""
  directory = tmp_path_factory.getbasetemp() / 'checkpoints-of-four-epochs'
  if not directory.is_dir():
    train.train(small_config(training_set.directory, keep_checkpoints=4), directory)
  return directory


@pytest.fixture
def run(finished, tmp_path) -> pathlib.Path:
  """A private copy, to be spoilt."""
  return shutil.copytree(finished, tmp_path / 'run')


def parameters(workdir: pathlib.Path) -> tuple[int, list[np.ndarray]]:
  step, params, batch_stats = stored.read_parameters(workdir)
  return step, jax.tree.leaves([params, batch_stats])


def damage(run: pathlib.Path, step: int) -> None:
  """Flips one bit in the largest file of a checkpoint's state: that of the arrays."""
  path = max((run / 'checkpoints' / str(step) / 'state').rglob('*'), key=lambda p: p.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def test_a_damaged_checkpoint_is_skipped_for_the_one_before_it(run, finished, training_set, capsys):
  damage(run, 16)
  train.train(small_config(training_set.directory, keep_checkpoints=4), run)
  warning, = [line for line in capsys.readouterr().err.splitlines() if line.startswith('warning')]
  assert 'checkpoint 16 is damaged' in warning and 'goes on from step 12' in warning
  assert (run / 'damaged' / '16').is_dir() and stored.steps(run)[0] == 16
  assert [row['step'] for row in tracking.read_metrics(run)] == list(range(1, 17))
  for ours, whole in zip(parameters(run)[1], parameters(finished)[1], strict=True):
    np.testing.assert_array_equal(ours, whole)


def test_where_none_is_whole_the_run_does_not_begin_again_by_itself(run, training_set):
  for step in stored.steps(run):
    damage(run, step)
  with pytest.raises(RunFailure, match='no checkpoint .* is whole .*step 16: .*step 4: .*restore'):
    train.train(small_config(training_set.directory), run)
  assert len(stored.steps(run)) == 4


def test_weights_come_from_the_newest_whole_one(run, capsys):
  shutil.rmtree(run / 'checkpoints' / '16' / 'state')
  assert parameters(run)[0] == 12
  assert 'checkpoint 16 is damaged and passed over' in capsys.readouterr().err
  assert stored.steps(run)[0] == 16   # reading changes nothing


def test_what_newer_libraries_wrote_is_not_called_damaged(run, training_set, monkeypatch, capsys):
  """Whatever makes it unreadable, it stays where it is, and the remedy is told."""
  installed = stored._version('tensorstore')
  monkeypatch.setattr(stored, '_version',
                      lambda name: installed if name == 'tensorstore' else '0.9.4')
  shutil.rmtree(run / 'checkpoints' / '16' / 'state' / 'd')
  for read in (lambda: train.train(small_config(training_set.directory), run),
               lambda: parameters(run)):
    with pytest.raises(UserError, match="16/state can't be read here .* Newer .*: pip install "
                                        rf"'orbax-checkpoint>={ocp.__version__}'$"):
      read()
  assert not (run / 'damaged').exists() and stored.steps(run) == [16, 12, 8, 4]
  assert 'damaged' not in capsys.readouterr().err
  monkeypatch.undo()
  damage(run, 12)    # of these very libraries: it is not what it was
  with pytest.raises(stored.Damaged):
    stored.read(run, 12)


@pytest.mark.parametrize('theirs, ours, newer', [
    ('0.12.8', '0.12.8', False), ('0.12.10', '0.12.9', True), ('0.9.4', '0.12.8', False),
    ('1.0.0a1', '0.12.8', True)])
def test_versions_are_compared_as_numbers(theirs, ours, newer, monkeypatch):
  monkeypatch.setattr(stored, '_version', lambda name: ours)
  assert stored._newer({'orbax-checkpoint': theirs}) == (
      {'orbax-checkpoint': theirs} if newer else {})


def test_last_best_and_every_nth_are_kept(small_model, training_set, tmp_path, monkeypatch):
  losses = iter([9.0, 3.0, 5.0, 4.0, 1.0, 2.0, 6.0])   # after step 1, then a value an epoch
  monkeypatch.setattr(heldout, 'means', lambda _: {'heldout/loss': next(losses)})
  config = small_config(training_set.directory, epochs=3, keep_checkpoints=1, keep_every_epochs=3)
  train.train(config, tmp_path / 'run')
  assert stored.steps(tmp_path / 'run') == [12, 4]
  config.epochs = 6
  train.train(config, tmp_path / 'run')
  assert stored.steps(tmp_path / 'run') == [24, 16, 12]   # last; best; every third epoch


@pytest.fixture
def ten_seconds_an_epoch(monkeypatch):
  """A clock that only epochs move, and a disk that is never behind."""
  seconds, save = [0.0], checkpoint.Checkpoints.save

  def timed(checkpoints, *arguments):
    checkpoints._saving.result()
    seconds[0] += 10
    save(checkpoints, *arguments)

  monkeypatch.setattr(checkpoint, 'time', types.SimpleNamespace(monotonic=lambda: seconds[0]))
  monkeypatch.setattr(checkpoint.Checkpoints, 'save', timed)


def test_checkpoints_are_apart_and_the_best_is_not_lost_in_between(
    small_model, training_set, finished, tmp_path, monkeypatch, ten_seconds_an_epoch):
  """Epochs 3 and 6, the last, are due; 1 and 5 are the best before them and wait in memory."""
  losses = iter([9.0, 3.0, 5.0, 4.0, 2.0, 1.0, 6.0])   # after step 1, then a value an epoch
  monkeypatch.setattr(heldout, 'means', lambda _: {'heldout/loss': next(losses)})
  config = small_config(training_set.directory, epochs=6, keep_checkpoints=9,
                        checkpoint_every_seconds=30.0)
  train.train(config, tmp_path / 'run')
  assert stored.steps(tmp_path / 'run') == [24, 20, 12, 4]
  assert choice.metric_of_records(tmp_path / 'run', [24, 20, 12, 4], 'heldout/loss') == {
      24: 6.0, 20: 1.0, 12: 4.0, 4: 3.0}
  for step in (12, 4):    # what waited is the state after its own step
    for ours, theirs in zip(*(jax.tree.leaves(stored.read(workdir, step)[0])
                              for workdir in (tmp_path / 'run', finished)), strict=True):
      np.testing.assert_array_equal(ours, theirs)


def test_a_run_that_fails_saves_the_best_that_waits(
    small_model, training_set, tmp_path, monkeypatch, ten_seconds_an_epoch):
  losses = iter([9.0, 3.0, 5.0, float('nan')])
  monkeypatch.setattr(heldout, 'means', lambda _: {'heldout/loss': next(losses)})
  with pytest.raises(RunFailure, match='held-out loss is nan after step 12'):
    train.train(small_config(training_set.directory, checkpoint_every_seconds=60.0),
                tmp_path / 'run')
  assert stored.steps(tmp_path / 'run') == [4]


def test_an_unknown_best_metric_stops_before_anything_is_saved(small_model, training_set, tmp_path):
  with pytest.raises(UserError, match="unknown keep_best_metric 'heldout/lost': did you mean "
                                      "'heldout/loss'"):
    train.train(small_config(training_set.directory, keep_best_metric='heldout/lost'),
                tmp_path / 'run')
  assert not stored.steps(tmp_path / 'run')


def test_a_full_disk_is_one_line_and_leaves_what_was_saved(small_model, training_set, tmp_path,
                                                           monkeypatch):
  config = small_config(training_set.directory)
  save = ocp.CheckpointManager.save

  def without_room(manager, step, **items):
    if step == 8:
      (manager.directory / '8.orbax-checkpoint-tmp').mkdir()
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return save(manager, step, **items)

  monkeypatch.setattr(ocp.CheckpointManager, 'save', without_room)
  with pytest.raises(RunFailure, match=r'checkpoint can.t be written to .*/checkpoints \(No space '
                                       r'left on device\); those before it are whole: make room'):
    train.train(config, tmp_path / 'run')
  assert [path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()] == ['4']
  monkeypatch.setattr(ocp.CheckpointManager, 'save', save)
  train.train(config, tmp_path / 'run')
  assert [row['step'] for row in tracking.read_metrics(tmp_path / 'run')] == list(range(1, 17))


FULL_DISK = """
mount -t tmpfs -o size={size}k none {mount} && cd {root} || exit 77
run() {{ {python} -m anatcl_jax.main --config=configs/pretrain.py:encoder=tiny \
  --workdir={mount}/run \
  --config.data_dir={data} --config.batch_size=8 --config.epochs=2 --config.feature_dim=8 \
  --config.checkpoint_every_seconds=0; }}
run 2> {out}/first.txt; echo $? > {out}/first.code; find {mount}/run > {out}/files.txt
mount -o remount,size=64m {mount}; run 2> {out}/second.txt; echo $? > {out}/second.code
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(training_set, tmp_path):
  """A file system of 5 MB in memory, in a namespace of its own: room for one checkpoint."""
  (tmp_path / 'disk').mkdir()
  script = FULL_DISK.format(
      size=5000, mount=tmp_path / 'disk', root=pathlib.Path(__file__).parents[2],
      python=sys.executable, data=training_set.directory, out=tmp_path)
  code = subprocess.run(['unshare', '-rm', 'sh', '-c', script], check=False).returncode
  if code == 77 or not (tmp_path / 'first.code').exists():
    pytest.skip('no file system may be mounted here')
  said = (tmp_path / 'first.txt').read_text()
  assert (tmp_path / 'first.code').read_text() == '1\n', said
  assert said.splitlines()[-1].startswith('error: ') and 'No space left' in said
  assert 'Traceback' not in said and 'checkpoint-tmp' not in (tmp_path / 'files.txt').read_text()
  assert (tmp_path / 'second.code').read_text() == '0\n', (tmp_path / 'second.txt').read_text()
  assert 'steps: 4 done of 8' in (tmp_path / 'second.txt').read_text()


def spoil(path: pathlib.Path, rng: random.Random) -> str:
  """Flips a byte of a file or cuts it off; says which."""
  data = bytearray(path.read_bytes())
  position = rng.randrange(len(data))
  if rng.random() < 0.3:
    path.write_bytes(data[:position])
    return f'{path} cut off at {position}'
  data[position] ^= rng.randrange(1, 256)
  path.write_bytes(data)
  return f'{path} flipped at {position}'


def fuzz(run: pathlib.Path, finished: pathlib.Path, tries: int, seed: int) -> collections.Counter:
  """Spoils a file of the newest checkpoint, many times: it is noticed or changes nothing.

  Returns how often each happened, by the name of the file that was spoilt.
  """
  rng = random.Random(seed)
  files = sorted(path.relative_to(finished) for path in (finished / 'checkpoints/16').rglob('*')
                 if path.is_file() and path.stat().st_size)
  state, content = stored.read(finished, 16)
  expected = stored.by_name(state)
  outcomes = collections.Counter()
  for number in range(tries):
    # Each file as often as any other, whatever the checkpoint's random names: those of the arrays
    # would hide the small ones.
    name = files[number % len(files)]
    what = spoil(run / name, rng)
    try:
      found, found_content = stored.read(run, 16)
    except stored.Damaged:
      outcomes[name.name, 'detected'] += 1
    else:
      outcomes[name.name, 'harmless'] += 1
      assert found_content == content, what
      found = stored.by_name(found)
      assert found.keys() == expected.keys(), what
      for leaf in expected:
        np.testing.assert_array_equal(found[leaf], expected[leaf], err_msg=what)
    shutil.copyfile(finished / name, run / name)
  return outcomes


def test_flipped_bytes_and_cut_off_files_are_noticed_or_harmless(run, finished):
  outcomes = fuzz(run, finished, 40, seed=0)
  assert outcomes['metadata', 'detected'] > 0 and not outcomes['metadata', 'harmless']
  assert outcomes['manifest.ocdbt', 'detected'] > 0


@pytest.mark.slow
def test_hundreds_of_flipped_bytes_and_cut_off_files(run, finished):
  outcomes = fuzz(run, finished, 600, seed=1)
  print(outcomes)   # shown by pytest -s
  assert outcomes['metadata', 'detected'] > 30 and not outcomes['metadata', 'harmless']
  assert sum(n for (_, outcome), n in outcomes.items() if outcome == 'detected') > 150
