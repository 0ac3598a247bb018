"""Try a cluster's profile before a night depends on it: commands, partitions, limits, and a small job in each queue."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from neuropipe import config as configuration
from neuropipe.doctor import profile as profiles
from neuropipe.doctor import queue
from neuropipe.doctor.check import Check
from neuropipe.doctor.profile import Profile, Request
from neuropipe.doctor.trial import versions
from neuropipe.errors import NeuropipeError

SHARED = Path("results")
KINDS = ("slurm_partition", "slurm_account", "qos", "constraint", "flags", "gpu")  # what tells one queue from another


def check_profile(folder: Path, config: Path, wait_s: float) -> list[Check]:
    """Return every finding about a profile; jobs are submitted only where all else is well.

    Parameters
    ----------
    folder : path
        The profile.
    config : path
        The study whose rules are asked for.
    wait_s : float
        How long to wait for a trial job.
    """
    try:
        profile = profiles.read(folder)
    except NeuropipeError as error:
        return [Check("profile", False, f"{folder} cannot be used", str(error))]
    checks = [Check("profile", True, f"{folder}: executor {profile.executor}, {profile.retries} retries")]
    checks += [_check_plugin(profile), *_check_commands(profile)]
    if not all(check.ok for check in checks):
        return checks
    try:
        requests = profiles.requests(profile, config)
    except NeuropipeError as error:
        return [*checks, Check("jobs", False, "Snakemake cannot plan them", str(error))]
    checks.append(Check("jobs", True, f"{len(requests)} rules would be submitted"))
    if profile.executor == "slurm":
        checks += check_partitions(requests, profile.retries)
        if not all(check.ok for check in checks):
            return checks
    return checks + _check_trials(profile, requests, _data(config), wait_s)


def _check_plugin(profile: Profile) -> Check:
    name = f"snakemake-executor-plugin-{profile.executor}"
    there = find_spec(name.replace("-", "_")) is not None
    return Check("executor", there, f"{name}{'' if there else ' is not installed'}", f"Install it: pip install {name}")


def _check_commands(profile: Profile) -> list[Check]:
    """Check that the commands which submit, ask for and cancel jobs are on this computer."""
    if profile.executor == "slurm":
        commands: dict[str, str | None] = {name: name for name in ("sbatch", "squeue", "scancel", "sinfo")}
    else:
        commands = {which: profile.command(which) for which in ("submit", "status", "cancel")}
    checks = []
    for which, line in commands.items():
        program = (shlex.split(line or "") or [""])[0]
        there = bool(program) and shutil.which(program) is not None
        remedy = (
            f"{program} is not on the PATH: run the doctor on a login node of the cluster (module load?)."
            if program
            else f"Set cluster-generic-{which}-cmd in {profile.path}/config.yaml; without it jobs are left over."
        )
        checks.append(Check(f"command {which}", there, program or "not set", remedy))
    return [check for check in checks if not check.ok] or [Check("commands", True, ", ".join(commands))]


# --- partitions ---------------------------------------------------------------------------------


@dataclass
class Partition:
    """What Slurm says of a partition: its time limit (None: none), and the largest of its nodes."""

    up: bool
    limit_minutes: int | None
    memory_mb: int = 0
    cores: int = 0


def partitions() -> dict[str, Partition]:
    """Return the partitions of the cluster that sinfo reaches, by name."""
    done = subprocess.run(["sinfo", "--noheader", "--format=%R|%a|%l|%m|%c"], capture_output=True, text=True)
    if done.returncode:
        raise queue.SubmitError(f"sinfo does not reach the cluster: {done.stderr.strip()}")
    found: dict[str, Partition] = {}
    for line in done.stdout.splitlines():
        name, state, limit, memory, cores = line.strip().split("|")
        one = found.setdefault(name, Partition(state == "up", minutes(limit)))
        one.memory_mb = max(one.memory_mb, int(memory.rstrip("+")))
        one.cores = max(one.cores, int(cores.rstrip("+")))
    return found


def minutes(limit: str) -> int | None:
    """Return Slurm's ``[days-]hours:minutes:seconds``, ``minutes:seconds`` or ``infinite`` in whole minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if match is None:
        return None
    days, hours, mins, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + mins


def check_partitions(requests: list[Request], retries: int) -> list[Check]:
    """Check that each partition is there and up, and that what its rules ask for can ever start in it."""
    try:
        known = partitions()
    except NeuropipeError as error:
        return [Check("partitions", False, "unknown", str(error))]
    wanted: dict[str, list[Request]] = {}
    for request in requests:
        for name in request.resources.get("slurm_partition", "").split(","):  # the first of several that is free
            wanted.setdefault(name, []).append(request)
    checks = []
    for name, asking in wanted.items():
        if not name:
            checks.append(Check("partition", True, f"the cluster's default, for {_rules(asking)}"))
        elif name not in known:
            remedy = f"{_rules(asking)} would go there. This cluster has: {', '.join(known)}. Edit the profile."
            checks.append(Check(f"partition {name}", False, "not on this cluster", remedy))
        else:
            checks.append(_check_partition(name, known[name], asking, retries))
    return checks


