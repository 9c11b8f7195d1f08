"""The benchmark's figures, recomputed another way, and its commands on a tiny encoder."""

from __future__ import annotations

import subprocess
import sys

import jax
import nibabel
import numpy as np
import pytest

from anatcl_jax import losses, models
from anatcl_jax.bench import __main__ as bench
from anatcl_jax.bench import counts, inputs, steps, tables, timing, versus_torch
from configs.pretrain import get_config

PUBLISHED = (121, 145, 121)


def test_operations_by_hand():
  """ResNet-18 on OpenBHB's grid: sizes halve, rounded up, in stem, pool and three stages."""
  counted = counts.layers(models.get_encoder('resnet18'), PUBLISHED)
  assert len(counted) == 20
  assert counted[0] == counts.Layer('conv1', 121 * 145 * 121, 61 * 73 * 61 * 64, 7**3 * 64, 64)
  assert counted[0].flops == 2 * 61 * 73 * 61 * 64 * 343
  by_name = {layer.name: layer.flops for layer in counted}
  assert by_name['layer1_1/conv2'] == 2 * 31 * 37 * 31 * 64 * 27 * 64
  assert by_name['layer2_0/conv1'] == 2 * 16 * 19 * 16 * 128 * 27 * 64
  assert by_name['layer4_0/downsample_conv'] == 2 * 4 * 5 * 4 * 512 * 256
  forward = sum(by_name.values())
  assert counts.train_flops(counted) == 3 * forward - by_name['conv1']


def test_xla_counts_the_same_operations():
  """XLA leaves out what is multiplied by padding, and counts BatchNorm and ReLU."""
  ours = sum(layer.flops for layer in counts.layers(models.get_encoder('tiny'), PUBLISHED))
  assert 0.9 < steps.xla_flops(get_config('encoder=tiny'), PUBLISHED, 3) / (3 * ours) < 1.05


def test_an_estimate_is_bound_by_the_slower_of_arithmetic_and_traffic():
  layer = counts.Layer('conv', inputs=100, outputs=200, kernel=1000, features=10)
  assert layer.flops == 2 * 200 * 100
  traffic = 2 * (3 * 2 * (100 + 800) + 3 * 1000)
  fast = counts.Accelerator('', flops=1e30, bandwidth=10.0, source='')
  assert counts.estimated_step([layer], 2, fast) == pytest.approx(traffic / 10)
  slow = counts.Accelerator('', flops=5.0, bandwidth=1e30, source='')
  # The first layer has no gradient of its input.
  assert counts.estimated_step([layer, layer], 2, slow) == pytest.approx((2 + 3) * 2 * 40000 / 5)


def test_ratios_are_of_pairs():
  assert timing.ratio([1.0, 4.0, 9.0], [2.0, 4.0, 3.0]) == {'median': 1.0, 'min': 0.5, 'max': 3.0}
  order = []
  seconds = timing.interleaved({'a': lambda: order.append('a'), 'b': lambda: order.append('b')}, 2)
  assert order == ['a', 'b'] * 3 and [len(s) for s in seconds.values()] == [2, 2]


def test_the_references_loading_puts_values_where_its_code_does(tmp_path):
  """Masked values in the order of the voxels, axes (2, 0, 1), then reshaped; by hand."""
  pytest.importorskip('nilearn')
  mask = np.zeros((2, 3, 2), bool)
  mask[0, 1, 1] = mask[1, 0, 0] = mask[1, 2, 1] = True
  image = nibabel.Nifti1Image(mask.astype(np.int32), np.eye(4))
  volume = inputs.as_the_reference(np.array([1.0, 2.0, 3.0], np.float32), image)
  # In the order (z, x, y) voxels are (0, 1, 0), (1, 0, 1), (1, 1, 2): places 3, 7 and 11 of 12.
  assert volume.shape == (1, 2, 3, 2)
  assert volume.ravel().tolist() == [0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3]
  np.save(tmp_path / 'matrix.npy', np.ones((4, 3), np.float32))
  assert inputs.reference_rate(tmp_path / 'matrix.npy', mask) > 0


