"""The folders of a dataset of subjects, each listed once, and whether a file has its content."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from neuropipe.errors import InputError, RunExcluded

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
    folders: tuple[str, ...] = ()


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


def subjects(tree: Tree, dataset: str) -> list[str]:
    """Return the names of the subject folders, also of links to such without content.

    Raises
    ------
    InputError
        There are none; where folders below hold some, they are named.
    """
    root = tree.root
    if not root.is_dir():
        raise InputError(
            f"No folder {root}; expected fMRIPrep derivatives (sub-*/func). Correct datasets.{dataset}.path."
        )
    found = _subject_names(tree.folder(""))
    if found:
        return found
    above = [place for place in ("", "derivatives") if (root / place).is_dir()]
    below = [f"{place}/{name}".lstrip("/") for place in above for name in tree.folder(place).folders]
    below = [str(root / folder) for folder in below if _subject_names(tree.folder(folder))]
    hint = f" There are some in {', '.join(below)}: name one of them (two builds of one run are two datasets)."
    raise InputError(
        f"{root} holds no sub-* folders; expected fMRIPrep derivatives.{hint if below else ''} "
        f"Correct datasets.{dataset}.path."
    )


def _subject_names(folder: Folder) -> list[str]:
    # Reports are called sub-01.html; a link whose target is missing is no folder, and is not to disappear either.
    return sorted(n for n in (*folder.folders, *folder.names) if re.fullmatch(r"sub-[^.]+", n))


def functional_folders(root: Path) -> Iterator[tuple[str, list[Folder]]]:
    """Yield each subject folder's name with its ``func`` folders."""
    tree = Tree(root)
    for subject in _subject_names(tree.folder("")):
        if (root / subject).is_dir():
            yield subject, list(folders_of(tree, subject))


def folders_of(tree: Tree, subject: str, datatype: str = "func") -> Iterator[Folder]:
    """Yield the folders of one datatype of a subject and of its sessions; nothing else of the tree is entered."""
    top = tree.folder(subject)
    levels = [top, *(tree.folder(f"{subject}/{name}") for name in top.folders if name.startswith("ses-"))]
    for level in levels:
        if datatype in level.folders:
            yield tree.folder(f"{level.path}/{datatype}")


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
