"""Which files of a folder are one surface run."""

from __future__ import annotations

import pytest

from neuropipe.bids import entities, surface
from neuropipe.bids.fmriprep import File
from neuropipe.errors import RunExcluded

# Names that fMRIPrep 1.x, 20 and today, and niworkflows' density form, give to one hemisphere.
FORMS = [
    "sub-01_task-rest_run-1_space-fsaverage5_hemi-{}.func.gii",
    "sub-01_task-rest_run-1_space-fsaverage5_hemi-{}_bold.func.gii",
    "sub-01_task-rest_run-1_hemi-{}_space-fsaverage5_bold.func.gii",
    "sub-01_task-rest_run-1_space-fsaverage_den-10k_hemi-{}_bold.func.gii",
]
DENSE = "sub-01_task-rest_run-1_space-fsLR_den-91k_bold.dtseries.nii"
OTHERS = [
    "sub-01_task-rest_run-1_space-fsLR_den-91k_bold.json",
    "sub-01_task-rest_run-1_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz",
    "sub-01_task-rest_run-1_echo-1_hemi-L_space-fsaverage5_bold.func.gii",
    "sub-01_task-rest_run-1_space-fsLR_den-91k_desc-smoothed_bold.dtseries.nii",
    "sub-01_hemi-L_midthickness.surf.gii",
]


RUN = "sub-01_task-rest_run-1"


def files_of(names: list[str]) -> list[File]:
    """Return the files of the run, sorted as a listing is."""
    return [File(f"sub-01/func/{name}", entities.of_name(name), entities.run_key(name)) for name in sorted(names)]


@pytest.mark.parametrize("form", FORMS)
def test_two_hemispheres_are_one_run(form: str) -> None:
    names = [form.format(side) for side in "LR"]
    files = files_of(names + OTHERS)
    (found,) = surface.candidates(files, {"task": "rest"})
    assert found.name == names[0] and found.run_id == RUN
    assert found.said["space"].startswith("fsaverage") and found.said["suffix"] == "bold" and found.said["run"] == "1"
    assert surface.images(found, files) == tuple(f"sub-01/func/{name}" for name in names)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", "LR")
def test_one_hemisphere_alone_is_no_run(form: str, side: str) -> None:
    files = files_of([form.format(side)])
    (found,) = surface.candidates(files, {})
    assert found.run_id == RUN
    with pytest.raises(RunExcluded, match="missing hemisphere: expected hemi-L and hemi-R of one run, found"):
        surface.images(found, files)


def test_dense_series_are_one_file() -> None:
    files = files_of([DENSE, *OTHERS])
    (found,) = surface.candidates(files, {"space": "fsLR", "den": "91k"})
    assert found.name == DENSE and surface.images(found, files) == (f"sub-01/func/{DENSE}",)
    assert entities.hemispheres("hemi-L/sub-01_bold.nii.gz") == ("hemi-L/sub-01_bold.nii.gz",)
    (smoothed,) = surface.candidates(files, {"desc": "smoothed"})
    assert smoothed.name == OTHERS[3]


@pytest.mark.parametrize(
    ("select", "wants"),
    [
        ({"space": "fsLR"}, True),
        ({"space": ["fsaverage5", "fsaverage6"]}, True),
        ({"space": "fsnative"}, True),
        ({"space": "MNI152NLin6Asym"}, False),
        ({"space": ["fsLR", "MNI152NLin6Asym"]}, False),
        ({"space": None}, False),
        ({}, False),
    ],
)
def test_the_space_decides(select: dict, wants: bool) -> None:
    assert surface.wants(select) is wants