@pytest.mark.parametrize('variant', ['global', 'local'])
def test_the_torch_recipe_has_our_loss(variant):
  """The same embeddings and attributes give the same number, so that both do the same work."""
  torch = pytest.importorskip('torch')
  config = get_config(f'variant={variant}')
  batch = steps.random_batch(config, (2, 2, 2), 6)
  x = np.random.default_rng(0).normal(size=(6, 2, 16)).astype(np.float32)
  x /= np.linalg.norm(x, axis=-1, keepdims=True)
  expected, _ = losses.combined_loss(jax.numpy.asarray(x), batch['attributes'], config.loss)
  actual = versus_torch.torch_loss(
      torch, torch.from_numpy(x), {k: torch.from_numpy(v) for k, v in batch['attributes'].items()},
      config.loss)
  assert float(actual) == pytest.approx(float(expected), rel=1e-5)


def test_tables():
  case = {'part': 'torch', 'case': 'forward', 'batch': 2, 'torch_s': 1.5, 'ours_s': 1.2,
          'engine': 'JAX 0.10.2', 'rounds': 7, 'ratio_median': 0.8, 'ratio_min': 0.75,
          'ratio_max': 0.91}
  pytest.importorskip('torch')
  images = case | {'part': 'images', 'batch': 8, 'ours_per_minute': 61.2, 'torch_per_minute': 49}
  lines = tables.against_torch([case, images], get_config(), PUBLISHED)
  assert 'resnet18, 121x145x121, float32' in lines[0]
  assert lines[-2:] == [
      '| encoder, frozen, by JAX 0.10.2 | 2 | 1.50 s | 1.20 s | **0.80** (0.75 to 0.91) |',
      '| .nii.gz to features, by JAX 0.10.2 | 8 | 49 a minute | 61 a minute '
      '| **0.80** (0.75 to 0.91) |']


def test_a_step_is_timed_and_counted():
  config = get_config('encoder=tiny')
  config.batch_size, config.precision = 8, 'float32'
  figures = steps.run(config, (8, 9, 8), rounds=2)
  assert figures['subjects_per_s'] == pytest.approx(8 / figures['step_s'])
  forward = sum(layer.flops for layer in counts.layers(models.get_encoder('tiny'), (8, 9, 8)))
  assert figures['forward_flops'] == 8 * forward
  assert figures['forward_share'] == pytest.approx(
      8 * forward / figures['forward_s'] / figures['product_flops_per_s'])
  assert 0 < figures['step_share'] < 1 and figures['devices'] == 8 and figures['peak_mb'] > 50


def _run(*arguments):
  return subprocess.run([sys.executable, '-m', 'anatcl_jax.bench', *arguments], text=True,
                        capture_output=True, check=False)


def test_wrong_use_is_one_line(capsys):
  with pytest.raises(SystemExit) as stop:
    bench.main(['--config=configs/pretrain.py', '--json=no/such/folder/x.json'])
  line, = capsys.readouterr().err.splitlines()
  assert stop.value.code == 2 and line.startswith('error: no/such/folder/x.json')


@pytest.mark.slow
def test_the_commands(tmp_path):
  """All tables of a tiny encoder, the plot, and JSON whose figures fit together."""
  tiny = ['--config=configs/pretrain.py:encoder=tiny', '--config.crop=24,28,24',
          '--config.batch_size=2', '--rounds=2']
  done = _run(*tiny, '--spacing=6', f'--json={tmp_path}/figures.json')
  assert done.returncode == 0 and '| training step |' in done.stdout, done.stderr
  assert '| float16 |' in done.stdout and 'Estimates, not measurements' in done.stdout
  done = _run(*tiny, '--scaling', f'--plot={tmp_path}/scaling.png')
  assert done.returncode == 0 and done.stdout.count('\n| devices ') == 3, done.stderr
  assert (tmp_path / 'scaling.png').stat().st_size > 10_000
