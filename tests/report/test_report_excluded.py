"""Nothing disappears: every part of what was left out is in the merged table, in one order."""

from __future__ import annotations

import io
import random
from pathlib import Path

import beside_tables
import pandas as pd
import pytest
from reported_study import write_study

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


def test_people_without_any_recording_are_counted_apart(tmp_path: Path) -> None:
    config = write_study(tmp_path / "synthetic")
    study = Study(config.parent)
    with study.index_excluded("demo").open("a") as table:
        table.write("index\tdemo\tsub-902\tn/a\tn/a\tno data\tno image of this person\n")
    found, indexed, *_ = excluded.flow(study, "demo", excluded.merge(study))
    assert (found.n_recordings, found.left_out) == (61, [("no data", 1)])
    assert indexed.left_out == [("no confounds", 1)]


def test_the_flow_ends_with_who_learned_and_who_answered(tmp_path: Path) -> None:
    for scheme, sizes in (("holdout", ("36", "24", 1)), ("leave_one_site_out", ("40", "20", 3))):
        config = write_study(tmp_path / scheme / "synthetic", scheme)
        study = Study(config.parent)
        folder = study.task("diagnosis", "probe")
        folder.mkdir(parents=True)
        row = "probe\tdemo\tsub-903\tn/a\tn/a\tno label\tdiagnosis is empty\n"
        (folder / "excluded.tsv").write_text("\t".join(excluded.COLUMNS) + "\n" + 2 * row)  # once for each system
        beside_tables.add_test_dataset(study.root)  # whose people are in no fold
        end = excluded.end(study, "diagnosis", pd.read_parquet(study.root / "metrics.parquet"))
        assert end is not None
        assert (end.n_train, end.n_test, end.n_folds) == sizes
        assert end.left_out == [("no label", 1)]
    assert excluded.end(study, "nothing", pd.read_parquet(study.root / "metrics.parquet")) is None
