"""Nothing disappears: every part of what was left out is in the merged table, in one order."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pandas as pd
import pytest

from neuropipe.errors import InputError
from neuropipe.paths import Study
from neuropipe.provenance import write_json
from neuropipe.report import excluded

HEADER = "\t".join(excluded.COLUMNS)


def _row(stage: str, person: str, detail: str = "n/a") -> dict[str, str]:
    return {
        "stage": stage,
        "dataset": "demo",
        "participant_id": person,
        "run_id": f"{person}_task-rest",
        "path": "n/a",
        "reason": "too short",
        "detail": detail,
    }


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(row[column] for column in excluded.COLUMNS) for row in rows]
    path.write_text("\n".join([HEADER, *lines]) + "\n")


def _study(root: Path, order: list[int]) -> Study:
    """Write one part per stage, in the order of `order`, each with one person."""
    study = Study(root)
    writers = [
        lambda: _table(study.index_excluded("demo"), [_row("index", "sub-01"), _row("index", "sub-0002")]),
        lambda: write_json(
            study.receipt("parcellate", "demo", 0), {"products": [], "excluded": [_row("parcellate", "sub-3")]}
        ),
        lambda: write_json(
            study.receipt("parcellate", "demo", 1), {"products": [], "excluded": [_row("parcellate", "sub-4")]}
        ),
        lambda: write_json(study.receipt("shard", "demo", 0), {"products": [], "excluded": [_row("shard", "sub-5")]}),
        lambda: _table(study.split("main") / "excluded.tsv", [_row("split", "sub-6")]),
        lambda: _table(study.task("age", "probe") / "excluded.tsv", [_row("probe", "sub-7")]),
        lambda: _table(study.task("age", "baselines") / "excluded.tsv", [_row("baselines", "sub-8")]),
        lambda: write_json(study.embeddings("r", 0) / "receipt.json", {"excluded": [_row("embed", "sub-9")]}),
    ]
    for number in order:
        writers[number]()
    return study


def test_every_part_is_there_in_the_order_of_the_stages(tmp_path: Path) -> None:
    merged = excluded.merge(_study(tmp_path, list(range(8))))
    assert merged["stage"].tolist() == [
        "index", "index", "parcellate", "parcellate", "shard", "split", "embed", "probe", "baselines",
    ]  # fmt: skip
    assert set(merged["participant_id"]) == {f"sub-{n}" for n in ("01", "0002", *range(3, 10))}


def test_the_text_does_not_depend_on_the_order_in_which_parts_were_written(tmp_path: Path) -> None:
    numbers = list(range(8))
    texts = set()
    for attempt in range(3):
        random.Random(attempt).shuffle(numbers)
        texts.add(excluded.to_tsv(excluded.merge(_study(tmp_path / str(attempt), numbers))))
    assert len(texts) == 1


def test_ids_stay_text_and_line_ends_inside_a_cell_do_not_break_the_table(tmp_path: Path) -> None:
    study = Study(tmp_path)
    write_json(study.receipt("shard", "demo", 0), {"excluded": [_row("shard", "0001", "first\nsecond\tthird")]})
    text = excluded.to_tsv(excluded.merge(study))
    table = pd.read_csv(io.StringIO(text), sep="\t", dtype=str, keep_default_na=False)
    assert table.shape == (1, 7)
    assert table["participant_id"][0] == "0001"
    assert table["detail"][0] == "first second third"


def test_a_study_that_left_nobody_out_has_a_header_alone(tmp_path: Path) -> None:
    assert excluded.to_tsv(excluded.merge(Study(tmp_path))) == HEADER + "\n"


def test_a_part_without_reasons_is_refused_by_name(tmp_path: Path) -> None:
    path = Study(tmp_path).receipt("shard", "demo", 0)
    write_json(path, {"excluded": [{"stage": "shard", "participant_id": "sub-1"}]})
    with pytest.raises(InputError, match=r"shard-00\.json.*reason"):
        excluded.merge(Study(tmp_path))


def test_the_flow_counts_recordings_people_and_reasons(tmp_path: Path) -> None:
    study = Study(tmp_path)
    _table(study.index_excluded("demo"), [_row("index", "sub-9")])
    runs = pd.DataFrame(
        {"participant_id": ["sub-1", "sub-1", "sub-2"], "run_id": ["sub-1_run-1", "sub-1_run-2", "sub-2"]}
    )
    runs.to_csv(study.manifest("demo"), sep="\t", index=False)
    left = _row("parcellate", "sub-2") | {"reason": "too much motion"}
    products = [{"run_id": run} for run in ("sub-1_run-1", "sub-1_run-2")]
    write_json(study.receipt("parcellate", "demo", 0), {"products": products, "excluded": [left]})
    steps = excluded.flow(study, "demo", excluded.merge(study))
    assert [(s.stage, s.n_recordings, s.n_people, s.left_out) for s in steps] == [
        ("found", 4, 3, []),
        ("index", 3, 2, [("too short", 1)]),
        ("parcellate", 2, 1, [("too much motion", 1)]),
    ]
