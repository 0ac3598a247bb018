"""A lock on what a stage writes, so that an orphan of a killed run and its successor never write at once.

The lock is a small file that names host, pid and the process's start; a thread renews its time
stamp. A lock whose process is gone (same host) or whose time stamp stands still (another host) is stale
and taken over; a live one makes the newcomer wait, and finally give up with a clear message.

Clocks of two machines are never compared: a newcomer looks whether the time stamp changes, for as long
as its own clock says. Beats are seconds apart, so that stamps of whole seconds show them too.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuropipe.disk import refusals_told
from neuropipe.errors import LockedError

log = logging.getLogger("neuropipe")

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


class _Watch:
    """What one newcomer has seen of files that their holders renew.

    Parameters
    ----------
    patient : bool
        Whether there is time to watch. Without, time stamps are compared with this machine's clock, which
        is right where no other machine writes.
    """

    def __init__(self, patient: bool) -> None:
        self.patient = patient
        self._seen: dict[Path, tuple[tuple, float]] = {}
        self.beaten: set[Path] = set()

    def unchanged_s(self, path: Path) -> float:
        """Return for how many seconds `path` has been seen to stand still; 0 where it cannot be read."""
        try:
            with open(path, "rb") as handle:  # opening makes NFS ask the server, which a bare stat does not
                about = os.fstat(handle.fileno())
                state = (about.st_ino, about.st_mtime_ns, handle.read())
        except OSError:
            self._seen.pop(path, None)
            return 0.0
        if not self.patient:
            return time.time() - about.st_mtime
        now = time.monotonic()
        before, since = self._seen.get(path, (state, now))
        if before != state:
            since = now
            self.beaten.add(path)
        self._seen[path] = (state, since)
        return now - since

    def is_stale(self, path: Path) -> bool:
        """Return whether the lock is there and its holder is not alive."""
        unchanged_s, owner = self.unchanged_s(path), _owner(path)
        if owner["host"] == socket.gethostname():
            return not _is_running(owner["pid"], owner["start"])
        return unchanged_s >= STALE_AFTER_S

    def is_undecided(self, path: Path) -> bool:
        """Return whether the holder is on another machine and has neither beaten nor been still for long enough."""
        elsewhere = path.exists() and _owner(path)["host"] != socket.gethostname()
        return self.patient and elsewhere and path not in self.beaten


def _clear_stale(path: Path, watch: _Watch) -> bool:
    """Remove a dead holder's lock; return whether trying to take it again makes sense.

    Only the holder of a guard may look and remove. Without it, a slow successor could remove the
    fresh lock of a quick one, which it had seen as stale.
    """
    if not watch.is_stale(path):
        return not path.exists()
    guard = path.with_name(f"{path.name}.takeover")
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        if watch.unchanged_s(guard) > STALE_AFTER_S:  # killed within these few lines
            guard.unlink(missing_ok=True)
        return False
    try:
        if watch.is_stale(path):
            owner = _owner(path)
            log.warning("%s: taken over from process %s on %s, which is gone", path, owner["pid"], owner["host"])
            path.unlink()
        return True
    finally:
        guard.unlink(missing_ok=True)


def _take(path: Path, owner: dict, watch: _Watch) -> bool:
    """Try to become the holder; the hard link makes taking atomic on local and network file systems."""
    mine = path.with_name(f".{path.name}.{owner['host']}.{owner['pid']}")
    try:
        with refusals_told(path, mine):
            path.parent.mkdir(parents=True, exist_ok=True)
            mine.write_text(json.dumps(owner), encoding="utf-8")
        for _ in range(2):
            try:
                os.link(mine, path)
                return True
            except FileExistsError:
                if not _clear_stale(path, watch):
                    break
        return False
    finally:
        with suppress(OSError):
            mine.unlink()


def _wait_and_take(path: Path, owner: dict, wait_s: float) -> None:
    """Become the holder, or say who is."""
    watch, begun, told = _Watch(patient=wait_s > 0), time.monotonic(), False
    while not _take(path, owner, watch):
        undecided = watch.is_undecided(path)
        patience_s = max(wait_s, STALE_AFTER_S + HEARTBEAT_S) if undecided else wait_s
        if time.monotonic() - begun > patience_s:
            raise LockedError(_refusal(path))
        if undecided and not told:
            log.warning("%s; taken over if it gives no sign of life for %.0f s", _held_elsewhere(path), STALE_AFTER_S)
            told = True
        time.sleep(0.2)


def _refusal(path: Path) -> str:
    holder = _owner(path)
    if holder["host"] == socket.gethostname():
        return (
            f"{path} is held by process {holder['pid']} on {holder['host']}, which is still running. "
            "Wait for it, or stop it, then start this command again."
        )
    return f"{_held_elsewhere(path)}. Wait for it, or stop it there, then start this command again."


def _held_elsewhere(path: Path) -> str:
    holder = _owner(path)
    return (
        f"{path} is held by process {holder['pid']} on another machine, {holder['host']} "
        f"(if you know that it is gone: rm '{path}')"
    )


def _beat(path: Path, owner: dict, stop: threading.Event) -> None:
    """Renew the lock's time stamp until told to stop, or until it is somebody else's or gone."""
    while not stop.wait(HEARTBEAT_S):
        with suppress(OSError, ValueError):  # a file server that is away for a while ends no heart
            if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != owner:
                return
            os.utime(path)


@contextmanager
def lock(path: str | Path, wait_s: float = 30.0) -> Iterator[None]:
    """Hold `path` as a lock while the block runs.

    Parameters
    ----------
    path : path
        The lock file, beside what is written.
    wait_s : float
        How long to wait for a live holder, in seconds. One on another machine is waited for until it has
        been seen alive or still for `STALE_AFTER_S`. 0 is for folders of this machine alone.

    Raises
    ------
    LockedError
        A live process still holds the lock after `wait_s`.
    WriteError
        The lock cannot be written: the disk is full, or does not let itself be written to.
    """
    path = Path(path)
    me = {"host": socket.gethostname(), "pid": os.getpid(), "start": _process_start(os.getpid())}
    _wait_and_take(path, me, wait_s)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, me, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if _owner(path) == me:  # not where it was believed dead and succeeded
            with suppress(OSError):  # what went wrong within the block is what is told
                path.unlink()
