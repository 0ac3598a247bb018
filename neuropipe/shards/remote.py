"""Tars that lie at a store: fetched when they are first asked for, into a cache of bounded size.

The cache is keyed by content, so two studies share a tar, and a tar has its name only once its hash was checked:

    <cache>/<sha256>.tar            complete; its time stamp is the last use
    <cache>/<sha256>.<bytes>.part   arrived so far; a later process goes on from its end

Who reads a tar or writes a part holds it by flock, which the system lets go when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import re
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from neuropipe.disk import refusals_told
from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import write_text
from neuropipe.provenance import read_json, sha256
from neuropipe.shards.stores import BLOCK_BYTES, Store, is_local

log = logging.getLogger("neuropipe")

TARS = "shards.tsv"  # name, bytes and sha256 of every tar
REMOTE = "remote.json"  # where they lie
CACHED = re.compile(r"[0-9a-f]{64}(?:\.tar|(?:\.(?P<promised>\d+))?\.part)")  # parts had no number at first
DEFAULT_CACHE_GB = 50.0
WAIT_S = 6 * 3600.0  # for another process that fetches the same tar
PATIENCE_S = 60.0  # where the cache is full of what is in use


class CacheFull(InputError):
    """All that lies in the cache is in use, and there is no room for more."""


def write_tars(folder: Path, names: list[str], hashes: dict[str, str] | None = None) -> pd.DataFrame:
    """Write ``shards.tsv`` for the tars of a folder and return it, by name; hashes that are not given are computed."""
    known = hashes or {}
    rows = [(name, (folder / name).stat().st_size, known.get(name) or sha256(folder / name)) for name in sorted(names)]
    table = pd.DataFrame(rows, columns=["shard", "bytes", "sha256"]).set_index("shard")
    write_text(folder / TARS, tars_text(table))
    return table


def tars_text(table: pd.DataFrame) -> str:
    """Return what ``shards.tsv`` holds."""
    return table.to_csv(sep="\t", lineterminator="\n")


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

    def open(self, store: Store, name: str, size: int, content: str, patience_s: float) -> np.ndarray:
        """Return a tar as a read-only memory map (uint8), fetched where it is not there yet.

        As long as the map or a view of it lives, no process removes the tar to make room. Where all that is there is
        in use, the end of some use is waited for, for up to `patience_s`.

        Raises
        ------
        InputError
            What lies at the store is not what ``shards.tsv`` names, or the store fails again and again.
        CacheFull
            Everything in the cache is in use.
        """
        path, begun = self.folder / f"{content}.tar", time.monotonic()
        while True:
            if (held := _held(path, size)) is not None:
                return held
            try:
                with lock(self.folder / f".lock-{content}", WAIT_S):
                    if not path.is_file():
                        with self._room(path.with_suffix(f".{size}.part"), size) as part:
                            _download(store, name, size, content, part, path)
            except CacheFull:
                if time.monotonic() - begun >= patience_s:
                    raise
                gc.collect()  # arrays that only a cycle of references holds are in use as well
                time.sleep(0.1)

    @contextmanager
    def _room(self, part: Path, size: int) -> Iterator[BinaryIO]:
        """Yield a part to append to, after tars were removed until it is within the bound when it is complete.

        The least recently used go first, and parts that nobody writes to after the tars. A part counts as what it
        will be, so that processes which fetch at the same time do not pass the bound together.
        """
        with lock(self.folder / ".lock-room", WAIT_S):
            found = [item for item in _listing(self.folder) if item[0] != part]
            excess = sum(n_bytes for _, _, n_bytes in found) + size - self.limit_gb * 1e9
            for path, _, n_bytes in sorted(found, key=lambda item: (item[0].suffix == ".part", item[1])):
                if excess > 0 and _remove_unused(path):
                    excess -= n_bytes
            if excess > 0:
                raise CacheFull(
                    f"{self.folder} may hold {self.limit_gb:g} GB, all in use; {excess / 1e9:.3g} GB more are needed. "
                    "Set NEUROPIPE_CACHE_GB higher, or NEUROPIPE_CACHE to a larger disk."
                )
            handle = open(part, "ab")  # noqa: SIM115 closed below, where the lock on the room is gone
            fcntl.flock(handle, fcntl.LOCK_EX)
        with handle:
            yield handle


def _listing(folder: Path) -> list[tuple[Path, float, int]]:
    """Return every tar and part with the time of its last use, and its size when it is complete.

    Files of other names are somebody else's: they neither count nor make room.
    """
    while True:
        with suppress(FileNotFoundError):  # a part got its name meanwhile
            named = [(path, CACHED.fullmatch(path.name)) for path in folder.glob("*")]
            found = [(path, name, path.stat()) for path, name in named if name]
            return [(path, stat.st_mtime, int(name["promised"] or stat.st_size)) for path, name, stat in found]


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
        with suppress(PermissionError):  # another user's, in a shared cache
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
    try:
        with open(path, "r+b") as handle:  # network file systems lock for one alone only what is open for writing
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (BlockingIOError, PermissionError, FileNotFoundError):  # in use, another user's, or a tar by now
        return False
    return True


def _download(store: Store, name: str, size: int, content: str, part: BinaryIO, path: Path) -> None:
    """Fetch a tar into its part, from where an earlier process came to; rename it once its hash is right."""
    for _ in range(2):  # what a killed machine left, or a line damaged, is fetched once more from the start
        _append(store, name, size, part)
        if (found := sha256(part.name)) == content:
            os.replace(part.name, path)
            log.info("%s: fetched, %.1f MB", store.path(name), size / 1e6)
            return
        log.warning("%s: expected sha256 %s, found %s", store.path(name), content, found)
        part.truncate(0)
    raise InputError(
        f"{store.path(name)}: expected content with sha256 {content}, found {found}, twice. It was damaged, or "
        "published again since: run `neuropipe fetch` again; if that does not help, delete it there and publish again."
    )


def _append(store: Store, name: str, size: int, part: BinaryIO) -> None:
    start = part.seek(0, os.SEEK_END)
    if start:
        log.info("%s: going on from byte %d of %d", store.path(name), start, size)
    with refusals_told(Path(part.name)):
        while start < size:
            block = store.block(name, start, min(start + BLOCK_BYTES, size), size)
            part.write(block)
            part.flush()
            start += len(block)
        os.fsync(part.fileno())


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

    @cached_property
    def fits_cache(self) -> bool:
        """Whether all tars together are within the bound of the cache, or need none."""
        return is_local(self.store.url) or self.tars["bytes"].sum() <= self.cache.limit_gb * 1e9

    def open(self, name: str, patience_s: float = PATIENCE_S) -> np.ndarray:
        """Return a tar as a memory map (uint8): from a path where it lies, from a store out of the cache."""
        if name not in self.tars.index:
            raise InputError(f"{self.folder / TARS} does not name {name}; run `neuropipe fetch` again.")
        row = self.tars.loc[name]
        if not is_local(self.store.url):
            return self.cache.open(self.store, name, int(row["bytes"]), row["sha256"], patience_s)
        path = Path(self.store.path(name).removeprefix("file://"))
        if not path.is_file() or path.stat().st_size != row["bytes"]:
            raise InputError(f"{path}: expected a tar of {row['bytes']} bytes; run `neuropipe fetch` again.")
        return np.memmap(path, dtype=np.uint8, mode="r")
