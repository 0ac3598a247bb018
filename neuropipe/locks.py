"""A lock on what a stage writes, so that an orphan of a killed run and its successor never write at once.

The lock is a small file that names host, pid and the process's start; a thread renews its time
stamp. A lock whose process is gone (same host) or whose heartbeat stopped (another host) is stale
and taken over; a live one makes the newcomer wait, and finally give up with a clear message.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuropipe.errors import LockedError

HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0


def _status(pid: int) -> list[str]:
    """Return the fields of a process's status from its state on; empty where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as handle:
            return handle.read().rpartition(")")[2].split()
    except OSError:
        return []


def _process_start(pid: int) -> str:
    """Return a string that differs between two processes which got the same pid, where the system tells."""
    fields = _status(pid)
    return fields[19] if len(fields) > 19 else ""


def _is_running(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    if _status(pid)[:1] == ["Z"]:  # dead, and not yet collected by its parent
        return False
    return not start or _process_start(pid) == start


def _owner(path: Path) -> dict:
    """Return what the lock says of its holder."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # gone this moment, or left broken by a full disk
        return {"host": "?", "pid": "?", "start": ""}


def _is_stale(path: Path) -> bool:
    """Return whether the lock is there and its holder is not alive."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    owner = _owner(path)
    if owner["host"] == socket.gethostname():
        return not _is_running(owner["pid"], owner["start"])
    return age >= STALE_AFTER_S


def _clear_stale(path: Path) -> bool:
    """Remove a dead holder's lock; return whether trying to take it again makes sense.

    Only the holder of a guard may look and remove. Without it, a slow successor could remove the
    fresh lock of a quick one, which it had seen as stale.
    """
    if not _is_stale(path):
        return not path.exists()
    guard = path.with_name(f"{path.name}.takeover")
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        with suppress(FileNotFoundError):
            if time.time() - guard.stat().st_mtime > STALE_AFTER_S:  # killed within these few lines
                guard.unlink()
        return False
    try:
        if _is_stale(path):
            path.unlink()
        return True
    finally:
        guard.unlink(missing_ok=True)


def _take(path: Path, owner: dict) -> bool:
    """Try to become the holder; the hard link makes taking atomic on local and network file systems."""
    mine = path.with_name(f".{path.name}.{owner['host']}.{owner['pid']}")
    mine.write_text(json.dumps(owner), encoding="utf-8")
    try:
        for _ in range(2):
            try:
                os.link(mine, path)
                return True
            except FileExistsError:
                if not _clear_stale(path):
                    break
        return False
    finally:
        mine.unlink(missing_ok=True)


@contextmanager
def lock(path: str | Path, wait_s: float = 30.0) -> Iterator[None]:
    """Hold `path` as a lock while the block runs.

    Parameters
    ----------
    path : path
        The lock file, beside what is written.
    wait_s : float
        How long to wait for a live holder, in seconds.

    Raises
    ------
    LockedError
        A live process still holds the lock after `wait_s`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    me = {"host": socket.gethostname(), "pid": os.getpid(), "start": _process_start(os.getpid())}
    deadline = time.monotonic() + wait_s
    while not _take(path, me):
        if time.monotonic() > deadline:
            holder = _owner(path)
            raise LockedError(
                f"{path} is held by process {holder['pid']} on {holder['host']}, which is still running. "
                "Wait for it, or stop it, then start this command again."
            )
        time.sleep(0.2)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                os.utime(path)
            except OSError:
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if _owner(path) == me:  # not where it was believed dead and succeeded
            path.unlink(missing_ok=True)
