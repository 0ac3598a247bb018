"""Time stamps as shared file systems have them, and two snakemake at once: what is run again, and what is said."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from test_line import planned, start, wait_for

pytestmark = pytest.mark.slow

HOUR_S = 3600
TARGET = "shards_demo"


def products(study: Path) -> list[Path]:
    """Return all files that rules made; the simulated study itself is data."""
    return [path for path in study.rglob("*") if path.is_file() and study / "study" not in path.parents]


def shift(paths: list[Path], seconds: float, whole: bool = False) -> None:
    """Move time stamps, or cut them to whole seconds."""
    for path in paths:
        stamp = path.stat().st_mtime + seconds
        os.utime(path, (int(stamp), int(stamp)) if whole else (stamp, stamp))


@pytest.fixture
def sharded(small_study: Path, command) -> Path:
    """The small study up to its shards."""
    command(small_study, "snakemake", TARGET, "--cores", "2")
    return small_study


def test_time_stamps_of_whole_seconds_and_of_clocks_that_differ(sharded: Path, command) -> None:
    study = sharded / "results" / "demo"
    shift(products(study), 0, whole=True)
    assert planned(sharded, command, TARGET) == {}, "whole seconds make work"

    # A node whose clock is ahead wrote everything: in the future, in the order in which it was made.
    shift(products(study), HOUR_S)
    assert planned(sharded, command, TARGET) == {}
    shift(products(study), -HOUR_S)

    # A node whose clock is behind wrote what it made of files from here. Content decides: nothing is done again.
    shift(list(study.glob("receipts/demo/*.json")), -HOUR_S)
    assert planned(sharded, command, TARGET) == {}

    # Large files are not compared by content: the reason is named, and the remedy makes nothing anew.
    large = ("--max-checksum-file-size", "0")
    again = command(sharded, "snakemake", "-n", TARGET, *large)
    assert "Updated input files: results/demo/index/demo/chunk-00.tsv" in again.stdout + again.stderr
    assert planned(sharded, command, TARGET, *large, "--rerun-triggers", "params", "input", "code"), "no longer so"
    made = {path: path.stat().st_mtime_ns for path in study.rglob("*_timeseries.*")}
    command(sharded, "snakemake", TARGET, "--touch", "--cores", "1", *large)
    assert planned(sharded, command, TARGET, *large) == {}
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*_timeseries.*")} == made
    # Whoever just runs it again loses a look at each run: finished ones are recognised by content.
    shift(list(study.glob("receipts/demo/parcellate-*.json")), -HOUR_S)
    command(sharded, "snakemake", TARGET, "--cores", "2", *large)
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*_timeseries.*")} == made


def test_an_input_from_the_future_is_named(small_study: Path, command) -> None:
    study = small_study / "results" / "demo"
    command(small_study, "snakemake", "index", "--cores", "1")
    shift(list(study.glob("index/demo/chunk-*.tsv")), HOUR_S)
    done = command(small_study, "snakemake", "parcellated_demo", "--cores", "2", expect=1)
    assert "clock skew problem" in done.stdout + done.stderr
    made = {path: path.stat().st_mtime_ns for path in study.rglob("*_timeseries.*")}
    subprocess.run(["find", study, "-newermt", "now", "-exec", "touch", "{}", "+"], check=True)
    command(small_study, "snakemake", "parcellated_demo", "--cores", "2")
    assert planned(small_study, command, "parcellated_demo") == {}
    assert made and {path: path.stat().st_mtime_ns for path in made} == made, "a finished run was computed again"


def test_two_snakemake_at_once(small_study: Path, command) -> None:
    """The second is refused; with --nolock it waits for what the first is making, and finds it made."""
    study = small_study / "results" / "demo"
    command(small_study, "snakemake", "index", "--cores", "1")
    first = start(small_study, TARGET, "--cores", "1")
    try:
        wait_for(study, "derivatives/demo/sub-*/func/sub-*_timeseries.json", first)
        refused = command(small_study, "snakemake", TARGET, "--cores", "1", expect=1)
        assert "Directory cannot be locked" in refused.stdout + refused.stderr
        command(small_study, "snakemake", TARGET, "--cores", "1", "--nolock")
        assert first.wait(timeout=120) == 0, (small_study / "snakemake.log").read_text()[-3000:]
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    logs = "".join(path.read_text() for path in study.glob("logs/parcellate_demo_*.log"))
    assert not list(study.rglob(".tmp-*")) and "Traceback" not in logs
    assert (study / "shards/demo/manifest.parquet").is_file()
