"""The doctor tries a cluster's profile: on a scheduler of a few lines of shell, which may misbehave."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from neuropipe import doctor
from neuropipe.doctor import cluster, profile, queue, trial
from neuropipe.doctor.profile import Request
from neuropipe.errors import NeuropipeError

ROOT = Path(__file__).resolve().parents[1]
SBATCH = """#!/bin/sh
for script; do :; done  # the last word
echo "$@" >> "$CALLS"
{before}
"$script" > /dev/null 2>&1
echo 7
"""
SINFO = """#!/bin/sh
echo 'cpu|up|7-00:00:00|64000|8'
echo 'gpu|up|1-12:30:00|128000+|16+'
echo 'gpu|up|1-12:30:00|64000|32'
"""
SQUEUE = "#!/bin/sh\necho 'PENDING (Resources)'\n"
SCANCEL = '#!/bin/sh\necho scancel "$@" >> "$CALLS"\n'
REQUESTS = [
    Request("split", 1, {"slurm_partition": "cpu", "mem_mb": "2000", "runtime": "15"}),
    Request("probe", 2, {"slurm_partition": "cpu", "mem_mb": "8000", "runtime": "240"}),
]
DRY_RUN = """
[Fri Nov 27 10:08:29 2026]
rule parcellate:
    input: chunk-00.tsv
    resources: mem_mb=2000, mem_mib=1908, disk_mb=<TBD>, tmpdir=<TBD>, slurm_partition=<TBD>, runtime=240
Shell command: neuropipe parcellate

[Fri Nov 27 10:08:29 2026]
rule parcellate:
    input: chunk-01.tsv
    threads: 4
    resources: mem_mb=3500, mem_mib=1908, disk_mb=<TBD>, tmpdir=<TBD>, slurm_partition=<TBD>, runtime=240
Shell command: neuropipe parcellate

[Fri Nov 27 10:08:29 2026]
rule pretrain:
    threads: 8
    resources: mem_mb=16000, slurm_partition=<TBD>, flags=-q gpu -l gpu=1, runtime=1440, gpu=1, nodes=1
Shell command: neuropipe pretrain

[Fri Nov 27 10:08:29 2026]
localrule all:
    resources: mem_mb=<TBD>
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts programs before all others on the PATH, in a folder of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calls").touch()

    def put(**programs: str) -> None:
        for name, text in programs.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    put(sbatch=SBATCH.format(before=""), sinfo=SINFO, squeue=SQUEUE, scancel=SCANCEL)
    return put


@pytest.fixture
def planned(monkeypatch):
    """Spare the tests a dry run; test_graph.py has one of each profile."""
    monkeypatch.setattr(profile, "requests", lambda *_: REQUESTS)


def _check(folder: Path = ROOT / "profiles" / "slurm", wait_s: float = 60.0):
    return {check.name: check for check in cluster.check_profile(folder, Path("config.yaml"), wait_s)}


def test_a_cluster_that_behaves(install, planned, tmp_path):
    checks = _check()
    assert all(check.ok for check in checks.values()), checks
    assert "shared folder" in checks["job like split"].found
    calls = (tmp_path / "calls").read_text()
    assert calls.count("neuropipe-doctor") == 1, "rules of one queue need one trial"
    assert "--partition=cpu" in calls and "--mem=2000" in calls
    assert not list((tmp_path / "results").iterdir()), "the doctor leaves something behind"


