"""Snags 13-16, 29, 30, 32 and 33: names, companions, damage, missing content, and BIDS as people write it."""

from __future__ import annotations

import gzip
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tiny_study import SHAPE, SPACE, TinyStudy, confounds_table, save
from whole_line import LOOSE, Parcellated, companion, indexed

from neuropipe.bids.index import read_tsv
from neuropipe.errors import InputError
from neuropipe.stages import index

GRID = f"_space-{SPACE}"


def renamed(path: Path, old: str, new: str) -> Path:
    """Rename a file; return its new path."""
    target = path.with_name(path.name.replace(old, new))
    assert target != path
    return path.rename(target)


def beside(study: TinyStudy, image: str, old: str, new: str) -> str:
    """Copy an image under another name; return that name."""
    path = study.data / image
    copy = path.with_name(path.name.replace(old, new))
    copy.write_bytes(path.read_bytes())
    return copy.name


# --- 13-16: which image, which mask ---------------------------------------------------------------


def test_13_an_image_without_space_is_native_and_never_taken_for_template_space(study: TinyStudy) -> None:
    native = study.data / study.add("01")
    renamed(native, GRID, "")
    image = study.add("02")
    beside(study, image, GRID, "")
    found = indexed(study)
    assert found.left_out("01").startswith("wrong space") and "(space native)" in found.left_out("01")
    assert image.rpartition("/")[2] in found.images() and len(found.runs) == 2


def test_13_native_images_that_are_asked_for_are_refused_by_the_atlas(study: TinyStudy) -> None:
    image = study.add("01")
    for ending in ("bold.nii.gz", "mask.nii.gz", "bold.json"):
        renamed(companion(study, image, ending), GRID, "")
    done = Parcellated(study, dataset={"select": {"space": None}, "participants": str(study.root / "participants.tsv")})
    assert done.index.images() == ["sub-01_task-rest_desc-preproc_bold.nii.gz"]
    assert done.left_out("01_task-rest").startswith("wrong space")


@pytest.mark.parametrize("res", [None, "2", "02", "native"])
def test_14_one_resolution_is_taken_however_it_is_written(study: TinyStudy, res: str | None) -> None:
    image = study.add("01", res=res)
    found = indexed(study)
    assert found.runs.loc[0, "image"] == image
    assert found.runs.loc[0, "mask"] == image.replace("preproc_bold", "brain_mask")
    of_two_mm = indexed(study, dataset={"select": {"res": [2, None]}}).images()
    assert (image.rpartition("/")[2] in of_two_mm) is (res != "native")


def test_14_two_resolutions_of_a_run_are_not_two_runs(study: TinyStudy) -> None:
    names = [study.add("01", res=res, n_volumes=60).rpartition("/")[2] for res in ("1", "2")]
    study.add("good", res="2", n_volumes=60)
    rows = indexed(study).excluded
    assert set(rows["reason"]) == {"ambiguous"} and len(rows) == 2
    assert all(name in detail and "narrow select (e.g. res: 2" in detail for name in names for detail in rows["detail"])
    assert names[1] in indexed(study, dataset={"select": {"res": 2}}).images()


NOT_THE_RUN = [
    ("desc-preproc", "desc-smoothAROMAnonaggr"),
    ("desc-preproc", "desc-denoised"),
    ("desc-preproc", "desc-optcom"),
    (GRID, f"_echo-1{GRID}"),
    (GRID, f"_part-phase{GRID}"),
    (f"{GRID}_desc-preproc_bold.nii.gz", "_space-fsLR_den-91k_bold.dtseries.nii"),
    (f"{GRID}_desc-preproc_bold.nii.gz", "_hemi-L_space-fsnative_bold.func.gii"),
    ("desc-preproc_bold", "boldref"),
]


def test_15_variants_of_a_run_are_not_taken_for_it(study: TinyStudy) -> None:
    image = study.add("01")
    for old, new in NOT_THE_RUN:
        beside(study, image, old, new)
    found = indexed(study)
    assert found.images()[0] == image.rpartition("/")[2] and len(found.runs) == 2 and found.excluded.empty


