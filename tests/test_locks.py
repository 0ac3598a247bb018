"""The lock: one writer at a time, and a dead one does not block the next."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from neuropipe import locks
from neuropipe.errors import LockedError
from neuropipe.locks import STALE_AFTER_S, lock

HOLD = """
import sys, time
from neuropipe.locks import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_live_holder_is_waited_for_and_named(tmp_path):
    path = tmp_path / "lock"
    holder = hold(path)
    try:
        with pytest.raises(LockedError, match=f"held by process {holder.pid}"), lock(path, wait_s=0.3):
            pass
    finally:
        holder.kill()
        holder.wait()


def test_a_killed_holder_is_succeeded_at_once(tmp_path):
    path = tmp_path / "lock"
    holder = hold(path)
    holder.kill()
    holder.wait()
    begun = time.monotonic()
    with lock(path, wait_s=5):
        assert time.monotonic() - begun < 2
    assert not path.exists()


def held_elsewhere(path, clock_s=0.0):
    """Write the lock of another machine, whose clock differs from ours."""
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": ""}))
    beat(path, clock_s)


def beat(path, clock_s):
    """Renew the lock as a file system does that keeps whole seconds."""
    now = int(time.time() + clock_s)
    os.utime(path, (now, now))


@pytest.fixture
def hasty(monkeypatch):
    """A minute's silence takes 1.5 s."""
    monkeypatch.setattr(locks, "STALE_AFTER_S", 1.5)
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.5)


@pytest.mark.parametrize("clock_s", [-3600, *(pytest.param(s, marks=pytest.mark.slow) for s in (0, 3600))])
def test_another_machine_is_believed_while_its_heart_beats_whatever_its_clock(tmp_path, hasty, clock_s):
    path, stop = tmp_path / "lock", threading.Event()
    held_elsewhere(path, clock_s)

    def live():
        while not stop.wait(0.5):
            beat(path, clock_s)

    heart = threading.Thread(target=live)
    heart.start()
    try:
        expected = rf"held by process 1 on another machine, elsewhere \(if you know that it is gone: rm '{path}'\)"
        with pytest.raises(LockedError, match=expected), lock(path, wait_s=2.5):
            pass
    finally:
        stop.set()
        heart.join()
    assert json.loads(path.read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("clock_s", [pytest.param(-3600, marks=pytest.mark.slow), 3600])
def test_another_machine_that_is_silent_is_waited_for_aloud_and_succeeded(tmp_path, hasty, clock_s, caplog):
    path, begun = tmp_path / "lock", time.monotonic()
    held_elsewhere(path, clock_s)
    caplog.set_level(logging.WARNING, logger="neuropipe")
    with lock(path, wait_s=0.1):
        assert json.loads(path.read_text())["host"] == socket.gethostname()
        assert time.monotonic() - begun >= 1.5
    waiting, taken = caplog.messages
    assert "on another machine, elsewhere" in waiting and f"rm '{path}'" in waiting
    assert waiting.endswith("taken over if it gives no sign of life for 2 s")
    assert taken == f"{path}: taken over from process 1 on elsewhere, which is gone"
    assert os.listdir(tmp_path) == []


def test_a_lock_that_cannot_be_read_is_not_waited_for_without_end(tmp_path, hasty, monkeypatch):
    path = tmp_path / "lock"
    held_elsewhere(path)
    monkeypatch.setattr(locks._Watch, "unchanged_s", lambda *_: 0.0)
    with pytest.raises(LockedError, match=r"process 1"), lock(path, wait_s=0.1):
        pass


def test_where_one_machine_writes_nobody_is_waited_for(tmp_path):
    """GPUs are agreed on in a folder of the machine; a container of another name may have left its lock there."""
    path = tmp_path / "lock"
    held_elsewhere(path)
    begun = time.monotonic()
    with pytest.raises(LockedError, match="elsewhere"), lock(path, wait_s=0):
        pass
    beat(path, -STALE_AFTER_S - 2)
    with lock(path, wait_s=0):
        pass
    assert time.monotonic() - begun < 1


def test_a_heart_survives_a_file_server_that_is_away_and_stops_when_succeeded(tmp_path, monkeypatch):
    path, utime, failures = tmp_path / "lock", os.utime, []

    def away(target):
        if len(failures) < 2:
            failures.append(target)
            raise OSError(errno.ESTALE, "Stale file handle", str(target))
        utime(target)

    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr("os.utime", away)
    with lock(path):
        utime(path, (0, 0))
        wait_until(lambda: path.stat().st_mtime > 0)
        assert len(failures) == 2
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": ""}))
        time.sleep(0.05)  # a beat may be under way
        utime(path, (0, 0))
        time.sleep(0.1)
        assert path.stat().st_mtime == 0, "the successor's lock was renewed by its predecessor"
    assert path.exists(), "the successor's lock was removed by its predecessor"


def wait_until(happened):
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_of_many_newcomers_one_at_a_time_writes(tmp_path):
    script = (
        "import sys, time, pathlib; from neuropipe.locks import lock\n"
        "for _ in range(10):\n"
        " with lock(sys.argv[1], wait_s=60):\n"
        "  mark = pathlib.Path(sys.argv[2]); assert not mark.exists(); mark.touch(); time.sleep(0.005); mark.unlink()\n"
    )
    (tmp_path / "lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1, "start": "0"}))  # stale
    command = [sys.executable, "-c", script, str(tmp_path / "lock"), str(tmp_path / "mark")]
    newcomers = [subprocess.Popen(command) for _ in range(4)]
    assert [newcomer.wait() for newcomer in newcomers] == [0] * 4
