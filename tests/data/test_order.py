"""The order of people: a pure function that leaves nobody out for long and takes nobody twice."""

from __future__ import annotations

import numpy as np
import pytest

from neuropipe.data import order


@pytest.mark.parametrize(("n_people", "batch_size"), [(10, 5), (33, 32), (7, 16), (100, 8)])
def test_nobody_twice_in_a_batch_and_everybody_in_the_long_run(n_people, batch_size):
    n_steps = 60 * order.steps_per_epoch(n_people, batch_size)
    batches = [order.batch_people(n_people, batch_size, 3, step) for step in range(n_steps)]
    assert all(len(set(batch)) == min(batch_size, n_people) for batch in batches)
    counts = np.bincount(np.concatenate(batches), minlength=n_people)
    assert counts.min() > 0.8 * counts.mean()


def test_an_epoch_is_a_permutation():
    batches = [order.batch_people(12, 4, 0, step) for step in range(6)]
    assert sorted(np.concatenate(batches[:3])) == sorted(np.concatenate(batches[3:])) == list(range(12))
    assert not np.array_equal(np.concatenate(batches[:3]), np.concatenate(batches[3:]))


def test_steps_and_seeds_draw_differently():
    drawn = {order.step_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(drawn) == 1000
    assert all(0 <= seed < 2**63 for seed in drawn)
    assert order.step_rng(0, 1).random() != order.step_rng(1, 0).random()


@pytest.mark.parametrize(("sizes", "batch_size"), [([50, 9, 20], 8), ([3, 200], 10), ([7, 7, 7], 7)])
def test_a_balanced_batch_has_as_many_of_every_group(sizes, batch_size):
    groups = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    n_steps = 40 * len(sizes) * max(sizes)
    batches = [order.balanced_people(groups, batch_size, 5, step) for step in range(n_steps)]
    assert {len(batch) for batch in batches} == {batch_size}
    group = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.stack([np.bincount(group[batch], minlength=len(sizes)) for batch in batches])
    assert np.ptp(counts, axis=1).max() <= 1  # in every batch
    assert np.ptp(counts.sum(0)) <= 1  # and in the long run
    seen = np.bincount(np.concatenate(batches), minlength=sum(sizes))
    for people in groups:
        assert seen[people].min() > 0.8 * seen[people].mean()
        if len(people) > batch_size:
            assert all(len(set(b[np.isin(b, people)])) == np.isin(b, people).sum() for b in batches[:200])
