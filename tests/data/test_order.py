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
