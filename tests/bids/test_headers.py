"""Headers, read from the first bytes alone."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuropipe.bids import headers
from neuropipe.errors import RunExcluded


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("unit", "zoom", "expected"),
    [("sec", 2.0, (2.0,)), ("msec", 800.0, (0.8,)), ("usec", 2e6, (2.0,)), ("sec", 0.0, ()), ("hz", 3.0, ())],
)
def test_what_nibabel_writes(
    tmp_path: Path,
    kind: type,
    byte_order: str,
    suffix: str,
    unit: str,
    zoom: float,
    expected: tuple[float, ...],
) -> None:
    header = kind.header_class(endianness=byte_order)
    image = kind(np.zeros((2, 3, 4, 17), dtype=f"{byte_order}i2"), np.eye(4), header)
    image.header.set_zooms((1, 1, 1, zoom))
    image.header.set_xyzt_units("mm", unit)
    nib.save(image, tmp_path / f"x{suffix}")
    found = headers.read(tmp_path / f"x{suffix}")
    assert found.n_volumes == 17 and found.t_r == pytest.approx(expected)


def test_an_unknown_unit_may_mean_either(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 3), dtype=np.uint8), np.eye(4))
    image.header.set_zooms((1, 1, 1, 2000))
    nib.save(image, tmp_path / "x.nii")
    assert headers.read(tmp_path / "x.nii").t_r == pytest.approx((2000.0, 2.0))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated image"),
        (b"short", "truncated image"),
        (gzip.compress(bytes(2000), mtime=0)[:15], "truncated image"),
        (gzip.compress(b"x" * 2000, mtime=0), "damaged image"),
    ],
)
def test_files_that_are_no_images(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    with pytest.raises(RunExcluded, match=r"x\.nii\.gz") as error:
        headers.read(path)
    assert error.value.reason == reason


def test_a_damaged_header_never_crashes(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 3), dtype=np.int16), np.eye(4))
    nib.save(image, tmp_path / "whole.nii")
    content = (tmp_path / "whole.nii").read_bytes()
    always_refused = {*range(0, 4), *range(344, 347)}  # size of the header, magic
    for position in (*always_refused, *range(40, 56), *range(70, 80), *range(92, 124)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            (tmp_path / "x.nii").write_bytes(bytes(flipped))
            try:
                found = headers.read(tmp_path / "x.nii")
            except RunExcluded:
                continue
            assert position not in always_refused, (position, bit)
            assert all(np.isfinite(value) for value in found.t_r) and found.n_volumes > 0