def _check_partition(name: str, partition: Partition, asking: list[Request], retries: int) -> Check:
    remedies = [] if partition.up else ["It is not up; ask the administrators, or name another."]
    limits = {"runtime": (partition.limit_minutes, "minutes"), "mem_mb": (partition.memory_mb, "MB on one node")}
    for request in asking:
        for resource, (limit, unit) in limits.items():
            asked = request.number(resource)
            if limit is not None and asked > limit:
                line = f"set-resources: {{{request.rule}: {{{resource}: {limit}}}}}"
                remedies.append(f"{request.rule} asks for {asked} {unit}, {name} has {limit}. In the profile: {line}")
        if request.threads > partition.cores:
            line = f"set-threads: {{{request.rule}: {partition.cores}}}"
            remedies.append(
                f"{request.rule} asks for {request.threads} cores, a node has {partition.cores}. In the profile: {line}"
            )
    longest = max(request.number("runtime") for request in asking)
    largest = max(request.number("mem_mb") for request in asking)
    limit = "no time limit" if partition.limit_minutes is None else f"{partition.limit_minutes} min allowed"
    found = f"{limit}, longest rule {longest}; {partition.memory_mb} MB a node, largest rule {largest}"
    if retries and largest * (retries + 1) > partition.memory_mb:
        found += f"; attempt {partition.memory_mb // max(largest, 1) + 1} of it would not fit a node"
    return Check(f"partition {name}", not remedies, found, "\n".join(remedies))


def _rules(requests: Iterable[Request]) -> str:
    names = [request.rule for request in requests]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# --- trial jobs ---------------------------------------------------------------------------------


def _data(config: Path) -> list[Path]:
    """Return where a study's data lie; nothing where its configuration cannot be read, which is said elsewhere."""
    try:
        study = configuration.load(config)
        return [Path(configuration.expand(dataset.path)) for dataset in study.datasets.values()]
    except NeuropipeError:
        return []


def _check_trials(profile: Profile, requests: list[Request], data: list[Path], wait_s: float) -> list[Check]:
    """Run one small job per kind of queue, and compare what it saw with what is seen here.

    Raises
    ------
    NeuropipeError
        Ctrl-C was pressed; no job is left behind.
    """
    kinds: dict[tuple[str, ...], Request] = {}
    for request in requests:
        kinds.setdefault(tuple(request.resources.get(name, "") for name in KINDS), request)
    SHARED.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=SHARED)).absolute()
    checks, trials = [], []
    try:
        for number, request in enumerate(kinds.values()):
            try:
                trials.append(queue.submit(profile, request, folder, number, [path for path in data if path.exists()]))
            except NeuropipeError as error:
                remedy = f"The scheduler refuses a job like those of {request.rule}: {error}"
                checks.append(Check(f"job like {request.rule}", False, "refused", remedy))
        if trials:
            queue.wait(profile, trials, wait_s)
        return checks + [check for trial in trials for check in judge(trial, versions())]
    except KeyboardInterrupt:
        raise NeuropipeError(f"stopped; {queue.cancel(profile, trials)}.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def judge(trial: queue.Trial, here: dict[str, str]) -> list[Check]:
    """Return what a trial job tells: that it ran, shares our disk, our versions and data, and has its GPU."""
    name = f"job like {trial.request.rule}"
    if trial.outcome is None:
        remedy = (
            f"Job {trial.job} {trial.trouble}. Where the queue is merely long, wait longer (--wait-s); where the "
            "folder is not shared, work on a file system that the nodes mount."
        )
        return [Check(name, False, "no answer", remedy)]
    outcome = trial.outcome
    checks = [Check(name, True, f"ran on {outcome['host']} and wrote to the shared folder")]
    there = outcome["versions"]
    differing = [f"{key} {here[key]} here, {there[key]} there" for key in here if here[key] != there.get(key)]
    if differing:
        remedy = f"{'; '.join(differing)}. Jobs must use this environment: activate it, then start snakemake."
        checks.append(Check(f"{name}: versions", False, "differ", remedy))
    if outcome["unreadable"]:
        remedy = f"{outcome['host']} cannot read {', '.join(outcome['unreadable'])}. Put data where nodes see them."
        checks.append(Check(f"{name}: data", False, "not readable", remedy))
    if asked := trial.request.number("gpu"):
        checks.append(_judge_gpu(name, asked, outcome))
    return checks


def _judge_gpu(name: str, asked: int, outcome: dict) -> Check:
    usable, granted, torch = outcome["gpus"]["usable"], outcome["gpus"]["granted"], outcome["versions"]["torch"]
    found = f"{usable} of {asked} usable, granted: {granted or 'none'} (torch {torch})"
    remedy = (
        f"The scheduler granted GPU {granted}, but torch {torch} cannot use it: install the build for the CUDA of the "
        "nodes (nvidia-smi there names it)."
        if granted
        else "The scheduler granted no GPU: name a partition, or flags, that do (sinfo -o '%P %G' shows who has some)."
    )
    return Check(f"{name}: gpu", usable >= asked, found, remedy)
