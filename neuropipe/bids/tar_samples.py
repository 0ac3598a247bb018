"""Samples of a WebDataset tar: members that lie one behind the other and share a key, the name up to its first dot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neuropipe import restricted_pickle
from neuropipe.bids.fmriprep import check_fetched
from neuropipe.errors import InputError, RunExcluded

SERIES = ("bold.pyd", "bold.npy", "series.npy")


@dataclass(frozen=True)
class Sample:
    """One sample of a tar: its key, where its first member starts, and its members by field."""

    key: str
    offset: int
    members: dict[str, bytes] = field(default_factory=dict)

    def series(self) -> np.ndarray:
        """Return the series (time, region) as stored."""
        part = next((part for part in SERIES if part in self.members), None)
        if part is None:
            raise RunExcluded(
                "no series", f"{self.key}: expected {' or '.join(SERIES)}, found {', '.join(self.members)}"
            )
        series = self.value(part)
        if not isinstance(series, np.ndarray) or series.ndim != 2 or not series.size or series.dtype.kind not in "fiu":
            found = f"shape {series.shape}, {series.dtype}" if isinstance(series, np.ndarray) else type(series).__name__
            raise RunExcluded("damaged table", f"{self.key}.{part}: expected numbers (time, region), found {found}")
        return series

    def unpickled(self, part: str) -> Any:
        """Return what a ``.pyd`` member holds; what could run code excludes the run."""
        try:
            return restricted_pickle.loads(self.members[part], f"{self.key}.{part}")
        except InputError as error:
            raise RunExcluded("unsafe or damaged pickle", str(error)) from error

    def value(self, part: str) -> Any:
        """Return what a ``.pyd`` or ``.npy`` member holds; a number where it is of one."""
        found = self.unpickled(part) if part.endswith(".pyd") else self.array(part)
        return found.item() if isinstance(found, np.generic | np.ndarray) and np.ndim(found) == 0 else found

    def array(self, part: str) -> np.ndarray:
        """Return the array of a ``.npy`` member."""
        try:
            return np.load(io.BytesIO(self.members[part]), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise RunExcluded("damaged table", f"{self.key}.{part} is no .npy array: {error}") from error


def samples(path: Path) -> Iterator[Sample]:
    """Yield the samples of a tar in order.

    Raises
    ------
    RunExcluded
        The tar is damaged or ends early.
    """
    check_fetched(path)
    yield from _samples_from(path, 0)


def sample_at(path: Path, offset: int) -> Sample:
    """Return the sample whose first member starts at a byte of the tar."""
    check_fetched(path)
    for sample in _samples_from(path, offset):
        return sample
    raise RunExcluded("changed since index", f"{path.name} ends before byte {offset}; index again")


def _samples_from(path: Path, offset: int) -> Iterator[Sample]:
    current: Sample | None = None
    try:
        with open(path, "rb") as handle:
            handle.seek(offset)
            with tarfile.open(fileobj=handle, mode="r:") as tar:
                for member in tar:
                    key, _, part = member.name.rpartition("/")[2].partition(".")
                    if not member.isfile():
                        continue
                    if current is None or key != current.key:
                        if current is not None:
                            yield current
                        current = Sample(key, member.offset)
                    current.members[part or "text"] = _content(tar, member)
                handle.seek(tar.offset)  # tarfile takes half a header for the end
                if 0 < len(rest := handle.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                    raise tarfile.ReadError(f"it ends with {len(rest)} bytes of a header")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise RunExcluded("damaged tar", f"{path.name} is no whole tar: {error}; copy it again") from error
    if current is not None:
        yield current


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(member)
    content = handle.read() if handle else b""
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name} ends after {len(content)} of {member.size} bytes")
    return content
