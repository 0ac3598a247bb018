"""BIDS names: what they say, which run they name, and whether a selection wants them."""

from __future__ import annotations

from typing import Any

import pytest
from bids.layout import parse_file_entities

from neuropipe.bids import entities

PYBIDS_NAMES = [
    "sub-01/func/sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz",
    "sub-01/ses-pre/func/sub-01_ses-pre_task-nback_acq-mb3_ce-x_rec-magnitude_dir-AP_run-2_echo-1_part-mag_bold.nii.gz",
    "sub-01/func/sub-01_task-rest_run-1_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz",
    "sub-01/func/sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii",
    "sub-01/func/sub-01_task-rest_hemi-L_space-fsaverage5_bold.func.gii",
    "sub-01/func/sub-01_task-rest_desc-confounds_timeseries.tsv",
    "sub-01/anat/sub-01_space-MNI152NLin2009cAsym_label-GM_probseg.nii.gz",
    "sub-01/anat/sub-01_desc-aparcaseg_dseg.nii.gz",
    "sub-01/fmap/sub-01_dir-PA_epi.json",
]


@pytest.mark.parametrize("path", PYBIDS_NAMES)
def test_names_say_what_pybids_finds_in_them(path: str) -> None:
    """But for numbers: pybids reads run and echo as such."""
    theirs = parse_file_entities(f"/{path}", config=["bids", "derivatives"])
    assert entities.parse(path) == {key: str(value) for key, value in theirs.items()}


def test_names_of_the_first_fmriprep_are_todays() -> None:
    old = "sub-01_task-rest_bold_space-MNI152NLin2009cAsym_{}.nii.gz"
    new = "sub-01_task-rest_space-MNI152NLin2009cAsym_desc-{}.nii.gz"
    for suffix, today in (("preproc", "preproc_bold"), ("brainmask", "brain_mask")):
        assert entities.of_name(old.format(suffix)) == entities.of_name(new.format(today))
    confounds = entities.of_name("sub-01_task-rest_bold_confounds.tsv")
    assert confounds == entities.of_name("sub-01_task-rest_desc-confounds_timeseries.tsv")
    assert entities.of_name("sub-01_T1w_preproc.nii.gz") == entities.of_name("sub-01_desc-preproc_T1w.nii.gz")
    variant = entities.of_name("sub-01_task-rest_bold_space-T1w_variant-smoothAROMAnonaggr_preproc.nii.gz")
    assert (variant["desc"], variant["suffix"]) == ("smoothAROMAnonaggr", "bold")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz", "sub-01_task-rest"),
        ("sub-01_ses-b_task-rest_dir-AP_run-02_desc-confounds_timeseries.tsv", "sub-01_ses-b_task-rest_dir-AP_run-02"),
        ("sub-01_task-rest_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz", "sub-01_task-rest"),
        ("sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii", "sub-01_task-rest"),
        ("sub-01_task-rest_space-MNI_seg-4S156Parcels_stat-mean_timeseries.tsv", "sub-01_task-rest"),
    ],
)
def test_the_run_is_what_processing_does_not_change(name: str, key: str) -> None:
    assert entities.run_key(name) == key


def test_entities_have_pybids_names_and_stay_text() -> None:
    found = entities.parse(
        "sub-0001/ses-1/func/sub-0001_ses-1_task-rest_acq-x_run-01_space-T1w_desc-preproc_bold.nii.gz"
    )
    assert found == {
        "subject": "0001",
        "session": "1",
        "task": "rest",
        "acquisition": "x",
        "run": "01",
        "space": "T1w",
        "desc": "preproc",
        "suffix": "bold",
        "extension": ".nii.gz",
        "datatype": "func",
    }


@pytest.mark.parametrize(
    ("select", "wanted"),
    [
        ({}, True),
        ({"task": "rest"}, True),
        ({"task": ["faces", "rest"]}, True),
        ({"task": "faces"}, False),
        ({"subject": "01"}, True),
        ({"subject": "1"}, False),
        ({"subject": 1}, False),
        ({"run": 1}, True),
        ({"run": "001"}, True),
        ({"run": 2}, False),
        ({"session": None}, True),
        ({"run": None}, False),
        ({"run": [None, 1]}, True),
        ({"run": "*"}, True),
        ({"session": "*"}, False),
        ({"space": "MNI152*"}, True),
        ({"task": "rest", "space": "T1w"}, False),
    ],
)
def test_selections(select: dict[str, Any], wanted: bool) -> None:
    found = {"subject": "01", "task": "rest", "run": "01", "space": "MNI152NLin6Asym"}
    assert entities.matches(found, select) is wanted


def test_both_forms_of_a_selection() -> None:
    assert entities.normalise_select({"ses": "a", "seg": "x", "task": "rest"}) == {
        "session": "a",
        "segmentation": "x",
        "task": "rest",
    }
    filters = {"bold": {"session": "a", "echo": None}, "t1w": {"acquisition": "highres"}}
    assert entities.normalise_select(filters) == {"session": "a", "echo": None}
    queries = {"bold": {"session": "Query.NONE", "run": ["Query.NONE", 1], "acquisition": "Query.ANY"}}
    assert entities.normalise_select(queries) == {"session": None, "run": [None, 1], "acquisition": "*"}


def test_prefix() -> None:
    assert entities.participant_id("0001") == entities.participant_id("sub-0001") == "sub-0001"
