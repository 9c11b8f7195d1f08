"""Eight simulated devices, and a small synthetic cohort that the tests share."""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import pathlib
import pickle
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  # Tests, their workers and the commands that they start compile the same programs again and again.
  _compiled = tempfile.mkdtemp(prefix='anatcl-jax-compiled-')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'
  atexit.register(shutil.rmtree, _compiled, ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

from anatcl_jax import models  # noqa: E402
from anatcl_jax.cohorts import bids  # noqa: E402
from anatcl_jax.cohorts.phantom import cohort as phantom  # noqa: E402
from anatcl_jax.data.make_shards import make_phantom_shards, make_shards  # noqa: E402
from anatcl_jax.training import curves, train  # noqa: E402
from tests import small_run  # noqa: E402
from tests.cohorts import layouts  # noqa: E402
from tests.evaluation import probing  # noqa: E402
from tests.worker import Runner  # noqa: E402


def pytest_configure(config):
  """Before anything is computed: eight simulated devices; the true ones for `-m accelerator`."""
  if 'accelerator' in config.option.markexpr.replace('not accelerator', ''):
    os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'   # tests' workers may share a device
    return
  # Compiling takes most of the tests' time: without LLVM's later passes it takes half, and without
  # fused emitters, which newer versions insist on, half of that. The numbers of small volumes
  # are there as soon.
  flags = ['--xla_backend_optimization_level=0', '--xla_llvm_disable_expensive_passes=true']
  if int(jax.__version__.split('.')[1]) < 11:
    flags.append('--xla_cpu_use_fusion_emitters=false')
  os.environ.setdefault('XLA_FLAGS', ' '.join(flags))
  os.environ['JAX_PLATFORMS'] = 'cpu'                       # of commands that tests start
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 8)


def pytest_collection_finish():
  """Modules and tests stay; without looking at them again and again tracing is quicker."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


AOMIC = pathlib.Path(__file__).parents[2] / 'shared' / 'data' / 'aomic-piop2'


def made_once(tmp_path_factory, name: str, make: Callable[[pathlib.Path], Any]) -> Any:
  """What `make` returns, given a folder to fill: once a session, for all its workers."""
  root = tmp_path_factory.getbasetemp()
  root = root.parent if 'PYTEST_XDIST_WORKER' in os.environ else root
  returned = root / f'{name}.pickle'
  with open(root / f'{name}.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not returned.exists():
      returned.write_bytes(pickle.dumps(make(root / name)))
  return pickle.loads(returned.read_bytes())


@pytest.fixture(scope='session')
def cohort(tmp_path_factory) -> phantom.CohortPaths:
  """Twenty SYNTHETIC subjects at 12 mm, on disk as a real cohort is."""
  settings = phantom.PhantomSettings(subjects=20, seed=3, spacing=12)
  return made_once(tmp_path_factory, 'cohort', lambda directory: phantom.write_cohort(
      directory / 'synthetic', settings, progress=False))


@pytest.fixture
def copy(cohort, tmp_path):
  """A private copy of the SYNTHETIC cohort, to be spoilt."""
  directory = tmp_path / 'cohort'
  shutil.copytree(cohort.participants.parent, directory)
  return directory


@pytest.fixture(scope='session')
def shard_set(cohort, tmp_path_factory):
  read = bids.read_cohort(cohort.volumes, cohort.participants, list(cohort.morphometry))
  return make_shards(read, tmp_path_factory.mktemp('shards') / 'synthetic')


@pytest.fixture(scope='session')
def training_set(tmp_path_factory):
  """Forty SYNTHETIC subjects: enough to train on and to hold out on eight devices."""
  settings = phantom.PhantomSettings(subjects=40, seed=1, spacing=12)
  return made_once(tmp_path_factory, 'training', lambda directory: make_phantom_shards(
      settings, directory, workers=1))


@pytest.fixture(scope='session', autouse=True)
def programs_once():
  """Runs of one config share a program, as long as their process lives."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, 'compile_program', small_run.once(train.compile_program))
    yield


@pytest.fixture(scope='module')
def coarse():
  """For a whole file, which asks what is made of a grid search and not how fine it is."""
  with probing.two_strengths():
    yield


@pytest.fixture
def small_model(tmp_path_factory, monkeypatch):
  """The encoder of `small_run`, compiled once a test session; nobody looks at its runs' curves."""
  monkeypatch.setattr(models, 'get_encoder', small_run.get_encoder)
  monkeypatch.setattr(curves, 'training_curves', lambda workdir, _: workdir / 'curves.png')
  with small_run.compilation_cache(tmp_path_factory.getbasetemp() / 'compiled'):
    yield


@pytest.fixture(scope='session')
def runner(training_set, tmp_path_factory) -> Runner:
  return Runner(training_set.directory, tmp_path_factory.getbasetemp() / 'compiled')


@pytest.fixture(scope='session')
def whole(runner, tmp_path_factory) -> tuple[pathlib.Path, float]:
  """A run that was never stopped, and the seconds that it took after its start."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  runner.finish(workdir)
  seconds = (workdir / 'curves.png').stat().st_mtime - (workdir / 'config.json').stat().st_mtime
  return workdir, seconds


@pytest.fixture(scope='session')
def aomic() -> pathlib.Path:
  """Ten real subjects; tests of them skip where the data are not at hand."""
  if not AOMIC.is_dir():
    pytest.skip(f'{AOMIC} is not here')
  return AOMIC


@pytest.fixture(scope='session')
def digital() -> layouts.Digital:
  """Three SYNTHETIC subjects in OpenBHB's true shapes."""
  return layouts.draw()


@pytest.fixture(scope='session')
def disk(digital, tmp_path_factory) -> pathlib.Path:
  """The same subjects on disk in every layout of OpenBHB; never changed."""
  root = tmp_path_factory.mktemp('openbhb')
  layouts.write_subjects(root / 'subjects', digital)
  layouts.write_hub(root / 'hub', digital)
  layouts.write_matrix(root / 'matrix', digital)
  layouts.write_template(root / 'template.nii.gz', digital)
  return root
