"""Regional means against nilearn, and every way in which an image can lie."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker

from neuropipe.errors import RunExcluded
from neuropipe.signals import extract as extraction
from neuropipe.signals import images
from neuropipe.signals.atlases import Atlas
from neuropipe.signals.extract import extract, grid_of
from neuropipe.signals.weights import Weights, on_run

SHAPE = (12, 10, 9)
AFFINE = np.array([[-3.0, 0, 0, 20], [0, 3, 0, -15], [0, 0, 3, -12], [0, 0, 0, 1]])  # stored right to left
N_VOLUMES = 21  # not a multiple of the chunk


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def labels(rng: np.random.Generator) -> np.ndarray:
    """Seven regions, scattered, with a gap: no voxel is labelled 4."""
    labels = rng.integers(0, 9, size=SHAPE).astype(np.int16)
    labels[labels == 4] = 0
    return labels


@pytest.fixture
def mask(rng: np.random.Generator) -> np.ndarray:
    return rng.random(SHAPE) > 0.3


def atlas_of(labels: np.ndarray, shape: tuple[int, ...] = SHAPE, affine: np.ndarray = AFFINE) -> Weights:
    table = pd.DataFrame({"value": range(1, 9), "name": [f"r{n}" for n in range(1, 9)]})
    return on_run([Atlas("toy", "MNI", table, labels.astype(np.int32), AFFINE, "")], shape, affine)


def save(path: Path, data: np.ndarray, dtype: str = "float32", scaling: tuple[float, float] | None = None) -> Path:
    """Write an image as stored, with or without a scaling of the stored numbers."""
    image = nib.Nifti1Image(data.astype(dtype), AFFINE)
    image.header.set_data_dtype(dtype)
    if scaling:
        image.header.set_slope_inter(*scaling)
        image.header["scl_slope"], image.header["scl_inter"] = scaling
    nib.save(image, path)
    if scaling:  # nibabel scales when it saves; this test wants the numbers as given
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as handle:
            content = bytearray(handle.read())
        content[112:120] = np.array(scaling, dtype="<f4").tobytes()
        content[352:] = data.astype(dtype).tobytes(order="F")
        with opener(path, "wb") as handle:
            handle.write(bytes(content))
    return path


def nilearn_means(image: Path, labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    masker = NiftiLabelsMasker(
        nib.Nifti1Image(labels.astype(np.int32), AFFINE),
        mask_img=nib.Nifti1Image(mask.astype(np.uint8), AFFINE),
        standardize=None,
        reports=False,
        resampling_target=None,
    )
    return masker.fit_transform(image)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "scaling"),
    [
        ("int16", None),
        ("int16", (0.37, 0.0)),
        ("int16", (0.5, 2000.0)),
        ("int16", (-0.5, 20000.0)),
        ("uint8", None),
        (">i2", None),
        ("float32", None),
        ("float64", None),
    ],
)
def test_equal_to_nilearn(
    tmp_path: Path,
    rng: np.random.Generator,
    labels: np.ndarray,
    mask: np.ndarray,
    suffix: str,
    dtype: str,
    scaling: tuple[float, float] | None,
) -> None:
    top = 250 if dtype == "uint8" else 30000
    image = save(tmp_path / f"bold{suffix}", rng.integers(1, top, size=(*SHAPE, N_VOLUMES)), dtype, scaling)
    brain = save(tmp_path / "mask.nii.gz", mask, "uint8")
    found = extract(image, brain, atlas_of(labels))
    expected = nilearn_means(image, labels, mask)
    assert found.series.shape == (N_VOLUMES, 8) and expected.shape == (N_VOLUMES, 7)
    assert np.isnan(found.series[:, 3]).all(), "the label without voxels is NaN in its place"
    np.testing.assert_allclose(np.delete(found.series, 3, axis=1), expected, rtol=1e-5)


def test_coverage_counts_voxels(tmp_path: Path, rng: np.random.Generator, labels: np.ndarray, mask: np.ndarray) -> None:
    image = save(tmp_path / "bold.nii.gz", rng.integers(1, 999, size=(*SHAPE, 3)))
    found = extract(image, save(tmp_path / "mask.nii.gz", mask, "uint8"), atlas_of(labels))
    for n in range(8):
        inside = int((mask & (labels == n + 1)).sum())
        assert found.n_used[n] == inside
        assert found.coverage[n] == (inside / (labels == n + 1).sum() if inside else 0)


def test_scaled_masks_select_what_they_mean(tmp_path: Path, rng: np.random.Generator, labels: np.ndarray) -> None:
    """TemplateFlow's mask is 255 with slope 1/255: its largest value is 1.0000000591, and == 1 selects nothing."""
    stored = np.where(np.arange(SHAPE[0])[:, None, None] < 6, 255, 0) * np.ones(SHAPE)
    brain = save(tmp_path / "mask.nii.gz", stored, "uint8", (1 / 255, 0.0))
    image = save(tmp_path / "bold.nii.gz", rng.integers(1, 999, size=(*SHAPE, 3)))
    found = extract(image, brain, atlas_of(labels))
    assert found.n_used.sum() == (labels[:6] > 0).sum()


