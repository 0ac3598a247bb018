"""Bad days of a stage: a full disk, read-only data, killed workers, two jobs at once, results that vanish."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_study import TinyStudy

from neuropipe import cli
from neuropipe.errors import InputError, NeuropipeError, WriteError
from neuropipe.stages import chunk, index, parcellate, shard

LOOSE = {"clean": {"strategy": "none"}, "exclude": {"min_degrees_of_freedom": None, "min_duration_s": None}}
PEOPLE = ("01", "02", "03", "04")
OWN_MOUNTS = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


def may_mount() -> bool:
    """Return whether this user may make a folder read-only for its own processes."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*OWN_MOUNTS, "mount", "--bind", "/tmp", "/tmp"], capture_output=True).returncode == 0


@pytest.fixture
def study(tmp_path: Path) -> TinyStudy:
    """Four people, indexed in one chunk."""
    made = TinyStudy(tmp_path)
    for subject in PEOPLE:
        made.add(subject)
    config = str(made.write(n_chunks=1, **LOOSE))
    index.run(config=config, dataset="tiny", output=str(results(made) / "index" / "tiny"))
    return made


def results(study: TinyStudy) -> Path:
    return study.root / "results" / "tiny"


def arguments(study: TinyStudy, workers: int = 1) -> list[str]:
    """Return the command line of the chunk."""
    named = {
        "config": study.root / "config.yaml",
        "dataset": "tiny",
        "manifest": results(study) / "index" / "tiny" / "chunk-00.tsv",
        "output": results(study) / "receipts" / "tiny" / "parcellate-00.json",
        "workers": workers,
    }
    return ["parcellate", *(part for name, value in named.items() for part in (f"--{name}", str(value)))]


def parcellated(study: TinyStudy, workers: int = 1) -> list[str]:
    """Work through the chunk; return the runs of its receipt."""
    words = arguments(study, workers)[1:]
    named: dict[str, Any] = dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))
    parcellate.run(**named | {"workers": workers, "derivatives": None})
    return [product["run_id"] for product in json.loads(Path(named["output"]).read_text())["products"]]


def series(study: TinyStudy) -> dict[str, int]:
    """Return when each finished series was written, by name."""
    paths = (results(study) / "derivatives").rglob("*_timeseries.npy")
    return {path.name: path.stat().st_mtime_ns for path in paths if path.with_suffix(".json").exists()}


def leftovers(study: TinyStudy) -> list[Path]:
    return [path for path in results(study).rglob(".*") if path.name.startswith((".tmp-", ".lock"))]


