"""Which events.tsv belongs to a run, compared with pybids, and what tables say, with every mistake that they have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neuropipe.bids import events
from neuropipe.errors import RunExcluded

HEADER = "onset\tduration\ttrial_type\n"


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{HEADER}0\t1\ta\n")


def row(run_id: str) -> dict[str, str]:
    return {"run_id": run_id}


TREE = [
    "task-a_events.tsv",
    "task-a_acq-x_events.tsv",
    "sub-01/sub-01_task-a_events.tsv",
    "sub-01/func/sub-01_task-a_run-2_events.tsv",
    "sub-02/ses-p/func/sub-02_ses-p_task-a_dir-LR_run-01_events.tsv",
    "sub-02/ses-p/func/sub-02_ses-p_task-a_dir-RL_run-01_events.tsv",
]
RUNS = {
    "sub-01_task-a_run-1": "sub-01/sub-01_task-a_events.tsv",
    "sub-01_task-a_run-2": "sub-01/func/sub-01_task-a_run-2_events.tsv",
    "sub-02_ses-p_task-a_dir-LR_run-01": TREE[4],
    "sub-02_ses-p_task-a_dir-RL_run-01": TREE[5],
    "sub-02_ses-q_task-a": "task-a_events.tsv",
    "sub-03_task-a_acq-x": "task-a_acq-x_events.tsv",
    "sub-03_task-a_acq-y": "task-a_events.tsv",
    "sub-03_task-b": None,
}


def bold(run_id: str) -> str:
    parts = [part for part in run_id.split("_") if part.startswith(("sub-", "ses-"))]
    return "/".join([*parts, "func", f"{run_id}_bold.nii.gz"])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write(tmp_path, *TREE)
    (tmp_path / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.9.0"}))
    for run_id in RUNS:
        path = tmp_path / bold(run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize("run_id", RUNS)
def test_the_nearest_file_that_agrees_applies(raw: Path, run_id: str) -> None:
    assert events.EventFiles(raw).of(row(run_id)) == RUNS[run_id]


def test_pybids_finds_the_same(raw: Path) -> None:
    from bids import BIDSLayout

    layout = BIDSLayout(raw, validate=False)
    for run_id, expected in RUNS.items():
        nearest, *_ = [
            *layout.get_nearest(
                str(raw / bold(run_id)),
                suffix="events",
                extension=".tsv",
                all_=True,
                ignore_strict_entities=["suffix", "extension", "datatype"],
            ),
            None,
        ]
        # pybids also takes a file that names an entity which the run lacks; BIDS does not.
        if expected != "task-a_events.tsv" or "acq-x" not in str(nearest):
            assert nearest == (expected and str(raw / expected)), run_id


def test_runs_compare_as_numbers_and_people_as_text(tmp_path: Path) -> None:
    write(tmp_path, "sub-1/func/sub-1_task-a_run-01_events.tsv", "sub-01/func/sub-01_task-a_run-2_events.tsv")
    files = events.EventFiles(tmp_path)
    assert files.of(row("sub-1_task-a_run-1")) == "sub-1/func/sub-1_task-a_run-01_events.tsv"
    assert files.of(row("sub-01_task-a_run-1")) is None
    assert files.of(row("sub-1_task-a_run-2")) is None


def test_two_files_that_apply_equally_are_not_chosen_between(tmp_path: Path) -> None:
    write(tmp_path, "task-a_acq-x_events.tsv", "task-a_run-1_events.tsv")
    with pytest.raises(RunExcluded, match=r"ambiguous events: 2 files .* task-a_acq-x_events.tsv, task-a_run-1"):
        events.EventFiles(tmp_path).of(row("sub-01_task-a_acq-x_run-1"))


def test_events_are_looked_for_beside_the_data_and_above_up_to_the_raw_dataset(raw: Path) -> None:
    derivatives = raw / "derivatives" / "fmriprep"
    derivatives.mkdir(parents=True)
    write(raw.parent, "task-a_events.tsv")  # beyond the raw dataset: never looked at
    roots = events.likely_roots(derivatives)
    assert roots[0] == derivatives and roots[-1] == raw
    root, found = events.find(roots, [row("sub-01_task-a_run-2"), row("sub-03_task-b")])
    assert root == raw and found == {"sub-01_task-a_run-2": TREE[3], "sub-03_task-b": None}
    write(derivatives, "task-a_events.tsv")
    assert events.find(roots, [row("sub-01_task-a_run-2")])[0] == derivatives


def test_without_a_described_root_the_folder_that_holds_derivatives_is_the_last(tmp_path: Path) -> None:
    for path in ("study/derivatives/fmriprep/v1", "elsewhere/out"):
        (tmp_path / path).mkdir(parents=True)
    study = tmp_path / "study"
    v1 = study / "derivatives" / "fmriprep" / "v1"
    assert events.likely_roots(v1) == [v1, v1.parent, v1.parent.parent, study]
    assert events.likely_roots(study / "derivatives") == [study / "derivatives", study]
    assert events.likely_roots(tmp_path / "elsewhere" / "out") == [tmp_path / "elsewhere" / "out"]


def test_files_whose_names_are_not_made_of_entities_apply_to_nothing(tmp_path: Path) -> None:
    write(tmp_path, "events.tsv", "x_events.tsv", "old_task-a_events.tsv", "task-a_myevents.tsv")
    assert events.EventFiles(tmp_path).of(row("sub-01_task-a")) is None


def test_a_series_without_entities_uses_the_columns_of_its_row(tmp_path: Path) -> None:
    write(tmp_path, "task-a_events.tsv", "sub-07/func/sub-07_task-b_events.tsv")
    named = {"run_id": "Site_0051", "subject": "07", "session": "n/a", "task": "b", "run": "n/a"}
    assert events.EventFiles(tmp_path).of(named) == "sub-07/func/sub-07_task-b_events.tsv"
    assert events.EventFiles(tmp_path).of({"run_id": "Site_0051"}) is None


# --- tables -------------------------------------------------------------------------------------


def table(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "sub-01_task-a_events.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_table_with_bom_crlf_blanks_trailing_tabs_and_empty_cells(tmp_path: Path) -> None:
    text = "\ufeffonset\tduration\ttrial_type\r\n4.5\tn/a\tgo \t\r\n-2\t 1.5\tn/a\t\r\nn/a\t1\tstop\r\n"
    found = events.read(table(tmp_path, text), ["trial_type"])
    np.testing.assert_array_equal(found["onset_s"], [-2, 4.5, np.nan])
    np.testing.assert_array_equal(found["duration_s"], [1.5, np.nan, 1])
    assert found["condition"].tolist() == ["", "go", "stop"] and found["line"].tolist() == [3, 2, 4]


def test_conditions_of_several_columns_are_joined(tmp_path: Path) -> None:
    text = "onset\tduration\tload\tkind\n0\t1\t2bk\tbody\n2\t1\tn/a\tcue\n3\t1\t\tn/a\n"
    assert events.read(table(tmp_path, text), ["load", "kind"])["condition"].tolist() == ["2bk_body", "cue", ""]


def test_labels_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    found = events.read(table(tmp_path, f"{HEADER}1e1\t1\t007\n"), ["trial_type"])
    assert found["condition"].tolist() == ["007"] and found["onset_s"].tolist() == [10]


def test_a_table_without_rows(tmp_path: Path) -> None:
    assert len(events.read(table(tmp_path, HEADER), ["trial_type"])) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onset,duration,trial_type\n0,1,a\n", "expected the columns onset, duration, trial_type .* found onset,dur"),
        ("onset\tduration\tstim\n0\t1\ta\n", "mend trial_type, or name the column"),
        ("onset\ttrial_type\n0\ta\n", "mend duration"),
        (f"{HEADER}0\t1\ta\n1,5\t1\tb\n", "line 3: expected onset as a number of seconds, found '1,5'"),
        (f"{HEADER}0\tinf\ta\n", "line 2: expected duration as a number"),
        ("", "expected a tab-separated table in UTF-8"),
        ("onset\tduration\ttrial_type\n0\t1\tf\u00fcr\n".encode("latin-1"), "in UTF-8"),
    ],
)
def test_what_cannot_be_read_says_what_was_expected_and_found(tmp_path: Path, text: str | bytes, expected: str) -> None:
    with pytest.raises(RunExcluded, match=expected) as caught:
        events.read(table(tmp_path, text), ["trial_type"])
    assert caught.value.reason == "damaged events" and "sub-01_task-a_events.tsv" in caught.value.detail


def test_durations_are_not_needed_where_they_are_fixed(tmp_path: Path) -> None:
    found = events.read(table(tmp_path, "onset\ttrial_type\n0\ta\n"), ["trial_type"], needs_duration=False)
    assert np.isnan(found["duration_s"]).all()
