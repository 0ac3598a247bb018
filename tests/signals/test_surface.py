"""Functional series of two hemispheres against nilearn's masker; label files of pairs; files that are damaged."""

from __future__ import annotations

import base64
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.gifti import GiftiDataArray, GiftiImage
from nilearn.maskers import SurfaceLabelsMasker
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage
from surface_files import N_VERTICES, save_func, save_label

from neuropipe.config import AtlasFile
from neuropipe.errors import AtlasError, RunExcluded
from neuropipe.signals import atlases, gifti, surface
from neuropipe.signals.extract import Extraction
from neuropipe.signals.regions import Regions

N_VOLUMES = 21
LABELS = {"L": np.repeat([0, 1, 2, 4], 10), "R": np.repeat([5, 6, 0, 9], 10)}
NAMES = {n: f"region-{n}" for n in (1, 2, 4, 5, 6, 9)}
AB = {1: "a", 2: "b"}
STRUCTURE = {"L": "CortexLeft", "R": "CortexRight"}


@pytest.fixture
def series() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {side: (500 + 20 * rng.normal(size=(N_VOLUMES, N_VERTICES))).astype(np.float32) for side in "LR"}


def save_run(folder: Path, series: dict[str, np.ndarray], t_r: float | None = 2.0) -> list[Path]:
    return [
        save_func(folder / f"hemi-{side}_bold.func.gii", data, t_r, STRUCTURE[side]) for side, data in series.items()
    ]


def pair(folder: Path, values: dict[str, np.ndarray], names: dict[str, dict[int, str]], **more: str) -> AtlasFile:
    paths = []
    for side in "LR":
        path = folder / f"hemi-{side}.label.gii"
        paths.append(str(save_label(path, values[side], names[side], STRUCTURE[side])))
    return AtlasFile.model_validate({"id": "own", "image": paths, "space": "fsaverage5"} | more)


def own(folder: Path) -> AtlasFile:
    return pair(folder, LABELS, {"L": NAMES, "R": NAMES})


def extracted(run: list[Path], spec: AtlasFile) -> tuple[Extraction, pd.DataFrame]:
    opened, atlas = surface.open_series(run), atlases.load(spec)
    return surface.extract(opened, surface.merge([atlas], opened.columns)), atlas.table


def of_nilearn(folder: Path, run: list[Path]) -> np.ndarray:
    """Average with nilearn, on a mesh that only has to have the right number of vertices."""
    rng = np.random.default_rng(0)
    half = InMemoryMesh(rng.normal(size=(N_VERTICES, 3)), np.array([[0, 1, 2], [3, 4, 5]]))
    mesh = PolyMesh(left=half, right=half)
    labels = SurfaceImage(mesh, {"left": LABELS["L"], "right": LABELS["R"]})
    image = SurfaceImage(mesh, {"left": run[0], "right": run[1]})
    return SurfaceLabelsMasker(labels, standardize=None, reports=False).fit_transform(image)


# --- means --------------------------------------------------------------------------------------