@pytest.mark.parametrize(
    ("old", "new", "select", "run_id"),
    [
        ("desc-preproc", "desc-optcom", {"desc": "optcom"}, "sub-01_task-rest"),
        (GRID, f"_echo-2{GRID}", {"echo": 2}, "sub-01_task-rest_echo-2"),
        (GRID, f"_part-mag{GRID}", {}, "sub-01_task-rest"),
        ("bold.nii.gz", "bold.nii", {}, "sub-01_task-rest"),
    ],
)
def test_15_variants_that_are_asked_for_find_their_companions(
    study: TinyStudy, old: str, new: str, select: dict[str, Any], run_id: str
) -> None:
    """Mask and confounds are of the run, not of its echo, and name no part."""
    image = study.data / study.add("01")
    if new.endswith(".nii"):
        nib.save(nib.load(image), image.with_name(image.name.removesuffix(".gz")))
        image.unlink()
    else:
        renamed(image, old, new)
        renamed(image.with_name(image.name.replace(".nii.gz", ".json")), old, new)
    found = indexed(study, dataset={"select": select})
    assert found.runs.loc[0, "run_id"] == run_id and found.runs.loc[0, "image"].endswith(image.name.replace(old, new))


def test_15_acquisitions_directions_and_reconstructions_are_runs_of_their_own(study: TinyStudy) -> None:
    for task in ("rest", "rest_acq-mb3", "rest_acq-mb3_dir-AP", "rest_acq-mb3_rec-magnitude_dir-AP", "rest_ce-gad"):
        study.add("01", task=task, n_volumes=4)
    assert indexed(study).runs["run_id"].nunique() == 6


def test_16_the_mask_is_of_the_same_run_and_the_same_space(study: TinyStudy) -> None:
    """Masks of T1w space, of the other run and of another session have the same shape, and are never taken."""
    images = [study.add("01", session=s, run=r, n_volumes=60) for s in ("a", "b") for r in ("1", "2")]
    for image in images:
        beside(study, image.replace("preproc_bold", "brain_mask"), SPACE, "T1w")
    found = indexed(study).runs
    assert found.loc[:3, "mask"].tolist() == [image.replace("preproc_bold", "brain_mask") for image in images]
    (study.data / images[1].replace("preproc_bold", "brain_mask")).unlink()
    assert indexed(study).left_out("01").startswith("missing mask")


# --- 29, 30: content that broke, or is not there --------------------------------------------------


def with_more_volumes(content: bytes) -> bytes:
    """Let a header say one volume more than the file has."""
    plain = bytearray(gzip.decompress(content))
    plain[48:50] = (int.from_bytes(plain[48:50], "little") + 1).to_bytes(2, "little")
    return gzip.compress(bytes(plain))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[: len(content) // 2], "truncated image"),
        (lambda content: content[:-3], "truncated image"),
        (lambda content: content[:-8] + bytes([content[-8] ^ 1]) + content[-7:], "damaged image"),
        (lambda content: content[:20000] + bytes([content[20000] ^ 8]) + content[20001:], "damaged image"),
        (with_more_volumes, "truncated image"),
        (lambda content: gzip.compress(gzip.decompress(content) + b"x"), "damaged image"),
    ],
    ids=["half", "without its end", "checksum", "one bit", "one volume too few", "one byte too many"],
)
def test_29_damaged_images_are_left_out_and_leave_nothing_behind(
    study: TinyStudy, change: Callable[[bytes], bytes], reason: str
) -> None:
    n_rows = 151 if change is with_more_volumes else 150
    path = study.data / study.add("01", confounds=confounds_table(np.random.default_rng(0), n_rows))
    path.write_bytes(change(path.read_bytes()))
    done = Parcellated(study, **LOOSE)
    assert done.left_out("01_task-rest").startswith(reason)
    assert not list((done.results / "derivatives").rglob(".tmp-*"))
    assert done.product("good_task-rest").series.size, "the other runs go on"


