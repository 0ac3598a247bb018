"""A disk that refuses: one line that says why and what to do, the old product whole, and nothing else left."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import full_disk
import numpy as np
import pytest

from neuropipe import cli
from neuropipe.errors import WriteError
from neuropipe.locks import lock
from neuropipe.paths import atomic, write_text

LIMIT_BYTES = 100_000
OWN_MOUNTS = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
MAY_MOUNT = bool(shutil.which("unshare")) and (
    subprocess.run(
        [*OWN_MOUNTS, "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/tmp"], capture_output=True
    ).returncode
    == 0
)


@contextmanager
def small_files() -> Iterator[None]:
    """Let the kernel refuse every byte of a file beyond the limit, whichever library writes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", full_disk.WRITERS)
def test_every_kind_of_product_that_is_refused_in_mid_write(tmp_path: Path, name: str) -> None:
    with small_files():
        found = full_disk.attempt(tmp_path, name)
    assert found["said"].startswith(f"{tmp_path / name} could not be written: files may not be that large here after ")
    assert (found["content"], found["files"]) == ("old", [name])


@pytest.mark.parametrize("name", full_disk.WRITERS)
def test_every_kind_of_product_fits_where_there_is_room(tmp_path: Path, name: str) -> None:
    found = full_disk.attempt(tmp_path, name)
    assert found["said"] == "" and found["content"] != "old" and found["files"] == [name]


@pytest.mark.slow
@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a disk of its own")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    command = [*OWN_MOUNTS, sys.executable, full_disk.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(full_disk.WRITERS)
    for name, one in found.items():
        assert one["said"].startswith(f"{tmp_path / name} could not be written: the disk is full after "), one
        assert f"MB free in {tmp_path}. Make room there" in one["said"] and "\n" not in one["said"]
        assert (one["content"], one["files"]) == ("old", [name])


def refusing(number: int, filename: str | None = None) -> Callable[[], None]:
    def refuse() -> None:
        raise OSError(number, os.strerror(number), filename)

    return refuse


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"the disk is full after 0\.0 MB, with \d+\.\d MB free in /.*\. Make room"),
        (errno.EDQUOT, r"your quota is used up after 0\.0 MB.*`quota -s`"),
    ],
)
def test_full_and_over_quota_are_told_apart(tmp_path: Path, number: int, said: str) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(WriteError, match=said), atomic(path) as temporary:
        temporary.write_text("half")
        refusing(number)()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EROFS, "for reading only. Have results/ where you may write"),
        (errno.EACCES, "you may not write there"),
        (errno.EIO, "the disk reports an error"),
    ],
)
def test_folders_that_do_not_let_themselves_be_written_to(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(WriteError, match=said), atomic(tmp_path / "a.json") as temporary:
        refusing(number, str(temporary))()


def test_a_folder_that_is_removed_in_mid_write(tmp_path: Path) -> None:
    path = tmp_path / "results" / "a.json"
    with pytest.raises(WriteError, match="its folder was removed meanwhile"), atomic(path) as temporary:
        temporary.write_text("half")
        shutil.rmtree(path.parent)


def test_errors_of_what_is_read_meanwhile_are_not_taken_for_refusals(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.tsv"), atomic(tmp_path / "a.json"):
        (tmp_path / "absent.tsv").read_text()
    with pytest.raises(RuntimeError, match="shapes"), atomic(tmp_path / "a.json"):
        raise RuntimeError("shapes do not match")
    assert not os.listdir(tmp_path)


def test_a_lock_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: refusing(errno.ENOSPC)())
    with pytest.raises(WriteError, match=r"\.lock could not be written: the disk is full"), lock(tmp_path / ".lock"):
        pass
    assert not os.listdir(tmp_path)


def schema_check(monkeypatch: pytest.MonkeyPatch, error: Callable[[], None]) -> int:
    """Run a command in which `error` happens; return its exit code."""
    monkeypatch.setattr("neuropipe.stages.schema.run", lambda **_: error())
    return cli.main(["schema"])


def test_a_refusal_is_exit_code_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def write() -> None:
        with atomic(tmp_path / "a.npy") as temporary:
            np.save(temporary, full_disk.NOISE)

    with small_files():
        assert schema_check(monkeypatch, write) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"neuropipe schema: {tmp_path / 'a.npy'} could not be written") and said.count("\n") == 1


def test_a_full_disk_elsewhere_is_exit_code_2_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Of what libraries write on their own, such as curves for TensorBoard."""
    assert schema_check(monkeypatch, refusing(errno.ENOSPC)) == 2
    assert capsys.readouterr().err == "neuropipe schema: No space left on device; check the path and its disk.\n"


def test_a_log_on_the_same_full_disk_leaves_the_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neuropipe.cli", "index", "--config", str(tmp_path / "absent.yaml")]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, "--output", str(tmp_path)], stdout=full, stderr=full)
    assert done.returncode == 2
