"""Submit small trial jobs to a cluster, as its profile would, and wait for what they write."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuropipe.doctor.profile import Profile, Request
from neuropipe.errors import NeuropipeError
from neuropipe.provenance import read_json

TRIAL_MEMORY_MB = 2000  # torch is imported
TRIAL_MINUTES = 10
LOOK_EVERY_S = 1.0
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
SILENCE_S = 30.0  # between the end of a job and its files, on a slow shared disk


class SubmitError(NeuropipeError):
    """The scheduler refused a trial job."""


@dataclass
class Trial:
    """A job on its way.

    Attributes
    ----------
    request : Request
        Whose partition, account and GPUs it asks for.
    answer, log : Path
        What it writes, and what it says.
    job : str
        The scheduler's number.
    outcome : dict, optional
        The content of `answer`, once it is there.
    trouble : str
        Why there will be none.
    """

    request: Request
    answer: Path
    log: Path
    job: str = ""
    outcome: dict[str, Any] | None = None
    trouble: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.outcome is not None or bool(self.trouble)


def submit(profile: Profile, request: Request, folder: Path, number: int, paths: list[Path]) -> Trial:
    """Submit one trial job that writes into `folder`, and looks whether it can read `paths`.

    Raises
    ------
    SubmitError
        With the scheduler's own words.
    """
    trial = Trial(request, folder / f"answer-{number}.json", folder / f"trial-{number}.out")
    look = [sys.executable, "-m", "neuropipe.doctor.trial", str(trial.answer), *map(str, paths)]
    script = folder / f"trial-{number}.sh"
    # It inherits the environment; PYTHONPATH is set anew for schedulers that pass none on.
    search = f"export PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])}\n" if "PYTHONPATH" in os.environ else ""
    body = f"cd {shlex.quote(os.getcwd())} && {shlex.join(look)}"
    script.write_text(f"#!/bin/sh\n{search}({body}) > {shlex.quote(str(trial.log))} 2>&1\n", encoding="utf-8")
    script.chmod(0o755)
    command = _sbatch(request) if profile.executor == "slurm" else _generic(profile, request)
    # cluster-generic's command is a line of shell, which Snakemake runs in the same way.
    full = [*command, str(script)] if isinstance(command, list) else f"{command} {shlex.quote(str(script))}"
    done = subprocess.run(full, shell=isinstance(full, str), capture_output=True, text=True)
    if done.returncode or not done.stdout.strip():
        raise SubmitError(done.stderr.strip() or f"the submit command printed no number of a job: {done.stdout!r}")
    trial.job = done.stdout.split()[0].partition(";")[0]
    return trial


def _sbatch(request: Request) -> list[str]:
    """Return what Snakemake's plugin would call for a job of this kind, small."""
    options = {"slurm_partition": "--partition", "slurm_account": "--account", "qos": "--qos"}
    options |= {"constraint": "--constraint", "nodes": "--nodes", "gpu": "--gpus"}
    asked = [f"{flag}={request.resources[name]}" for name, flag in options.items() if request.resources.get(name)]
    extra = shlex.split(request.resources.get("slurm_extra", ""))
    size = [f"--mem={TRIAL_MEMORY_MB}", f"--time={TRIAL_MINUTES}", "--cpus-per-task=1"]
    return ["sbatch", "--parsable", "--job-name=neuropipe-doctor", "--output=/dev/null", *size, *asked, *extra]


def _generic(profile: Profile, request: Request) -> str:
    """Return the profile's submit command, filled in for a small job."""
    small = {"mem_mb": str(TRIAL_MEMORY_MB), "runtime": str(TRIAL_MINUTES)}
    resources = type("Resources", (), request.resources | small)
    try:
        return (profile.command("submit") or "").format(rule="neuropipe-doctor", threads=1, resources=resources)
    except (AttributeError, KeyError, IndexError, ValueError) as error:
        raise SubmitError(f"cluster-generic-submit-cmd cannot be filled in: {error}") from None


def wait(profile: Profile, trials: list[Trial], wait_s: float) -> None:
    """Wait until every trial has answered, has ended without, or took too long and is cancelled."""
    deadline = time.monotonic() + wait_s
    ended: dict[str, float] = {}
    while waiting := [trial for trial in trials if not trial.over]:
        for trial in waiting:
            if trial.answer.exists():
                trial.outcome = read_json(trial.answer)
                continue
            over, state = _state(profile, trial.job)
            silent = time.monotonic() - ended.setdefault(trial.job, time.monotonic()) if over else 0.0
            if silent > SILENCE_S:
                trial.trouble = f"ended ({state}) without an answer: {_last_words(trial)}"
            elif time.monotonic() > deadline:
                trial.trouble = f"did not answer within {wait_s:g} s; it was {state}, and is cancelled"
                _cancel(profile, trial.job)
        os.listdir(trials[0].answer.parent)  # NFS: look anew
        time.sleep(LOOK_EVERY_S)


def _state(profile: Profile, job: str) -> tuple[bool, str]:
    """Return whether a job has ended, and the scheduler's word for how it is."""
    if profile.executor == "slurm":
        asked = ["squeue", "--noheader", "--states=all", "--format=%T (%r)", f"--jobs={job}"]
        done = subprocess.run(asked, capture_output=True, text=True)
        state = done.stdout.strip() or "no longer in the queue"
        return not done.stdout.strip() or state.startswith(ENDED), state
    if (status := profile.command("status")) is None:
        return False, "in an unknown state (no cluster-generic-status-cmd)"
    done = subprocess.run(f"{status} {shlex.quote(job)}", shell=True, capture_output=True, text=True)
    return done.stdout.strip() in ("failed", "success"), done.stdout.strip() or "in an unknown state"


def _last_words(trial: Trial) -> str:
    if not trial.log.exists():
        return f"it wrote nothing to {trial.log.parent}, so that folder may not be shared with the nodes"
    lines = [line.strip() for line in trial.log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


def cancel(profile: Profile, trials: list[Trial]) -> str:
    """Cancel the trials that are not over; return what became of them, for the user."""
    left = {trial.job: _cancel(profile, trial.job) for trial in trials if not trial.over}
    gone, there = ([job for job, well in left.items() if well == wanted] for wanted in (True, False))
    said = [f"cancelled trial jobs: {', '.join(gone) or 'none'}"]
    said += [f"could not cancel {', '.join(there)}: do so yourself"] * bool(there)
    return "; ".join(said)


def _cancel(profile: Profile, job: str) -> bool:
    """Return whether the scheduler's command to cancel a job, where there is one, did so."""
    command = "scancel" if profile.executor == "slurm" else profile.command("cancel")
    return bool(command) and subprocess.run([command, job], capture_output=True).returncode == 0
