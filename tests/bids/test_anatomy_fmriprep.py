"""Tissue maps and T1-weighted images of fMRIPrep: found by space, masked, told apart from what lies beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from doors_study import people, scans

from neuropipe import config

AFFINE, SHAPE = np.diag([8.0, 8, 8, 1]), (4, 5, 6)
SPACE = "space-MNI152NLin2009cAsym"


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE).astype(np.float32) + 1


def write(root: Path, name: str, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    person, *rest = name.split("_")
    folder = root / person / (rest[0] if rest[0].startswith("ses-") else "") / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")


def found(root: Path, **changes: Any) -> tuple[dict, dict, dict]:
    return scans(root, {"kind": "fmriprep", "path": str(root), "map": "gm"} | changes)


def test_the_map_of_the_wanted_space_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "sub-01_label-GM_probseg", values(0))
    for seed, (space, label) in enumerate([(SPACE, "GM"), (SPACE, "WM"), ("space-MNI152NLin6Asym_res-2", "GM")], 1):
        write(tmp_path, f"sub-01_{space}_label-{label}_probseg", values(seed))
    people(tmp_path, "01")
    for changes, seed, space in (
        ({}, 1, "MNI152NLin2009cAsym"),
        ({"map": "wm"}, 2, "MNI152NLin2009cAsym"),
        ({"select": {"space": "MNI152NLin6Asym", "res": 2}}, 3, "MNI152NLin6Asym"),
    ):
        runs, excluded, read = found(tmp_path, **changes)
        assert list(runs) == ["sub-01"] and not excluded
        np.testing.assert_array_equal(read["sub-01"].array, values(seed))
        assert not read["sub-01"].modulated and read["sub-01"].space == runs["sub-01"]["space"] == space


def test_the_brain_mask_of_the_same_grid_is_applied(tmp_path: Path) -> None:
    """NaN outside the brain does not matter; a mask of another space is none of this image's."""
    inside = np.zeros(SHAPE, np.uint8)
    inside[1:3, 1:4, 2:5] = 1
    image = values(0)
    image[0, 0, 0] = np.nan
    write(tmp_path, f"sub-01_ses-1_{SPACE}_desc-preproc_T1w", image)
    write(tmp_path, f"sub-01_ses-1_{SPACE}_desc-brain_mask", inside)
    write(tmp_path, "sub-01_ses-1_desc-brain_mask", 1 - inside)
    write(tmp_path, f"sub-02_{SPACE}_desc-preproc_T1w", values(1))
    write(tmp_path, f"sub-03_{SPACE}_desc-preproc_T1w", values(1))
    write(tmp_path, f"sub-03_{SPACE}_desc-brain_mask", inside, AFFINE + np.eye(4))
    people(tmp_path, "01", "02", "03")
    runs, excluded, read = found(tmp_path, map="t1w")
    np.testing.assert_array_equal(read["sub-01_ses-1"].array, np.where(inside, values(0), 0))
    np.testing.assert_array_equal(read["sub-02"].array, values(1))
    assert excluded == {runs["sub-03"]["image"]: "mask mismatch"}


def test_what_is_left_out(tmp_path: Path) -> None:
    for res in "12":
        write(tmp_path, f"sub-01_{SPACE}_res-{res}_label-GM_probseg", values(0))
    write(tmp_path, "sub-02_space-MNI152NLin6Asym_label-GM_probseg", values(0))
    write(tmp_path, f"sub-03_{SPACE}_label-GM_probseg", np.stack([values(0)] * 2, axis=-1))
    write(tmp_path, f"sub-04_{SPACE}_label-GM_probseg", values(0))
    write(tmp_path, f"sub-05_{SPACE}_desc-preproc_T1w", values(0))
    write(tmp_path, f"sub-07_{SPACE}_label-GM_probseg", values(0))
    people(tmp_path, "01", "02", "03", "05", "06", "07")
    runs, excluded, _ = found(tmp_path)
    assert set(runs) == {"sub-07"}
    reasons = {place.partition("/")[0]: reason for place, reason in excluded.items()}
    assert reasons == {
        "sub-01": "ambiguous",
        "sub-02": "wrong space",
        "sub-03": "not a map",
        "sub-04": "no participants row",
        "sub-05": "no matching run",
        "n": "no data",
    }


def test_the_content_follows_the_map() -> None:
    assert config.Dataset(kind="fmriprep", path="x", map="gm").stage == "volumes"
    assert config.Dataset(kind="fmriprep", path="x").stage == "parcellate"
