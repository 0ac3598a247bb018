"""What an index needs of an image: length and repetition time, read from the first bytes."""

from __future__ import annotations

from pathlib import Path

from neuropipe.errors import RunExcluded
from neuropipe.signals import images

POINTERS = (b"/annex/objects", b"version https://git-lfs")


def read(path: Path) -> images.Layout:
    """Read the header of a 4-D NIfTI image.

    Raises
    ------
    RunExcluded
        The file has no content, its start is damaged, or it is not a 4-D image.
    """
    with images.damage_excludes(path.name):
        with open(path, "rb") as handle:
            if handle.read(32).startswith(POINTERS):
                raise RunExcluded(
                    "not fetched", f"{path.name} is a pointer without content; fetch it (datalad get, git lfs pull)"
                )
        with images.open_stream(path, whole=False) as stream:
            layout = images.read_layout(stream, path)
    if len(layout.shape) != 4:
        raise RunExcluded(
            "not a series", f"{path.name}: expected a 4-D image (x, y, z, time), found shape {layout.shape}"
        )
    return layout
