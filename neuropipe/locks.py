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
from contextlib import contextmanager
from pathlib import Path

from neuropipe.errors import LockedError

HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0


def _process_start(pid: int) -> str:
    """Return a string that differs between two processes which got the same pid, where the system tells."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as handle:
            return handle.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_running(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    if _is_zombie(pid):
        return False
    return not start or _process_start(pid) == start


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as handle:
            return handle.read().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _holder(path: Path) -> dict | None:
    """Return who holds the lock, or None where nobody alive does."""
    try:
        age = time.time() - path.stat().st_mtime
        owner = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # being written this moment, or left broken by a full disk
        return {"host": "?", "pid": 0} if age < STALE_AFTER_S else None
    if owner["host"] == socket.gethostname():
        return owner if _is_running(owner["pid"], owner["start"]) else None
    return owner if age < STALE_AFTER_S else None


def _take(path: Path) -> bool:
    """Try to become the holder; the hard link makes taking atomic on local and network file systems."""
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "start": _process_start(os.getpid())}
    mine = path.with_name(f".{path.name}.{owner['host']}.{owner['pid']}")
    mine.write_text(json.dumps(owner), encoding="utf-8")
    try:
        if _holder(path) is None:
            # Rename the stale file away first: of several successors only one succeeds in this.
            stale = path.with_name(f"{mine.name}.stale")
            try:
                os.rename(path, stale)
                stale.unlink()
            except FileNotFoundError:
                pass
        os.link(mine, path)
        return True
    except FileExistsError:
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
    deadline = time.monotonic() + wait_s
    while not _take(path):
        if time.monotonic() > deadline:
            owner = _holder(path) or {"host": "?", "pid": "?"}
            raise LockedError(
                f"{path} is held by process {owner['pid']} on {owner['host']}, which is still running. "
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
        path.unlink(missing_ok=True)
