"""Check machine, versions, configuration and data, and say what to do about each problem."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from neuropipe import config as configuration
from neuropipe.doctor.check import Check, attempt
from neuropipe.errors import NeuropipeError

if TYPE_CHECKING:
    import pandas as pd
    from packaging.requirements import Requirement

DEFAULT_CONFIG = Path("config.yaml")
OLDEST_PYTHON = (3, 11)
ENOUGH_MEMORY_GB = 4.0  # the demo on two cores stays below 6 with the system's own
ENOUGH_DISK_GB = 2.0
NEEDED_EXTRAS = ("", "imaging", "workflow")  # "" is the core
OPTIONAL_EXTRAS = ("cluster", "extras", "hub")
# Named one by one, because their versions exclude each other: snakemake from 9.16 on and nilearn disagree on packaging.
NAMED_PACKAGES = ("torch", "nilearn", "snakemake", "packaging")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
GB = 1e9


@dataclass(frozen=True)
class Examination:
    """All checks: ``lines`` to print, ``exit_code`` 0 where all is well and 2 where something is to be mended."""

    checks: list[Check]

    @property
    def problems(self) -> list[Check]:
        """The checks that failed, in order."""
        return [check for check in self.checks if not check.ok]

    @property
    def exit_code(self) -> int:
        """0 without a problem, else 2."""
        return 2 if self.problems else 0

    @property
    def lines(self) -> list[str]:
        """A table of all checks, then what to do, problem by problem."""
        if not self.problems:
            return [*_table(self.checks), "", "All is well."]
        todo = ["", f"What to do ({len(self.problems)}):"]
        for number, check in enumerate(self.problems, 1):
            first, *rest = check.remedy.splitlines()
            todo += [f"{number}. {check.name}: {first}", *(f"   {line}" for line in rest)]
        return [*_table(self.checks), *todo]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("--config", type=Path, help=f"the study's config; default: {DEFAULT_CONFIG}, if it is there")
    parser.add_argument("--profile", type=Path, help="a Snakemake profile of a cluster to try out, e.g. profiles/slurm")
    parser.add_argument(
        "--wait-s", type=float, default=300.0, help="seconds to wait for each trial job of a profile; default 300"
    )


def run(*, config: Path | None, profile: Path | None = None, wait_s: float = 300.0) -> Examination:
    """Examine this machine, what is installed, where there is a configuration the study, and a cluster's profile."""
    examination = _examine(config)
    if profile is None:
        return examination
    from neuropipe.doctor import cluster

    return Examination([*examination.checks, *cluster.check_profile(profile, config or DEFAULT_CONFIG, wait_s)])


def _examine(config: Path | None) -> Examination:
    from neuropipe.doctor import questions

    checks = [*check_machine(), *check_packages(), check_gpu()]
    path = config or DEFAULT_CONFIG
    if config is None and not path.is_file():
        found = f"no {path} in this folder, so no data were checked (name one with --config)"
        return Examination([*checks, Check("configuration", True, found)])
    try:
        study = configuration.load(path)
    except NeuropipeError as error:
        return Examination([*checks, Check("configuration", False, f"{path} cannot be used", str(error))])
    checks.append(Check("configuration", True, f"{path}: study {study.study}"))
    checks += [*check_recipes(study), *check_atlases(study)]
    tables = {}
    for name in study.datasets:
        found, people = check_dataset(study, name)
        checks += found
        if people is not None and len(people):
            tables[name] = people
    checks += questions.check_tasks(study, tables)
    return Examination([*checks, check_results(Path("results") / study.study)])


# --- machine and versions -----------------------------------------------------------------------


def check_machine() -> list[Check]:
    """Check Python, processor cores and memory."""
    python, oldest = sys.version_info[:2] >= OLDEST_PYTHON, ".".join(map(str, OLDEST_PYTHON))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_gb()
    return [
        Check("python", python, platform.python_version(), f"Install Python {oldest} or newer, then: make setup"),
        Check("cores", True, f"{cores} for this process"),
        Check(
            "memory",
            memory >= ENOUGH_MEMORY_GB,
            f"{memory:.1f} GB",
            f"Expected {ENOUGH_MEMORY_GB:g} GB or more: use a larger machine, or run with snakemake --cores 1.",
        ),
    ]


