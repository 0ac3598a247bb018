"""Tars that lie at a store: fetched when they are first asked for, into a cache of bounded size.

The cache is keyed by content, so two studies share a tar, and a tar has its name only once its hash was checked:

    <cache>/<sha256>.tar     complete; its time stamp is the last use
    <cache>/<sha256>.part    arrived so far; a later process goes on from its end
"""

from __future__ import annotations

import fcntl
import logging
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import write_text
from neuropipe.provenance import read_json, sha256
from neuropipe.shards.stores import BLOCK_BYTES, Store, is_local

log = logging.getLogger("neuropipe")

TARS = "shards.tsv"  # name, bytes and sha256 of every tar
REMOTE = "remote.json"  # where they lie
DEFAULT_CACHE_GB = 50.0
WAIT_S = 6 * 3600.0  # for another process that fetches the same tar


class CacheFull(InputError):
    """All that lies in the cache is in use, and there is no room for more."""


def write_tars(folder: Path, names: list[str], hashes: dict[str, str] | None = None) -> pd.DataFrame:
    """Write ``shards.tsv`` for the tars of a folder and return it; hashes that are not given are computed."""
    known = hashes or {}
    rows = [(name, (folder / name).stat().st_size, known.get(name) or sha256(folder / name)) for name in sorted(names)]
    table = pd.DataFrame(rows, columns=["shard", "bytes", "sha256"])
    write_text(folder / TARS, table.to_csv(sep="\t", index=False, lineterminator="\n"))
    return table


def read_tars(path: Path) -> pd.DataFrame:
    """Return ``shards.tsv``, indexed by the names of the tars."""
    table = pd.read_csv(path, sep="\t", dtype={"shard": str, "sha256": str})
    if list(table.columns) != ["shard", "bytes", "sha256"]:
        raise InputError(f"{path}: expected the columns shard, bytes, sha256, found {', '.join(table.columns)}.")
    return table.set_index("shard")


def _setting_gb() -> float:
    text = os.environ.get("NEUROPIPE_CACHE_GB", str(DEFAULT_CACHE_GB))
    try:
        return float(text)
    except ValueError:
        raise InputError(f"NEUROPIPE_CACHE_GB: expected a number of GB, found {text!r}.") from None


def _setting_folder() -> Path:
    return Path(os.environ.get("NEUROPIPE_CACHE") or Path.home() / ".cache" / "neuropipe") / "shards"


@dataclass(frozen=True)
class Cache:
    """A folder of tars whose sizes together stay below a bound.

    Attributes
    ----------
    folder : path
        Default ``$NEUROPIPE_CACHE/shards``, else ``~/.cache/neuropipe/shards``.
    limit_gb : float
        In GB (1e9 bytes); default ``$NEUROPIPE_CACHE_GB``, else 50.
    """

    folder: Path = field(default_factory=_setting_folder)
    limit_gb: float = field(default_factory=_setting_gb)

    def open(self, store: Store, name: str, size: int, content: str) -> np.ndarray:
        """Return a tar as a read-only memory map (uint8), fetched where it is not there yet.

        As long as the map or a view of it lives, no process removes the tar to make room.

        Raises
        ------
        InputError
            What lies at the store is not what ``shards.tsv`` names, or the store fails again and again.
        CacheFull
            Everything in the cache is in use.
        """
        path = self.folder / f"{content}.tar"
        while True:
            if (held := _held(path, size)) is not None:
                return held
            with lock(self.folder / f".lock-{content}", WAIT_S):
                if not path.is_file():
                    self._make_room(size, path.with_suffix(".part"))
                    _download(store, name, size, content, path)

    def _make_room(self, size: int, own: Path) -> None:
        """Remove tars, the least recently used first, until `size` more bytes are within the bound.

        Parts of other tars count, and are removed after the tars: who fetches one holds its lock.
        """
        with lock(self.folder / ".lock-room", WAIT_S):
            found = [(path, path.stat()) for path in _files(self.folder) if path != own]
            excess = sum(stat.st_size for _, stat in found) + size - self.limit_gb * 1e9
            for path, stat in sorted(found, key=lambda pair: (pair[0].suffix == ".part", pair[1].st_mtime)):
                if excess > 0 and _remove_unused(path):
                    excess -= stat.st_size
            if excess > 0:
                raise CacheFull(
                    f"{self.folder} may hold {self.limit_gb:g} GB, all in use; {excess / 1e9:.3g} GB more are needed. "
                    "Set NEUROPIPE_CACHE_GB higher, or NEUROPIPE_CACHE to a larger disk."
                )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*") if path.suffix in (".tar", ".part"))


