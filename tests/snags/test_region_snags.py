"""Snags 17-21 and 23-28: masks, atlases, grids, and voxels that are not what they seem."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from tiny_study import AFFINE, N_REGIONS, SHAPE, SPACE, TinyStudy, atlas_labels, save
from whole_line import LOOSE, Parcellated

from neuropipe.errors import AtlasError
from neuropipe.shards.sample import pack
from neuropipe.signals import tables

MISSING = np.array([True] + [False] * (N_REGIONS - 1))  # the first region
FLIP = np.diag([-1.0, 1, 1, 1])
FLIP[0, 3] = SHAPE[0] - 1


def save_stored(path: Path, stored: np.ndarray, slope: float, intercept: float = 0.0, t_r: float | None = None) -> None:
    """Write numbers as they are to be stored, with a scaling in the header."""
    save(path, stored, t_r)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:120] = np.array([slope, intercept], dtype="<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content), 1))


def mask_of(study: TinyStudy, image: str) -> Path:
    return study.data / image.replace("preproc_bold", "brain_mask")


def data_of(study: TinyStudy, image: str) -> np.ndarray:
    return nib.load(study.data / image).get_fdata(dtype=np.float32)


def atlas(study: TinyStudy, labels: np.ndarray, affine: np.ndarray = AFFINE, rows: Any = None, **keys: Any) -> list:
    """Write another atlas than the study's own; return the section ``atlases``."""
    image, table = study.root / "atlas" / "other.nii.gz", study.root / "atlas" / "other.tsv"
    save(image, labels, affine=affine)
    rows = rows or [(n + 1, f"region-{n}") for n in range(N_REGIONS)]
    pd.DataFrame(rows, columns=["index", "name"]).to_csv(table, sep="\t", index=False)
    return [{"id": "toy", "image": str(image), "table": str(table), "space": SPACE} | keys]


def series_of(study: TinyStudy, **sections: Any) -> np.ndarray:
    return Parcellated(study, **LOOSE | sections).product("01_task-rest").series


def moved(affine: np.ndarray, mm: float) -> np.ndarray:
    out = affine.copy()
    out[0, 3] += mm
    return out


# --- 17-21: masks and atlases -----------------------------------------------------------------------


def test_17_a_mask_that_is_stored_with_a_scaling_selects_its_voxels(study: TinyStudy) -> None:
    """255 with slope 1/255 is 1.0000000591: `== 1` selects nothing."""
    image = study.add("01")
    expected = series_of(study)
    save_stored(mask_of(study, image), np.full(SHAPE, 255, dtype=np.uint8), 1 / 255)
    done = Parcellated(study, **LOOSE).product("01_task-rest")
    np.testing.assert_array_equal(done.series, expected)
    assert (done.coverage["coverage"] == 1).all()


def test_17_a_mask_with_holes_takes_voxels_out(study: TinyStudy) -> None:
    image = study.add("01")
    mask = np.ones(SHAPE, dtype=np.uint8)
    mask[2, :, ::2] = 0
    save(mask_of(study, image), mask)
    found = Parcellated(study, **LOOSE).product("01_task-rest")
    assert found.coverage["coverage"].tolist() == [0.75] * N_REGIONS and np.isfinite(found.series).all()


def test_18_float_labels_are_rounded_not_cut(study: TinyStudy) -> None:
    study.add("01")
    expected = series_of(study)
    below = np.where(atlas_labels() > 0, atlas_labels() - 1e-5, 0).astype(np.float32)
    np.testing.assert_array_equal(series_of(study, atlases=atlas(study, below)), expected)


def test_18_interpolated_labels_are_refused(study: TinyStudy) -> None:
    study.add("01")
    with pytest.raises(AtlasError, match=r"expected integer labels, found 0\.5"):
        series_of(study, atlases=atlas(study, (atlas_labels() / 2).astype(np.float32)))


@pytest.mark.parametrize("whose", ["atlas", "image"])
def test_19_the_same_shape_stored_from_right_to_left(study: TinyStudy, whose: str) -> None:
    """LAS atlases (FSL, CBIG, Tian) and RAS images have one shape; by array position left would be right."""
    image = study.add("01")
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[0:2] = np.arange(1, 6)[None, :, None]  # on one side only
    expected = series_of(study, atlases=atlas(study, labels))
    if whose == "atlas":
        turned = atlas(study, labels[::-1], AFFINE @ FLIP)
    else:
        turned = atlas(study, labels)
        save(study.data / image, data_of(study, image)[::-1], 2.0, affine=AFFINE @ FLIP)
        save(mask_of(study, image), np.ones(SHAPE, dtype=np.uint8), affine=AFFINE @ FLIP)
    np.testing.assert_allclose(series_of(study, atlases=turned), expected, atol=1e-5)
    wrong = series_of(study, atlases=atlas(study, labels[::-1]))
    assert whose == "image" or np.abs(wrong - expected).max() > 0.5, "the sides must differ for this to tell"