def _memory_gb() -> float:
    """Return the memory of the machine, or of the container where that allows less, in GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTAINER_LIMIT.read_text(encoding="ascii").strip() if CONTAINER_LIMIT.is_file() else "max"
    return min(memory, int(limit) if limit.isdigit() else memory) / GB


def check_gpu() -> Check:
    """Check that a GPU, where there is one, can be used by the installed build of torch."""
    try:
        import torch
    except ImportError as error:
        return Check("gpu", False, "torch cannot be imported", f"{error}. Install it: make setup")
    build = f"torch {torch.__version__}, " + (f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("gpu", True, f"{', '.join(names)} ({build})")
    if NVIDIA_DRIVER.is_file():
        remedy = (
            f"There is an NVIDIA driver, but {build} finds no GPU: install the build of the same torch version for the "
            "CUDA that nvidia-smi names, or make sure that this process may use the GPU (CUDA_VISIBLE_DEVICES)."
        )
        return Check("gpu", False, f"not usable ({build})", remedy)
    return Check("gpu", True, f"none: training runs on the processor ({build})")


def check_packages() -> list[Check]:
    """Check installed versions against what this version of neuropipe requires."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Check("packages", False, "packaging is not installed", "Install what is pinned: make setup")]
    try:
        own = [Requirement(text) for text in metadata.requires("neuropipe") or []]
    except metadata.PackageNotFoundError:
        return [Check("packages", False, "neuropipe itself is not installed", "Install it: make setup")]
    needed = [r for r in own if _wanted(r, NEEDED_EXTRAS)]
    optional = [r for r in own if _wanted(r, OPTIONAL_EXTRAS) and not _wanted(r, NEEDED_EXTRAS)]
    checks = [_check_package(r.name, [r]) for r in needed]
    checks.append(_check_package("packaging", _demands_on("packaging", ("nilearn", "snakemake"))))
    shown = [check for check in checks if not check.ok or check.name in NAMED_PACKAGES]
    fitting = [check.name for check in checks if check not in shown]
    missing = [r.name for r in optional if _installed(r.name) is None]
    without = f"; optional and not installed: {', '.join(missing)}" if missing else ""
    return [*shown, Check("other packages", True, f"{len(fitting)} fit{without}")]


def _wanted(requirement: Requirement, extras: tuple[str, ...]) -> bool:
    if requirement.name == "neuropipe":
        return False
    return any(requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in extras)


def _demands_on(package: str, by: tuple[str, ...]) -> list[Requirement]:
    """Return what the installed packages `by` require of `package`."""
    from packaging.requirements import Requirement

    texts = [text for name in by if _installed(name) for text in metadata.requires(name) or []]
    found = [Requirement(text) for text in texts]
    return [r for r in found if r.name == package and (r.marker is None or r.marker.evaluate({"extra": ""}))]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _check_package(name: str, requirements: list[Requirement]) -> Check:
    """Compare one installed package with everything that is required of it."""
    version = _installed(name)
    wanted = ",".join(sorted({str(spec) for r in requirements for spec in r.specifier}))
    ok = version is not None and all(r.specifier.contains(version, prereleases=True) for r in requirements)
    found = f"{version or 'not installed'}{f' (required: {wanted})' if wanted else ''}"
    return Check(name, ok, found, f"Install what is pinned (make setup), or: pip install '{name}{wanted}'")


# --- the study ----------------------------------------------------------------------------------


def check_recipes(study: configuration.StudyConfig) -> list[Check]:
    """Check that every recipe is there, is valid, and is of a family that reads what its datasets hold."""
    checks = []
    for name in study.pretrain:
        path = study.recipe_path(name)
        if path.is_file():
            checks.append(attempt(f"recipe {name}", lambda name=name: _recipe(study, name)))
            continue
        remedy = f"Write {path}, or correct pretrain.{name} (its name, or its key recipe) in the configuration."
        checks.append(Check(f"recipe {name}", False, f"no {path}", remedy))
    return checks


def _recipe(study: configuration.StudyConfig, name: str) -> str:
    """Return what a recipe trains; raise where its family cannot read the datasets."""
    from neuropipe.errors import ConfigError
    from neuropipe.train import recipe

    path = study.recipe_path(name)
    chosen = recipe.read(path)
    if study.pretrain[name].finetune:
        chosen.tuning(str(path))
    reads, held = chosen.model_settings().reads().content, study.contents(study.pretrain[name].datasets)
    if held - {reads} and (reads, held) != ("image", {"volume"}):
        raise ConfigError(
            f"{path} trains {chosen.family}, which reads {reads}, but the datasets of pretrain.{name} hold "
            f"{', '.join(sorted(held))}. Name another recipe, or other datasets."
        )
    return f"{path}: {chosen.family}"


def _labels(study: configuration.StudyConfig, dataset: str) -> set[str]:
    """Return the columns of participants.tsv that the recipes of a dataset learn from."""
    from neuropipe.train import recipe

    named = [name for name, item in study.pretrain.items() if dataset in item.datasets]
    found: set[str] = set()
    for path in map(study.recipe_path, named):
        try:
            found |= set(recipe.read(path).model_settings().labels())
        except NeuropipeError:
            continue  # `check_recipes` says so
    return found


def check_atlases(study: configuration.StudyConfig) -> list[Check]:
    """Check that every atlas is on this machine and unaltered, and that all lie in one space."""
    from neuropipe.signals import atlases

    def examine(spec: str | configuration.AtlasFile) -> str:
        atlas = atlases.load(spec)
        return f"{len(atlas.table)} regions in {atlas.space}"

    names = [spec if isinstance(spec, str) else spec.id for spec in study.atlases]
    checks = [
        attempt(f"atlas {name}", lambda spec=spec: examine(spec))
        for name, spec in zip(names, study.atlases, strict=True)
    ]
    if len(study.atlases) > 1:
        checks.append(attempt("space of the atlases", lambda: atlases.common_space(study.atlases, study.warp)))
    return checks + (_check_transforms(study) if study.warp and study.atlases else [])


