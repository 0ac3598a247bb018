"""Read a Snakemake profile of a cluster, and ask Snakemake what each rule would request under it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neuropipe.errors import ConfigError

EXECUTORS = ("slurm", "cluster-generic")
UNKNOWN = "<TBD>"  # Snakemake's word for a resource that it works out when the job starts


@dataclass(frozen=True)
class Profile:
    """A cluster's profile.

    Attributes
    ----------
    path : Path
        Its folder.
    executor : {"slurm", "cluster-generic"}
    settings : dict
        All its keys, as they stand in the file.
    defaults : dict of str to str
        ``default-resources``.
    of_rules : dict of str to dict
        ``set-resources``.
    """

    path: Path
    executor: str
    settings: dict[str, Any]
    defaults: dict[str, str] = field(default_factory=dict)
    of_rules: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def retries(self) -> int:
        """How often a failed job is submitted again."""
        return int(self.settings.get("retries", 0))

    def command(self, which: str) -> str | None:
        """Return cluster-generic's command to ``submit``, ``cancel``, or to ask for the ``status``."""
        return self.settings.get(f"cluster-generic-{which}-cmd")


@dataclass(frozen=True)
class Request:
    """What the jobs of one rule ask for at their first attempt: at most, over its jobs.

    Attributes
    ----------
    rule : str
    threads : int
    resources : dict of str to str
        As Snakemake prints them, defaults filled in; ``runtime`` in minutes, ``mem_mb`` in MB.
    """

    rule: str
    threads: int
    resources: dict[str, str] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """Return a numeric resource, or that of a first attempt; 0 where it is not asked for, or is no plain number."""
        match = re.fullmatch(r"(\d+)(?: *\* *attempt)?", str(self.resources.get(name, "")))
        return int(match[1]) if match else 0


def read(folder: Path) -> Profile:
    """Return the profile in a folder.

    Raises
    ------
    ConfigError
        There is none, it is no YAML, or it names no executor that the doctor knows.
    """
    files = sorted([*folder.glob("config.yaml"), *folder.glob("config.v*.yaml")])
    if not files:
        raise ConfigError(f"Expected a profile (a folder with config.yaml) at {folder}; profiles/slurm is one.")
    try:
        settings = yaml.safe_load(files[-1].read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{files[-1]} is not valid YAML: {error}") from None
    if not isinstance(settings, dict) or settings.get("executor") not in EXECUTORS:
        found = settings.get("executor") if isinstance(settings, dict) else None
        raise ConfigError(f"{files[-1]}: expected executor: {' or '.join(EXECUTORS)}; found {found!r}.")
    defaults, of_rules = settings.get("default-resources", {}), settings.get("set-resources", {})
    if isinstance(of_rules, list):  # of rule:name=value
        named = [str(item).split(":", 1) for item in of_rules]
        of_rules = {rule: [value for other, value in named if other == rule] for rule, _ in named}
    own = {rule: _resources(section) for rule, section in of_rules.items()}
    return Profile(folder, settings["executor"], settings, _resources(defaults), own)


def _resources(section: dict[str, Any] | list[str]) -> dict[str, str]:
    """Return resources by name; Snakemake takes a mapping, or a list of name=value."""
    if isinstance(section, list):
        return dict(str(item).split("=", 1) for item in section)
    return {name: str(value) for name, value in section.items()}


def requests(profile: Profile, config: Path) -> list[Request]:
    """Return what every rule of a study asks for under a profile, from a dry run of Snakemake.

    Raises
    ------
    ConfigError
        Snakemake does not accept the workflow, the profile or the study.
    """
    command = [sys.executable, "-m", "snakemake", "-n", "--forceall", "--nolock"]
    command += ["--workflow-profile", str(profile.path)]
    done = subprocess.run([*command, "--configfile", str(config)], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ConfigError("snakemake -n fails under this profile:\n" + "\n".join(lines[-8:]))
    return parse(done.stdout + done.stderr, profile)


def parse(output: str, profile: Profile) -> list[Request]:
    """Return the requests in what a dry run prints, one per rule: the largest of its jobs.

    A dry run works out what rules say, and leaves open most of what a profile says.
    """
    found: dict[str, Request] = {}
    for block in re.split(r"^(?=rule \S+:$)", output, flags=re.MULTILINE)[1:]:
        rule = block.partition(":")[0].removeprefix("rule ")
        threads = re.search(r"^    threads: (\d+)$", block, flags=re.MULTILINE)
        printed = re.search(r"^    resources: (.*)$", block, flags=re.MULTILINE)
        pairs = re.findall(r"(\w+)=(.*?)(?=, \w+=|$)", printed[1]) if printed else []
        known = {name: value for name, value in pairs if value != UNKNOWN}
        resources = profile.defaults | profile.of_rules.get(rule, {}) | known
        one = Request(rule, int(threads[1]) if threads else 1, resources)
        if rule not in found or one.number("mem_mb") > found[rule].number("mem_mb"):
            found[rule] = one
    return list(found.values())
