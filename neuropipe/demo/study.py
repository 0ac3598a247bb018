"""The demo study: fMRIPrep- and CAT12-like derivatives of simulated people, with the truth beside them."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from neuropipe import __version__
from neuropipe.demo import states
from neuropipe.demo.anatomy import Scan, draw_scans
from neuropipe.demo.atlas import SPACE, Layout, make_layout
from neuropipe.demo.cat12 import scan_files, write_scans
from neuropipe.demo.confounds import confounds_table, draw_motion
from neuropipe.demo.coupling import draw_couplings, network_ids
from neuropipe.demo.people import SITES, Site, draw_people
from neuropipe.demo.scan import Voxels, simulate_scan, write_scan, write_volume
from neuropipe.demo.signals import regional_series
from neuropipe.demo.truth import describe_anatomy, describe_truth
from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import write_text
from neuropipe.provenance import read_json, write_json

GENERATOR_VERSION = 7  # bumped when the same seed gives other data
HEAVY_FD_MM = 0.85  # of the run that moves too much to be used
HOLE_NETWORK = "Limbic"  # where signal is really lost, near the air of the sinuses
ATLAS_NAME = f"tpl-{SPACE}_atlas-Demo457_dseg"
ROOT_SIDECAR = f"task-rest_space-{SPACE}_desc-preproc_bold.json"
CAT12 = {"Name": "CAT12", "Version": "12.8"}
GENERATED_BY = {"Name": "neuropipe", "Version": __version__, "Description": "neuropipe demo: simulated, nobody's data"}

logger = logging.getLogger("neuropipe")


@dataclass(frozen=True)
class Run:
    """One run to simulate.

    Attributes
    ----------
    person : int
        Row of the participants.
    run : int or None
        Number in the file name; None where the person has one run.
    inherits : bool
        Without a sidecar of its own: the one at the root says it all.
    missing_region : int or None
        Label of a region in which the run has no signal.
    blocks : tuple of str
        Of a task run: the labels of its blocks in their order; a run without them is rest.
    """

    participant_id: str
    person: int
    run: int | None
    site: Site
    inherits: bool
    mean_fd_mm: float
    missing_region: int | None = None
    blocks: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """File name without space, desc and suffix."""
        task = states.TASK if self.blocks else "rest"
        return f"{self.participant_id}_task-{task}" + (f"_run-{self.run}" if self.run else "")

    def files(self) -> dict[str, str]:
        """Names of the run's files by what they hold."""
        image = f"{self.stem}_space-{SPACE}_desc"
        names = {
            "bold": f"{image}-preproc_bold.nii.gz",
            "mask": f"{image}-brain_mask.nii.gz",
            "confounds": f"{self.stem}_desc-confounds_timeseries.tsv",
            "confounds_sidecar": f"{self.stem}_desc-confounds_timeseries.json",
        }
        if not self.inherits:
            names["sidecar"] = f"{image}-preproc_bold.json"
        if self.blocks:
            names["events"] = f"{self.stem}_events.tsv"
        return names


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is drawn before any signal: people, couplings (n_people, 9, 9), runs and structural scans.

    `runs` are of rest; `task_runs` are of some of the people, one each.
    """

    seed: int
    sites: tuple[Site, ...]
    people: pd.DataFrame
    couplings: np.ndarray
    runs: list[Run]
    scans: list[Scan]
    task_runs: list[Run]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("--output", type=Path, default=Path("results/demo/study"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other people")
    parser.add_argument("--jobs", type=int, default=None, help="processes; default: one per core")


def run(*, output: Path, seed: int, jobs: int | None = None) -> None:
    """Simulate the demo study; where it is complete already, do nothing.

    Raises
    ------
    InputError
        `output` holds something else.
    """
    write_study(Path(output), make_plan(seed), jobs or os.cpu_count() or 1)


def make_plan(seed: int, sites: tuple[Site, ...] = SITES) -> Plan:
    """Draw people and couplings, and give three people the troubles of a real study.

    One person's run has a hole in its mask where a region was; one has two good runs; one has a second run with so
    much motion that it should not be used. Everyone has one usable run. Of the structural scans one is poor, one was
    not segmented, and one lies in a file of another orientation.
    """
    rng = _rng(seed, "people")
    people = draw_people(rng, sites)
    patient = (people["diagnosis"] == "patient").to_numpy()
    couplings = draw_couplings(patient, people["age"].to_numpy(), rng)
    with_hole, with_two, with_heavy = rng.choice(len(people), 3, replace=False)
    table = make_layout().table
    hole = int(rng.choice(table.loc[table["network"] == HOLE_NETWORK, "index"]))
    by_name = {site.name: site for site in sites}
    runs = []
    for person, row in people.iterrows():
        site, twice = by_name[row["site"]], person in (with_two, with_heavy)
        run = Run(row["participant_id"], person, 1 if twice else None, site, site is sites[0], row["mean_fd_mm"])
        runs.append(replace(run, missing_region=hole) if person == with_hole else run)
        if twice:
            runs.append(replace(run, run=2, mean_fd_mm=HEAVY_FD_MM if person == with_heavy else run.mean_fd_mm))
    scans = draw_scans(people, sites, _rng(seed, "anatomy"))
    return Plan(seed, sites, people, couplings, runs, scans, _task_runs(seed, people, by_name))


def _task_runs(seed: int, people: pd.DataFrame, sites: dict[str, Site]) -> list[Run]:
    """Return a task run of each of the first people; their order is random."""
    found = []
    for person, row in people.head(states.N_TASK_PEOPLE).iterrows():
        blocks = tuple(states.draw_blocks(_rng(seed, "blocks", person)))
        run = Run(row["participant_id"], person, None, sites[row["site"]], False, row["mean_fd_mm"], blocks=blocks)
        found.append(run)
    return found


def write_study(output: Path, plan: Plan, jobs: int) -> None:
    """Simulate what is planned with `jobs` processes and write it, the truth last: it says that all is there."""
    stamp = {"version": GENERATOR_VERSION, "seed": plan.seed}
    with lock(output.with_name(f".{output.name}.lock")):
        _check_ours(output)
        if _is_complete(output, plan, stamp):
            logger.info("The demo study in %s is complete: nothing to do.", output)
            return
        (output / "truth.json").unlink(missing_ok=True)
        _write_frame(output, plan)
        measured = _simulate_all(output, plan, jobs)
        of_rest, of_task = measured[: len(plan.runs)], measured[len(plan.runs) :]
        scans = write_scans(_maps(output), plan.scans, lambda scan: _rng(plan.seed, "map", scan.person))
        _remove_stale(output, plan)
        truth = describe_truth(plan.people, plan.couplings, plan.sites, _rng(plan.seed, "truth"))
        anatomy = describe_anatomy(plan.people, plan.scans, plan.sites) | {"scans": scans}
        orders = {run.participant_id: list(run.blocks) for run in plan.task_runs}
        planted = states.describe_states(orders, _rng(plan.seed, "states truth")) | {"runs": of_task}
        told = {"generator": stamp, **truth, "runs": of_rest, "anatomy": anatomy, "states": planted}
        write_json(output / "truth.json", told)
    n_maps, n_runs = sum(scan.has_map for scan in plan.scans), len(measured)
    logger.info("Simulated %d people, %d runs and %d maps in %s.", len(plan.people), n_runs, n_maps, output)


def _rng(seed: int, what: str, *numbers: int) -> np.random.Generator:
    """Return a generator of its own for each use, so that the order of simulation does not matter."""
    return np.random.default_rng([seed, *what.encode(), *numbers])


def _derivatives(output: Path) -> Path:
    return output / "derivatives" / "fmriprep"


def _maps(output: Path) -> Path:
    return output / "derivatives" / "cat12"


def _func(output: Path, run: Run) -> Path:
    return _derivatives(output) / run.participant_id / "func"


def _check_ours(output: Path) -> None:
    """Refuse to write into a folder with anybody else's data."""
    if not output.is_dir() or not any(output.iterdir()):
        return
    description = _derivatives(output) / "dataset_description.json"
    makers = read_json(description).get("GeneratedBy", []) if description.is_file() else []
    if not any(maker["Name"] == GENERATED_BY["Name"] for maker in makers):
        raise InputError(
            f"{output}: expected an empty folder or an earlier demo study, found other files. "
            "Name another folder with --output."
        )