def test_19_an_oblique_image_is_met_in_world_space(study: TinyStudy) -> None:
    """Turned by 10 degrees: each voxel gets the label that lies at its centre."""
    image = study.add("01")
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.17), -np.sin(0.17)], [np.sin(0.17), np.cos(0.17)]]
    affine = turn @ AFFINE
    save(study.data / image, data_of(study, image), 2.0, affine=affine)
    save(mask_of(study, image), np.ones(SHAPE, dtype=np.uint8), affine=affine)
    found = Parcellated(study, **LOOSE).product("01_task-rest").coverage["n_voxels"]
    voxels = np.argwhere(np.ones(SHAPE))
    back = np.rint(nib.affines.apply_affine(np.linalg.inv(AFFINE) @ affine, voxels)).astype(int)
    inside = ((back >= 0) & (back < SHAPE)).all(axis=1)
    labels = atlas_labels()[tuple(back[inside].T)]
    assert found.tolist() == np.bincount(labels, minlength=N_REGIONS + 1)[1:].tolist()


def test_20_half_a_millimetre_is_another_grid(study: TinyStudy) -> None:
    """Two builds of MNI152NLin2009cAsym differ by that much; a mask of the other one is not of this image."""
    image = study.add("01")
    save(mask_of(study, image), np.ones(SHAPE, dtype=np.uint8), affine=moved(AFFINE, 0.5))
    assert Parcellated(study, **LOOSE).left_out("01_task-rest").startswith("mask on another grid")


@pytest.mark.parametrize(("mm", "first_slab"), [(9.0, 2), (11.0, 3)])
def test_20_an_atlas_between_two_voxels_goes_to_the_nearer(study: TinyStudy, mm: float, first_slab: int) -> None:
    """Voxels of 20 mm: moved by 9 mm the atlas stays, by 11 mm it moves by one voxel."""
    study.add("01")
    found = series_of(study, atlases=atlas(study, atlas_labels(), moved(AFFINE, mm)))
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[first_slab : first_slab + 2] = np.arange(1, 6)[None, :, None]
    np.testing.assert_allclose(found, series_of(study, atlases=atlas(study, labels)), atol=1e-6)


def test_21_an_atlas_of_another_template_is_refused(study: TinyStudy) -> None:
    """Put over by its affine alone it would cost a quarter of each region."""
    study.add("01")
    other = atlas(study, atlas_labels(), space="MNI152NLin2009cAsym")
    done = Parcellated(study, **LOOSE, atlases=other, dataset={"select": {"space": SPACE}})
    left_out = done.left_out("01_task-rest")
    assert left_out.startswith("wrong space") and SPACE in left_out and "MNI152NLin2009cAsym" in left_out


# --- 23-25: voxels and regions without signal -----------------------------------------------------


def with_first_region(study: TinyStudy, change: Any) -> str:
    """Add a run in which `change` altered the voxels (voxel, time) of the first region."""
    image = study.add("01")
    data = data_of(study, image)
    where = atlas_labels() == 1
    data[where] = change(data[where].copy())
    save(study.data / image, data, 2.0)
    return image


def test_23_a_region_that_does_not_vary_is_missing_and_marked(study: TinyStudy) -> None:
    with_first_region(study, lambda voxels: np.full_like(voxels, 700))
    series = series_of(study)
    assert (np.isnan(series).any(axis=0) == MISSING).all()
    packed, valid = pack(series, "float16")
    assert (valid == ~MISSING).all() and np.isfinite(packed).all()


def test_23_one_value_that_is_not_a_number_does_not_cost_a_region(study: TinyStudy) -> None:
    def broken(voxels: np.ndarray) -> np.ndarray:
        voxels[3, 40] = np.nan
        return voxels - 1000  # values on both sides of zero, as after denoising: zero is no sign of emptiness

    with_first_region(study, broken)
    found = Parcellated(study, **LOOSE).product("01_task-rest")
    assert np.isfinite(found.series).all() and found.coverage["coverage"].tolist() == [7 / 8, 1, 1, 1, 1]


def test_24_voxels_that_leave_the_field_of_view_bring_no_jumps(study: TinyStudy) -> None:
    """Three voxels at the edge are zero in some volumes; their region equals the mean of the others."""

    def flickering(voxels: np.ndarray) -> np.ndarray:
        voxels[:3, 50:55] = 0
        return voxels

    image = with_first_region(study, flickering)
    found = Parcellated(study, **LOOSE).product("01_task-rest")
    assert found.about["VoxelsWithoutSignal"] == 3 and found.coverage["coverage"][0] == 5 / 8
    where = np.argwhere(atlas_labels() == 1)[:3]
    mask = np.ones(SHAPE, dtype=np.uint8)
    mask[tuple(where.T)] = 0
    save(mask_of(study, image), mask)
    np.testing.assert_allclose(found.series, series_of(study), atol=1e-6)