def test_a_login_node_without_slurm(install, planned, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = _check()
    assert {"command sbatch", "command squeue", "command scancel", "command sinfo"} <= set(checks)
    assert "login node" in checks["command sbatch"].remedy and "jobs" not in checks


def test_a_partition_that_is_not_there(install, planned, monkeypatch):
    request = Request("pretrain", 8, {"slurm_partition": "gpus", "gpu": "1"})
    monkeypatch.setattr(profile, "requests", lambda *_: [*REQUESTS, request])
    checks = _check()
    assert not checks["partition gpus"].ok and "cpu, gpu" in checks["partition gpus"].remedy
    assert "job like split" not in checks, "nothing is submitted before the partitions are right"


@pytest.mark.parametrize(
    ("resources", "threads", "words"),
    [
        ({"runtime": "2191"}, 1, "pretrain: {runtime: 2190}"),
        ({"mem_mb": "128001"}, 1, "pretrain: {mem_mb: 128000}"),
        ({}, 33, "pretrain: 32"),
    ],
)
def test_more_than_a_partition_allows(install, resources, threads, words):
    request = Request("pretrain", threads, {"slurm_partition": "gpu"} | resources)
    (check,) = cluster.check_partitions([request], 2)
    assert not check.ok and words in check.remedy


def test_what_a_partition_allows_to_the_minute(install):
    request = Request("pretrain", 32, {"slurm_partition": "gpu", "runtime": "2190", "mem_mb": "128000"})
    (check,) = cluster.check_partitions([request], 2)
    assert check.ok and "attempt 2 of it would not fit" in check.found


def test_each_of_several_partitions_is_looked_at(install):
    checks = cluster.check_partitions([Request("pretrain", 1, {"slurm_partition": "gpu,gpus"})], 2)
    assert [(check.name, check.ok) for check in checks] == [("partition gpu", True), ("partition gpus", False)]


def test_a_job_that_the_scheduler_refuses(install, planned):
    install(sbatch="#!/bin/sh\necho 'sbatch: error: Invalid account' >&2\nexit 1\n")
    check = _check()["job like split"]
    assert not check.ok and "Invalid account" in check.remedy


def test_a_job_that_never_starts_is_cancelled(install, planned, tmp_path):
    install(sbatch="#!/bin/sh\necho 7\n")
    check = _check(wait_s=0.0)["job like split"]
    assert not check.ok and "PENDING (Resources)" in check.remedy
    assert "scancel 7" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(
    ("scancel", "words"),
    [(SCANCEL, "stopped; cancelled trial jobs: 7."), ("#!/bin/sh\nexit 1\n", "could not cancel 7: do so yourself")],
)
def test_ctrl_c_leaves_no_job_in_the_queue(install, planned, tmp_path, monkeypatch, scancel, words):
    def pressed(_: float) -> None:
        raise KeyboardInterrupt

    install(sbatch="#!/bin/sh\necho 7\n", scancel=scancel)
    monkeypatch.setattr(queue.time, "sleep", pressed)
    with pytest.raises(NeuropipeError, match=words):
        _check()
    assert ("scancel 7" in (tmp_path / "calls").read_text()) == (scancel == SCANCEL)
    assert not list((tmp_path / "results").iterdir())


def test_a_job_that_ends_without_an_answer(install, planned, monkeypatch):
    monkeypatch.setattr(queue, "SILENCE_S", -1.0)
    broken = 'sed -i "s/-m neuropipe.doctor.trial/-m no_such_module/" "$script"'
    install(sbatch=SBATCH.format(before=broken), squeue="#!/bin/sh\necho 'FAILED (NonZeroExitCode)'\n")
    check = _check()["job like split"]
    assert "FAILED" in check.remedy and "no_such_module" in check.remedy


def test_another_environment_on_the_node_is_named(install):
    here = trial.versions()
    there = here | {"torch": "1.0"}
    outcome = {"host": "n1", "versions": there, "gpus": {"usable": 0, "granted": ""}, "unreadable": ["/data/x"]}
    done = queue.Trial(REQUESTS[0], Path("a"), Path("b"), "7", outcome)
    checks = {check.name.rpartition(": ")[2]: check for check in cluster.judge(done, here)}
    assert f"torch {here['torch']} here, 1.0 there" in checks["versions"].remedy
    assert "/data/x" in checks["data"].remedy and "gpu" not in checks


@pytest.mark.parametrize(
    ("gpus", "ok", "words"),
    [
        ({"usable": 2, "granted": "0,1"}, True, ""),
        ({"usable": 0, "granted": "0,1"}, False, "torch 2 cannot use it"),
        ({"usable": 0, "granted": ""}, False, "granted no GPU"),
    ],
)
def test_a_gpu_job_must_see_its_gpus(gpus, ok, words):
    request = Request("pretrain", 8, {"gpu": "2"})
    outcome = {"host": "n1", "versions": {"torch": "2"}, "gpus": gpus, "unreadable": []}
    checks = cluster.judge(queue.Trial(request, Path("a"), Path("b"), "7", outcome), {"torch": "2"})
    assert checks[-1].name.endswith("gpu") and checks[-1].ok == ok and words in checks[-1].remedy


def test_cluster_generic_goes_through_its_own_commands(install, planned, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.setattr(
        profile,
        "requests",
        lambda *_: [Request("split", 1, {"flags": "--partition=cpu", "gpu": "0", "mem_mb": "2000"})],
    )
    checks = _check(tmp_path / "profiles" / "cluster-generic")
    assert all(check.ok for check in checks.values()), checks
    assert "--partition=cpu" in (tmp_path / "calls").read_text()


def test_a_generic_profile_without_a_status_command(install, planned, tmp_path):
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    path = tmp_path / "profiles/cluster-generic/config.yaml"
    settings = yaml.safe_load(path.read_text())
    del settings["cluster-generic-status-cmd"]
    path.write_text(yaml.safe_dump(settings))
    check = _check(path.parent)["command status"]
    assert not check.ok and "cluster-generic-status-cmd" in check.remedy


@pytest.mark.parametrize("as_list", [False, True])
def test_what_a_dry_run_prints_and_a_profile_adds(tmp_path, as_list):
    resources = {
        "default-resources": {"slurm_partition": "cpu"},
        "set-resources": {"pretrain": {"slurm_partition": "gpu"}},
    }
    if as_list:
        resources = {"default-resources": ["slurm_partition=cpu"], "set-resources": ["pretrain:slurm_partition=gpu"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"executor": "slurm"} | resources))
    found = {request.rule: request for request in profile.parse(DRY_RUN, profile.read(tmp_path))}
    assert set(found) == {"parcellate", "pretrain"}
    assert found["parcellate"].threads == 4 and found["parcellate"].number("mem_mb") == 3500
    assert found["parcellate"].resources["slurm_partition"] == "cpu"
    assert found["pretrain"].resources["slurm_partition"] == "gpu" and found["pretrain"].number("gpu") == 1
    assert found["pretrain"].resources["flags"] == "-q gpu -l gpu=1"


@pytest.mark.parametrize(("text", "number"), [("16000", 16000), ("8000 * attempt", 8000), ("gpu", 0), ("", 0)])
def test_numbers_of_a_first_attempt(text, number):
    assert Request("split", 1, {"mem_mb": text}).number("mem_mb") == number


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("infinite", None), ("30:00", 30), ("1:00:00", 60), ("7-00:00:00", 10080), ("1-12:30:00", 2190), ("n/a", None)],
)
def test_time_limits_as_sinfo_prints_them(text, minutes):
    assert cluster.minutes(text) == minutes


def test_a_folder_that_is_no_profile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examination = doctor.run(config=None, profile=tmp_path)
    assert examination.exit_code == 2
    assert "config.yaml" in next(check for check in examination.problems if check.name == "profile").remedy


def test_the_default_profile_is_not_a_clusters(install):
    check = _check(ROOT / "profiles" / "default")["profile"]
    assert not check.ok and "executor: slurm or cluster-generic" in check.remedy
