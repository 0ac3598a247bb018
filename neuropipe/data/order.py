"""Which people make up a batch: a pure function of (seed, step), so that resuming is exact at any step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def steps_per_epoch(n_people: int, batch_size: int) -> int:
    """Return how many batches one pass over the people gives; a last, smaller batch is left out."""
    return max(1, n_people // batch_size)


def batch_people(n_people: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Return the positions (int64) of the people of the global batch of `step`.

    Every epoch is a new permutation, so those who are left out of one epoch's last, incomplete
    batch differ from epoch to epoch. Nobody is twice in a batch.

    Parameters
    ----------
    n_people, batch_size : int
        A batch has ``min(batch_size, n_people)`` people.
    seed, step : int
        All that the order depends on.
    """
    epoch, within = divmod(step, steps_per_epoch(n_people, batch_size))
    permutation = np.random.default_rng([seed, 0, epoch]).permutation(n_people)
    return permutation[within * batch_size : (within + 1) * batch_size]


def balanced_people(groups: Sequence[np.ndarray], batch_size: int, seed: int, step: int) -> np.ndarray:
    """Return the people (int64) of the batch of `step`, of whom every group gives as many.

    Places that do not divide go around. A group is gone through in permutations of its own, so that a small one is
    seen more often; one with fewer people than its places gives some of them more than once in a batch.

    Parameters
    ----------
    groups : sequence of int64 array
        The people of each group, such as a dataset.
    batch_size, seed, step : int
        As for `batch_people`.
    """
    share, rest = divmod(batch_size, len(groups))
    places, chosen = share + (rest > 0), []
    for number, people in enumerate(groups):
        wanted = share + ((number - step * rest) % len(groups) < rest)
        epoch, within = divmod(step, steps_per_epoch(len(people), places))
        permutation = np.random.default_rng([seed, 3, number, epoch]).permutation(people)
        chosen.append(np.resize(permutation[within * places : (within + 1) * places], wanted))
    return np.concatenate(chosen)


def step_rng(seed: int, step: int) -> np.random.Generator:
    """Return the generator of everything that is drawn on the host for `step` (recordings, starts)."""
    return np.random.default_rng([seed, 1, step])


def step_seed(seed: int, step: int) -> int:
    """Return the seed of the device's generators for `step` (masks, augmentation, dropout)."""
    return int(np.random.SeedSequence([seed, 2, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
