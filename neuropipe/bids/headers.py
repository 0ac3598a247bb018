"""The first bytes of a NIfTI file: number of volumes and repetition time, without reading the image."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nibabel as nib

from neuropipe.errors import RunExcluded

HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 needs 348
SECONDS_PER_UNIT = {"sec": (1.0,), "msec": (1e-3,), "usec": (1e-6,), "unknown": (1.0, 1e-3)}


@dataclass(frozen=True)
class Header:
    """What an index needs of an image.

    Attributes
    ----------
    n_volumes : int
        Length of the time axis.
    t_r : tuple of float
        The repetition times in s that the header may mean: none where it says 0, two where it
        does not name the unit.
    """

    n_volumes: int
    t_r: tuple[float, ...]


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as handle:
        start = handle.read(2)
        if start == b"\x1f\x8b":
            with gzip.open(path) as stream:
                return stream.read(HEADER_BYTES)
        return start + handle.read(HEADER_BYTES - 2)


def read(path: Path) -> Header:
    """Read the header of a 4-D NIfTI image.

    Raises
    ------
    RunExcluded
        The file has no content, its start is damaged, or it is not a 4-D image.
    """
    try:
        start = _first_bytes(path)
    except (OSError, EOFError, zlib.error) as error:
        raise RunExcluded(
            "truncated image", f"{path.name}: the header cannot be read ({error}); copy it again"
        ) from error
    if start.startswith((b"/annex/objects", b"version https://git-lfs")):
        raise RunExcluded(
            "not fetched", f"{path.name} is a pointer without content; fetch it (datalad get, git lfs pull)"
        )
    kind = nib.Nifti2Header if start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Header
    size = kind.template_dtype.itemsize
    if len(start) < size:
        raise RunExcluded("truncated image", f"{path.name}: expected a header of {size} bytes, found {len(start)}")
    try:
        header = kind.from_fileobj(BytesIO(start[:size] + b"\0\0\0\0"), check=True)
        shape, units = header.get_data_shape(), header.get_xyzt_units()[1]
    except (nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError, KeyError) as error:
        raise RunExcluded("damaged image", f"{path.name} is not a NIfTI image: {error}") from error
    if len(shape) != 4:
        raise RunExcluded("not a series", f"{path.name}: expected a 4-D image (x, y, z, time), found shape {shape}")
    zoom = float(header["pixdim"][4])
    t_r = tuple(zoom * factor for factor in SECONDS_PER_UNIT.get(units, ())) if zoom > 0 else ()
    return Header(int(shape[3]), t_r)
