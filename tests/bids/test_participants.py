"""participants.tsv as it is found in the wild."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuropipe.bids import participants
from neuropipe.errors import InputError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def test_ids_are_text_with_a_prefix(tmp_path: Path) -> None:
    table = participants.load(write(tmp_path / "p.tsv", "age\tparticipant_id\tgroup\n30\t0001\tNA\n31\tsub-2\t\n"))
    assert table.columns[0] == "participant_id" and table["participant_id"].tolist() == ["sub-0001", "sub-2"]
    assert table["age"].tolist() == ["30", "31"] and table["group"].tolist() == ["n/a", "n/a"]


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    table = participants.load(write(tmp_path / "p.tsv", "\ufeffparticipant_id\tname\r\nsub-1\tZoë Ünal\r\n"))
    assert table.to_dict("records") == [{"participant_id": "sub-1", "name": "Zoë Ünal"}]


def test_a_table_of_commas_says_so_in_its_name(tmp_path: Path) -> None:
    table = participants.load(write(tmp_path / "p.csv", 'participant_id,name\n1,"Zoë, Ünal"\n'))
    assert table.to_dict("records") == [{"participant_id": "sub-1", "name": "Zoë, Ünal"}]
    with pytest.raises(InputError, match=r"needs a column participant_id \(comma separated\)"):
        participants.load(write(tmp_path / "p.csv", "participant_id\tage\n1\t2\n"))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No participants table .*p\.tsv; correct datasets\.<name>\.participants"):
        participants.load(tmp_path / "p.tsv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\tage\n1\t2\n", r"p\.tsv needs a column participant_id .*found \['id', 'age'\]"),
        ("participant_id,age\n1,2\n", "needs a column participant_id"),
        ("participant_id\tage\n1\t2\nsub-1\t3\n", "more than one row for sub-1"),
        ("participant_id\tage\n1\t2\n\t3\n", "line 3: the participant_id is empty"),
        ("", r"p\.tsv is empty"),
    ],
)
def test_tables_that_name_nobody(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        participants.load(write(tmp_path / "p.tsv", text))


def test_found_beside_the_data_first_then_above(tmp_path: Path) -> None:
    data = tmp_path / "bids" / "derivatives" / "fmriprep"
    data.mkdir(parents=True)
    above = write(tmp_path / "bids" / "participants.tsv", "participant_id\n")
    assert participants.find(data) == above
    beside = write(data / "participants.tsv", "participant_id\n")
    assert participants.find(data) == beside


def test_not_looked_for_above_the_bids_root(tmp_path: Path) -> None:
    """Another study's table further up is not this one's."""
    data = tmp_path / "bids" / "derivatives" / "fmriprep"
    data.mkdir(parents=True)
    write(data / "dataset_description.json", json.dumps({"DatasetType": "derivative"}))
    write(tmp_path / "bids" / "dataset_description.json", json.dumps({"Name": "raw"}))
    write(tmp_path / "participants.tsv", "participant_id\n")
    with pytest.raises(InputError, match=r"No participants.tsv found"):
        participants.find(data)
