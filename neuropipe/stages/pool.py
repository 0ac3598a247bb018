"""Worker processes for the runs of a chunk: as many as were asked for, and no more than memory holds."""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from neuropipe.errors import NeuropipeError

log = logging.getLogger("neuropipe")

ORPHAN_CHECK_S = 0.5
MB = 1_000_000
# Python with the imaging stack and a small atlas, as measured; a process that holds more says so itself.
BASE_BYTES = 150 * MB
# Of the memory that is free; the rest is for what others start meanwhile.
USABLE_SHARE = 0.9
# Names of limit, use, and of the page cache within the use that goes when memory is needed, by cgroup version.
CGROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


# --- memory -------------------------------------------------------------------------------------


def free_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return how much memory new processes may take, or None where the system does not tell.

    It is the least of what the machine has available and what each limit above this process leaves:
    containers and batch systems set such limits as control groups, of version 1 or 2.
    """
    found = [_of_machine(proc), *(_left(folder, version) for folder, version in _groups(proc, cgroups))]
    return min((value for value in found if value is not None), default=None)


def _of_machine(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None


def _groups(proc: Path, cgroups: Path) -> Iterator[tuple[Path, int]]:
    """Yield the folders that may limit this process's memory, its own group first, with their version."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, version = (cgroups / "memory", 1) if controllers else (cgroups, 2)
        # Inside a container the path may be the host's, which is not there: what is mounted at the top counts.
        inner = top / path.lstrip("/")
        yield from ((folder, version) for folder in (inner, *inner.parents) if folder.is_relative_to(top))


def _left(folder: Path, version: int) -> int | None:
    """Return what the limit of one control group leaves; None where it has none."""
    limit_file, usage_file, cache_key = CGROUP_FILES[version]
    try:
        limit, usage = ((folder / name).read_text().strip() for name in (limit_file, usage_file))
        said = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cache = next((int(value) for key, value in said if key == cache_key), 0)
        return max(int(limit) - (int(usage) - cache), 0)
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None


def own_peak_bytes() -> int:
    """Return the most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def width(wanted: int, run_bytes: int, free: int | None) -> int:
    """Return how many runs are worked on at a time, at least one; say so where it is fewer than wanted.

    Parameters
    ----------
    wanted : int
        Upper bound.
    run_bytes : int
        Expected peak of one worker.
    free : int or None
        What `free_bytes` found; None narrows nothing.
    """
    if free is None:
        return max(wanted, 1)
    fitting = max(int(USABLE_SHARE * free // max(run_bytes, 1)), 1)
    if fitting < wanted:
        log.warning(
            "%d at a time instead of %d: %d MB of memory are free, and one run takes up to %d MB",
            *(fitting, wanted, free // MB, run_bytes // MB),
        )
    return max(min(wanted, fitting), 1)


# --- processes ----------------------------------------------------------------------------------


def each(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    n_workers: int,
    name: Callable[[Any], str] = str,
    run_bytes: int | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, result) as workers finish; `function` must be importable, for workers start from nothing.

    No more items are given out than there are workers, so that it is known what a killed one was at.

    Parameters
    ----------
    function : callable (item) -> result
    items : sequence
    n_workers : int
    name : callable (item) -> str
        What an item is called where its worker is killed.
    run_bytes : int, optional
        Expected peak of one worker, for the same message.

    Raises
    ------
    NeuropipeError
        A worker was killed, as systems do that run out of memory.
    """
    pool = ProcessPoolExecutor(
        n_workers, mp_context=get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
    )
    waiting, at_work = iter(items), {}
    try:
        while True:
            for item in islice(waiting, n_workers - len(at_work)):
                at_work[pool.submit(function, item)] = item
            done = wait(at_work, return_when=FIRST_COMPLETED).done
            killed = {future for future in done if isinstance(future.exception(), BrokenProcessPool)}
            for future in done - killed:  # before anything is raised: what is finished is kept
                yield at_work.pop(future), future.result()
            if killed:
                raise BrokenProcessPool
            if not done:
                return
    except BrokenProcessPool as error:
        raise NeuropipeError(_killed([name(item) for item in at_work.values()], run_bytes)) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _killed(names: list[str], run_bytes: int | None) -> str:
    free = free_bytes()
    needs = f" One takes up to {run_bytes // MB} MB." if run_bytes is not None else ""
    left = f" {free // MB} MB of memory are free now." if free is not None else ""
    at = " or ".join(names) or "its start"
    return (
        f"A worker was killed while at {at}, most likely because memory ran out.{needs}{left} "
        "Start the command again with fewer --workers, or ask the cluster for more memory (mem_mb); "
        "finished runs are kept."
    )


def _end_with(parent: int) -> None:
    """Make a worker end when the process that started it does, even one that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
