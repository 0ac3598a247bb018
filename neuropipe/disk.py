"""What to say where a disk refuses what is to be written: full, over quota, for reading only, or gone."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuropipe.errors import NeuropipeError, RunExcluded, WriteError

MB = 1_000_000
PROBE_BYTES = 1 << 20

# Errors of which a writer in C may give no more than "write failed", with what they mean and what to do.
TOO_MUCH = {
    errno.ENOSPC: ("the disk is full", "Make room there, or have results/ on a larger disk"),
    errno.EDQUOT: ("your quota is used up", "Delete what you can spare, or ask for more (`quota -s` shows it)"),
    errno.EFBIG: ("files may not be that large here", "Raise the limit (`ulimit -f`), or use another file system"),
}
NO_WAY = {
    errno.EROFS: ("its file system is for reading only", "Have results/ where you may write"),
    errno.EACCES: ("you may not write there", "Have results/ where you may write, or change the folder's permissions"),
    errno.EPERM: ("you may not write there", "Have results/ where you may write, or change the folder's permissions"),
    errno.ENOENT: ("its folder was removed meanwhile", "Leave results/ alone while a command runs"),
    errno.ESTALE: ("its folder was removed meanwhile", "Leave results/ alone while a command runs"),
    errno.EIO: ("the disk reports an error", "Have the disk looked at (`dmesg`), or use another one"),
}
REFUSALS = TOO_MUCH | NO_WAY


@contextmanager
def refusals_told(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn a disk's refusal to take `path` into one clear line; all other errors pass.

    Parameters
    ----------
    path : Path
        What is written in the end.
    temporary : Path, optional
        What is written first; it is removed before free space is looked at.

    Raises
    ------
    WriteError
        The disk refused.
    """
    try:
        yield
    except (NeuropipeError, RunExcluded):
        raise
    except Exception as error:
        number = _refusal(error, path, temporary)
        if number is None:
            raise
        raise WriteError(_message(number, path, _removed_bytes(temporary))) from error


def _refusal(error: BaseException, path: Path, temporary: Path | None) -> int | None:
    """Return the number of the refusal that `error` tells of, or None where it tells of something else."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in REFUSALS and _is_about(link, path, temporary):
            return link.errno
        link = link.__cause__ or link.__context__
    # numpy, torch, HDF5 and safetensors have errors of their own, often without a number: the disk is asked itself.
    return _probe(temporary) if temporary is not None else None


def _is_about(error: OSError, path: Path, temporary: Path | None) -> bool:
    """Return whether an error tells of writing `path`, and not of something that was read meanwhile."""
    if error.filename is None:
        named = temporary is not None and temporary.name in str(error)  # pyarrow names files in its text only
        return named or error.errno in TOO_MUCH
    return Path(os.fsdecode(error.filename)) in (temporary, path, *path.parents)


def _probe(temporary: Path) -> int | None:
    """Try to make what is half written longer; return the number of the refusal, if it is one."""
    try:
        with open(temporary, "ab") as handle:
            handle.write(bytes(PROBE_BYTES))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        return error.errno if error.errno in REFUSALS else None
    return None


def _removed_bytes(temporary: Path | None) -> int:
    """Remove what is half written; return how long it had become."""
    n_bytes = 0
    if temporary is not None:
        with suppress(OSError):
            n_bytes = temporary.stat().st_size
            temporary.unlink()
    return n_bytes


def _message(number: int, path: Path, n_bytes: int) -> str:
    what, remedy = REFUSALS[number]
    room = ""
    if number in TOO_MUCH:
        room = f" after {n_bytes / MB:.1f} MB{_free(path)}"
    return f"{path} could not be written: {what}{room}. {remedy}, then start this command again; finished work is kept."


def _free(path: Path) -> str:
    """Return how much is free where `path` lies, or nothing where the system does not tell."""
    with suppress(OSError):
        where = next(folder for folder in path.absolute().parents if folder.is_dir())
        return f", with {shutil.disk_usage(where).free / MB:.1f} MB free in {where}"
    return ""
