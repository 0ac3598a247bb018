"""Banks of volumes and fMRIPrep's maps, from index to shards."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny_maps import AFFINE, SHAPE, TinyMaps, tissue

from neuropipe.shards.read import Shards

PEOPLE = ("01", "02", "03")


@pytest.fixture
def study(tmp_path: Path) -> TinyMaps:
    one = TinyMaps(tmp_path)
    one.people += [f"sub-{name}" for name in PEOPLE]
    return one


def check(study: TinyMaps, dataset: dict, keys: tuple[str, ...], atlases: bool) -> Shards:
    shards = Shards(study.line(dataset=dataset, atlases=atlases, volumes={"dtype": "float32"}))
    assert shards.manifest["key"].tolist() == [f"tiny_{key}" for key in keys] and shards.content == "volume"
    for i, name in enumerate(PEOPLE):
        np.testing.assert_array_equal(shards.values(i), tissue(name))
    assert shards.grid.shape == SHAPE
    return shards


def test_a_bank(study: TinyMaps) -> None:
    folder = study.root / "bank"
    folder.mkdir()
    np.save(folder / "data.npy", np.stack([tissue(name) for name in PEOPLE])[:, None])
    (folder / "metadata.csv").write_text("participant_id,age\n01,20\n02,30\n03,40\n")
    check(study, {"kind": "yaware", "path": str(folder)}, ("sub-01", "sub-02", "sub-03"), atlases=False)


def test_openbhb(study: TinyMaps) -> None:
    for name in PEOPLE:
        folder = study.root / f"train/derivatives/sub-{name}/ses-1"
        folder.mkdir(parents=True)
        np.save(folder / f"sub-{name}_preproc-cat12vbm_desc-gm_T1w.npy", tissue(name)[None, None])
    keys = tuple(f"sub-{name}_ses-1" for name in PEOPLE)
    check(study, {"kind": "openbhb", "path": str(study.root)}, keys, atlases=False)


def test_fmriprep(study: TinyMaps) -> None:
    for name in PEOPLE:
        folder = study.root / f"fmriprep/sub-{name}/anat"
        folder.mkdir(parents=True)
        image = nib.Nifti1Image(tissue(name), AFFINE)
        nib.save(image, folder / f"sub-{name}_space-MNI152NLin2009cAsym_label-GM_probseg.nii.gz")
    dataset = {"kind": "fmriprep", "path": str(study.root / "fmriprep"), "map": "gm"}
    shards = check(study, dataset, ("sub-01", "sub-02", "sub-03"), atlases=True)
    np.testing.assert_allclose(shards.grid.affine, AFFINE)
