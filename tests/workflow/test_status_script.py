"""profiles/cluster-generic/status.sh reads what each scheduler prints; bsub.sh finds the number of a job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

PROFILE = Path(__file__).resolve().parents[2] / "profiles" / "cluster-generic"
QUEUE_UNREACHABLE = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"
QUEUE_FORGOT = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
ACCOUNTING_UNREACHABLE = "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1"
SGE_GONE = "echo 'Following jobs do not exist: 7' >&2; exit 1"
CASES = [
    ("slurm", {"squeue": "echo RUNNING"}, "running"),
    ("slurm", {"squeue": "echo COMPLETED"}, "success"),
    ("slurm", {"squeue": "echo TIMEOUT"}, "failed"),
    ("slurm", {"squeue": "echo PREEMPTED"}, "running"),
    ("slurm", {"squeue": QUEUE_FORGOT, "sacct": "echo COMPLETED"}, "success"),
    ("slurm", {"squeue": QUEUE_FORGOT, "sacct": "echo 'CANCELLED by 0'"}, "failed"),
    (
        "slurm",
        {"squeue": QUEUE_FORGOT, "sacct": "echo 'sacct: x' >&2; echo COMPLETED; echo COMPLETED"},
        "success",
    ),
    ("slurm", {"squeue": QUEUE_FORGOT, "sacct": "true"}, "failed"),
    ("slurm", {"squeue": QUEUE_FORGOT, "sacct": NO_ACCOUNTING}, "failed"),
    ("slurm", {"squeue": QUEUE_FORGOT, "sacct": ACCOUNTING_UNREACHABLE}, "running"),
    ("slurm", {"squeue": QUEUE_UNREACHABLE}, "running"),
    ("pbs", {"qstat": "echo 'Job Id: 7.server'; echo '    job_state = R'"}, "running"),
    ("pbs", {"qstat": "echo '    job_state = F'; echo '    Exit_status = 0'"}, "success"),
    ("pbs", {"qstat": "echo '    job_state = F'; echo '    Exit_status = 271'"}, "failed"),
    ("pbs", {"qstat": "echo '    job_state = C'; echo '    exit_status = 0'"}, "success"),
    ("pbs", {"qstat": "echo 'qstat: Unknown Job Id 7' >&2; exit 153"}, "failed"),
    ("pbs", {"qstat": "echo 'cannot connect to server' >&2; exit 111"}, "running"),
    ("sge", {"qstat": 'if [ $# = 0 ]; then echo "7 0.5 split me r 01/01"; fi'}, "running"),
    ("sge", {"qstat": 'if [ $# = 0 ]; then echo "7 0.5 split me Eqw 01/01"; fi'}, "failed"),
    ("sge", {"qstat": SGE_GONE, "qacct": "echo 'failed       0'; echo 'exit_status  0'"}, "success"),
    ("sge", {"qstat": SGE_GONE, "qacct": "echo 'failed       0'; echo 'exit_status  137'"}, "failed"),
    ("sge", {"qstat": SGE_GONE, "qacct": "echo 'failed       37  : qmaster'; echo 'exit_status  0'"}, "failed"),
    ("sge", {"qstat": SGE_GONE, "qacct": "exit 1"}, "running"),
    ("sge", {"qstat": "echo 'unable to contact qmaster' >&2; exit 1"}, "running"),
    ("lsf", {"bjobs": "echo DONE"}, "success"),
    ("lsf", {"bjobs": "echo EXIT"}, "failed"),
    ("lsf", {"bjobs": "echo PEND"}, "running"),
    ("lsf", {"bjobs": "echo 'Job <7> is not found'"}, "failed"),
    ("lsf", {"bjobs": "echo 'Job <7> is not found' >&2; exit 255"}, "failed"),
    ("lsf", {"bjobs": "exit 255"}, "running"),
]


@pytest.fixture
def ask(tmp_path):
    """Return a function that runs one of the profile's scripts beside programs of a few words."""

    def run(script: str, *arguments: str, **programs: str) -> str:
        for name, body in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run([PROFILE / script, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.mark.parametrize(("scheduler", "programs", "status"), CASES)
def test_one_word_of_three(ask, scheduler, programs, status):
    assert ask("status.sh", scheduler, "7", **programs) == status


def test_the_number_of_an_lsf_job(ask):
    assert ask("bsub.sh", "-n", "1", "script", bsub="echo 'Job <4711> is submitted to queue <cpu>.'") == "4711"


@pytest.mark.parametrize("scheduler", ["PBS", "SGE", "LSF"])
def test_each_block_is_yaml_once_it_is_uncommented(scheduler):
    """Uncomment a block as a user would, and look that its placeholders are those which rules have."""
    text = (PROFILE / "config.yaml").read_text()
    block = text.split(f"\n# {scheduler}")[1].partition("\n")[2].partition("\n\n")[0]
    settings = yaml.safe_load("\n".join(line.removeprefix("# ") for line in block.splitlines()))
    assert set(settings) == {f"cluster-generic-{which}-cmd" for which in ("submit", "status", "cancel")}
    names = ("mem_mb", "runtime", "gpu", "flags")
    resources = type("Resources", (), dict(zip(names, (8000, 60, 1, "-q x"), strict=True)))
    line = settings["cluster-generic-submit-cmd"].format(rule="split", threads=4, resources=resources)
    assert "split" in line and "-q x" in line and "{" not in line and "#" not in line
    assert subprocess.run(["sh", "-n", "-c", line]).returncode == 0
