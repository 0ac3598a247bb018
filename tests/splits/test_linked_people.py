"""People of linked datasets are one person: on one side, in one family, counted once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from cohorts import Source, participants

from neuropipe.config import Roles, Split
from neuropipe.splits.audit import audit_split
from neuropipe.splits.make import make_split
from neuropipe.splits.people import gather

LINKS = {"vbm": "bold", "slices": "bold"}  # as StudyConfig.same_people resolves a chain


def linked(n: int = 40, seed: int = 0, kin: bool = False):
    """Everyone's series, maps and slices of two thirds each, under the same ids; and people of another study."""
    rng = np.random.default_rng(seed)
    table = participants(n, seed=seed)
    tables = {"bold": table, "vbm": table, "slices": table.drop(columns="family")}
    parts = [table] + [table.loc[rng.permutation(table.index)[: 2 * n // 3]] for _ in range(2)]
    sources = [Source(name, part) for name, part in zip(("bold", "vbm", "slices"), parts, strict=True)]
    other = Source("other", participants(15, seed=seed + 1).drop(columns="family"))
    for source, full in zip(sources, tables.values(), strict=True):
        source.participants = full
    roles = {name: Roles(kin="family" if kin and name == "bold" else None) for name in (*tables, "other")}
    return gather([*sources, other], roles, LINKS)


SCHEMES = [
    {"scheme": "holdout", "test": 0.3, "validation": 0.2, "stratify": ["diagnosis"]},
    {"scheme": "holdout", "test": {"bold": 9, "vbm": 8, "other": 3}},
    {"scheme": "kfold", "n_folds": 4},
    {"scheme": "repeated_kfold", "n_folds": 3, "n_repeats": 2},
    {"scheme": "leave_one_site_out"},
    {"scheme": "predefined", "by": "site", "train_values": ["site A", "site B"], "test_values": ["site C"]},
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("settings", "kin"),
    [(settings, False) for settings in SCHEMES]
    + [(settings, True) for settings in SCHEMES if settings["scheme"] != "predefined"],  # sites divide families
)
def test_one_person_is_on_one_side_through_every_dataset(settings, kin, seed):
    people = linked(seed=seed, kin=kin)
    table = make_split("main", Split(**settings, seed=seed), people)
    ours = table[(table["dataset"] != "other") & (table["role"] != "unused")]
    unit = "person" if kin else "participant_id"
    assert (ours.groupby(["fold", unit])["role"].nunique() == 1).all()
    assert ours.groupby(["fold", "participant_id"])["dataset"].nunique().max() == 3
    recordings = people.recordings[["dataset", "participant_id", "sha256"]]
    audit = audit_split(table, recordings, same_people=people.same_people)
    assert audit["n_people"] == 40 + 15
    assert all(sum(fold[side] for side in ("train", "validation", "test", "unused")) == 55 for fold in audit["folds"])


def test_a_count_is_of_people_and_not_of_their_datasets():
    table = make_split("main", Split(scheme="holdout", test=12), linked())
    tested = table[table["role"] == "test"]
    named = tested["dataset"].replace(LINKS) + "/" + tested["participant_id"]
    assert named.nunique() == 12
    assert len(tested) > 12


def test_a_person_counts_for_both_of_two_linked_datasets():
    settings = Split(scheme="holdout", test={"vbm": 10, "bold": 8})
    tested = make_split("main", settings, linked()).query("role == 'test'")
    assert (tested["dataset"] == "vbm").sum() == 10
    assert (tested["dataset"] == "bold").sum() == 10


def test_kin_come_from_the_dataset_that_names_the_people_with_or_without_a_recording_there():
    table = participants(6)
    maps = Source("vbm", table.drop(columns="family"))
    people = gather([maps], {"vbm": Roles(), "bold": Roles(kin="family")}, {"vbm": "bold"}, {"bold": table})
    assert people.table["person"].tolist() == ["kin/f0", "kin/f0", "kin/f1", "kin/f1", "kin/f2", "kin/f2"]
    assert people.individuals.tolist() == [f"bold/sub-{i:03d}" for i in range(6)]
    assert people.persons(["vbm/sub-000", "bold/sub-002", "elsewhere/sub-000"]) == {
        "kin/f0",
        "kin/f1",
        "elsewhere/sub-000",
    }


def test_datasets_without_a_link_keep_equal_ids_apart():
    table = participants(4)
    people = gather([Source("a", table), Source("b", table)], {"a": Roles(), "b": Roles()})
    assert people.table["person"].nunique() == 8


def test_a_list_of_one_dataset_decides_for_the_linked_ones(tmp_path):
    people = linked()
    path = tmp_path / "list.tsv"
    ids = sorted(set(people.table.loc[people.table["dataset"] == "bold", "participant_id"]))
    roles = ["test" if i % 4 == 0 else "train" for i in range(len(ids))]
    pd.DataFrame({"dataset": "bold", "participant_id": ids, "role": roles}).to_csv(path, sep="\t", index=False)
    table = make_split("main", Split(scheme="predefined", path=str(path)), people)
    expected = dict(zip(ids, roles, strict=True))
    for row in table.itertuples():
        assert row.role == ("unused" if row.dataset == "other" else expected[row.participant_id])


def test_the_order_of_datasets_does_not_matter():
    people = linked()
    shuffled = dataclasses.replace(people, table=people.table.iloc[::-1].reset_index(drop=True))
    settings = Split(scheme="holdout", test=0.3)
    first, second = (make_split("main", settings, p).query("role == 'test'") for p in (people, shuffled))
    assert set(first["dataset"] + first["participant_id"]) == set(second["dataset"] + second["participant_id"])