def test_means_are_those_of_nilearn(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    run = save_run(tmp_path, series)
    means, table = extracted(run, own(tmp_path))
    np.testing.assert_allclose(means.series, of_nilearn(tmp_path, run), rtol=1e-5)
    assert table["label"].tolist() == [1, 2, 4, 5, 6, 9] and table["hemisphere"].tolist() == list("LLLRRR")
    assert (means.n_used == 10).all() and (means.coverage == 1).all()


def test_one_array_of_all_volumes_is_the_same_series(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    expected, _ = extracted(save_run(tmp_path, series), own(tmp_path))
    paths = []
    for side, data in series.items():
        array = GiftiDataArray(np.ascontiguousarray(data.T), intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32")
        paths.append(tmp_path / f"whole-{side}.func.gii")
        nib.save(GiftiImage(darrays=[array]), paths[-1])
    means, _ = extracted(paths, own(tmp_path))
    np.testing.assert_array_equal(means.series, expected.series)
    assert surface.open_series(paths).n_volumes == N_VOLUMES


def test_vertices_without_signal_do_not_count(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    left, right = series["L"], series["R"]
    left[:, 10] = 0  # never any signal
    left[4, 11] = 0  # left the field of view once
    left[6, 12] = np.inf
    right[:, :10] = np.nan  # a whole region
    means, _ = extracted(save_run(tmp_path, series), own(tmp_path))
    np.testing.assert_allclose(means.series[:, 0], left[:, 13:20].astype(float).mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(means.series[:, 1], left[:, 20:30].astype(float).mean(axis=1), rtol=1e-12)
    assert np.isnan(means.series[:, 3]).all() and means.n_used.tolist() == [7, 10, 10, 0, 10, 10]
    assert means.coverage.tolist() == [0.7, 1, 1, 0, 1, 1] and means.n_without_signal == 13


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    n_vertices, peaks = 4000, []
    for n_volumes in (30, 150):
        data = np.random.default_rng(0).normal(size=(n_volumes, n_vertices)).astype(np.float32)
        path = save_func(tmp_path / "long.func.gii", data)
        tracemalloc.start()
        sums, _ = gifti._sum(path, np.ones(n_vertices, dtype=int), 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        np.testing.assert_allclose(sums[:, 0], data.astype(np.float64).sum(axis=1))
    assert peaks[1] < 1.2 * peaks[0] < data.nbytes  # 120 volumes more would be 1.9 MB


# --- label files of pairs -----------------------------------------------------------------------


def test_numbers_that_both_hemispheres_use_are_two_regions(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    """As FreeSurfer writes Schaefer's atlas: 1, 2 on both sides; the volume of it numbers on, 3 and 4 on the right."""
    values = {"L": np.repeat([0, 1, 2, 1], 10), "R": np.repeat([2, 2, 0, 1], 10)}
    names = {side: {n: f"7Networks_{side}H_Vis_{n}" for n in (1, 2)} for side in "LR"}
    means, table = extracted(save_run(tmp_path, series), pair(tmp_path, values, names))
    assert table["label"].tolist() == [1, 2, 3, 4] and table["hemisphere"].tolist() == list("LLRR")
    assert table["name"].tolist() == [f"7Networks_{s}H_Vis_{n}" for s in "LR" for n in (1, 2)]
    assert (table["network"] == "Vis").all()
    order = Regions.plain("own", 4).order_hash  # that of the volume: one to four
    assert Regions(table.assign(index=range(4))).order_hash == order
    expected = np.stack([series[s][:, values[s] == n].mean(axis=1) for s in "LR" for n in (1, 2)], axis=1)
    np.testing.assert_allclose(means.series, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["annot", "colours"])
def test_freesurfers_labels(tmp_path: Path, series: dict[str, np.ndarray], kind: str) -> None:
    """Its files hold colours; regions are numbered in the order of the table, not of the colours."""
    place, paths = np.repeat([0, 2, 1, -1], 10), []
    for side in "LR":
        names = ["Unknown", f"17Networks_{side}H_VisCent_1", f"17Networks_{side}H_ContA_1"]
        colours = np.array([[30, 5, 25, 0], [20, 220, 160, 0], [200, 10, 10, 0]])
        if kind == "annot":
            paths.append(tmp_path / f"{side}.annot")
            nib.freesurfer.write_annot(paths[-1], place, colours, names, fill_ctab=True)
        else:
            packed = colours[:, :3] @ [1, 256, 65536]
            values = np.where(place < 0, 0, packed[place])
            paths.append(tmp_path / f"{side}.annot.gii")
            save_label(paths[-1], values, dict(zip(packed.tolist(), names, strict=True)), STRUCTURE[side], None)
    spec = AtlasFile.model_validate({"id": "own", "image": [str(path) for path in paths], "space": "fsaverage5"})
    means, table = extracted(save_run(tmp_path, series), spec)
    assert table["label"].tolist() == [1, 2, 3, 4] and table["network"].tolist() == ["VisCent", "ContA"] * 2
    expected = np.stack([series[s][:, place == n].mean(axis=1) for s in "LR" for n in (1, 2)], axis=1)
    np.testing.assert_allclose(means.series, expected, rtol=1e-5)


def test_names_that_both_hemispheres_use_say_their_side(tmp_path: Path) -> None:
    values = {"L": np.repeat([0, 1, 2, 3], 10), "R": np.repeat([3, 1, 2, 0], 10)}
    names = {1: "bankssts", 2: "cuneus", 3: "Medial wall"}
    table = atlases.load(pair(tmp_path, values, {"L": names, "R": names})).table
    assert table["name"].tolist() == ["L_bankssts", "L_cuneus", "R_bankssts", "R_cuneus"]
    assert table["label"].tolist() == [1, 2, 4, 5] and table["hemisphere"].tolist() == list("LLRR")


def test_a_table_of_the_stored_numbers_means_both_sides(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    values = {"L": np.repeat([0, 1, 2, 1], 10), "R": np.repeat([2, 2, 0, 1], 10)}
    (tmp_path / "networks.tsv").write_text("index\tname\n1\tVis\n2\tDefault\n")
    spec = pair(tmp_path, values, {"L": AB, "R": AB}, table=str(tmp_path / "networks.tsv"))
    means, table = extracted(save_run(tmp_path, series), spec)
    both = np.concatenate([series["L"], series["R"]], axis=1)
    number = np.concatenate([values["L"], values["R"]])
    np.testing.assert_allclose(means.series, np.stack([both[:, number == n].mean(1) for n in (1, 2)], 1), rtol=1e-5)
    assert table["name"].tolist() == ["Vis", "Default"] and table["hemisphere"].tolist() == ["", ""]


def test_a_table_that_numbers_on_fits_too(tmp_path: Path) -> None:
    values = {"L": np.repeat([0, 1, 2, 1], 10), "R": np.repeat([2, 2, 0, 1], 10)}
    (tmp_path / "own.tsv").write_text("index\tname\n" + "".join(f"{n}\tregion {n}\n" for n in range(1, 5)))
    spec = pair(tmp_path, values, {"L": AB, "R": AB}, table=str(tmp_path / "own.tsv"))
    table = atlases.load(spec).table
    assert table["name"].tolist() == [f"region {n}" for n in range(1, 5)]
    assert table["hemisphere"].tolist() == list("LLRR")


def test_label_files_that_cannot_be_used(tmp_path: Path) -> None:
    spec = own(tmp_path)
    swapped = spec.model_copy(update={"image": spec.image[::-1]})
    with pytest.raises(AtlasError, match="expected CORTEX_LEFT, the file says that it is CortexRight"):
        atlases.load(swapped)
    with pytest.raises(AtlasError, match="give the atlas own a table"):
        atlases.load(pair(tmp_path, LABELS, {"L": {}, "R": {}}))
    save_func(tmp_path / "hemi-L.label.gii", np.ones((3, N_VERTICES)))
    with pytest.raises(AtlasError, match="expected one map of labels, found 3"):
        atlases.load(spec)


def test_another_mesh_is_refused(tmp_path: Path) -> None:
    run = save_run(tmp_path, {side: np.ones((3, 2 * N_VERTICES)) for side in "LR"})
    with pytest.raises(RunExcluded, match="wrong density: expected 40 vertices of CIFTI_STRUCTURE_CORTEX_LEFT"):
        extracted(run, own(tmp_path))


# --- damage -------------------------------------------------------------------------------------


def refused(run: list[Path], folder: Path) -> RunExcluded:
    with pytest.raises(RunExcluded) as raised:
        extracted(run, own(folder))
    assert "\n" not in raised.value.detail
    return raised.value


def test_hemispheres_that_do_not_belong_together(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    left, right = save_run(tmp_path, series)
    assert refused([right, left], tmp_path).reason == "wrong hemisphere"
    save_func(right, series["R"][:-1], structure="CortexRight")
    assert refused([left, right], tmp_path).reason == "hemispheres differ"
    right.unlink()
    assert refused([left, right], tmp_path).reason == "missing file"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_left_out(tmp_path: Path, series: dict[str, np.ndarray], share: float) -> None:
    run = save_run(tmp_path, series)
    content = run[1].read_bytes()
    run[1].write_bytes(content[: int(share * len(content))])
    error = refused(run, tmp_path)
    assert error.reason == "truncated image" and "hemi-R_bold.func.gii: expected" in error.detail


def damaged(run: list[Path], folder: Path, old: str, new: str) -> RunExcluded:
    for path in run:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    return refused(run, folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('NumberOfDataArrays="21"', 'NumberOfDataArrays="22"', "expected 22 GIFTI data arrays, found 21"),
        ("GZipBase64Binary", "Base64Binary", "cannot be read"),
        ('Dim0="40"', 'Dim0="41"', "cannot be read"),
        ("NIFTI_INTENT_TIME_SERIES", "NIFTI_INTENT_LABEL", "expected one value per vertex"),
        ("NIFTI_TYPE_FLOAT32", "NIFTI_TYPE_NONE", "cannot be read"),
        ("</DataArray>", "</DataArrow>", "mismatched tag"),
    ],
)
def test_damaged_files_are_left_out(
    tmp_path: Path, series: dict[str, np.ndarray], old: str, new: str, words: str
) -> None:
    error = damaged(save_run(tmp_path, series), tmp_path, old, new)
    assert words in error.detail and error.reason in ("damaged image", "not a series")


def test_a_volume_with_fewer_vertices_is_damage(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    run = save_run(tmp_path, series)
    image = nib.load(run[0])
    image.darrays[9] = GiftiDataArray(series["L"][9, :-1], intent="NIFTI_INTENT_TIME_SERIES")
    nib.save(image, run[0])
    assert "expected 40 vertices in every volume, found 39" in refused(run, tmp_path).detail


@pytest.mark.parametrize("text", ["<svg><g/></svg>", "no XML at all", "<GIFTI></GIFTI>", "<DataArray></DataArray>"])
def test_what_is_no_gifti(tmp_path: Path, series: dict[str, np.ndarray], text: str) -> None:
    run = save_run(tmp_path, series)
    run[0].write_text(text)
    assert refused(run, tmp_path).reason == "damaged image"


def test_nothing_outside_the_file_is_read(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    """Neither an external entity, nor entities that blow up, nor GIFTI's own external files."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.full(N_VERTICES, 7, dtype=np.float32).tobytes())
    for subset in (f'<!ENTITY x SYSTEM "{secret.as_uri()}">', '<!ENTITY x "1 2 3">'):
        run = save_run(tmp_path, series)
        error = damaged(run, tmp_path, 'gifti.dtd">', f'gifti.dtd" [{subset}]>')
        assert "declares the XML entity x" in error.detail
    run = save_run(tmp_path, series)
    for path in run:
        path.write_text(path.read_text().replace('ExternalFileName=""', 'ExternalFileName="secret"'))
    error = damaged(run, tmp_path, "GZipBase64Binary", "ExternalFileBinary")
    assert error.reason == "external data" and "keeps its numbers in another file, 'secret'" in error.detail


def test_a_flipped_bit_in_compressed_data_is_damage(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    """Each volume has its own checksum (zlib's), so that no flip in a volume's numbers goes unnoticed."""
    run = save_run(tmp_path, series)
    text, rng = run[0].read_text(), np.random.default_rng(0)
    for _ in range(20):
        start = text.index("<Data>", rng.integers(len(text) // 2)) + len("<Data>")
        end = text.index("</Data>", start)
        packed = bytearray(base64.b64decode(text[start:end]))
        packed[rng.integers(len(packed))] ^= 1 << rng.integers(8)
        run[0].write_text(text[:start] + base64.b64encode(packed).decode() + text[end:])
        try:
            zlib.decompress(packed)
        except zlib.error:
            assert refused(run, tmp_path).reason == "damaged image"


# --- repetition time ----------------------------------------------------------------------------


def test_the_time_step_is_in_milliseconds_or_seconds(tmp_path: Path, series: dict[str, np.ndarray]) -> None:
    assert surface.open_series(save_run(tmp_path, series, 1.5)).t_r == (1.5, 1500)
    assert surface.open_series(save_run(tmp_path, series, 0.0)).t_r == ()
    assert surface.open_series(save_run(tmp_path, series, None)).t_r == ()
