"""Every sample once, in the manifest's order of tars, straight from a store: for data larger than any disk here.

webdataset parts the tars; what it is given is a stream that goes on where a connection broke, and what
it returns is compared with the manifest: no sample is lost, doubled or damaged without an error.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.shards import remote
from neuropipe.shards.read import Shards
from neuropipe.shards.sample import content_hash, npy
from neuropipe.shards.stores import BLOCK_BYTES, Store

Streamed = tuple[int, np.ndarray, dict[str, Any]]


class TarStream(io.RawIOBase):
    """A tar at a store as a readable stream that holds one block of it.

    Parameters
    ----------
    store, name, size
        Where it lies, and its bytes.
    start : int
        First byte that is read: where a member's header begins.
    """

    def __init__(self, store: Store, name: str, size: int, start: int = 0) -> None:
        super().__init__()
        self.store, self.name, self.size, self.position = store, name, size, start
        self._block, self._block_start = b"", start

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the block at hand goes; ask for the next where it is used up."""
        if self.position >= self.size:
            return 0
        within = self.position - self._block_start
        if within >= len(self._block):
            stop = min(self.position + BLOCK_BYTES, self.size)
            self._block = self.store.block(self.name, self.position, stop, self.size)
            self._block_start, within = self.position, 0
        given = self._block[within : within + len(buffer)]
        buffer[: len(given)] = given
        self.position += len(given)
        return len(given)


def stream(shards: Shards, after: str | None = None) -> Iterator[Streamed]:
    """Yield (row of the manifest, array as stored, facts of the sample) of every sample, tar by tar.

    Parameters
    ----------
    shards : Shards
        With tars beside the manifest, or at the store that ``neuropipe fetch`` was told.
    after : str, optional
        Key of the last sample that was dealt with: the stream starts behind it, in the middle of its tar.

    Raises
    ------
    InputError
        A sample is damaged, doubled or missing, or the store fails again and again.
    """
    rows = shards.manifest.reset_index(names="row").sort_values(["shard", "offset"], ignore_index=True)
    start = 0
    if after is not None:
        found = rows.index[rows["key"] == after]
        if len(found) == 0:
            raise InputError(f"{shards.folder} has no sample {after!r}; name the key of a row of its manifest.")
        start = int(found[0]) + 1
    here = not (shards.folder / remote.REMOTE).is_file()
    store = Store(str(shards.folder)) if here else shards.remote.store
    for shard, own in rows.iloc[start:].groupby("shard", sort=True):
        size = (shards.folder / shard).stat().st_size if here else int(shards.remote.tars.at[shard, "bytes"])
        whole = rows["shard"].eq(shard).sum() == len(own)
        first = 0 if whole else _header(own.iloc[0])
        yield from _tar(TarStream(store, shard, size, first), own)


def _header(row: pd.Series) -> int:
    """Return where a sample begins in its tar: at the header of its array.

    The values stand behind the header of the ``.npy``, which is written to a multiple of 64 bytes, and that behind
    the tar's own; a long name has two more blocks before it.
    """
    content = npy(np.empty(row["shape"], row["dtype"]))
    start = row["offset"] - (len(content) - row["nbytes"])
    header = tarfile.TarInfo(row["member"])
    header.size = len(content)
    return int(start - len(header.tobuf(format=tarfile.GNU_FORMAT)))


def _tar(source: TarStream, rows: pd.DataFrame) -> Iterator[Streamed]:
    """Yield the samples of one tar; they must be those of `rows`, in their order."""
    where = source.store.path(source.name)
    expected = rows.itertuples()
    for sample in _members(source, where):
        row = next(expected, None)
        if row is None or sample["__key__"] != row.key:
            raise InputError(f"{where}: expected {row.key if row else 'its end'}, found {sample['__key__']}.")
        try:
            array = np.load(io.BytesIO(sample[f"{row.content}.npy"]), allow_pickle=False)
            facts = json.loads(sample["json"])
        except (KeyError, ValueError, EOFError):  # a member is missing, or is no longer what its name says
            array, facts = None, {}
        if array is None or content_hash(array) != row.sha256:
            raise InputError(f"{where}: {row.member} is damaged; delete the tar there and publish it again.")
        yield row.row, array, facts
    if (row := next(expected, None)) is not None:
        raise InputError(f"{where} ends before {row.key}; delete the tar there and publish it again.")


def _members(source: TarStream, where: str) -> Iterator[dict[str, Any]]:
    """Yield the members of a tar by sample, as bytes: webdataset's own decoders would load pickles."""
    from webdataset import tariterators

    try:
        files = tariterators.tar_file_expander([{"url": where, "stream": io.BufferedReader(source)}])
        yield from (sample for sample in tariterators.group_by_keys(files) if "__key__" in sample)
    except (tarfile.TarError, EOFError, ValueError) as error:  # the last: a member is there twice
        raise InputError(f"{where} is no whole tar: {error.args[0]}. Delete it there and publish it again.") from error
