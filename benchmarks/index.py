"""Indexing of fMRIPrep derivatives: CPU seconds of ours for 500 to 10,000 subjects, beside pybids' layout.

    python benchmarks/index.py            # trees of 500, 1,000, 2,000 and 10,000 subjects, 24 files each
    python benchmarks/index.py --small    # seconds instead of minutes, for a test of this script

Seconds are those of the processor, user and system, of a warm file cache; imports are counted apart ("in process") and
together ("command": a whole `neuropipe index`). pybids' `BIDSLayout` is asked for the same tree without metadata, which
is the least that finds the same images; it reads neither headers, sidecars nor fingerprints. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from neuropipe import config as configuration
from neuropipe.stages import index

SPACE = "MNI152NLin6Asym"
FILES_PER_SUBJECT = 24
RUNS_PER_SUBJECT = 2
SIZES, SMALL_SIZES = (500, 1000, 2000, 10000), (4, 8)


def contents() -> dict[str, bytes]:
    """Return what the files hold, by ending: an image of few voxels with a true header, and small texts."""
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 200), dtype=np.int16), np.diag([2.0, 2, 2, 1]))
    image.header.set_zooms((2, 2, 2, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    table = "\t".join(f"a_comp_cor_{n:02d}" for n in range(20)) + "\n" + ("\t".join(["0.125"] * 20) + "\n") * 200
    about = {"RepetitionTime": 2.0, "SkullStripped": False, "StartTime": 0.975, "TaskName": "rest"}
    return {
        ".nii.gz": gzip.compress(image.to_bytes()),
        ".json": json.dumps(about).encode(),
        ".tsv": table.encode(),
        ".html": b"<html></html>",
        ".svg": b"<svg></svg>",
        ".h5": b"\x89HDF",
    }


def names_of(subject: str) -> list[str]:
    """Return the 24 files of a subject, as fMRIPrep names them."""
    of_run = ["desc-confounds_timeseries.tsv", "desc-confounds_timeseries.json", f"space-{SPACE}_boldref.nii.gz"]
    of_run += [
        f"space-{SPACE}_desc-{what}.{end}" for what in ("preproc_bold", "brain_mask") for end in ("nii.gz", "json")
    ]
    names = [f"{subject}.html"]
    for run in range(1, RUNS_PER_SUBJECT + 1):
        names += [f"{subject}/func/{subject}_task-rest_run-{run}_{what}" for what in of_run]
        names += [
            f"{subject}/figures/{subject}_task-rest_run-{run}_desc-{what}_bold.svg" for what in ("carpet", "coreg")
        ]
    names += [f"{subject}/anat/{subject}_desc-{what}" for what in ("preproc_T1w.nii.gz", "preproc_T1w.json")]
    names += [f"{subject}/anat/{subject}_desc-brain_mask.{end}" for end in ("nii.gz", "json")]
    return [*names, f"{subject}/anat/{subject}_from-{SPACE}_to-T1w_mode-image_xfm.h5"]


def make_tree(root: Path, n_subjects: int) -> Path:
    """Write derivatives, participants and a configuration below `root`; return the latter's path."""
    what = contents()
    for n in range(n_subjects):
        subject = f"sub-{n:05d}"
        for folder in ("func", "anat", "figures"):
            (root / "derivatives" / subject / folder).mkdir(parents=True)
        names = names_of(subject)
        assert len(names) == FILES_PER_SUBJECT
        for name in names:
            ending = next(end for end in what if name.endswith(end))
            (root / "derivatives" / name).write_bytes(what[ending])
    description = {"Name": "benchmark", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
    description["GeneratedBy"] = [{"Name": "fMRIPrep"}]
    (root / "derivatives" / "dataset_description.json").write_text(json.dumps(description))
    rows = "".join(f"sub-{n:05d}\t{20 + n % 60}\n" for n in range(n_subjects))
    (root / "participants.tsv").write_text("participant_id\tage\n" + rows)
    dataset = {"kind": "fmriprep", "path": str(root / "derivatives"), "n_chunks": max(4, n_subjects // 100)}
    dataset["participants"] = str(root / "participants.tsv")
    study = {"study": "benchmark", "datasets": {"one": dataset}, "atlases": ["schaefer400-7n"]}
    (root / "config.yaml").write_text(yaml.safe_dump(study))
    return root / "config.yaml"


def cpu_seconds() -> float:
    """Return the processor seconds of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median processor seconds of `work`, after one time that warms the file cache."""
    work()
    taken = []
    for _ in range(repeats):
        begun = cpu_seconds()
        work()
        taken.append(cpu_seconds() - begun)
    return statistics.median(taken)


def in_process(config: Path) -> None:
    """Index into a fresh folder, without the imports."""
    study = configuration.load(config)
    index.index_dataset(study, "one", config.parent / f"index-{time.monotonic_ns()}")


def command(config: Path) -> None:
    """Run the whole command in its own process."""
    arguments = ["index", "--config", config, "--dataset", "one", "--output", config.parent / f"{time.monotonic_ns()}"]
    subprocess.run([sys.executable, "-m", "neuropipe.cli", *map(str, arguments)], check=True, stderr=subprocess.DEVNULL)


def pybids(config: Path) -> None:
    """Find the same images with pybids, metadata left out."""
    from bids import BIDSLayout, BIDSLayoutIndexer

    root = config.parent / "derivatives"
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False)
    layout = BIDSLayout(root, validate=False, is_derivative=True, indexer=indexer)
    found = layout.get(desc="preproc", suffix="bold", space=SPACE, extension=".nii.gz")
    assert len(found) == RUNS_PER_SUBJECT * len(list(root.glob("sub-*.html")))


def measure(folder: Path, sizes: Sequence[int], repeats: int) -> dict[str, float]:
    """Print a line per tree, and pybids beside the first; return the figures."""
    figures = {}
    print(f"{'subjects':>9}{'files':>9}{'in process, CPU s':>19}{'command, CPU s':>16}{'s per 1,000 subjects':>22}")
    for n_subjects in sizes:
        config = make_tree(folder / str(n_subjects), n_subjects)
        few = 1 if n_subjects >= 5000 else repeats
        inside, outside = seconds(lambda c=config: in_process(c), few), seconds(lambda c=config: command(c), few)
        each = inside / n_subjects * 1000
        print(
            f"{n_subjects:9,}{n_subjects * FILES_PER_SUBJECT:9,}{inside:19.3f}{outside:16.3f}{each:22.3f}", flush=True
        )
        figures[f"index_{n_subjects}_s"] = inside
        figures[f"index_{n_subjects}_command_s"] = outside
        figures[f"seconds_per_1000_subjects_{n_subjects}"] = each
    smallest, largest = min(sizes), max(sizes)
    theirs = seconds(lambda: pybids(folder / str(smallest) / "config.yaml"), 1)
    print(f"pybids' BIDSLayout without metadata, {smallest:,} subjects, without imports: {theirs:.3f} CPU s")
    growth = figures[f"seconds_per_1000_subjects_{largest}"] / figures[f"seconds_per_1000_subjects_{smallest}"]
    print(f"time per subject, {largest:,} over {smallest:,} subjects: {growth:.2f} (1 is linear)")
    return figures | {
        f"pybids_{smallest}_s": theirs,
        "over_pybids": theirs / figures[f"index_{smallest}_s"],
        "growth_per_subject": growth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few subjects, to test the script")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    logging.getLogger("neuropipe").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="neuropipe-index-") as folder:
        sizes = SMALL_SIZES if chosen.small else SIZES
        print(json.dumps(measure(Path(folder), sizes, chosen.repeats)))


if __name__ == "__main__":
    main()
