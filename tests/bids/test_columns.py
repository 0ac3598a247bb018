"""Tables of which nothing is known but the names of their columns: these are the regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doors_study import NAMES, cleaned, indexed, people, planted, sharded, table, zscored

from neuropipe.bids import doors
from neuropipe.config import Dataset
from neuropipe.errors import AtlasError
from neuropipe.signals.atlases import regions_of_columns


def dataset(root: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "series", "path": str(root / "x"), "t_r": 2.0} | changes


def study(root: Path, names: dict[str, list[str]]) -> None:
    """Write one table per person, with the columns `names`."""
    people(root / "x", *names)
    for number, (person, columns) in enumerate(names.items()):
        table(root / "x" / f"{person}_task-rest_timeseries.tsv", planted(number, len(columns)), columns)


def test_columns_are_found_by_their_names_in_every_table(tmp_path: Path) -> None:
    study(tmp_path, {"sub-1": NAMES, "sub-2": NAMES[::-1], "sub-3": ["other", *NAMES[1:]], "sub-4": NAMES[:3]})
    receipt = cleaned(tmp_path, dataset(tmp_path))
    assert {row["participant_id"]: row["reason"] for row in receipt["excluded"]} == {"sub-3": "wrong regions"}
    shards = sharded(tmp_path, dataset(tmp_path))
    regions = shards.regions.table
    assert regions["name"].tolist() == NAMES
    found = {row.participant_id: shards.series(i) for i, row in enumerate(shards.manifest.itertuples())}
    np.testing.assert_allclose(found["sub-1"], zscored(planted(0)), atol=1e-5)
    np.testing.assert_allclose(found["sub-2"], zscored(planted(1))[:, ::-1], atol=1e-5)
    assert not found["sub-4"][:, 3].any()  # a region that a person lacks


def test_the_order_of_the_names_is_part_of_what_the_regions_are() -> None:
    one, other = regions_of_columns(["a", "b"], "x"), regions_of_columns(["b", "a"], "x")
    assert one.order_hash == regions_of_columns(["a", "b"], "y").order_hash != other.order_hash


def test_names_tell_networks_and_numbers_are_labels() -> None:
    regions = regions_of_columns(["7Networks_LH_Vis_1", "7Networks_RH_Default_PFC_2"], "x")
    assert regions.networks == ["Vis", "Default"] and regions.table["hemisphere"].tolist() == ["L", "R"]
    assert regions_of_columns(["2001", "2002"], "x").table["label"].tolist() == [2001, 2002]
    assert regions_of_columns(["1", "01"], "x").table["label"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["0", "1", "2"], "x/sub-1_task-rest_timeseries.tsv have no names|timeseries.tsv have no names"),
        (["a", "b", "a"], "found a more than once"),
        (["", "a", "b"], "found none in column 1"),
    ],
)
def test_what_cannot_be_told_is_said_by_the_index(tmp_path: Path, names: list[str], words: str) -> None:
    study(tmp_path, {"sub-1": names})
    with pytest.raises(AtlasError, match=words):
        indexed(tmp_path, dataset(tmp_path))


def test_tables_of_nobody_and_damaged_ones_name_nothing(tmp_path: Path) -> None:
    study(tmp_path, {"sub-2": NAMES})
    table(tmp_path / "x" / "labels.tsv", planted(0), ["p", "q", "r", "s"])  # nobody's
    people(tmp_path / "x", "sub-1", "sub-2")
    (tmp_path / "x" / "sub-1_task-rest_timeseries.tsv").write_text("a\tb\n1\n")
    section = Dataset.model_validate(dataset(tmp_path))
    assert doors.regions(section).table["name"].tolist() == NAMES