@pytest.mark.parametrize("scaling", [None, (0.5, 100.0)])
def test_voxels_that_leave_the_field_of_view_do_not_count(
    tmp_path: Path, labels: np.ndarray, scaling: tuple[float, float] | None
) -> None:
    """All voxels are 1000; those that are zero now and then, or always, must not pull the mean down."""
    slope, intercept = scaling or (1.0, 0.0)
    data = np.full((*SHAPE, N_VOLUMES), 1000.0)
    of_region_1, of_region_2 = np.argwhere(labels == 1), np.argwhere(labels == 2)
    data[tuple(of_region_1[:3].T)] = 0
    data[(*of_region_2[0], 17)] = 0
    image = save(tmp_path / "bold.nii.gz", np.rint((data - intercept) / slope), "int16", scaling)
    found = extract(image, None, atlas_of(labels))
    np.testing.assert_allclose(found.series[:, [0, 1, 2, 4]], 1000)
    assert found.n_without_signal == 4
    assert found.n_used[0] == len(of_region_1) - 3 and found.n_used[1] == len(of_region_2) - 1


@pytest.mark.parametrize(("dtype", "scaling"), [("int16", None), ("int16", (0.5, -20.0)), ("float32", None)])
@pytest.mark.parametrize("where", ["edge", "middle", "both"])
def test_voxels_lost_at_the_edge_cost_no_second_pass(
    tmp_path: Path,
    rng: np.random.Generator,
    labels: np.ndarray,
    dtype: str,
    scaling: tuple[float, float] | None,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nine volumes with signal and then none: the voxels' nine values must be out of the sums again."""
    data = rng.integers(500, 999, size=(*SHAPE, N_VOLUMES)).astype(np.float64)
    outside = round(-scaling[1] / scaling[0]) if scaling else 0
    data[..., 0, :] = outside  # below the field of view
    lost = np.zeros(SHAPE, dtype=bool)
    lost[2:9, 3:9, 1] = where != "middle"
    lost[5, 5, 6] = where != "edge"
    data[lost, 9:] = outside
    image = save(tmp_path / "bold.nii.gz", data, dtype, scaling)
    passes = []
    opened = extraction._volumes
    monkeypatch.setattr(extraction, "_volumes", lambda path: passes.append(path) or opened(path))
    found = extract(image, None, atlas_of(labels))
    slope, intercept = scaling or (1.0, 0.0)
    kept = ~lost & (np.arange(SHAPE[2]) > 0)
    expected = [(data[kept & (labels == n)] * slope + intercept).mean(axis=0) for n in (1, 2, 3, 5, 6, 7, 8)]
    np.testing.assert_allclose(np.delete(found.series, 3, axis=1), np.array(expected).T, rtol=1e-10)
    assert len(passes) == (1 if where == "edge" else 2)


def test_values_around_zero_are_signal(tmp_path: Path, rng: np.random.Generator, labels: np.ndarray) -> None:
    """Denoised images have no mean: passing through zero is not leaving the field of view."""
    data = rng.integers(-3, 4, size=(*SHAPE, N_VOLUMES))
    data[..., 0], data[..., 1] = -3, 3
    image = save(tmp_path / "bold.nii.gz", data, "int16")
    assert extract(image, None, atlas_of(labels)).n_without_signal == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_do_not_count(tmp_path: Path, labels: np.ndarray, value: float) -> None:
    data = np.full((*SHAPE, N_VOLUMES), 10.0)
    of_region_1, of_region_2 = np.argwhere(labels == 1), np.argwhere(labels == 2)
    data[tuple(of_region_1[0])] = value
    data[(*of_region_2[0], 20)] = value
    data[tuple(np.argwhere(labels == 3).T)] = value
    found = extract(save(tmp_path / "bold.nii.gz", data), None, atlas_of(labels))
    np.testing.assert_allclose(found.series[:, [0, 1]], 10)
    assert found.n_used[0] == len(of_region_1) - 1 and found.n_used[1] == len(of_region_2) - 1
    assert np.isnan(found.series[:, 2]).all() and found.coverage[2] == 0


@pytest.mark.parametrize("reader", ["isal", "isal with a thread", "standard library"])
def test_every_truncation_and_every_flipped_bit_is_noticed(
    tmp_path: Path, rng: np.random.Generator, labels: np.ndarray, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader == "isal with a thread":
        monkeypatch.setattr(images, "THREADED_FROM_BYTES", 0)
    elif reader == "standard library":
        monkeypatch.setattr(images, "igzip", None)
        monkeypatch.setattr(images, "igzip_threaded", None)
    image = save(tmp_path / "bold.nii.gz", rng.integers(1, 999, size=(*SHAPE, N_VOLUMES)), "int16")
    atlas, content = atlas_of(labels), image.read_bytes()
    expected = extract(image, None, atlas).series
    for n_bytes in (*rng.integers(0, len(content), size=20), len(content) - 1, len(content) - 5, len(content) - 8):
        image.write_bytes(content[:n_bytes])
        with pytest.raises(RunExcluded, match=r"truncated image|damaged image"):
            extract(image, None, atlas)
    start = 10 + len("bold.nii") + 1  # after gzip's own header, whose bits say nothing of the content
    for position, bit in zip(rng.integers(start, len(content), size=500), rng.integers(0, 8, size=500), strict=True):
        flipped = bytearray(content)
        flipped[position] ^= 1 << bit
        image.write_bytes(bytes(flipped))
        with pytest.raises(RunExcluded, match=r"truncated image|damaged image"):
            extract(image, None, atlas)
    image.write_bytes(content)
    np.testing.assert_array_equal(extract(image, None, atlas).series, expected)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("n_bytes", "reason"), [(-1, "truncated image"), (-2000, "truncated image"), (7, "damaged image")]
)
def test_content_that_is_not_what_the_header_says(
    tmp_path: Path, labels: np.ndarray, suffix: str, n_bytes: int, reason: str
) -> None:
    """Whole gzip streams of too few or too many bytes, and uncompressed files of the wrong size."""
    image = save(tmp_path / "bold.nii", np.ones((*SHAPE, N_VOLUMES)), "int16")
    content = image.read_bytes()
    content = content[:n_bytes] if n_bytes < 0 else content + bytes(n_bytes)
    path = tmp_path / f"bold{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(RunExcluded, match=reason):
        extract(path, None, atlas_of(labels))


def test_files_that_are_no_images(tmp_path: Path, labels: np.ndarray) -> None:
    cases: dict[str, tuple[Any, str]] = {
        "missing.nii.gz": (None, "missing file"),
        "text.nii.gz": (gzip.compress(b"not an image" * 100), "damaged image"),
        "empty.nii.gz": (b"", "truncated image"),
        "volume.nii.gz": (np.ones(SHAPE), "not a series"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            save(path, content)
        with pytest.raises(RunExcluded, match=reason) as error:
            extract(path, None, atlas_of(labels))
        assert name in str(error.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_damaged_header_never_crashes(tmp_path: Path, labels: np.ndarray, suffix: str) -> None:
    """Every bit of every field that says size, type, place or scale, and some others, in a stream that is whole."""
    content = save(tmp_path / "whole.nii", np.ones((*SHAPE, 3)), "int16").read_bytes()
    image = tmp_path / f"bold{suffix}"
    always_refused = {*range(0, 4), *range(40, 50), *range(344, 347)}  # size of the header, shape, magic
    for position in (*always_refused, *range(50, 56), *range(70, 76), *range(108, 120), *range(252, 340, 3)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            image.write_bytes(gzip.compress(bytes(flipped), 1) if suffix == ".nii.gz" else bytes(flipped))
            try:
                extract(image, None, atlas_of(labels, *grid_of(image)))
            except RunExcluded:
                continue
            assert position not in always_refused, (position, bit)


def test_a_mask_that_is_shifted_by_half_a_voxel(tmp_path: Path, labels: np.ndarray) -> None:
    image = save(tmp_path / "bold.nii.gz", np.ones((*SHAPE, 3)))
    shifted = AFFINE.copy()
    shifted[0, 3] += 1.5
    nib.save(nib.Nifti1Image(np.ones(SHAPE, dtype=np.uint8), shifted), tmp_path / "mask.nii.gz")
    with pytest.raises(RunExcluded, match="mask on another grid"):
        extract(image, tmp_path / "mask.nii.gz", atlas_of(labels))


def test_memory_does_not_grow_with_the_length(tmp_path: Path, labels: np.ndarray) -> None:
    peaks = []
    for n_volumes in (80, 800):
        image = save(tmp_path / f"{n_volumes}.nii.gz", np.ones((*SHAPE, n_volumes)), "int16")
        tracemalloc.start()
        extract(image, None, atlas_of(labels))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    means = 720 * 8 * 8  # the longer run has 720 more rows of 8 means
    assert peaks[1] - peaks[0] < 6 * means, peaks
    assert extraction.VOLUMES_PER_READ < 80