def test_25_voxels_that_are_not_numbers_are_left_out_and_counted(study: TinyStudy) -> None:
    def broken(voxels: np.ndarray) -> np.ndarray:
        voxels[:5] = np.nan
        return voxels

    with_first_region(study, broken)
    found = Parcellated(study, **LOOSE).product("01_task-rest")
    assert found.about["VoxelsWithoutSignal"] == 5 and found.coverage["coverage"][0] == 3 / 8
    assert (np.isnan(found.series).any(axis=0) == MISSING).all(), "less than half of it is there"


# --- 26-28: labels, grids, numbers ----------------------------------------------------------------


def test_26_gaps_strays_and_a_named_background(study: TinyStudy) -> None:
    """Labels 10, 20, ... of which the table names all; stray voxels that it does not name; and a name for 0."""
    study.add("01")
    expected = series_of(study)
    labels = atlas_labels() * 10
    labels[0, 0, 0], labels[5, 4, 3] = 8, 12
    rows = [(0, "Background")] + [(10 * (n + 1), f"region-{n}") for n in range(N_REGIONS)]
    np.testing.assert_array_equal(series_of(study, atlases=atlas(study, labels, rows=rows)), expected)


def test_26_a_table_that_counts_from_zero_is_refused(study: TinyStudy) -> None:
    """0 would be taken for the background, and every other region for its neighbour."""
    study.add("01")
    rows = [(n, f"region-{n}") for n in range(N_REGIONS)]
    with pytest.raises(AtlasError, match=r"counts its regions from 0 \(.region-0.\), .* counts from 1"):
        series_of(study, atlases=atlas(study, atlas_labels(), rows=rows))


def test_26_a_region_of_the_table_that_the_image_lacks_is_refused(study: TinyStudy) -> None:
    study.add("01")
    rows = [(n + 1, f"region-{n}") for n in range(N_REGIONS + 1)]
    with pytest.raises(AtlasError, match=r"names 1 regions that .* does not have \(region-5\)"):
        series_of(study, atlases=atlas(study, atlas_labels(), rows=rows))


@pytest.mark.parametrize(("n_networks", "atlas_id"), [(7, "schaefer400-7n"), (17, "schaefer400-17n")])
def test_26_the_order_of_17_networks_is_not_taken_for_that_of_7(tmp_path: Path, n_networks: int, atlas_id: str) -> None:
    """The same 400 regions under the same name of the atlas, in another order."""
    names = [f"{n_networks}Networks_{side}H_Vis_{n}" for side in "LR" for n in range(200)]
    table = pd.DataFrame({"index": range(1, 401), "name": names, "atlas": "Schaefer2018"})
    table.to_csv(tmp_path / "merged.tsv", sep="\t", index=False)
    assert set(tables.of_file("own", tmp_path / "merged.tsv")["atlas"]) == {atlas_id}


def test_27_regions_that_vanish_on_a_coarse_grid_keep_their_columns(study: TinyStudy) -> None:
    """Every third voxel of the atlas's second axis is met by a grid of 60 mm."""
    image = study.add("01")
    coarse = AFFINE.copy()
    coarse[1, 1] = 60
    shape = (6, 2, 4)
    save(study.data / image, data_of(study, image)[:, ::3], 2.0, affine=coarse)
    save(mask_of(study, image), np.ones(shape, dtype=np.uint8), affine=coarse)
    found = Parcellated(study, **LOOSE).product("01_task-rest")
    assert np.isnan(found.series).all(axis=0).tolist() == [False, True, True, False, True]
    assert found.coverage["n_voxels"].tolist() == [8, 0, 0, 8, 0]
    assert found.coverage["name"].tolist() == [f"region-{n}" for n in range(N_REGIONS)]


def test_28_scaled_integers_lose_no_digit(study: TinyStudy) -> None:
    """Stored near the end of int16, where sums of eight voxels overflow, and scaled by the header."""
    image = study.add("01")
    rng = np.random.default_rng(0)
    stored = rng.integers(30000, 32767, size=(*SHAPE, 150)).astype(np.int16)
    slope, intercept = np.float32(0.013), np.float32(57.5)
    save(study.data / image, stored * float(slope) + float(intercept), 2.0)  # float64
    expected = series_of(study)
    save_stored(study.data / image, stored, slope, intercept, t_r=2.0)
    np.testing.assert_allclose(series_of(study), expected, atol=1e-6)