def _is_complete(output: Path, plan: Plan, stamp: dict[str, int]) -> bool:
    truth = output / "truth.json"
    if not truth.is_file() or read_json(truth)["generator"] != stamp:
        return False
    wanted = [*_planned(output, plan), output / "participants.tsv", output / "atlas" / f"{ATLAS_NAME}.nii.gz"]
    return all(path.is_file() for path in wanted)


def _all_runs(plan: Plan) -> list[Run]:
    return [*plan.runs, *plan.task_runs]


def _planned(output: Path, plan: Plan) -> set[Path]:
    """Return the files of all runs and structural scans."""
    runs = {_func(output, run) / name for run in _all_runs(plan) for name in run.files().values()}
    return runs | {_maps(output) / name for scan in plan.scans for name in scan_files(scan).values()}


def _write_frame(output: Path, plan: Plan) -> None:
    """Write everything but runs and scans; the dataset description first, by which the folder is known as ours."""
    derivatives, t_r = _derivatives(output), plan.sites[0].t_r
    for folder, maker in ((derivatives, {"Name": "fMRIPrep", "Version": "24.1.1"}), (_maps(output), CAT12)):
        description = {
            "Name": "neuropipe demo study (simulated)",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [maker | {"Description": "imitated layout"}, GENERATED_BY],
        }
        write_json(folder / "dataset_description.json", description)
    write_json(derivatives / ROOT_SIDECAR, {"TaskName": "rest", "RepetitionTime": t_r, "SkullStripped": True})
    columns = ["participant_id", "age", "sex", "diagnosis", "site"]
    write_text(output / "participants.tsv", _tsv(plan.people[columns]))
    write_json(
        output / "participants.json",
        {
            "age": {"Description": "Age at the examination", "Units": "years"},
            "sex": {"Levels": {"F": "female", "M": "male"}},
            "diagnosis": {"Levels": {"patient": "simulated disease", "control": "none"}},
            "site": {"Description": "Scanner", "Levels": {s.name: f"TR {s.t_r} s" for s in plan.sites}},
        },
    )
    layout = make_layout()
    write_volume(output / "atlas" / f"{ATLAS_NAME}.nii.gz", layout.labels)
    write_text(output / "atlas" / f"{ATLAS_NAME}.tsv", _tsv(layout.table))


