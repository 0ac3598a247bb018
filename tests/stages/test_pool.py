"""How many runs are worked on at a time, from figures of memory as Linux writes them; and workers that are killed."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from neuropipe.errors import NeuropipeError
from neuropipe.stages import parcellate, pool

GB = 10**9


def system(tmp_path: Path, cgroup: str, groups: dict[str, dict[str, Any]], available_kb: int = 16_000_000) -> tuple:
    """Write ``/proc`` and ``/sys/fs/cgroup`` below `tmp_path`; return their paths."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 32000000 kB\nMemFree: 1000 kB\nMemAvailable: {available_kb} kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    cgroups.mkdir()
    for folder, files in groups.items():
        (cgroups / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (cgroups / folder / name).write_text(f"{content}\n")
    return proc, cgroups


def version_2(limit: Any, used: int, cache: int = 0) -> dict[str, Any]:
    return {"memory.max": limit, "memory.current": used, "memory.stat": f"anon 5\ninactive_file {cache}"}


def version_1(limit: int, used: int, cache: int = 0) -> dict[str, Any]:
    stat = f"cache 7\ninactive_file 1\ntotal_inactive_file {cache}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


def test_without_limits_the_machine_counts(tmp_path: Path) -> None:
    paths = system(tmp_path, "0::/user.slice\n", {"user.slice": version_2("max", 3 * GB)})
    assert pool.free_bytes(*paths) == 16_000_000 * 1024


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert pool.free_bytes(tmp_path / "none", tmp_path / "none") is None


def test_version_2_limits_of_every_level_count_and_cache_is_free(tmp_path: Path) -> None:
    groups = {
        "slurm/job_7/step_0": version_2("max", 1 * GB),
        "slurm/job_7": version_2(8 * GB, 5 * GB, cache=3 * GB),
        "slurm": version_2(100 * GB, 9 * GB),
    }
    assert pool.free_bytes(*system(tmp_path, "0::/slurm/job_7/step_0\n", groups)) == 6 * GB


def test_version_1_limits(tmp_path: Path) -> None:
    cgroup = "12:cpu,cpuacct:/slurm/job_7\n9:memory:/slurm/job_7\n1:name=systemd:/x\n"
    groups = {"memory/slurm/job_7": version_1(4 * GB, 2 * GB, cache=GB), "memory": version_1(2**63 - 4096, 9 * GB)}
    assert pool.free_bytes(*system(tmp_path, cgroup, groups)) == 3 * GB


@pytest.mark.parametrize("version", [1, 2])
def test_in_a_container_the_limit_stands_at_the_top(tmp_path: Path, version: int) -> None:
    """The path that /proc tells is the host's and is not mounted."""
    if version == 1:
        paths = system(tmp_path, "5:memory:/docker/0a1b\n", {"memory": version_1(2 * GB, GB)})
    else:
        paths = system(tmp_path, "0::/../../docker/0a1b\n", {".": version_2(2 * GB, GB)})
    assert pool.free_bytes(*paths) == GB


def test_a_limit_that_is_passed_already_leaves_nothing(tmp_path: Path) -> None:
    assert pool.free_bytes(*system(tmp_path, "0::/a\n", {"a": version_2(GB, 2 * GB)})) == 0


def test_this_machine_tells_something() -> None:
    assert pool.own_peak_bytes() > 10 * pool.MB
    if Path("/proc/meminfo").exists():
        assert 0 <= pool.free_bytes() < 2**50


def test_the_width_is_what_memory_holds_and_narrowing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="neuropipe")
    assert pool.width(8, 250 * pool.MB, 16 * GB) == 8 and pool.width(8, 250 * pool.MB, None) == 8
    assert not caplog.messages
    assert pool.width(8, 250 * pool.MB, GB) == 3  # 0.9 of 1000 MB
    assert caplog.messages == ["3 at a time instead of 8: 1000 MB of memory are free, and one run takes up to 250 MB"]
    assert pool.width(8, 250 * pool.MB, 0) == 1


def test_parcellate_asks_for_the_memory_of_its_largest_image(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"a.nii.gz": (97, 115, 97, 300), "b.nii.gz": (91, 109, 91, 3000)}

    class Job:
        atlases, root = ("one",), Path()

    monkeypatch.setattr(parcellate, "grid_of", lambda path: (shapes[path.name], None))
    rows = [{"image": "b.nii.gz"}, {"image": "a.nii.gz"}]
    assert parcellate._read_bytes(Job, rows) == 8 * 97 * 115 * 97 * 8  # eight volumes of float64, 69 MB
    Job.atlases = ()
    assert parcellate._read_bytes(Job, rows) == 0


def test_a_killed_worker_is_an_error_that_says_what_to_do() -> None:
    """Items that wait are not named: the killed worker was at none of them."""
    expected = r"killed while at run 7 or run 8, .* takes up to 250 MB\. .*fewer --workers"
    items = [7, 8, 9, 10]
    with pytest.raises(NeuropipeError, match=expected):  # _exit ends a worker as the kernel does, without a word
        list(pool.each(os._exit, items, 2, name=lambda item: f"run {item}", run_bytes=250 * pool.MB))


def test_what_was_finished_before_a_worker_was_killed_is_kept() -> None:
    done, kill = [], "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(NeuropipeError, match="killed while at import os"):
        for item, _ in pool.each(exec, ["x = 1", "x = 2", kill], 1):
            done.append(item)
    assert done == ["x = 1", "x = 2"]


def test_results_come_with_their_items() -> None:
    assert sorted(pool.each(abs, [-3, 2], 2)) == [(-3, 3), (2, 2)]
