"""Dense series against nibabel's own reading and means taken by hand; files that are damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from surface_files import (
    AFFINE,
    GRID,
    LEFT,
    MEDIAL_WALL,
    N_VERTICES,
    RIGHT,
    cortex,
    grayordinates,
    save_dlabel,
    save_dtseries,
    thalamus,
)

from neuropipe.config import AtlasFile
from neuropipe.errors import AtlasError, RunExcluded
from neuropipe.signals import atlases, cifti, surface
from neuropipe.signals.extract import Extraction

NAMES = {1: "7Networks_LH_Vis_1", 2: "7Networks_LH_Default_PFC_1", 3: "7Networks_RH_Vis_1", 7: "Thalamus"}
T_R = 1.5


@pytest.fixture
def series() -> np.ndarray:
    return (1000 + 30 * np.random.default_rng(0).normal(size=(23, len(grayordinates())))).astype(np.float32)


def own(path: Path, **more: str) -> AtlasFile:
    return AtlasFile.model_validate({"id": "own", "image": str(path), "space": "fsLR"} | more)


def labels_by_vertex(structure: str) -> np.ndarray:
    """Return labels of a whole mesh, medial wall included: two regions left, one right."""
    vertices = np.arange(N_VERTICES)
    return np.where(vertices < 20, 1, 2) if structure == LEFT else np.where(vertices < 30, 3, 0)


def dlabel(folder: Path, columns: nib.cifti2.BrainModelAxis) -> Path:
    """Write labels for some columns; voxels are region 7."""
    values = np.full(len(columns), 7)
    for structure in (LEFT, RIGHT):
        here = columns.name == structure
        values[here] = labels_by_vertex(structure)[columns.vertex[here]]
    return save_dlabel(folder / "own.dlabel.nii", values, columns, NAMES)


def extracted(image: Path, spec: AtlasFile) -> tuple[Extraction, pd.DataFrame]:
    run, atlas = surface.open_series([image]), atlases.load(spec)
    return surface.extract(run, surface.merge([atlas], run.columns)), atlas.table


def by_hand(image: Path) -> np.ndarray:
    """Average what nibabel reads, looking every column up by itself."""
    loaded = nib.load(image)
    data, columns = loaded.get_fdata(), loaded.header.get_axis(1)
    members = {n: [] for n in NAMES}
    for position in range(len(columns)):
        kind, where, structure = columns[position]
        n = labels_by_vertex(structure)[where] if kind == "CIFTI_MODEL_TYPE_SURFACE" else 7
        if n:
            members[n].append(position)
    return np.stack([data[:, positions].mean(axis=1) for positions in members.values()], axis=1)


# --- means --------------------------------------------------------------------------------------


def test_means_are_those_of_nibabel(tmp_path: Path, series: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifti, "BLOCK_BYTES", 5 * 4 * 23)  # five columns at a time
    image = save_dtseries(tmp_path / "a.dtseries.nii", series, grayordinates())
    means, table = extracted(image, own(dlabel(tmp_path, grayordinates())))
    np.testing.assert_allclose(means.series, by_hand(image), rtol=1e-12)
    assert means.n_used.tolist() == [14, 20, 24, 4] and (means.coverage == 1).all() and not means.n_without_signal
    assert table["label"].tolist() == [1, 2, 3, 7] and table["hemisphere"].tolist() == ["L", "L", "R", ""]
    assert table["network"].tolist() == ["Vis", "Default", "Vis", ""] and table["x"].isna().all()


@pytest.mark.parametrize("case", ["whole cortex", "shuffled", "other structure first"])
def test_columns_are_matched_by_vertex_never_by_position(tmp_path: Path, series: np.ndarray, case: str) -> None:
    """An atlas of the cortex alone, with medial wall or in any order, gives the same regions."""
    image = save_dtseries(tmp_path / "a.dtseries.nii", series, grayordinates())
    order = np.random.default_rng(1).permutation(N_VERTICES)
    columns = {
        "whole cortex": cortex(LEFT) + cortex(RIGHT),
        "shuffled": cortex(LEFT, order) + cortex(RIGHT, order[::-1]),
        "other structure first": cortex(RIGHT) + cortex(LEFT),
    }[case]
    means, table = extracted(image, own(dlabel(tmp_path, columns)))
    np.testing.assert_allclose(means.series, by_hand(image)[:, :3], rtol=1e-12)
    # Regions reach into the medial wall, where this series has no vertices.
    assert means.n_used.tolist() == [14, 20, 24]
    np.testing.assert_allclose(means.coverage, [14 / 20, 1, 24 / 30])
    assert len(table) == 3


def test_scaled_integers_and_long_runs(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(1, 2000, size=(301, len(grayordinates())), dtype=np.int16)
    image = save_dtseries(tmp_path / "a.dtseries.nii", stored, grayordinates())
    content = bytearray(image.read_bytes())
    struct.pack_into("<dd", content, 176, 0.25, 10.0)  # scl_slope, scl_inter of NIfTI-2
    image.write_bytes(content)
    assert nib.load(image).get_fdata()[0, 0] == stored[0, 0] * 0.25 + 10
    means, _ = extracted(image, own(dlabel(tmp_path, grayordinates())))
    np.testing.assert_allclose(means.series, by_hand(image), rtol=1e-12)


def test_vertices_without_signal_do_not_count(tmp_path: Path, series: np.ndarray) -> None:
    expected = by_hand(save_dtseries(tmp_path / "a.dtseries.nii", series, grayordinates()))
    series[:, 0] = 0  # never any signal
    series[5, 1] = 0  # left the field of view once
    series[7, 2] = np.nan
    series[:, 34:58] = np.nan  # the whole region 3 of the right hemisphere
    image = save_dtseries(tmp_path / "b.dtseries.nii", series, grayordinates())
    means, _ = extracted(image, own(dlabel(tmp_path, grayordinates())))
    np.testing.assert_allclose(means.series[:, 0], series[:, 3:14].astype(float).mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(means.series[:, 1], expected[:, 1], rtol=1e-12)
    assert np.isnan(means.series[:, 2]).all() and means.n_used.tolist() == [11, 20, 0, 4]
    np.testing.assert_allclose(means.coverage, [11 / 14, 1, 0, 1])
    assert means.n_without_signal == 3 + 24


def test_volume_labels_apply_to_the_voxels(tmp_path: Path, series: np.ndarray) -> None:
    """A NIfTI atlas on a grid flipped left to right gives the voxels at the same places in mm."""
    image = save_dtseries(tmp_path / "a.dtseries.nii", series, grayordinates())
    volume = np.zeros(GRID, dtype=np.int16)
    volume[1, 2, 3:5], volume[2, 2, 3] = 1, 2
    flipped = AFFINE @ np.array([[-1.0, 0, 0, GRID[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(volume[::-1], flipped), tmp_path / "sub.nii.gz")
    (tmp_path / "sub.tsv").write_text("index\tname\n1\tone\n2\ttwo\n")
    paths = {"image": str(tmp_path / "sub.nii.gz"), "table": str(tmp_path / "sub.tsv")}
    specs = [
        own(dlabel(tmp_path, cortex(LEFT) + cortex(RIGHT))),
        AtlasFile.model_validate({"id": "sub", "space": "MNI152NLin6Asym"} | paths),
    ]
    assert atlases.common_space(specs) == "fsLR"
    with pytest.raises(AtlasError, match="must lie in one space"):
        atlases.common_space([specs[0], specs[1].model_copy(update={"space": "MNI152NLin2009cAsym"})])
    run, loaded = surface.open_series([image]), [atlases.load(spec) for spec in specs]
    means = surface.extract(run, surface.merge(loaded, run.columns))
    hand = by_hand(image)
    voxels = series[:, -4:].astype(float)
    np.testing.assert_allclose(means.series[:, :3], hand[:, :3], rtol=1e-12)
    np.testing.assert_allclose(means.series[:, 3:], np.stack([voxels[:, :2].mean(1), voxels[:, 2]], 1), rtol=1e-12)
    assert means.coverage[3:].tolist() == [1, 1] and len(atlases.regions(loaded)) == 5


def test_maps_are_for_volumes(series: np.ndarray) -> None:
    maps = atlases.Atlas("difumo", "MNI152NLin6Asym", pd.DataFrame({"value": [1]}), None, AFFINE, "", None, GRID)
    with pytest.raises(AtlasError, match="difumo has maps, which apply to volumes only"):
        surface.merge([maps], grayordinates())


def test_voxels_of_a_dlabel_lie_where_it_says(tmp_path: Path, series: np.ndarray) -> None:
    image = save_dtseries(tmp_path / "a.dtseries.nii", series, grayordinates())
    voxels = np.array([[3, 4, 5], [0, 0, 0], [1, 2, 3]])
    path = save_dlabel(tmp_path / "own.dlabel.nii", np.array([7, 7, 8]), thalamus(voxels), {7: "far", 8: "near"})
    means, _ = extracted(image, own(path))
    np.testing.assert_allclose(means.series, series[:, [-1, -4]], rtol=1e-12)
    assert means.coverage.tolist() == [0.5, 1]  # the series has no column for the voxel in the corner


def test_another_density_is_refused(tmp_path: Path, series: np.ndarray) -> None:
    image = save_dtseries(tmp_path / "a.dtseries.nii", series, grayordinates())
    path = save_dlabel(tmp_path / "own.dlabel.nii", np.ones(50), cortex(LEFT, n_vertices=50), NAMES)
    with pytest.raises(
        RunExcluded, match=r"wrong density: expected 50 vertices of CIFTI_STRUCTURE_CORTEX_LEFT.*found 40"
    ):
        extracted(image, own(path))


# --- atlases ------------------------------------------------------------------------------------


def test_a_table_names_the_regions(tmp_path: Path) -> None:
    path = dlabel(tmp_path, grayordinates())
    table = tmp_path / "own.tsv"
    table.write_text("index\tname\tnetwork\tx\ty\tz\n2\tfront\tA\t-1\t2\t3\n7\tdeep\tB\tn/a\tn/a\tn/a\n")
    found = atlases.load(own(path, table=str(table))).table
    assert found["name"].tolist() == ["front", "deep"] and found["network"].tolist() == ["A", "B"]
    assert found.loc[0, ["x", "y", "z"]].tolist() == [-1, 2, 3]
    table.write_text("index\tname\n5\tnowhere\n")
    with pytest.raises(AtlasError, match="names 1 regions that no vertex"):
        atlases.load(own(path, table=str(table)))


def test_labels_that_are_no_region_are_left_out(tmp_path: Path) -> None:
    values = labels_by_vertex(LEFT)
    values[MEDIAL_WALL] = 9
    names = NAMES | {9: "Medial_Wall"}
    atlas = atlases.load(own(save_dlabel(tmp_path / "a.dlabel.nii", values, cortex(LEFT), names)))
    assert atlas.table["label"].tolist() == [1, 2]


def test_atlases_that_cannot_be_used(tmp_path: Path, series: np.ndarray) -> None:
    image = save_dtseries(tmp_path / "series.dlabel.nii", series, grayordinates())
    with pytest.raises(AtlasError, match="expected dense labels, found Series x BrainModel"):
        atlases.load(own(image))
    path = dlabel(tmp_path, grayordinates())
    with pytest.raises(AtlasError, match="was altered"):
        atlases.load(own(path, sha256="0" * 64))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AtlasError, match="truncated"):
        atlases.load(own(path))
    with pytest.raises(AtlasError, match="No label file"):
        atlases.load(own(tmp_path / "none.dlabel.nii"))


# --- damage -------------------------------------------------------------------------------------


def test_length_is_read_without_the_vertices(tmp_path: Path, series: np.ndarray) -> None:
    image = save_dtseries(tmp_path / "a.dtseries.nii", series, grayordinates(), t_r=T_R)
    assert cifti.read_length(image) == (23, (T_R,))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "truncated image"),
        (lambda content: content[:3000], "truncated image"),
        (lambda content: content[:300], "truncated image"),
        (lambda content: content + b"\0\0", "damaged image"),
        (lambda content: content.replace(b"BrainModel ", b"BrainM<>el "), "damaged image"),
        (lambda content: content.replace(b"<CIFTI", b"<SVG  "), "damaged image"),
        (lambda content: b"<svg/>" * 200, "damaged image"),
        (lambda content: content.replace(b"<Matrix>", b"<!ENTITY"), "damaged image"),
        (lambda content: content.replace(b'IndexCount="', b'IndexCount="9'), "damaged image"),
    ],
)
def test_damaged_series_are_left_out(tmp_path: Path, series: np.ndarray, damage: object, reason: str) -> None:
    image = save_dtseries(tmp_path / "a.dtseries.nii", series, grayordinates())
    image.write_bytes(damage(image.read_bytes()))
    with pytest.raises(RunExcluded) as raised:
        surface.open_series([image])
    assert raised.value.reason == reason and "a.dtseries.nii" in raised.value.detail
    assert "\n" not in raised.value.detail


def test_every_truncation_and_many_flips_end_well(tmp_path: Path, series: np.ndarray) -> None:
    """Whatever a byte of the headers becomes, the run is read or left out: nothing else is raised."""
    image = save_dtseries(tmp_path / "a.dtseries.nii", series, grayordinates())
    content, rng, n_refused = image.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.integers(4000)] ^= 1 << rng.integers(8)
        image.write_bytes(damaged)
        try:
            surface.open_series([image])
        except RunExcluded:
            n_refused += 1
    assert n_refused > 40


def test_other_kinds_of_cifti_are_no_series(tmp_path: Path) -> None:
    path = dlabel(tmp_path, grayordinates())
    with pytest.raises(RunExcluded, match="expected a dense series, found Label x BrainModel"):
        surface.open_series([path])
    with pytest.raises(RunExcluded, match="not a series"):
        cifti.read_length(path)