def _simulate_all(output: Path, plan: Plan, jobs: int) -> list[dict[str, Any]]:
    """Simulate all runs, those of rest first, in a pool where `jobs` > 1; the bytes are the same either way."""
    simulate = partial(_simulate_run, output, plan.seed)
    runs = _all_runs(plan)
    couplings = [plan.couplings[run.person] for run in runs]
    if jobs == 1:
        return [simulate(run, coupling) for run, coupling in zip(runs, couplings, strict=True)]
    # Not forked: this process has the lock's thread.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(runs)), mp_context=context) as pool:
        return list(pool.map(simulate, runs, couplings))


@cache
def _layout() -> Layout:
    return make_layout()


@threadpool_limits.wrap(limits=1)  # sums in another order would change the last bits
def _simulate_run(output: Path, seed: int, run: Run, coupling: np.ndarray) -> dict[str, Any]:
    """Simulate and write one run; return what truth.json says of it."""
    rng = _rng(seed, "task run" if run.blocks else "run", run.person, run.run or 1)
    site, layout, folder, names = run.site, _layout(), _func(output, run), run.files()
    voxels = Voxels.of(layout, run.missing_region)
    timing = states.Timing.of(site.t_r) if run.blocks else states.Timing(site.n_volumes, site.t_r)
    motion = draw_motion(timing.n_volumes, run.mean_fd_mm, rng)
    if run.blocks:
        series = states.regional_series(coupling, network_ids(), list(run.blocks), timing, rng)
    else:
        series = regional_series(coupling[None], network_ids(), n_samples=site.n_volumes, t_r=site.t_r, rng=rng)[0]
    scan = simulate_scan(voxels, series, motion, site, rng)
    table, metadata = confounds_table(scan, voxels.white_matter, voxels.csf, motion, site.t_r, site.n_unsteady)

    mask = np.zeros(layout.labels.size, dtype=np.uint8)
    mask[voxels.flat] = 1
    write_volume(folder / names["mask"], mask.reshape(layout.labels.shape, order="F"))
    write_text(folder / names["confounds"], _tsv(table))
    write_json(folder / names["confounds_sidecar"], metadata)
    if "sidecar" in names:
        write_json(folder / names["sidecar"], {"RepetitionTime": site.t_r})
    if "events" in names:
        write_text(folder / names["events"], _tsv(states.events(list(run.blocks))))
    write_scan(folder / names["bold"], scan, voxels, site.t_r, rng)
    return {
        "run": run.stem,
        "participant_id": run.participant_id,
        "mean_fd_mm": float(table["framewise_displacement"].mean()),
        "n_motion_outliers": sum(name.startswith("motion_outlier") for name in table),
        "missing_region": run.missing_region,
        "too_much_motion": run.mean_fd_mm == HEAVY_FD_MM,
    }


def _remove_stale(output: Path, plan: Plan) -> None:
    """Remove what an earlier seed, or a killed process, left among the runs and scans."""
    wanted = _planned(output, plan)
    for path in (output / "derivatives").glob("*/sub-*/**/*"):
        if path.is_file() and path not in wanted:
            path.unlink()


def _tsv(table: pd.DataFrame) -> str:
    return table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.9g", lineterminator="\n")
