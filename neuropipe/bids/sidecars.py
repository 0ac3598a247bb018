"""JSON sidecars: a file's metadata by the BIDS inheritance principle."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from neuropipe.bids import entities
from neuropipe.bids.tree import Tree, check_fetched
from neuropipe.errors import RunExcluded

# One subject's and those above: the inherited ones are asked for with every file, the others once.
FOLDERS_KEPT, CONTENTS_KEPT = 16, 64


class Sidecars:
    """The sidecars of one dataset; what many files inherit is read once.

    Parameters
    ----------
    root : Path
        Top of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self.tree = Tree(root)
        self._in_folder = lru_cache(FOLDERS_KEPT)(self._find)
        self._content = lru_cache(CONTENTS_KEPT)(lambda path: read_sidecar(root / path))

    def of(self, path: str) -> dict[str, Any]:
        """Return the metadata of a file; the nearer sidecar wins, key by key.

        A sidecar applies where its entities all agree with the file's and its suffix is the same.

        Parameters
        ----------
        path : str
            Path of the file relative to the dataset.

        Raises
        ------
        RunExcluded
            A sidecar that applies is damaged or was never fetched.
        """
        *folders, name = path.split("/")
        pairs, suffix, _ = entities.split_name(name)
        merged: dict[str, Any] = {}
        for level in ("/".join(folders[:depth]) for depth in range(len(folders) + 1)):
            of_suffix = self._in_folder(level).get(suffix, ())
            for _, sidecar in sorted((len(other), path) for other, path in of_suffix if other.items() <= pairs.items()):
                merged |= self._content(sidecar)
        return merged

    def _find(self, folder: str) -> dict[str, list[tuple[dict[str, str], str]]]:
        """Return suffix -> (entities, path) of the sidecars in one folder."""
        found: dict[str, list[tuple[dict[str, str], str]]] = {}
        for name in self.tree.folder(folder).names:
            if name.endswith(".json"):
                pairs, suffix, _ = entities.split_name(name)
                found.setdefault(suffix, []).append((pairs, f"{folder}/{name}".lstrip("/")))
        return found


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read one sidecar.

    Raises
    ------
    RunExcluded
        It was never fetched, or is not a JSON object.
    """
    check_fetched(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RunExcluded("damaged sidecar", f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise RunExcluded("damaged sidecar", f"{path.name}: expected a JSON object, found {type(content).__name__}")
    return content
