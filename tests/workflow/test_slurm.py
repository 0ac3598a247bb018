"""The line on a real Slurm, through a bad night: a job killed, one out of time, a node lost; then through sbatch alone.

`make test-slurm` runs it: root, Debian, some minutes. The cluster is tests/workflow/slurm_cluster.py's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import furnish, move_in
from slurm_cluster import Cluster, ask, wait_until, why_not

pytestmark = pytest.mark.slurm

SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
# Sums of floats depend on how many threads share them: equal bytes need equal threads.
THREADS = ("--set-threads", "pretrain=1", "embed=1")
# The cluster keeps no accounts, and its jobs last seconds.
QUICK = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "20")
# Fields of sidecars and columns of tables that a clock fills in.
CLOCKS = ("GeneratedAt", "seconds", "samples_per_s", "recordings_per_s")
SAID_BY_A_CLOCK = re.compile(r"Training took [^.]+\.| on \d{4}-\d\d-\d\d\b")  # in methods and cards
WITHIN_S = 900.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets want short names
    with Cluster(folder) as running:
        daemons = [daemon.pid for daemon in running.daemons]
        yield running
    assert not [pid for pid in daemons if Path(f"/proc/{pid}").exists()], "a daemon outlived its cluster"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def make_study(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes a folder with the small study, whose training is long enough to be disturbed."""

    def make(name: str) -> Path:
        folder = move_in(furnish(tmp_path_factory.mktemp(name)), small_data)
        recipe = yaml.safe_load((folder / "tiny.yaml").read_text())
        recipe["train"] |= {"n_steps": 60, "checkpoint_every": 5}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
        return folder

    return make


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start snakemake, its words going to ``snakemake.out``; it hears Ctrl-C also where these tests do not."""
    with open(folder / "snakemake.out", "ab") as log:
        return subprocess.Popen(
            [SNAKEMAKE, *arguments],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def said(folder: Path) -> str:
    return (folder / "snakemake.out").read_text()


class BadNight:
    """What goes wrong while the line runs, each once, as soon as it can."""

    def __init__(self, cluster: Cluster, study: Path) -> None:
        self.cluster, self.study = cluster, study
        self.killed = self.timed_out = 0  # numbers of jobs
        self.lost: set[int] = set()
        self.spared: set[int] = set()
        self.is_down = False
        self.rows_before: pd.DataFrame | None = None

    def disturb(self) -> None:
        """Look once at what runs, and harm what is due."""
        if not self.timed_out and list(self._model().glob("checkpoints/step-*.pt")):
            self._run_out_of_time()
        running = {job: facts for job, facts in self.cluster.jobs().items() if facts["JobState"] == "RUNNING"}
        if self.is_down and self.lost <= set(running):  # elsewhere
            self.cluster.bring_back("small")
            self.is_down = False
        if not self.lost and len(list(self.study.glob("derivatives/demo/sub-*/func/*.json"))) > 2:
            self._lose_the_small_node(running)
        if not self.killed and (split := self._of("split", running)):
            self.killed = split[0]
            ask("scancel", "--batch", "--signal=KILL", str(self.killed))

    def _of(self, rule: str, jobs: dict[int, dict[str, str]]) -> list[int]:
        return [job for job, facts in jobs.items() if rule_of(facts) == rule]

    def _model(self) -> Path:
        return self.study / "models/tiny/seed-0/main/0"

    def _run_out_of_time(self) -> None:
        """Freeze the training after a checkpoint, as a hanging disk does, and let the scheduler find it overdue."""
        lock = self.study / "models/tiny/seed-0/.lock"
        os.kill(json.loads(lock.read_text())["pid"], signal.SIGSTOP)
        newest = max(self._model().glob("checkpoints/step-*.pt"))
        self.rows_before = pd.DataFrame(torch.load(newest, weights_only=True)["rows"])
        self.timed_out = self._of("pretrain", self.cluster.jobs())[0]
        ask("scontrol", "update", f"JobId={self.timed_out}", "EndTime=now+1")

    def _lose_the_small_node(self, running: dict[int, dict[str, str]]) -> None:
        """Lose it while chunks are worked on, half done."""
        lost = {job for job, facts in running.items() if facts["NodeList"] == "small"}
        chunks = set(self._of("parcellate", running))
        if not chunks & lost or chunks <= lost:
            return
        self.lost, self.spared = lost, set(running) - lost
        self.cluster.take_down("small")
        self.is_down = True
        for job in self.lost:  # Slurm grants a requeued job two minutes of rest
            wait_until(lambda job=job: self.cluster.jobs()[job]["JobState"] == "PENDING", f"{job} requeued", 60)
            ask("scontrol", "update", f"JobId={job}", "StartTime=now")


@pytest.fixture(scope="module")
def night(cluster: Cluster, make_study: Callable[[str], Path]) -> tuple[Path, BadNight, dict[int, dict[str, str]]]:
    """The study's folder after that night, what happened in it, and all jobs that the cluster was given."""
    folder = make_study("night")
    events = BadNight(cluster, folder / "results" / "demo")
    running = start(folder, "--workflow-profile", "profiles/slurm", *QUICK, *THREADS)
    deadline = time.monotonic() + WITHIN_S
    try:
        while running.poll() is None:
            events.disturb()
            assert time.monotonic() < deadline, said(folder)[-4000:]
            time.sleep(0.05)
    finally:
        running.kill()
    assert running.returncode == 0, said(folder)[-6000:]
    return folder, events, cluster.jobs()