def test_29_an_image_cut_in_its_header_is_found_by_the_index(study: TinyStudy) -> None:
    path = study.data / study.add("01")
    path.write_bytes(path.read_bytes()[:60])
    assert indexed(study).left_out("01").startswith("truncated image")


ANNEX = ".git/annex/objects/xx/yy/MD5E-s1--0"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("ending", ["bold.nii.gz", "mask.nii.gz", "confounds_timeseries.tsv", "bold.json"])
@pytest.mark.parametrize("text", [None, f"/annex/objects/{ANNEX}\n", LFS], ids=["link", "annex pointer", "git-lfs"])
def test_30_content_that_was_never_fetched_is_one_line_each(study: TinyStudy, ending: str, text: str | None) -> None:
    image = study.add("01", n_volumes=60)
    path = companion(study, image, ending)
    path.unlink()
    if text is None:
        path.symlink_to(ANNEX)
    else:
        path.write_text(text)
    left_out = indexed(study).left_out("01")
    assert left_out.startswith("not fetched") and path.name in left_out and "datalad get" in left_out


def test_30_a_subject_whose_folder_is_a_link_without_target(study: TinyStudy) -> None:
    study.people["sub-01"] = {}
    study.data.mkdir()
    (study.data / "sub-01").symlink_to("../elsewhere/sub-01")
    assert indexed(study).left_out("01").startswith("not fetched")


def test_30_people_that_were_never_fetched(study: TinyStudy) -> None:
    table = study.root / "annexed.tsv"
    table.symlink_to(ANNEX)
    with pytest.raises(InputError, match=r"annexed.tsv is a link without content; fetch it \(datalad get"):
        indexed(study, dataset={"participants": str(table)})


# --- 32, 33: BIDS as people write it --------------------------------------------------------------


def test_32_labels_spaces_and_line_ends_as_they_come(tmp_path: Path) -> None:
    """No description, a folder with a space, ids that look like numbers, letters beyond ASCII, BOM and CRLF."""
    study = TinyStudy(tmp_path / "my study ü")
    study.root.mkdir()
    study.add("0001", session="01", run="01")
    study.add("1")
    study.add("1e3")
    study.add("Zoë")
    companion(study, "sub-1/func/sub-1_task-rest_space-x", "timeseries.tsv").with_suffix(".json").write_text("{}")
    config = study.write(n_chunks=1)
    assert not list(study.data.rglob("dataset_description.json")) and config.is_file()
    for table in study.data.rglob("*.tsv"):
        table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    for sidecar in study.data.rglob("*.json"):
        sidecar.write_bytes(b"\xef\xbb\xbf" + sidecar.read_bytes())
    people = "\ufeffparticipant_id\tage\r\n0001\t30\r\nsub-1\t31\r\n1e3\t32\r\nZoë\t33\r\ngood\t34\r\n"
    (study.root / "people.tsv").write_bytes(people.encode())
    done = Parcellated(study, dataset={"participants": str(study.root / "people.tsv")}, **LOOSE)
    runs = ["sub-0001_ses-01_task-rest_run-01", "sub-1_task-rest", "sub-1e3_task-rest", "sub-Zoë_task-rest"]
    assert {entry["run_id"] for entry in done.receipt["products"]} == {*runs, "sub-good_task-rest"}
    assert done.index.excluded.empty and done.index.runs["subject"].tolist() == ["0001", "1", "1e3", "Zoë", "good"]


def test_32_an_accent_written_as_a_letter_of_its_own(study: TinyStudy) -> None:
    """macOS decomposes file names; the table was typed on another machine."""
    study.add(unicodedata.normalize("NFD", "Zoë"))
    study.people = {"sub-Zoë": {"age": 30, "site": "A"}}
    done = Parcellated(study, **LOOSE)
    assert done.index.runs.loc[0, "participant_id"] == "sub-Zoë" and done.product("Zoë_task-rest").series.size


