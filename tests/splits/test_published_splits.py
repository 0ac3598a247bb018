"""The splits of learning-from-brains: what they promise, and the defects that they are kept for."""

from __future__ import annotations

import pytest

from neuropipe.errors import SplitError
from neuropipe.splits import published

PATHS = [
    f"data/{dataset}/ds-{dataset}_sub-{person}_task-x_run-{run}.tar"
    for dataset, people in (("A", 30), ("B", 8))
    for person in range(1, people + 1)
    for run in (1, 2)
]


def person(path: str) -> str:
    return path.split("/")[-1].split("_task")[0]


def test_runs_are_divided_and_people_are_on_both_sides():
    sides = published.by_runs(PATHS, 0.05, seed=1)
    assert sorted(sides["train"] + sides["validation"]) == sorted(PATHS)
    assert [sum("ds-A" in path for path in sides["validation"]), len(sides["validation"])] == [3, 5]  # two at least
    assert {person(p) for p in sides["validation"]} & {person(p) for p in sides["train"]}
    assert published.by_runs(reversed(PATHS), 0.05, seed=1) == sides
    assert published.by_runs(PATHS, 0.05, seed=2) != sides


def test_training_people_are_the_first_by_name_and_a_label_takes_longer_ones_along():
    found = [published.by_people(PATHS, 3, 2, 2, seed) for seed in range(60)]
    for sides in found:
        of = {side: {person(p) for p in paths if "ds-B" in p} for side, paths in sides.items()}  # sub-1 ... sub-8
        assert len(of["validation"]) == len(of["test"]) == 2 and not of["validation"] & of["test"]
        rest = sorted({f"ds-B_sub-{n}" for n in range(1, 9)} - of["validation"] - of["test"])
        assert of["train"] == set(rest[:3])
    assert any(set(sides["validation"]) & set(sides["test"]) for sides in found)  # of A: sub-1 takes sub-10 along


def test_what_cannot_be_divided_is_named():
    with pytest.raises(SplitError, match="Expected 6 people for validation and 3 for test in every dataset, found 8"):
        published.by_people(PATHS, 1, 6, 3, seed=0)
    with pytest.raises(SplitError, match=r"ds-<dataset>_sub-<label>_\.\.\., found other\.tar"):
        published.by_runs(["other.tar"], 0.1, seed=0)