def rule_of(facts: dict[str, str]) -> str:
    """Return the rule of a job that the plugin submitted, from the comment that it leaves."""
    return facts.get("Comment", "").removeprefix("rule_").partition("_wildcards_")[0]


def attempts(jobs: dict[int, dict[str, str]], rule: str) -> list[dict[str, str]]:
    """Return the submissions of one rule, in order."""
    return [facts for _, facts in sorted(jobs.items()) if rule_of(facts) == rule]


def test_a_job_that_fails_is_submitted_again_with_more_memory(night):
    _, events, jobs = night
    first, second = attempts(jobs, "split")
    assert int(first["JobId"]) == events.killed and first["JobState"] == "FAILED"
    assert second["JobState"] == "COMPLETED"
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("2000M", "4000M")
    assert (first["TimeLimit"], second["TimeLimit"]) == ("00:15:00", "00:30:00")


def test_a_job_out_of_time_goes_on_from_its_checkpoint(night):
    folder, events, jobs = night
    first, second = attempts(jobs, "pretrain")
    assert int(first["JobId"]) == events.timed_out and first["JobState"] == "TIMEOUT"
    assert second["JobState"] == "COMPLETED" and second["Partition"] == "gpu"
    after = pd.read_parquet(folder / "results/demo/models/tiny/seed-0/main/0/metrics.parquet")
    assert len(events.rows_before) and "seconds" in events.rows_before
    # Seconds by the clock never come out the same twice: these rows are the first attempt's.
    pd.testing.assert_frame_equal(after.head(len(events.rows_before)), events.rows_before)


def test_a_lost_node_costs_only_its_jobs(night):
    _, events, jobs = night
    assert events.lost and events.spared
    restarted = {job for job, facts in jobs.items() if facts["Restarts"] != "0"}
    assert restarted == events.lost
    assert all(jobs[job]["JobState"] == "COMPLETED" and jobs[job]["NodeList"] == "big" for job in events.lost)
    assert all(jobs[job]["JobState"] == "COMPLETED" for job in events.spared)


def test_every_other_job_was_submitted_once_and_asked_for_its_gpu(night):
    _, events, jobs = night
    assert {f["JobId"] for f in jobs.values() if f["JobState"] != "COMPLETED"} == {
        str(events.killed),
        str(events.timed_out),
    }
    for rule in ("pretrain", "embed"):
        assert all(facts["TresPerJob"].endswith("gpu:1") and facts["NumNodes"] == "1" for facts in attempts(jobs, rule))
    assert all(f["Partition"] == "cpu" for f in attempts(jobs, "parcellate") + attempts(jobs, "probe"))


