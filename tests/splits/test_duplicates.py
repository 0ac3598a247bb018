"""One recording under another name is found though its bytes differ; different recordings are not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from neuropipe.config import Roles, Split
from neuropipe.errors import SplitError
from neuropipe.splits.audit import audit_split
from neuropipe.splits.duplicates import overlay, twins
from neuropipe.splits.make import make_split
from neuropipe.splits.people import gather

N, N_TIMES, N_REGIONS = 24, 160, 20


@dataclass
class Bank:
    """Recordings in memory behind the interface of shards."""

    dataset: str
    values: list[np.ndarray]
    participants: pd.DataFrame
    content: str = "series"
    manifest: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        self.manifest = pd.DataFrame({"participant_id": self.participants.index[: len(self.values)]})
        self.manifest["sha256"] = [f"{self.dataset} {i}" for i in range(len(self.values))]
        self.manifest["shape"] = [list(value.shape) for value in self.values]
        self.manifest["content"] = self.content

    def array(self, i: int) -> np.ndarray:
        return self.values[i]

    def valid_regions(self, i: int) -> np.ndarray:
        return np.ones(self.values[i].shape[1], dtype=bool)


def table(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ids = pd.Index([f"sub-{i}" for i in range(1, n + 1)], name="participant_id")
    columns = {"site": "A", "age": rng.uniform(20, 60, n).round(1), "sex": rng.choice(["F", "M"], n)}
    return pd.DataFrame(columns, index=ids)


def series(n: int = N) -> list[np.ndarray]:
    """Slow series of one common and some own coupling."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((N_REGIONS, N_REGIONS))
    found = []
    for _ in range(n):
        noise = np.apply_along_axis(np.convolve, 0, rng.standard_normal((N_TIMES, N_REGIONS)), np.ones(3), "same")
        found.append((noise @ (common + rng.standard_normal((N_REGIONS, N_REGIONS)))).astype(np.float16))
    return found


def found(values: list[np.ndarray], content: str = "series") -> pd.DataFrame:
    bank = Bank("toy", values, table(len(values)), content)
    return twins(gather([bank], {"toy": Roles()}), [bank])


def test_different_people_are_no_twins():
    assert found(series()).empty


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: (x.astype(float) * 3 + 7).astype(np.float32),  # saved again in another unit
        lambda x: x[10:],  # the first volumes dropped
        lambda x: x[: len(x) // 2],  # the first half
        lambda x: x - x.mean(axis=1, keepdims=True),  # without the global signal
    ],
)
def test_a_copy_that_was_changed_is_found(copy):
    values = series()
    pairs = found([*values, copy(values[4])])
    assert pairs[["first", "second"]].to_numpy().tolist() == [["toy/sub-25", "toy/sub-5"]]


def test_a_map_that_was_saved_again_is_found():
    rng = np.random.default_rng(0)
    brain = rng.standard_normal((9, 9, 9))
    values = [(brain + 0.3 * rng.standard_normal(brain.shape)).astype(np.float32) for _ in range(N)]
    assert found(values, "volume").empty
    pairs = found([*values, values[2].astype(np.float16)], "volume")
    assert pairs[["first", "second"]].to_numpy().tolist() == [["toy/sub-25", "toy/sub-3"]]


def test_one_series_lies_in_the_other_at_any_lag():
    whole = series(2)
    assert overlay(whole[0], whole[0][37:120]) == pytest.approx(1, abs=1e-3)
    assert overlay(whole[0][37:120], whole[0]) == pytest.approx(1, abs=1e-3)
    assert abs(overlay(*whole)) < 0.3


def test_a_family_is_never_divided_so_its_members_are_no_twins():
    values, people = series(), table(N)
    values[1] = values[0]
    bank = Bank("toy", values, people.assign(family=["a", "a", *[None] * (N - 2)]))
    assert twins(gather([bank], {"toy": Roles(kin="family")}), [bank]).empty


def two_datasets(linked: bool) -> tuple:
    """The same people in two datasets with different recordings; ids and ages agree."""
    values = series(2 * N)
    banks = [Bank(name, values[at], table(N)) for name, at in (("one", slice(N)), ("two", slice(N, None)))]
    people = gather(banks, dict.fromkeys(("one", "two"), Roles()), {"two": "one"} if linked else None)
    return people, banks


def test_one_person_in_two_datasets_that_are_not_linked():
    people, banks = two_datasets(linked=False)
    pairs = twins(people, banks)
    assert len(pairs) == N
    split = make_split("main", Split(scheme="holdout", test=0.4), people)
    hashes = people.recordings[["dataset", "participant_id", "sha256"]]
    with pytest.raises(SplitError, match=r"look like one person, on two sides.*agree in age and sex") as caught:
        audit_split(split, hashes, twins=pairs)
    assert "people_of" in str(caught.value)


def test_linked_datasets_and_mere_equal_ids_are_no_twins():
    assert twins(*two_datasets(linked=True)).empty
    values = series(2 * N)
    banks = [Bank("one", values[:N], table(N)), Bank("two", values[N:], table(N, seed=1))]
    assert twins(gather(banks, dict.fromkeys(("one", "two"), Roles())), banks).empty


def test_twins_on_one_side_are_listed_and_on_two_refused():
    values = series()
    values[1] = values[0][5:]
    bank = Bank("toy", values, table(N))
    people = gather([bank], {"toy": Roles()})
    split = make_split("main", Split(scheme="holdout", test=0.4), people)
    hashes, pairs = people.recordings[["dataset", "participant_id", "sha256"]], twins(people, [bank])
    pair = split["participant_id"].isin(["sub-1", "sub-2"])
    audit = audit_split(split.assign(role=split["role"].where(~pair, "train")), hashes, twins=pairs)
    assert [one["first"] for one in audit["twins_on_one_side"]] == ["toy/sub-1"]
    assert "no recording on two sides that repeats another's" in [check["check"] for check in audit["checks"]]
    split.loc[split["participant_id"] == "sub-1", "role"] = "train"
    split.loc[split["participant_id"] == "sub-2", "role"] = "test"
    with pytest.raises(SplitError, match="toy/sub-1 and toy/sub-2 look like one person, on two sides"):
        audit_split(split, hashes, twins=pairs)


def test_where_nobody_looked_nothing_is_claimed():
    people, _ = two_datasets(linked=True)
    split = make_split("main", Split(scheme="holdout", test=0.4), people)
    audit = audit_split(split, people.recordings[["dataset", "participant_id", "sha256"]], None, people.same_people)
    assert "no recording on two sides that repeats another's" not in [check["check"] for check in audit["checks"]]
