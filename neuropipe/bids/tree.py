"""The folders of a dataset, each listed once, and whether a file has its content."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from neuropipe.errors import RunExcluded

# What stands in the place of a file's content where it was never fetched (git-annex without links, git-lfs).
POINTERS = (b"/annex/objects", b"version https://git-lfs")
POINTER_BYTES = 1024  # pointers are shorter
FOLDERS_KEPT = 16  # one subject's and those above; a large dataset must not fill the memory


@dataclass(frozen=True)
class Folder:
    """One folder: its path relative to the dataset, and what is in it, sorted.

    Attributes
    ----------
    path : str
        With ``/``; empty for the dataset itself.
    names : tuple of str
        Files, and links whose target is missing.
    folders : tuple of str
        Folders, and links to such.
    """

    path: str
    names: tuple[str, ...]
    folders: tuple[str, ...]


class Tree:
    """A dataset on disk.

    Parameters
    ----------
    root : Path
        Top of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = lru_cache(FOLDERS_KEPT)(self._list)

    def _list(self, path: str) -> Folder:
        """List one folder; what is not there, or may not be read, raises OSError."""
        names, folders = [], []
        with os.scandir(os.path.join(self.root, path)) as entries:
            for entry in entries:
                (folders if entry.is_dir() else names).append(entry.name)
        return Folder(path, tuple(sorted(names)), tuple(sorted(folders)))


def check_fetched(path: str | Path) -> None:
    """Raise `RunExcluded` where a file's content was never fetched (DataLad, git-annex, git-lfs), or is no file."""
    name = os.path.basename(path)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise RunExcluded(
                "not fetched", f"{name} is a link without content; fetch it (datalad get {name})"
            ) from None
        raise RunExcluded("missing file", f"{name} is not there; copy it again") from None
    if not stat.S_ISREG(found.st_mode):
        raise RunExcluded("missing file", f"{name} is not a file; copy it again")
    if found.st_size < POINTER_BYTES:
        with open(path, "rb") as handle:
            if handle.read(max(map(len, POINTERS))).startswith(POINTERS):
                raise RunExcluded(
                    "not fetched", f"{name} is a pointer without content; fetch it (datalad get, git lfs pull)"
                )