def _check_transforms(study: configuration.StudyConfig) -> list[Check]:
    """Check that the transforms are on this machine that bring each atlas to the space which a dataset selects."""
    from neuropipe.signals import atlases, catalogue
    from neuropipe.signals.warp import Warp

    sources = {atlases.space_of(spec) for spec in study.atlases}
    default = atlases.common_space(study.atlases, warp=True)
    selected = [d.select.get("space", default) for d in study.datasets.values() if _is_bold(d)]
    targets = {space for chosen in selected for space in (chosen if isinstance(chosen, list) else [chosen])}
    pairs = sorted((source, target) for source in sources for target in targets if source != target)
    return [
        attempt(f"transform {catalogue.transform_name(*pair)}", lambda pair=pair: str(Warp().find(*pair)[0]))
        for pair in pairs
    ]


def _is_bold(dataset: configuration.Dataset) -> bool:
    return dataset.kind == "fmriprep" and dataset.stage == "parcellate"


def check_dataset(study: configuration.StudyConfig, name: str) -> tuple[list[Check], pd.DataFrame | None]:
    """Check that a dataset has people, runs that can be used, and the columns that tasks ask for.

    Returns
    -------
    checks : list of Check
    people : DataFrame or None
        Its participants table, where it can be read.
    """
    from neuropipe.bids import doors
    from neuropipe.doctor import questions

    dataset = study.datasets[name]
    label = f"data {name}"
    if dataset.fetched and dataset.participants is None:  # who they are stands beside them
        return [attempt(label, lambda: _published(dataset))], None
    try:
        path = Path(configuration.expand(dataset.path))
        if not (dataset.fetched or path.exists()):
            remedy = f"Correct datasets.{name}.path, or put the data there (the demo's are made by: neuropipe demo)."
            return [Check(label, False, f"no {path}", remedy)], None
        people, table = doors.people(dataset)
        table = table or path  # data that name their people themselves
    except NeuropipeError as error:
        return [Check(label, False, "cannot be read", str(error))], None
    absent = sorted((questions.targets(study, name) | _labels(study, name)) - set(people))
    remedy = (
        f"{table} lacks the columns {absent}, which tasks name as targets or recipes learn from; add them, or correct "
        "the tasks and recipes."
    )
    return [
        Check(f"people {name}", not absent, f"{len(people)} in {table}", remedy),
        attempt(label, lambda: _published(dataset) if dataset.fetched else _runs(study, name, path, people)),
    ], people


def _published(dataset: configuration.Dataset) -> str:
    """Return how many samples were published at an address; raise where it cannot be read."""
    from neuropipe.stages.fetch import published

    table = published(configuration.expand(dataset.path))
    return f"{len(table)} samples of {table['participant_id'].nunique()} people at {dataset.path}"


def _runs(study: configuration.StudyConfig, name: str, path: Path, people: pd.DataFrame) -> str:
    """Return how many runs the index would find; without any, raise with the reasons."""
    from neuropipe.bids import doors, fmriprep, index
    from neuropipe.errors import InputError
    from neuropipe.signals.atlases import common_space

    dataset = study.datasets[name]
    if dataset.ready_made or dataset.stage == "volumes":
        found = doors.find(dataset, name, path, people)
    else:
        ids, space = set(people["participant_id"]), common_space(study.atlases, study.warp)
        found = fmriprep.find(path, name, dataset.select, space, ids, dataset.n_chunks)
    if not found.runs:
        raise InputError(f"No run in {path} can be used.\n{index.summary(found.excluded)}")
    left_out = f", {len(found.excluded)} left out (see index/{name}/excluded.tsv)" if found.excluded else ""
    return f"{len(found.runs)} runs of {len({row['participant_id'] for row in found.runs})} people in {path}{left_out}"


def check_results(folder: Path) -> Check:
    """Check that products can be written, and that there is room for them."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        remedy = f"Make {place} a folder that you may write to, or start from another folder."
        return Check("results", False, f"{place} cannot be written", remedy)
    free = shutil.disk_usage(place).free / GB
    remedy = f"Free some space: {ENOUGH_DISK_GB:g} GB at least."
    return Check("results", free >= ENOUGH_DISK_GB, f"{folder} can be written, {free:.1f} GB free", remedy)


# --- the table ----------------------------------------------------------------------------------


def _table(checks: list[Check]) -> list[str]:
    """Return a table of checks; with rich its cells are wrapped to the terminal."""
    rows = [("ok" if check.ok else "PROBLEM", check.name, check.found) for check in checks]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        width = max(len(name) for _, name, _ in rows)
        return [f"{state:<7}  {name:<{width}}  {found}" for state, name, found in rows]
    drawable = (sys.stdout.encoding or "").lower().startswith("utf")
    table = Table("", "what", "found", box=box.ROUNDED if drawable else box.ASCII)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=StringIO(), width=shutil.get_terminal_size((100, 24)).columns)
    console.print(table)
    return console.file.getvalue().rstrip("\n").split("\n")