def test_32_labels_that_differ_only_in_case_are_two_people(study: TinyStudy) -> None:
    study.add("Ab")
    study.add("ab")
    done = Parcellated(study, **LOOSE)
    assert not np.array_equal(done.product("Ab_task-rest").series, done.product("ab_task-rest").series)


@pytest.mark.parametrize(("folder", "row"), [("0001", "sub-1"), ("AB", "sub-ab"), ("7", "sub-007")])
def test_32_people_who_are_written_otherwise_in_the_table_are_named(study: TinyStudy, folder: str, row: str) -> None:
    study.add(folder, row=False)
    study.people[row] = {"age": 30, "site": "A"}
    rows = indexed(study).excluded.set_index("participant_id")
    assert rows.loc[f"sub-{folder}", "reason"] == "no participants row"
    assert f"is {row} the same person?" in rows.loc[f"sub-{folder}", "detail"]
    assert rows.loc[row, "reason"] == "no data"


def test_32_a_file_in_another_persons_folder_is_nobodys(study: TinyStudy) -> None:
    study.add("01")
    image = study.data / study.add("02")
    for path in list(image.parent.iterdir()):
        path.rename(study.func("01") / path.name)
    rows = indexed(study).excluded
    assert rows[rows["reason"] == "misplaced file"]["path"].tolist() == [f"sub-01/func/{image.name}"]


def test_32_a_session_that_only_the_folder_names_is_not_guessed(study: TinyStudy) -> None:
    """The same file name in two sessions would be one run."""
    image = study.data / study.add("01")
    for session in "ab":
        folder = study.func("01", session)
        folder.mkdir(parents=True)
        for path in image.parent.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    for path in list(image.parent.iterdir()):
        path.unlink()
    assert indexed(study).runs["subject"].tolist() == ["good"]


def test_32_a_session_that_only_the_name_has_is_believed(study: TinyStudy) -> None:
    image = study.data / study.add("01", session="a")
    (study.data / "sub-01" / "func").mkdir()
    for path in list(image.parent.iterdir()):
        path.rename(study.data / "sub-01" / "func" / path.name)
    assert indexed(study).runs.loc[0, "session"] == "a"


def test_32_one_run_numbered_in_two_ways_or_kept_in_two_places_is_ambiguous(study: TinyStudy) -> None:
    """run-1 and run-01 are one run; so is a copy beside the folder of its session."""
    for run in ("1", "01"):
        study.add("01", run=run, n_volumes=60)
    study.add("02", session="a", n_volumes=60)
    copy = study.data / "sub-02" / "func"
    copy.mkdir()
    for path in study.func("02", "a").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    found = indexed(study)
    assert found.runs["subject"].tolist() == ["good"]
    assert found.excluded["reason"].tolist() == ["ambiguous"] * 4


def test_32_companions_of_a_run_that_is_padded_otherwise(study: TinyStudy) -> None:
    image = study.add("01", run="01", n_volumes=60)
    for ending in ("mask.nii.gz", "confounds_timeseries.tsv"):
        renamed(companion(study, image, ending), "_run-01", "_run-1")
    assert indexed(study).runs.loc[0, "run_id"] == "sub-01_task-rest_run-01"


def test_32_two_derivatives_below_one_root_are_named_not_merged(study: TinyStudy) -> None:
    study.add("01")
    study.data.rename(study.root / "fmriprep-20")
    study.add("01")
    (study.root / "bids" / "derivatives").mkdir(parents=True)
    for name, path in (("fmriprep-20", study.root / "fmriprep-20"), ("fmriprep-23", study.data)):
        path.rename(study.root / "bids" / "derivatives" / name)
    with pytest.raises(InputError, match=r"holds no sub-\* folders.*derivatives/fmriprep-20, .*fmriprep-23: name one"):
        indexed_at(study, study.root / "bids")
    assert len(indexed_at(study, study.root / "bids" / "derivatives" / "fmriprep-20")) == 1