def full_after(n_series: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full in the midst of the next series after `n_series`."""
    written, save = [], np.save

    def saving(file: Any, array: np.ndarray) -> None:
        save(file, array)
        written.append(file)
        if len(written) > n_series:
            os.truncate(file, 100)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", saving)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_in_mid_chunk_costs_no_finished_run(
    study: TinyStudy, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    with monkeypatch.context() as full:
        full_after(2, full)
        with pytest.raises(WriteError, match=r"_timeseries\.npy could not be written: the disk is full"):
            parcellated(study, workers)
    finished = series(study)
    assert len(finished) == 2 and not leftovers(study)
    assert not (results(study) / "receipts").exists()
    assert len(parcellated(study, workers)) == len(PEOPLE)
    assert {name: time for name, time in series(study).items() if name in finished} == finished


def test_a_full_disk_is_exit_code_2_and_one_line(
    study: TinyStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    full_after(0, monkeypatch)
    assert cli.main(arguments(study)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"neuropipe parcellate: {results(study)}/derivatives/tiny/sub-01/func/sub-01_")
    assert "finished work is kept" in last


def dying(*_: Any) -> None:
    """End a worker as the kernel does that needs its memory."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_the_kernel_kills_is_named_by_its_run(study: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as short:
        short.setattr(chunk, "_attempt_in_worker", dying)
        expected = r"killed while at sub-0\d_task-rest or sub-0\d_task-rest, .* takes up to \d+ MB.*fewer --workers"
        with pytest.raises(NeuropipeError, match=expected):
            parcellated(study, workers=2)
    assert not leftovers(study)
    assert len(parcellated(study)) == len(PEOPLE)


def test_results_that_vanish_in_mid_chunk_are_noticed_and_made_again(
    study: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receipt that vouched for them would hide it from every later stage."""
    attempt = parcellate.STAGE.attempt

    def deleting(job: Any, row: dict[str, str]) -> Any:
        if row["participant_id"] == "sub-03":
            shutil.rmtree(results(study) / "derivatives")
        return attempt(job, row)

    stage = parcellate.chunk.Stage(**{**vars(parcellate.STAGE), "attempt": deleting})
    with monkeypatch.context() as careless:
        careless.setattr(parcellate, "STAGE", stage)
        with pytest.raises(InputError, match=r"4 of 8 finished files are gone, sub-01/func/.* Start it again"):
            parcellated(study)
    assert not (results(study) / "receipts").exists()
    assert len(parcellated(study)) == len(PEOPLE) and len(series(study)) == len(PEOPLE)


def test_clean_series_that_were_deleted_later_are_named_and_made_again(study: TinyStudy) -> None:
    parcellated(study)
    before = series(study)
    lost = next((results(study) / "derivatives").rglob("sub-02*_timeseries.npy"))
    lost.unlink()
    receipts = results(study) / "receipts" / "tiny"
    arguments = {"config": study.root / "config.yaml", "dataset": "tiny", "receipt": receipts / "parcellate-00.json"}
    with pytest.raises(InputError, match=rf"{lost.name} is in the receipt .* run that stage for its chunk again"):
        shard.run(**arguments, output=receipts / "shard-00.json")
    parcellated(study)
    shard.run(**arguments, output=receipts / "shard-00.json")
    after = series(study)
    assert {name for name in after if after[name] != before.get(name)} == {lost.name}


@pytest.mark.slow
def test_two_jobs_of_one_chunk_at_once(study: TinyStudy) -> None:
    """As two snakemake start them that know nothing of each other: the second finds everything done."""
    command = [sys.executable, "-m", "neuropipe.cli", *arguments(study)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [job.communicate()[1] for job in both]
    assert [job.returncode for job in both] == [0, 0], said
    assert all(f"{len(PEOPLE)} runs done, 0 left out" in text for text in said)
    assert len(series(study)) == len(PEOPLE) and not leftovers(study)
    # Each run was worked on by one of the two.
    assert sum(text.count(f"sub-{subject}_task-rest") for text in said for subject in PEOPLE) == len(PEOPLE)


def in_own_mounts(read_only: Path, lines: list[list[str]]) -> subprocess.CompletedProcess:
    """Run commands one after the other where a folder is mounted for reading only, even for root."""
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && ! touch "$1/x" 2>/dev/null && exec "$2" -c "$3"'
    program = f"import sys; from neuropipe import cli; sys.exit(max(cli.main(line) for line in {lines!r}))"
    command = [*OWN_MOUNTS, "sh", "-c", mount, "sh", str(read_only), sys.executable, program]
    return subprocess.run(command, capture_output=True, text=True)


def tree(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return size and time of all files and folders below one."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="this user may not mount a folder read-only")
def test_derivatives_on_a_read_only_file_system_are_all_that_is_needed(study: TinyStudy) -> None:
    made, before = results(study), tree(study.data)
    shutil.rmtree(made)
    config, tiny = ["--config", str(study.root / "config.yaml")], ["--dataset", "tiny"]
    parcellated, sharded = (str(made / f"receipts/tiny/{stage}-00.json") for stage in ("parcellate", "shard"))
    lines = [
        ["index", *config, *tiny, "--output", f"{made}/index/tiny"],
        arguments(study),
        ["shard", *config, *tiny, "--receipt", parcellated, "--output", sharded],
        ["collect", *tiny, "--receipts", sharded, "--output", f"{made}/shards/tiny/manifest.parquet"],
        ["qc", *config, *tiny, "--output", f"{made}/qc/tiny/index.html"],
    ]
    done = in_own_mounts(study.data, lines)
    assert done.returncode == 0, done.stderr
    assert len(series(study)) == len(PEOPLE) and (made / "qc/tiny/index.html").is_file()
    assert tree(study.data) == before


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="this user may not mount a folder read-only")
def test_results_on_a_read_only_file_system_are_one_line(study: TinyStudy) -> None:
    done = in_own_mounts(results(study), [arguments(study)])
    assert done.returncode == 2
    lock = results(study) / "derivatives/tiny/.lock-chunk-00"
    assert done.stderr == (
        f"neuropipe parcellate: {lock} could not be written: its file system is for reading only. Have results/ where "
        "you may write, then start this command again; finished work is kept.\n"
    )
