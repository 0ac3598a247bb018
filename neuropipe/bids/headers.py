"""What an index needs of an image: length and repetition time, read from the first bytes."""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path

from neuropipe.errors import RunExcluded
from neuropipe.signals import images

BLOCK = 1 << 12  # bytes
LARGEST_HEADER = 540  # bytes, of NIfTI-2


def read(path: Path) -> images.Layout:
    """Read the header of a 4-D NIfTI image.

    Raises
    ------
    RunExcluded
        The file's start is damaged, or it is not a 4-D image.
    """
    with images.damage_excludes(path.name):
        layout = images.read_layout(BytesIO(_start(path)), path)
    if len(layout.shape) != 4:
        raise RunExcluded(
            "not a series", f"{path.name}: expected a 4-D image (x, y, z, time), found shape {layout.shape}"
        )
    return layout


def _start(path: Path) -> bytes:
    """Return at least the header's bytes, inflated; fewer where the file ends before."""
    with open(path, "rb", buffering=0) as handle:
        block = handle.read(BLOCK)
        if not block.startswith(images.GZIP_MAGIC):
            return block
        inflate, start = zlib.decompressobj(wbits=31), b""
        while block and len(start) < LARGEST_HEADER:
            start += inflate.decompress(block, BLOCK)
            block = handle.read(BLOCK)
    return start
