"""JSON sidecars: a file's metadata by the BIDS inheritance principle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from neuropipe.bids import entities
from neuropipe.errors import RunExcluded


class Sidecars:
    """The sidecars of one dataset; each is read once, however many files it applies to.

    Parameters
    ----------
    root : Path
        Top of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, list[str]] = {}
        self._contents: dict[str, dict[str, Any]] = {}

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
            applying = []
            for sidecar in self._in_folder(level):
                other, other_suffix, _ = entities.split_name(sidecar)
                if other_suffix == suffix and other.items() <= pairs.items():
                    applying.append((len(other), f"{level}/{sidecar}".lstrip("/")))
            for _, sidecar in sorted(applying):
                merged |= self._content(sidecar)
        return merged

    def _in_folder(self, folder: str) -> list[str]:
        if folder not in self._names:
            with os.scandir(self.root / folder) as entries:
                self._names[folder] = sorted(entry.name for entry in entries if entry.name.endswith(".json"))
        return self._names[folder]

    def _content(self, path: str) -> dict[str, Any]:
        if path not in self._contents:
            self._contents[path] = read_sidecar(self.root / path)
        return self._contents[path]


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read one sidecar.

    Raises
    ------
    RunExcluded
        It is a link without content, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise RunExcluded("not fetched", f"{path.name} is a link without content; fetch it (datalad get)") from error
    except (OSError, ValueError) as error:
        raise RunExcluded("damaged sidecar", f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise RunExcluded("damaged sidecar", f"{path.name}: expected a JSON object, found {type(content).__name__}")
    return content
