"""The index of a derivatives folder: what is usable is in the manifests, everything else is named with its reason."""

from __future__ import annotations

import builtins
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_study import SHAPE, SPACE, TinyStudy, save

from neuropipe.bids.index import EXCLUDED_COLUMNS, RUN_COLUMNS, chunk_of, read_tsv
from neuropipe.errors import AtlasError, ConfigError, InputError
from neuropipe.stages import index


@pytest.fixture
def study(tmp_path: Path) -> TinyStudy:
    return TinyStudy(tmp_path)


def indexed(study: TinyStudy, **sections: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Index a study; return its runs and what was left out."""
    output = study.root / "index"
    index.run(config=str(study.write(**sections)), dataset="tiny", output=str(output))
    return read_tsv(output / "runs.tsv"), read_tsv(output / "excluded.tsv")


def only(excluded: pd.DataFrame, reason: str) -> pd.Series:
    """Return the one excluded row, which must have this reason."""
    assert excluded["reason"].tolist() == [reason]
    return excluded.iloc[0]


def test_a_run_becomes_a_row_of_text(study: TinyStudy) -> None:
    study.add("0001", session="a", run="01", n_volumes=151, t_r=1.5)
    runs, excluded = indexed(study)
    assert list(runs) == RUN_COLUMNS and list(excluded) == EXCLUDED_COLUMNS and excluded.empty
    row = runs.iloc[0].to_dict()
    assert row["run_id"] == "sub-0001_ses-a_task-rest_run-01"
    assert (row["participant_id"], row["subject"], row["session"]) == ("sub-0001", "0001", "a")
    assert (row["t_r"], row["n_volumes"], row["space"], row["offset"]) == ("1.5", "151", SPACE, "n/a")
    folder = "sub-0001/ses-a/func/sub-0001_ses-a_task-rest_run-01_"
    assert row["image"] == f"{folder}space-{SPACE}_desc-preproc_bold.nii.gz"
    assert row["mask"] == f"{folder}space-{SPACE}_desc-brain_mask.nii.gz"
    assert row["confounds"] == f"{folder}desc-confounds_timeseries.tsv"


def test_every_run_is_in_the_chunk_of_its_subject(study: TinyStudy) -> None:
    for subject in range(12):
        for run in ("1", "2"):
            study.add(f"{subject:02d}", run=run, n_volumes=4)
    runs, _ = indexed(study, n_chunks=3)
    chunks = [read_tsv(study.root / "index" / f"chunk-{n:02d}.tsv") for n in range(3)]
    assert sum(map(len, chunks)) == len(runs) == 24
    for number, chunk in enumerate(chunks):
        assert {chunk_of(subject, 3) for subject in chunk["subject"]} <= {number}
    assert len({chunk_of(f"{n:02d}", 3) for n in range(12)}) == 3, "twelve people must not share one chunk"


def test_only_what_changed_is_rewritten(study: TinyStudy) -> None:
    for subject in range(8):
        study.add(f"{subject:02d}", n_volumes=4)
    indexed(study, n_chunks=4)
    files = sorted((study.root / "index").glob("*.*"))
    assert "runs.json" in {file.name for file in files}
    before = {file.name: file.stat().st_mtime_ns for file in files}
    indexed(study, n_chunks=4)
    assert {file.name: file.stat().st_mtime_ns for file in files} == before
    study.add("03", run="2", n_volumes=4)
    indexed(study, n_chunks=4)
    changed = {file.name for file in files if file.stat().st_mtime_ns != before[file.name]}
    assert changed == {"runs.tsv", "runs.json", f"chunk-{chunk_of('03', 4):02d}.tsv"}


def test_the_sidecar_says_what_made_the_manifests(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    study.add("01", run="2", n_volumes=4)
    indexed(study, n_chunks=2)
    about = json.loads((study.root / "index" / "runs.json").read_text())
    assert about["GeneratedBy"]["Command"] == "neuropipe index"
    assert (about["n_runs"], about["n_people"], about["n_excluded"]) == (2, 1, 0)
    people = (study.root / "participants.tsv").read_bytes()
    assert about["Inputs"] == {"participants.tsv": hashlib.sha256(people).hexdigest()}


def test_changed_content_of_an_image_changes_the_manifest(study: TinyStudy) -> None:
    image = study.data / study.add("01", n_volumes=4)
    before, _ = indexed(study)
    save(image, np.full((*SHAPE, 4), 7, dtype=np.float32), 2.0)
    after, _ = indexed(study)
    assert before.loc[0, "fingerprint"] != after.loc[0, "fingerprint"]


def test_fewer_chunks_leave_no_old_manifest_behind(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    indexed(study, n_chunks=3)
    indexed(study, n_chunks=2)
    assert sorted(file.name for file in (study.root / "index").glob("chunk-*")) == ["chunk-00.tsv", "chunk-01.tsv"]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({"task": "rest"}, {"sub-01_task-rest", "sub-02_task-rest_run-01"}),
        ({"task": ["rest", "faces"]}, {"sub-01_task-rest", "sub-01_task-faces", "sub-02_task-rest_run-01"}),
        ({"bold": {"task": "faces"}}, {"sub-01_task-faces"}),
        ({"run": 1}, {"sub-02_task-rest_run-01"}),
        ({"run": None, "task": "rest"}, {"sub-01_task-rest"}),
        ({"subject": "02"}, {"sub-02_task-rest_run-01"}),
    ],
)
def test_select_means_bids_entities(study: TinyStudy, select: dict[str, Any], expected: set[str]) -> None:
    study.add("01", n_volumes=4)
    study.add("01", task="faces", n_volumes=4)
    study.add("02", run="01", n_volumes=4)
    runs, _ = indexed(study, dataset={"select": select})
    assert set(runs["run_id"]) == expected


def test_the_atlases_space_is_selected_by_default(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    study.add("01", space="MNI152NLin2009cAsym", n_volumes=4)
    runs, excluded = indexed(study)
    assert runs["space"].tolist() == [SPACE] and excluded.empty


def test_a_run_in_another_space_is_left_out(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    study.add("02", space="MNI152NLin2009cAsym", n_volumes=4)
    row = only(indexed(study)[1], "wrong space")
    assert row["participant_id"] == "sub-02" and "MNI152NLin2009cAsym" in row["detail"] and SPACE in row["detail"]


def test_two_files_for_one_run_are_both_left_out(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    names = {study.add("02", res=res, n_volumes=4) for res in ("1", "2")}
    _, excluded = indexed(study)
    assert set(excluded["path"]) == names and set(excluded["reason"]) == {"ambiguous"}
    assert all(name.rpartition("/")[2] in detail for name in names for detail in excluded["detail"])
    runs, excluded = indexed(study, dataset={"select": {"res": [2, None]}})
    assert len(runs) == 2 and "_res-2_" in runs.loc[1, "mask"], "select decides between them, and for the mask too"


def test_missing_companions(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    study.add("02", n_volumes=4)
    study.add("03", n_volumes=4)
    next(study.func("02").glob("*mask*")).unlink()
    next(study.func("03").glob("*confounds*")).unlink()
    runs, excluded = indexed(study)
    assert runs["subject"].tolist() == ["01"]
    assert excluded.set_index("participant_id")["reason"].to_dict() == {
        "sub-02": "missing mask",
        "sub-03": "missing confounds",
    }


def test_the_mask_of_another_space_is_not_taken(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    study.add("02", n_volumes=4)
    mask = next(study.func("02").glob("*mask*"))
    mask.rename(mask.with_name(mask.name.replace(SPACE, "T1w")))
    assert only(indexed(study)[1], "missing mask")["participant_id"] == "sub-02"


def test_older_confounds_name(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    table = next(study.func("01").glob("*confounds*"))
    table.rename(table.with_name(table.name.replace("timeseries", "regressors")))
    assert indexed(study)[0].loc[0, "confounds"].endswith("_desc-confounds_regressors.tsv")


def test_a_person_without_a_row_and_a_row_without_a_person(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    study.add("02", n_volumes=4, row=False)
    study.people["sub-0"] = {"age": 30, "site": "A"}
    _, excluded = indexed(study)
    reasons = excluded.set_index("participant_id")["reason"].to_dict()
    assert reasons == {"sub-02": "no participants row", "sub-0": "no data"}


def test_content_that_was_never_fetched(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    link = study.data / study.add("02", n_volumes=4)
    pointer = study.data / study.add("03", n_volumes=4)
    link.unlink()
    link.symlink_to("../../.git/annex/objects/xx/MD5E-s1--0.nii.gz")
    pointer.write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    runs, excluded = indexed(study)
    assert runs["subject"].tolist() == ["01"]
    assert excluded["reason"].tolist() == ["not fetched", "not fetched"]
    assert all("datalad get" in detail for detail in excluded["detail"])


@pytest.mark.parametrize("n_bytes", [0, 1, 100])
def test_an_image_cut_within_its_header(study: TinyStudy, n_bytes: int) -> None:
    study.add("01", n_volumes=4)
    image = study.data / study.add("02", n_volumes=4)
    image.write_bytes(image.read_bytes()[:n_bytes])
    assert only(indexed(study)[1], "truncated image")["path"].endswith(image.name)


def test_a_volume_is_not_a_series(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    image = study.data / study.add("02", n_volumes=4)
    save(image, np.ones(SHAPE, dtype=np.float32))
    assert "(6, 5, 4)" in only(indexed(study)[1], "not a series")["detail"]


@pytest.mark.parametrize(
    ("given", "header", "unit", "usable"),
    [
        (2.0, 2.0, "sec", True),
        (2.0, 2000.0, "msec", True),
        (2.0, 2000.0, "unknown", True),
        (2.0, 0.0, "sec", True),  # the header does not say
        (2.0, 2.01, "sec", True),
        (2.0, 2.03, "sec", False),
        (2.0, 1.0, "sec", False),
        (2.0, 2000.0, "sec", False),
    ],
)
def test_the_header_must_agree_with_the_sidecar(
    study: TinyStudy, given: float, header: float, unit: str, usable: bool
) -> None:
    study.add("01", n_volumes=4)
    study.add("02", t_r=given, header_t_r=header, unit=unit, n_volumes=4)
    runs, excluded = indexed(study)
    if usable:
        assert runs["t_r"].tolist() == ["2.0", "2.0"]
    else:
        detail = only(excluded, "repetition time mismatch")["detail"]
        assert f"{given} s" in detail and f"{header:g} s" in detail


def test_the_repetition_time_is_inherited(study: TinyStudy) -> None:
    study.add("01", session="a", sidecar={}, t_r=1.25, n_volumes=4)
    study.add("02", session="a", sidecar={}, t_r=1.5, n_volumes=4)
    study.add("03", sidecar={"TaskName": "rest"}, header_t_r=2.0, n_volumes=4)
    (study.data / "task-faces_bold.json").write_text(json.dumps({"RepetitionTime": 9}))
    (study.data / "task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 1.25}))
    (study.data / "sub-02" / "sub-02_task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 1.5}))
    (study.data / "sub-03" / "func" / "sub-03_task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    runs, _ = indexed(study)
    assert runs["t_r"].tolist() == ["1.25", "1.5", "2.0"]


def test_no_repetition_time_anywhere(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    study.add("02", sidecar={"TaskName": "rest"}, n_volumes=4)
    assert "RepetitionTime" in only(indexed(study)[1], "no repetition time")["detail"]


def test_what_is_beside_the_runs_is_no_run(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    func = study.func("01")
    image = next(func.glob("*bold.nii.gz"))
    for name in (
        "sub-01_task-rest_echo-1_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz",
        "sub-01_task-rest_part-phase_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz",
        "sub-01_task-rest_space-MNI152NLin6Asym_desc-smoothAROMAnonaggr_bold.nii.gz",
        "sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii",
        "sub-01_task-rest_space-MNI152NLin6Asym_boldref.nii.gz",
    ):
        (func / name).write_bytes(image.read_bytes())
    (study.data / "sub-01.html").write_text("<html>")
    (study.data / "sub-01" / "figures").mkdir()
    runs, excluded = indexed(study)
    assert runs["image"].tolist() == [str(image.relative_to(study.data))] and excluded.empty


def test_a_folder_without_wanted_runs_is_named(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    study.add("02", task="faces", n_volumes=4)
    row = only(indexed(study, dataset={"select": {"task": "rest"}})[1], "no matching run")
    assert row["participant_id"] == "sub-02" and "task rest" in row["detail"]


def test_names_that_pybids_does_not_know(study: TinyStudy) -> None:
    study.add("Zoë", n_volumes=4)
    runs, excluded = indexed(study)
    assert runs["participant_id"].tolist() == ["sub-Zoë"] and excluded.empty


def test_nothing_usable_is_an_error_that_says_why(study: TinyStudy) -> None:
    study.add("01", space="T1w", n_volumes=4)
    with pytest.raises(InputError, match=r"nothing in .* can be used(.|\n)*1 x wrong space.*T1w"):
        indexed(study)
    assert not (study.root / "index" / "runs.tsv").exists()


def test_no_participants_table(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    config = study.write(dataset={"participants": None})
    (study.root / "participants.tsv").unlink()
    with pytest.raises(InputError, match=r"No participants.tsv found; looked for .*datasets.<name>.participants"):
        index.run(config=str(config), dataset="tiny", output=str(study.root / "index"))


def test_participants_above_the_derivatives_are_found(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    assert len(indexed(study, dataset={"participants": None})[0]) == 1


def test_a_data_folder_that_is_not_there(study: TinyStudy) -> None:
    study.people["sub-01"] = {}
    with pytest.raises(InputError, match=r"No folder .*elsewhere; expected fMRIPrep derivatives"):
        indexed(study, dataset={"path": str(study.root / "elsewhere")})


def test_an_unknown_dataset_name(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    with pytest.raises(ConfigError, match="no dataset 'tinny'; known: tiny"):
        index.run(config=str(study.write()), dataset="tinny", output=str(study.root / "index"))


def test_atlases_of_two_spaces(study: TinyStudy) -> None:
    study.add("01", n_volumes=4)
    with pytest.raises(AtlasError, match="schaefer400-7n: MNI152NLin6Asym, tian-s3-2009c: MNI152NLin2009cAsym"):
        indexed(study, atlases=["schaefer400-7n", "tian-s3-2009c"])


def test_all_datasets_of_a_study(study: TinyStudy, caplog: pytest.LogCaptureFixture) -> None:
    study.add("01", n_volumes=4)
    with caplog.at_level(logging.INFO, logger="neuropipe"):
        index.run(config=str(study.write()), dataset=None, output=str(study.root / "index"))
    assert (study.root / "index" / "tiny" / "runs.tsv").is_file()
    assert "tiny: 1 runs of 1 people" in caplog.text


def test_folders_are_listed_once_and_only_files_of_runs_are_opened(
    study: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps an index quick on a slow disk: of the files of a subject only a run's own are touched."""
    for subject in range(3):
        image = study.data / study.add(f"{subject}", session="a", n_volumes=4)
        for other in ("boldref.nii.gz", "desc-aseg_dseg.nii.gz", "space-T1w_desc-preproc_bold.nii.gz"):
            image.with_name(f"sub-{subject}_ses-a_task-rest_{other}").write_bytes(b"never opened")
        (study.data / f"sub-{subject}" / "figures").mkdir()
        (study.data / f"sub-{subject}" / "ses-a" / "anat").mkdir()
    listed, opened = [], []
    scandir, opener = os.scandir, builtins.open
    monkeypatch.setattr("os.scandir", lambda path: listed.append(str(path)) or scandir(path))
    monkeypatch.setattr(builtins, "open", lambda path, *a, **k: opened.append(str(path)) or opener(path, *a, **k))
    runs, excluded = indexed(study)
    monkeypatch.undo()
    below = [path for path in listed if path.startswith(str(study.data))]
    assert len(below) == len(set(below)) == 1 + 3 * 3, "the dataset, and of each subject three levels"
    assert not any(path.endswith(("figures", "anat")) for path in below)
    wanted = {str(study.data / path) for column in ("image", "mask", "confounds") for path in runs[column]}
    images = {path for path in opened if path.startswith(str(study.data)) and not path.endswith(".json")}
    assert images == wanted and len(runs) == 3 and excluded.empty
