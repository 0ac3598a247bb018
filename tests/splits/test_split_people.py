"""Who the people of a split are, and what is known of them."""

from __future__ import annotations

import pandas as pd
import pytest
from cohorts import Source, participants, people

from neuropipe.config import Roles
from neuropipe.errors import InputError
from neuropipe.splits.people import as_text, gather


def test_only_people_with_recordings_count_and_the_order_is_that_of_ids():
    table = participants(9)
    recorded = pd.DataFrame({"participant_id": ["sub-004", "sub-002", "sub-004"], "sha256": ["a", "b", "c"]})
    found = gather([Source("d0", table, recorded)], {"d0": Roles()})
    assert found.table["participant_id"].tolist() == ["sub-002", "sub-004"]
    assert found.recordings["row"].tolist() == [1, 0, 1]


def test_a_person_is_the_kin_id_where_there_is_one():
    table = participants(4)
    table.loc["sub-003", "family"] = None
    found = people(table, kin="family")
    assert dict(zip(found.table["participant_id"], found.table["person"], strict=True)) == {
        "sub-000": "kin/f0",
        "sub-001": "kin/f0",
        "sub-002": "kin/f1",
        "sub-003": "d0/sub-003",
    }


def test_roles_and_columns_are_found_per_dataset():
    first, second = participants(3), participants(3).rename(columns={"age": "AGE"}).drop(columns="sex")
    sources = [Source("a", first), Source("b", second)]
    found = gather(sources, {"a": Roles(), "b": Roles(age="AGE")})
    assert found.numbers("age").tolist() == [*first["age"].sort_index(), *second["AGE"].sort_index()]
    assert found.column("sex").isna().tolist() == [False] * 3 + [True] * 3


def test_an_unknown_column_is_named_with_the_nearest_one():
    with pytest.raises(InputError, match=r"'diagnosos'.*Did you mean 'diagnosis'"):
        people(participants(3)).column("diagnosos")


def test_words_among_numbers_are_an_error_that_shows_them():
    table = participants(3).astype({"age": object})
    table.loc["sub-001", "age"] = "unknown"
    with pytest.raises(InputError, match=r"Expected numbers.*'age'.*unknown.*sub-001"):
        people(table).numbers("age")


def test_a_recording_without_a_row_is_an_error():
    recorded = pd.DataFrame({"participant_id": ["sub-000", "sub-999"], "sha256": ["a", "b"]})
    with pytest.raises(InputError, match="no row in the participants table: sub-999"):
        gather([Source("d0", participants(3), recorded)], {"d0": Roles()})


def test_two_rows_for_one_participant_are_an_error():
    table = participants(3)
    with pytest.raises(InputError, match="several rows for sub-001"):
        people(pd.concat([table, table.loc[["sub-001"]]]))


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (1.5, "1.5"), (2, "2"), ("01", "01"), ("n/a", None), (float("nan"), None), (" x ", "x")],
)
def test_labels_as_text(value, text):
    assert as_text(value) == text