def indexed_at(study: TinyStudy, path: Path) -> Any:
    """Index another folder than the study's own."""
    config = str(study.write(dataset={"path": str(path)}))
    index.run(config=config, dataset="tiny", output=str(study.root / "other index"))
    return read_tsv(study.root / "other index" / "runs.tsv")


def test_32_raw_images_are_no_derivatives(study: TinyStudy) -> None:
    image = study.data / study.add("01")
    for path in list(image.parent.iterdir()):
        path.unlink()
    save(image.with_name("sub-01_task-rest_bold.nii.gz"), np.ones((*SHAPE, 4), dtype=np.int16), 2.0)
    left_out = indexed(study).left_out("01")
    assert "found sub-01_task-rest_bold.nii.gz (raw images: name the derivatives)" in left_out


def test_32_reports_and_figures_are_not_data_and_nothing_is_written_beside_the_data(study: TinyStudy) -> None:
    """The derivatives may be read-only, and other people's."""
    image = study.data / study.add("01")
    (study.data / "sub-01.html").write_text("<html>")
    (study.data / "sub-01" / "figures").mkdir()
    (study.data / "sub-01" / "figures" / image.name).write_bytes(image.read_bytes())
    (study.data / "sourcedata" / "sub-01" / "func").mkdir(parents=True)
    (study.data / "sourcedata" / "sub-01" / "func" / image.name).write_bytes(image.read_bytes())
    study.add("good")
    before = {path: path.stat().st_mtime_ns for path in study.data.rglob("*")}
    for path in [*before, study.data]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = Parcellated(study, **LOOSE)
    finally:
        for path in [study.data, *before]:
            path.chmod(0o755)
    assert len(done.receipt["products"]) == 2 and done.index.excluded.empty
    assert {path: path.stat().st_mtime_ns for path in study.data.rglob("*")} == before


def test_32_a_folder_that_may_not_be_read_is_one_line(study: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study.add("01")
    listed = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("sub-01/func"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("neuropipe.bids.tree.os.scandir", refusing)
    left_out = indexed(study).left_out("01")
    assert left_out.startswith("not readable") and "sub-01/func: Permission denied" in left_out


def test_33_cat12_beside_fmriprep_is_passed_over(study: TinyStudy) -> None:
    """Its prefixes are no BIDS names, and it puts them where it likes."""
    image = study.data / study.add("01")
    for folder in ("mri", "anat/mri", "func"):
        (study.data / "sub-01" / folder).mkdir(parents=True, exist_ok=True)
        for name in ("mwp1sub-01_T1w.nii", "wmsub-01_T1w.nii", "catROI_sub-01_T1w.xml", "cat_sub-01_T1w.mat"):
            (study.data / "sub-01" / folder / name).write_bytes(image.read_bytes())
    found = indexed(study)
    assert found.images()[0] == image.name and len(found.runs) == 2 and found.excluded.empty


def test_33_a_folder_of_cat12_alone_is_no_crash(study: TinyStudy) -> None:
    (study.data / "sub-01" / "mri").mkdir(parents=True)
    (study.data / "sub-01" / "mri" / "mwp1sub-01_T1w.nii").touch()
    (study.root / "cat12" / "mri").mkdir(parents=True)
    (study.root / "cat12" / "mri" / "mwp1sub-01_T1w.nii").touch()
    study.people["sub-01"] = {}
    assert indexed(study).left_out("01").startswith("no matching run")
    with pytest.raises(InputError, match=r"cat12 holds no sub-\* folders; expected fMRIPrep derivatives"):
        indexed_at(study, study.root / "cat12")


def test_33_a_description_that_is_missing_or_odd_changes_nothing(study: TinyStudy) -> None:
    study.add("01", n_volumes=60)
    for text in ("", "[]", json.dumps({"Name": "CAT12", "GeneratedBy": [{"Name": "CAT12", "Version": "12.8.2"}]})):
        (study.data / "dataset_description.json").write_text(text)
        assert len(indexed(study).runs) == 2
