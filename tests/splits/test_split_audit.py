"""Each planted leak is found, named, and stops the split."""

from __future__ import annotations

import pandas as pd
import pytest
from cohorts import participants, people

from neuropipe.config import Split
from neuropipe.errors import SplitError
from neuropipe.splits.audit import audit_split
from neuropipe.splits.make import make_split


@pytest.fixture
def sound():
    """A sound holdout: its table, the recordings' hashes and a task's labels."""
    found = people(participants(40))
    table = make_split("main", Split(scheme="holdout", test=0.3, validation=0.2, stratify=["diagnosis"]), found)
    labels = pd.Series(found.column("diagnosis").to_numpy(), index=found.ids)
    return table, found.recordings[["dataset", "participant_id", "sha256"]], {"diagnosis": labels}


def ids(table: pd.DataFrame, role: str) -> list[str]:
    return table.loc[table["role"] == role, "participant_id"].tolist()


def test_a_sound_split_passes_and_is_counted(sound):
    audit = audit_split(*sound)
    assert audit["folds"] == [{"repeat": 0, "fold": "0", "train": 20, "validation": 8, "test": 12, "unused": 0}]
    assert all(check["passed"] for check in audit["checks"])


def test_one_person_under_two_ids_on_two_sides(sound):
    table, recordings, labels = sound
    first, second = ids(table, "train")[0], ids(table, "test")[0]
    table.loc[table["participant_id"].isin([first, second]), "person"] = "kin/twins"
    with pytest.raises(SplitError, match="on two sides: kin/twins"):
        audit_split(table, recordings, labels)


def test_one_recording_under_two_ids_on_two_sides(sound):
    table, recordings, labels = sound
    first, second = ids(table, "train")[0], ids(table, "test")[0]
    recordings.loc[recordings["participant_id"].isin([first, second]), "sha256"] = "the same"
    with pytest.raises(SplitError, match="one recording on two sides") as caught:
        audit_split(table, recordings, labels)
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_one_recording_twice_on_one_side_is_no_leak(sound):
    table, recordings, labels = sound
    recordings.loc[recordings["participant_id"].isin(ids(table, "train")[:2]), "sha256"] = "the same"
    assert audit_split(table, recordings, labels)["checks"]


def test_a_recording_shared_by_two_datasets(sound):
    table, recordings, labels = sound
    tested = table[table["role"] == "test"].iloc[[0]].assign(dataset="d1", person="d1/copy", role="train")
    copy = recordings[recordings["participant_id"] == tested["participant_id"].iloc[0]].assign(dataset="d1")
    with pytest.raises(SplitError, match=r"d0/sub-\d+, d1/sub-\d+ have the same content"):
        audit_split(pd.concat([table, tested]), pd.concat([recordings, copy]), labels)


def test_a_participant_listed_twice(sound):
    table, recordings, labels = sound
    with pytest.raises(SplitError, match="listed more than once"):
        audit_split(pd.concat([table, table.iloc[[0]]]), recordings, labels)


@pytest.mark.parametrize("side", ["train", "test"])
def test_an_empty_side(sound, side):
    table, recordings, labels = sound
    table.loc[table["role"] == side, "role"] = "unused"
    with pytest.raises(SplitError, match=f"nobody on the {side} side"):
        audit_split(table, recordings, labels)


@pytest.mark.parametrize("side", ["train", "validation", "test"])
def test_a_class_missing_on_a_side(sound, side):
    table, recordings, labels = sound
    gone = "d0/" + table.loc[table["role"] == side, "participant_id"]
    labels["diagnosis"][gone[labels["diagnosis"][gone].to_numpy() == "patient"]] = None
    with pytest.raises(SplitError, match=f"nobody with diagnosis = patient on the {side} side"):
        audit_split(table, recordings, labels)


def test_every_problem_is_said_at_once(sound):
    table, recordings, labels = sound
    first, second = ids(table, "train")[0], ids(table, "test")[0]
    both = table["participant_id"].isin([first, second])
    table.loc[both, "person"] = "kin/twins"
    recordings.loc[recordings["participant_id"].isin([first, second]), "sha256"] = "the same"
    with pytest.raises(SplitError) as caught:
        audit_split(table, recordings, labels)
    assert "kin/twins" in str(caught.value)
    assert "one recording on two sides" in str(caught.value)