def _held(path: Path, size: int) -> np.ndarray | None:
    """Return the map of a complete tar, locked against removal until the last view is gone; None where it is not."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink == 0:  # removed between the two lines above
            os.close(descriptor)
            return None
        if (found := os.fstat(descriptor).st_size) != size:
            raise InputError(f"{path}: expected {size} bytes, found {found}; delete it, and it is fetched again.")
        os.utime(path)
        with os.fdopen(os.dup(descriptor), "rb") as handle:
            mapped = np.memmap(handle, dtype=np.uint8, mode="r")
    except BaseException:
        os.close(descriptor)
        raise
    weakref.finalize(mapped._mmap, os.close, descriptor)
    return mapped


def _remove_unused(path: Path) -> bool:
    """Remove a file that no process holds; return whether it is gone."""
    if path.suffix == ".part" and path.with_name(f".lock-{path.stem}").exists():
        return False
    with open(path, "rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
    return True


def _download(store: Store, name: str, size: int, content: str, path: Path) -> None:
    """Fetch a tar into its ``.part``, from where an earlier process came to; rename it once its hash is right."""
    part = path.with_suffix(".part")
    for _ in range(2):  # what a killed machine left, or a line damaged, is fetched once more from the start
        _append(store, name, size, part)
        if (found := sha256(part)) == content:
            os.replace(part, path)
            return
        log.warning("%s: expected sha256 %s, found %s", store.path(name), content, found)
        part.unlink()
    raise InputError(
        f"{store.path(name)}: expected content with sha256 {content}, found {found}, twice. It was damaged, or "
        "published again since: run `neuropipe fetch` again; if that does not help, delete it there and publish again."
    )


def _append(store: Store, name: str, size: int, part: Path) -> None:
    with open(part, "ab") as handle:
        if handle.tell() > size:
            handle.truncate(0)
        start = handle.tell()
        if start:
            log.info("%s: going on from byte %d of %d", store.path(name), start, size)
        while start < size:
            block = store.block(name, start, min(start + BLOCK_BYTES, size), size)
            handle.write(block)
            handle.flush()
            start += len(block)
        os.fsync(handle.fileno())


@dataclass(frozen=True)
class Remote:
    """The tars of a folder of shards that lie elsewhere.

    Attributes
    ----------
    folder : path
        Folder with ``remote.json`` and ``shards.tsv``.
    """

    folder: Path

    @cached_property
    def store(self) -> Store:
        """Where the tars lie."""
        return Store(read_json(self.folder / REMOTE)["url"])

    @cached_property
    def tars(self) -> pd.DataFrame:
        """Bytes and sha256 of every tar, by its name."""
        return read_tars(self.folder / TARS)

    @cached_property
    def cache(self) -> Cache:
        """The cache that the environment names."""
        return Cache()

    def open(self, name: str) -> np.ndarray:
        """Return a tar as a memory map (uint8): from a path where it lies, from a store out of the cache."""
        if name not in self.tars.index:
            raise InputError(f"{self.folder / TARS} does not name {name}; run `neuropipe fetch` again.")
        row = self.tars.loc[name]
        if not is_local(self.store.url):
            return self.cache.open(self.store, name, int(row["bytes"]), row["sha256"])
        path = Path(self.store.path(name).removeprefix("file://"))
        if not path.is_file() or path.stat().st_size != row["bytes"]:
            raise InputError(f"{path}: expected a tar of {row['bytes']} bytes; run `neuropipe fetch` again.")
        return np.memmap(path, dtype=np.uint8, mode="r")
