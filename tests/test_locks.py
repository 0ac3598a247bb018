"""The lock: one writer at a time, and a dead one does not block the next."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

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


def test_another_host_is_believed_while_its_heart_beats(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": ""}))
    with pytest.raises(LockedError, match="elsewhere"), lock(path, wait_s=0):
        pass
    long_ago = time.time() - STALE_AFTER_S - 1
    os.utime(path, (long_ago, long_ago))
    with lock(path, wait_s=0):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


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
