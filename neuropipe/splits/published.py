"""The splits of learning-from-brains, for the sake of comparison: do not judge models by them.

What they have that ours have not (see `neuropipe.splits.make`):

- `by_runs` divides runs, so that the same person is on both sides;
- `by_people` takes training people in the order of their names, which is the order of recruitment or of sites;
- `by_people` finds a person's runs by a part of the file name, so that sub-1 takes the runs of sub-10 along, and one
  run may be on two sides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from neuropipe.errors import SplitError

DATASET = re.compile(r"ds-([^_]*)_")
SUBJECT = re.compile(r"_(sub-[^_.]+)")
FEWEST = 2  # validation runs of a dataset


def by_runs(paths: Iterable[str], share: float, seed: int) -> dict[str, list[str]]:
    """Return training and validation runs; of each dataset the last `share` of its shuffled runs, two at least.

    Parameters
    ----------
    paths : iterable of str
        Files that are named ``ds-<dataset>_sub-<label>_...``.
    share : float
        Of the runs of each dataset.
    seed : int
        Of numpy's old generator, which shuffles one dataset after the other.
    """
    rng = np.random.RandomState(seed)
    sides: dict[str, list[str]] = {"train": [], "validation": []}
    for runs in _of_datasets(paths):
        rng.shuffle(runs)
        n_validation = max(int(share * len(runs)), FEWEST)
        sides["train"] += runs[:-n_validation]
        sides["validation"] += runs[-n_validation:]
    return sides


def by_people(
    paths: Iterable[str], n_train: int, n_validation: int, n_test: int | None, seed: int
) -> dict[str, list[str]]:
    """Return the runs of some people per dataset on each side: drawn for validation, then for test, the rest by name.

    Raises
    ------
    SplitError
        A dataset has not enough people.
    """
    rng = np.random.RandomState(seed)
    sides: dict[str, list[str]] = {"train": [], "validation": []} | ({} if n_test is None else {"test": []})
    for runs in _of_datasets(paths):
        people = sorted({_person(run) for run in runs})
        if len(people) < n_validation + (n_test or 0):
            raise SplitError(
                f"Expected {n_validation} people for validation and {n_test or 0} for test in every dataset, found "
                f"{len(people)} beside {runs[0]}; ask for fewer."
            )
        for side, wanted in (("validation", n_validation), ("test", n_test)):
            if side in sides:
                chosen = [str(name) for name in rng.choice(people, wanted, replace=False)]
                sides[side] += _runs_of(chosen, runs)
                people = [name for name in people if name not in chosen]
        sides["train"] += _runs_of(people[:n_train], runs)
    return sides


def _of_datasets(paths: Iterable[str]) -> Iterator[list[str]]:
    """Yield the sorted runs of each dataset, datasets sorted by name."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path in sorted(set(paths)):
        found = DATASET.search(path.rpartition("/")[2])
        if found is None:
            raise SplitError(f"Expected a file named ds-<dataset>_sub-<label>_..., found {path}; rename it.")
        groups[found[1]].append(path)
    for name in sorted(groups):
        yield groups[name]


def _person(path: str) -> str:
    found = SUBJECT.search(path.rpartition("/")[2])
    if found is None:
        raise SplitError(f"Expected a file named ds-<dataset>_sub-<label>_..., found {path}; rename it.")
    return found[1]


def _runs_of(people: list[str], runs: list[str]) -> list[str]:
    """Return the runs whose names hold one of the labels, also as part of a longer one."""
    return [run for run in runs if any(person in run for person in people)]
