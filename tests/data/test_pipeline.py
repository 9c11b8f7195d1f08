"""Which records make which batch: folds, epochs, processes, and what a batch holds."""

from __future__ import annotations

import numpy as np
import pytest

from anatcl_jax.data import pipeline
from anatcl_jax.errors import UserError


def test_no_person_on_both_sides_and_everyone_held_out_once():
  people = np.array([f'sub-{i % 13}' for i in range(40)])   # several scans each
  seen = []
  for fold in range(5):
    train, held_out = pipeline.split_by_participant(people, fold, 5, seed=1)
    assert not set(people[train]) & set(people[held_out])
    assert sorted([*train, *held_out]) == list(range(40))
    seen += list(held_out)
  assert sorted(seen) == list(range(40))


def test_folds_do_not_depend_on_the_order_of_records():
  people = np.array([f'sub-{i}' for i in range(20)])
  _, held_out = pipeline.split_by_participant(people, 2, 5, seed=0)
  _, reversed_out = pipeline.split_by_participant(people[::-1], 2, 5, seed=0)
  assert set(people[held_out]) == set(people[::-1][reversed_out])


@pytest.mark.parametrize('fold, folds, message', [(5, 5, 'fold 5'), (0, 30, 'num_folds 30')])
def test_impossible_folds(fold, folds, message):
  with pytest.raises(UserError, match=message):
    pipeline.split_by_participant(np.arange(20).astype(str), fold, folds, 0)


def test_an_epoch_is_a_permutation_and_epochs_differ():
  records = np.arange(100, 123)
  epochs = [np.concatenate([pipeline.records_of_step(records, 5, 7, 4 * epoch + step)
                            for step in range(4)]) for epoch in range(3)]
  for epoch in epochs:
    assert len(set(epoch)) == 20 and set(epoch) <= set(records)
  assert len({tuple(epoch) for epoch in epochs}) == 3
  assert set(np.concatenate(epochs)) == set(records)    # those left over differ from epoch to epoch


def test_processes_share_the_global_batch():
  records = np.arange(23)
  whole = [pipeline.records_of_step(records, 6, 3, step) for step in range(2, 5)]
  schedule = pipeline.TrainSchedule(records, 6, 3, range(2, 5))
  shares = [pipeline._Share(schedule, process, 3) for process in range(3)]
  for index, batch in enumerate(whole):
    joined = [share[2 * index + k] for share in shares for k in range(2)]
    np.testing.assert_array_equal(joined, batch)


def test_heldout_batches_cover_all_with_no_subject_twice_in_one():
  batches = pipeline.heldout_batches(np.arange(48), 32, 8, seed=0)
  assert [len(set(batch)) for batch in batches] == [32, 32]
  assert set(np.concatenate(batches)) == set(range(48))
  assert [len(b) for b in pipeline.heldout_batches(np.arange(11), 32, 4, seed=0)] == [8, 8]
  assert pipeline.heldout_batches(np.arange(3), 32, 4, seed=0) == []


def test_heldout_batches_do_not_follow_the_order_of_a_sorted_table():
  """Ages 0 to 63 in order: each batch of 16 has the spread of all, in every draw."""
  for seed in range(20):
    for batch in pipeline.heldout_batches(np.arange(64), 16, 1, seed):
      assert batch.std() > 0.5 * np.arange(64).std()    # 16 rows in a row: a quarter of it
  first, second = (np.concatenate(pipeline.heldout_batches(np.arange(64), 16, 1, seed))
                   for seed in (0, 1))
  assert (first != second).any()


@pytest.mark.parametrize('held_out', [64, 48, 20])
def test_heldout_batches_are_the_same_on_any_devices(held_out):
  expected = pipeline.heldout_batches(np.arange(held_out), 32, 1, seed=5)
  for devices in (2, 4, 8, 16):
    np.testing.assert_array_equal(
        pipeline.heldout_batches(np.arange(held_out), 32, devices, seed=5), expected)


def test_a_batch_holds_each_records_own_volume_and_labels(shard_set):
  morphometry = shard_set.select_measures(('area', 'thickness'))
  ages = shard_set.table['age'].to_numpy(np.float32)
  reader = pipeline.Reader(shard_set, {'age': ages, 'anatomy': morphometry}, crop=(8, 99, 10))
  batches = list(pipeline.train_batches(reader, np.arange(20), 4, seed=5, steps=range(1, 7)))
  assert len(batches) == 6
  for step, batch in enumerate(batches, start=1):
    for row, record in enumerate(pipeline.records_of_step(np.arange(20), 4, 5, step)):
      volume, _ = shard_set.read_volume(record)
      x, z = (volume.shape[0] - 8) // 2, (volume.shape[2] - 10) // 2
      np.testing.assert_array_equal(batch['volume'][row], volume[x:x + 8, :, z:z + 10])
      assert batch['attributes']['age'][row] == np.float32(shard_set.table['age'][record])
      columns = [shard_set.measures.index('area'), shard_set.measures.index('thickness')]
      np.testing.assert_array_equal(batch['attributes']['anatomy'][row],
                                    shard_set.morphometry[record][:, columns])
