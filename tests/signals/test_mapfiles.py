"""Atlases of maps: read sparsely, map by map, with the tables under which they are published."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuropipe.config import AtlasFile
from neuropipe.errors import AtlasError, RunExcluded
from neuropipe.signals import atlases
from neuropipe.signals.mapfiles import read_maps

AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -4], [0, 0, 2, -6], [0, 0, 0, 1]])
SHAPE = (5, 4, 3)


def maps_file(folder: Path, n_maps: int = 3, dtype: type = np.float32) -> tuple[Path, np.ndarray]:
    """Random sparse maps, written by nibabel."""
    rng = np.random.default_rng(0)
    maps = (rng.random((*SHAPE, n_maps)) * (rng.random((*SHAPE, n_maps)) < 0.3)).astype(np.float32)
    path = folder / "maps.nii.gz"
    image = nib.Nifti1Image(maps, AFFINE)
    image.header.set_data_dtype(dtype)
    nib.save(image, path)
    return path, np.asarray(nib.load(path).dataobj, dtype=np.float32)


def atlas(folder: Path, image: Path, rows: dict[str, list]) -> atlases.Atlas:
    table = folder / "maps.tsv"
    pd.DataFrame(rows).to_csv(table, sep="\t", index=False)
    return atlases.load(AtlasFile(id="soft", image=str(image), table=str(table), space="MNI", kind="maps"))


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_maps_are_what_nibabel_reads(tmp_path: Path, dtype: type) -> None:
    """int16 is written with slope and intercept, so that zero is not stored as zero."""
    path, expected = maps_file(tmp_path, dtype=dtype)
    maps, shape, affine = read_maps(path)
    assert maps.format == "csc" and maps.dtype == np.float32 and shape == SHAPE
    np.testing.assert_array_equal(affine, AFFINE)
    np.testing.assert_allclose(maps.toarray(), expected.reshape(-1, 3, order="F"), rtol=0, atol=1e-6)


def test_what_is_not_finite_weighs_nothing(tmp_path: Path) -> None:
    maps = np.ones((*SHAPE, 2), dtype=np.float32)
    maps[0, 0, 0, 0], maps[4, 3, 2, 1] = np.nan, np.inf
    nib.save(nib.Nifti1Image(maps, AFFINE), tmp_path / "maps.nii.gz")
    found = read_maps(tmp_path / "maps.nii.gz")[0].toarray()
    assert found[0, 0] == 0 and found[-1, 1] == 0 and found.sum() == 2 * np.prod(SHAPE) - 2


def test_a_truncated_file_of_maps(tmp_path: Path) -> None:
    path, _ = maps_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunExcluded, match=r"truncated|damaged"):
        read_maps(path)


def test_difumos_published_table(tmp_path: Path) -> None:
    """Its columns are called otherwise, and a map without network says so in words."""
    path, expected = maps_file(tmp_path)
    rows = {
        "Component": [1, 2, 3],
        "Difumo_names": ["Cuneus", "Paracentral gyrus RH", "ventricles"],
        "Yeo_networks7": ["VisCent", "SomMotA", "No network found"],
        "Yeo_networks17": ["VisPeri", "SomMotA", "No network found"],
        "GM": [0.6, 0.5, 0.4],
    }
    found = atlas(tmp_path, path, rows)
    assert found.labels is None and found.shape == SHAPE and found.maps is not None
    assert found.table["name"].tolist() == rows["Difumo_names"] and found.table["value"].tolist() == [1, 2, 3]
    assert found.table["network"].tolist() == ["VisCent", "SomMotA", ""]
    assert found.table["hemisphere"].tolist() == ["", "R", ""]
    # Centres of weight, in mm.
    where = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    centres = np.einsum("xyzr,xyzc->rc", expected, where) / expected.sum(axis=(0, 1, 2))[:, None]
    np.testing.assert_allclose(found.table[["x", "y", "z"]], centres, atol=0.051)


def test_maps_may_be_numbered_from_zero_and_follow_the_table(tmp_path: Path) -> None:
    path, expected = maps_file(tmp_path)
    found = atlas(tmp_path, path, {"index": [2, 0, 1], "name": ["c", "a", "b"]})
    assert found.table["value"].tolist() == [3, 1, 2]
    np.testing.assert_array_equal(found.maps.toarray(), expected.reshape(-1, 3, order="F")[:, [2, 0, 1]])


@pytest.mark.parametrize("numbers", [[1, 2], [1, 2, 4], [0, 1, 2, 3], [2, 3, 4]])
def test_a_table_of_other_maps(tmp_path: Path, numbers: list[int]) -> None:
    path, _ = maps_file(tmp_path)
    with pytest.raises(AtlasError, match=r"one row of its table for each of the 3 maps"):
        atlas(tmp_path, path, {"index": numbers, "name": [f"m{n}" for n in numbers]})
