"""Where fetched atlases and transforms lie, and that they are still what was published or first fetched."""

from __future__ import annotations

import os
from pathlib import Path

from neuropipe.errors import AtlasError
from neuropipe.provenance import sha256
from neuropipe.signals.catalogue import Remote


def cache_folder() -> Path:
    """Return the folder of all that is fetched: ``atlases`` in ``NEUROPIPE_CACHE``, or in ``~/.cache/neuropipe``."""
    return Path(os.environ.get("NEUROPIPE_CACHE") or Path.home() / ".cache" / "neuropipe") / "atlases"


def templateflow_folder() -> Path:
    """Return where TemplateFlow's files are fetched to: ``TEMPLATEFLOW_HOME`` where it is set, or the cache."""
    home = os.environ.get("TEMPLATEFLOW_HOME")
    return Path(home) if home else cache_folder() / "templateflow"


def locate(remote: Remote) -> Path | None:
    """Return where a file lies on this machine, or None where it was never fetched.

    TemplateFlow's files are looked for in its own default folder too, where fMRIPrep keeps them.
    """
    places = [cache_folder() / remote.file]
    if remote.source == "templateflow":
        folders = (templateflow_folder(), Path.home() / ".cache" / "templateflow")
        places = [folder / remote.file for folder in folders] + places
    # TemplateFlow's skeleton holds empty files for what it has not downloaded.
    return next((place for place in places if place.is_file() and place.stat().st_size > 0), None)


def record_of(remote: Remote) -> Path:
    """Return the file that keeps the checksum of the first fetch; always in the cache, which is ours to write."""
    return cache_folder() / f"{remote.file}.sha256"


def verified(remote: Remote, name: str) -> tuple[Path, str]:
    """Return a fetched file and its checksum.

    Parameters
    ----------
    remote : Remote
        The file.
    name : str
        What `neuropipe atlas fetch` calls it.

    Raises
    ------
    AtlasError
        The file was not fetched, or differs from what was published, or from what was first fetched.
    """
    path = locate(remote)
    if path is None:
        raise AtlasError(
            f"{name} is not on this machine ({remote.file} is neither in {cache_folder()} nor in "
            f"TEMPLATEFLOW_HOME). Fetch it once, with a network: neuropipe atlas fetch {name}"
        )
    found, record = sha256(path), record_of(remote)
    expected = remote.sha256 or (record.read_text(encoding="utf-8").split()[0] if record.is_file() else found)
    if found != expected:
        raise AtlasError(
            f"{path} of {name} was altered: expected SHA-256 {expected}, found {found}. "
            f"Delete it and fetch it again: neuropipe atlas fetch {name}"
        )
    return path, found