def without_clock_and_place(value, folder: Path):
    """Drop from a sidecar when it was made, how fast, and in which folder, at any depth."""
    if isinstance(value, dict):
        return {k: without_clock_and_place(v, folder) for k, v in value.items() if k not in CLOCKS}
    if isinstance(value, list):
        return [without_clock_and_place(v, folder) for v in value]
    return value.replace(str(folder), "") if isinstance(value, str) else value


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of every product of a study, by its path."""
    found, study = {}, folder / "results" / "demo"
    for path in sorted(study.rglob("*")):
        parts = path.relative_to(study).parts
        hidden = path.name.startswith(".") or {"checkpoints", "tensorboard"} & set(parts)
        if not path.is_file() or hidden or parts[0] in ("logs", "benchmarks", "study"):
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(without_clock_and_place(json.loads(content), folder), sort_keys=True).encode()
        if path.suffix == ".parquet" and set(CLOCKS) & set(names := pq.read_schema(path).names):
            table = pq.read_table(path, columns=[name for name in names if name not in CLOCKS])
            content = repr(table.to_pydict()).encode()
        if path.suffix == ".md":
            content = SAID_BY_A_CLOCK.sub("", content.decode()).encode()
        found["/".join(parts)] = hashlib.sha256(content).hexdigest()
    return found


def test_the_products_are_those_of_one_computer_byte_for_byte(night, make_study):
    """But for what a clock says: `CLOCKS`, `SAID_BY_A_CLOCK`, the tables of costs, and the report, which shows them."""
    there, here = night[0], make_study("here")
    running = start(here, "--cores", "2", *THREADS)
    assert running.wait(WITHIN_S) == 0, said(here)[-4000:]
    found = [contents(folder) for folder in (here, there)]
    assert len(found[0]) > 100
    assert found[0].keys() == found[1].keys()
    differing = {name for name in found[0] if found[0][name] != found[1][name]}
    assert {name for name in differing if not name.endswith("costs.parquet")} <= {"report/index.html"}


def test_the_doctor_finds_this_cluster_well_but_for_its_gpus(cluster, make_study, command):
    folder = make_study("doctor")
    done = command(folder, "neuropipe", "doctor", "--profile", "profiles/slurm", expect=2)
    problems = [line for line in done.stdout.splitlines() if "PROBLEM" in line]
    assert len(problems) == 1 and "gpu" in problems[0], done.stdout
    assert "granted: 0" in done.stdout, "the scheduler gives a GPU, which torch cannot use, for it is none"
    assert "job like parcellate" in done.stdout or "job like index" in done.stdout
    assert not list((folder / "results").glob(".doctor-*"))

    profile = folder / "profiles/slurm/config.yaml"
    profile.write_text(profile.read_text().replace("slurm_partition: cpu", "slurm_partition: short"))
    done = command(folder, "neuropipe", "doctor", "--profile", "profiles/slurm", expect=2)
    assert "parcellate asks for 240 minutes, short has 30" in " ".join(done.stdout.split())


def test_two_gpus_of_one_job_train_one_model(cluster, night, tmp_path):
    """What the profile's `gpu: 2` comes to: one task, both GPUs, two processes that met."""
    pytest.importorskip("neuropipe.train.distributed")
    folder = shutil.copytree(night[0], tmp_path / "two", ignore=shutil.ignore_patterns(".snakemake"))
    shutil.rmtree(folder / "results" / "demo" / "models")
    profile = (folder / "profiles/slurm/config.yaml").read_text()
    one = "pretrain: {slurm_partition: gpu, nodes: 1}"
    assert one in profile
    (folder / "profiles/slurm/config.yaml").write_text(profile.replace(one, one.replace("}", ", gpu: 2}")))
    running = start(folder, "model_tiny", "--workflow-profile", "profiles/slurm", *QUICK, *THREADS)
    assert running.wait(WITHIN_S) == 0, said(folder)[-4000:]
    log = (folder / "results/demo/logs/pretrain_tiny_seed-0.log").read_text()
    assert attempts(cluster.jobs(), "pretrain")[-1]["TresPerJob"].endswith("gpu:2")
    assert "process 0 of world size 2" in log and "process 1 of world size 2" in log
    curves = [pd.read_parquet(f / "results/demo/models/tiny/seed-0/main/0/metrics.parquet") for f in (night[0], folder)]
    # Two processes add in another order: the same losses but for that.
    np.testing.assert_allclose(curves[1]["loss"], curves[0]["loss"], rtol=1e-3)


@pytest.fixture
def by_hand(make_study) -> Path:
    return make_study("generic")


GENERIC = ("--workflow-profile", "profiles/cluster-generic", "--latency-wait", "20")


def test_the_line_through_sbatch_alone(cluster, by_hand):
    """A job that the scheduler kills leaves no mark; the status script sees it, and it is submitted again."""
    before = set(cluster.jobs())
    running = start(by_hand, "shards_demo", *GENERIC)
    killed: list[int] = []

    def kill_one() -> bool:
        for job, facts in cluster.jobs().items():
            if job not in before and facts["JobName"] == "parcellate" and facts["JobState"] == "RUNNING":
                killed.append(job)
                ask("scancel", str(job))
                return True
        return False

    wait_until(kill_one, "a chunk runs", 300)
    assert running.wait(600) == 0, said(by_hand)[-4000:]
    jobs = {job: facts for job, facts in cluster.jobs().items() if job not in before}
    assert {job for job, facts in jobs.items() if facts["JobState"] != "COMPLETED"} == set(killed)
    memory = [facts["MinMemoryNode"] for facts in jobs.values() if facts["JobName"] == "parcellate"]
    assert sorted(memory) == ["2000M", "2000M", "4000M"]
    assert all(facts["Partition"] == "cpu" for facts in jobs.values())
    assert (by_hand / "results/demo/shards/demo/dataset.h5").is_file()


def test_an_interrupted_snakemake_cancels_its_jobs(cluster, by_hand):
    before = set(cluster.jobs())
    running = start(by_hand, "parcellated_demo", *GENERIC)

    def own(*states: str) -> list[int]:
        return [job for job, facts in cluster.jobs().items() if job not in before and facts["JobState"] in states]

    wait_until(lambda: own("RUNNING"), "a job runs", 120)
    running.send_signal(signal.SIGINT)
    running.wait(60)
    wait_until(lambda: not own("RUNNING", "PENDING", "COMPLETING"), "its jobs are gone", 60)
    assert own("CANCELLED")
