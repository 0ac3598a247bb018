"""Snakemake's bookkeeping of studies of 100 to 100,000 runs: manifests of that size, jobs with empty bodies.

    python benchmarks/scale.py            # a quarter of an hour
    python benchmarks/scale.py --small    # seconds, for a test of this script

The Snakefile, rules and profile are the real ones; a stand-in for `neuropipe` writes what a job declares and nothing
else, so that what is measured is the workflow: the dry run of a study that has nothing yet, a full run (up to 10,000
runs), a dry run when all is there, and what 100 new subjects cost. Seconds are CPU seconds of Snakemake and its jobs,
user and system; wall seconds stand beside them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from neuropipe.bids.index import chunk_of
from neuropipe.paths import write_if_changed, write_text

ROOT = Path(__file__).resolve().parents[1]
RUNS_PER_CHUNK = 100
SIZES, SMALL_SIZES = (100, 1000, 10_000, 100_000), (20,)
LARGEST_FULL = 10_000  # runs of which every job is run; of more only the graph is made
NEW = 100  # subjects that come later
STAND_IN = """\
#!/bin/sh
# Writes what a job declares as output, and nothing else.
previous= output= receipts=
for word in "$@"; do [ "$previous" = --output ] && output=$word; previous=$word; done
stage=$1
mkdir -p "$(dirname "$output")"
case "$stage $*" in
  index*--dataset*) mkdir -p "$output"; cp -p prepared/* "$output" ;;
  index*) mkdir -p "$output/many"; cp -p prepared/* "$output/many" ;;
  collect*) : > "$output"; : > "${output%/*}/regions.tsv"; quality=${output%/shards/*}/qc/many
    mkdir -p "$quality"; : > "$quality/runs.parquet"; : > "$quality/regions.parquet" ;;
  split*) mkdir -p "$output"; : > "$output/splits.parquet"; : > "$output/audit.json" ;;
  baselines*) mkdir -p "$output"; : > "$output/predictions.parquet"; : > "$output/nulls.parquet" ;;
  evaluate*) : > "$output"
    for name in metrics.csv predictions.parquet nulls.parquet; do : > "${output%/*}/$name"; done ;;
  report*) : > "$output"; : > "${output%/report/*}/excluded.tsv"
    for name in methods.md references.bib; do : > "${output%/*}/$name"; done ;;
  *) : > "$output" ;;
esac
echo "$stage" >> jobs.txt
"""


@dataclass(frozen=True)
class Cost:
    """What one call of Snakemake took.

    Attributes
    ----------
    cpu_s, wall_s : float
        With all of its jobs.
    memory_mb : float
        Of its largest process, in 10^6 bytes.
    n_jobs : int
        Jobs that were run.
    """

    cpu_s: float
    wall_s: float
    memory_mb: float
    n_jobs: int


def workplace(folder: Path) -> None:
    """Make a copy of the workflow, and an environment in which `neuropipe` is the stand-in."""
    for name in ("rules", "profiles", "workflow", "envs"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    own = Path(sys.prefix)
    place = folder / "environment"
    (place / "bin").mkdir(parents=True)
    (place / "lib").symlink_to(own / "lib")
    if (own / "pyvenv.cfg").is_file():
        shutil.copy(own / "pyvenv.cfg", place)
    (place / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (place / "bin" / "neuropipe").write_text(STAND_IN)
    (place / "bin" / "neuropipe").chmod(0o755)


def study(folder: Path, n_runs: int, n_chunks: int) -> None:
    """Write a configuration, and manifests of `n_runs` subjects; a manifest that stays the same is not touched."""
    config = {
        "study": "scale",
        "datasets": {"many": {"kind": "fmriprep", "path": "derivatives", "n_chunks": n_chunks}},
        "atlases": ["cc200"],
        "shards": {"hdf5": False},
        "splits": {"main": {"scheme": "holdout", "test": 0.3}},
        "tasks": {"age": {"target": "age", "kind": "regression", "datasets": ["many"], "split": "main"}},
        "evaluate": {"baselines": ["majority", "fc"]},
    }
    write_text(folder / "config.yaml", yaml.safe_dump(config))
    chunks: list[list[str]] = [[] for _ in range(n_chunks)]
    for n in range(n_runs):
        subject = f"sub-{n:06d}"
        row = f"{subject}_task-rest\t{subject}\tfunc/{subject}_task-rest_desc-preproc_bold.nii.gz\t{n:08x}"
        chunks[chunk_of(subject.removeprefix("sub-"), n_chunks)].append(row)
    for number, rows in enumerate(chunks):
        write_if_changed(folder / "prepared" / f"chunk-{number:02d}.tsv", "\n".join(["run", *rows, ""]))
    everyone = "\n".join(row for rows in chunks for row in rows)
    write_if_changed(folder / "prepared" / "runs.tsv", everyone)
    write_if_changed(folder / "prepared" / "participants.tsv", everyone)
    write_if_changed(folder / "prepared" / "excluded.tsv", "")


def snakemake(folder: Path, *arguments: str) -> Cost:
    """Run Snakemake in `folder` and return what it took."""
    (folder / "jobs.txt").unlink(missing_ok=True)
    command = [str(folder / "environment" / "bin" / "python"), "-m", "snakemake", *arguments, "--cores", "2", "--quiet"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(ROOT)
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate()
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise SystemExit(f"snakemake {' '.join(arguments)} failed:\n{output.decode()[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    jobs = folder / "jobs.txt"
    n_jobs = len(jobs.read_text().splitlines()) if jobs.is_file() else 0
    return Cost(cpu, wall, after.ru_maxrss * 1024 / 1e6, n_jobs)  # children only grow, and sizes are in order


def measured(folder: Path, n_runs: int, repeats: int, new: int) -> dict[str, float]:
    """Return the figures of one size."""
    workplace(folder)
    n_chunks = max(2, n_runs // RUNS_PER_CHUNK)
    study(folder, n_runs, n_chunks)
    dry = [snakemake(folder, "-n") for _ in range(repeats)]
    found = {
        "dry_run_s": statistics.median(cost.cpu_s for cost in dry),
        "dry_run_wall_s": statistics.median(cost.wall_s for cost in dry),
        "dry_run_mb": max(cost.memory_mb for cost in dry),
    }
    if n_runs > LARGEST_FULL:
        return found
    full = snakemake(folder)
    found |= {"full_run_s": full.cpu_s, "full_run_wall_s": full.wall_s, "full_run_mb": full.memory_mb}
    found["jobs"] = float(full.n_jobs)
    found["files"] = float(sum(path.is_file() for path in (folder / "results").rglob("*")))
    found["nothing_to_do_s"] = snakemake(folder, "-n").cpu_s
    study(folder, n_runs + new, n_chunks)
    index, rest = snakemake(folder, "index"), snakemake(folder)
    touched = {chunk_of(f"{n:06d}", n_chunks) for n in range(n_runs, n_runs + new)}
    expected = 2 * len(touched) + 6  # parcellate and shard of each; collect, qc, split, baselines, evaluate, report
    if rest.n_jobs != expected:
        raise SystemExit(f"{new} new subjects: expected {expected} jobs, {rest.n_jobs} ran; a chunk reran for nothing.")
    return found | {"new_subjects_s": index.cpu_s + rest.cpu_s, "new_subjects_jobs": float(rest.n_jobs)}


def main() -> None:
    """Measure every size and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one small study, to test the script")
    parser.add_argument("--repeats", type=int, default=3, help="of the dry run, of which the median is taken")
    arguments = parser.parse_args()
    sizes, figures = (SMALL_SIZES, {}) if arguments.small else (SIZES, {})
    for n_runs in sizes:
        with tempfile.TemporaryDirectory() as folder:
            new = 2 if arguments.small else NEW
            found = measured(Path(folder).resolve(), n_runs, arguments.repeats, new)
        for name, value in found.items():
            print(f"{n_runs:>7} runs  {name:<18} {value:10.2f}")
        figures |= {f"{name}_{n_runs}": round(value, 3) for name, value in found.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
