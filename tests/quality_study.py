"""A study of made-up runs of any number, as parcellate, shard and collect leave it: for the quality page.

``python tests/quality_study.py FOLDER 1000`` writes one with the demo's 457 regions and makes its page.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from neuropipe import config as configuration
from neuropipe.bids.index import EXCLUDED_COLUMNS, exclusion, to_tsv
from neuropipe.errors import RunExcluded
from neuropipe.paths import Study
from neuropipe.provenance import write_json
from neuropipe.signals.confounds import Confounds
from neuropipe.signals.regions import Regions
from neuropipe.signals.run import clean_run, without_confounds
from neuropipe.stages import collect, parcellate, qc, shard
from neuropipe.stages.parcellate_job import Job

T_R, N_VOLUMES = 2.0, 150
SITES = ("Basel", "Lund", "Porto", "Gent")
# By position: what was planted in a run.
MOVING, NOISY, CUT, SCRUBBED = 2, 3, 4, 5


def plain_regions(n_regions: int = 24) -> Regions:
    """Regions of three networks on both sides of a brain."""
    rng = np.random.default_rng(0)
    network = np.repeat(["Vis", "Default", "Subcortex"], -(-n_regions // 3))[:n_regions]
    table = Regions.plain("toy", n_regions).table.assign(network=network)
    side = np.where(np.arange(n_regions) % 2, "R", "L")
    x = rng.uniform(5, 60, n_regions) * np.where(side == "R", 1, -1)
    return Regions(
        table.assign(hemisphere=side, x=x, y=rng.uniform(-90, 60, n_regions), z=rng.uniform(-30, 65, n_regions))
    )


def recording(number: int, regions: Regions, rng: np.random.Generator) -> tuple[np.ndarray, Confounds, np.ndarray]:
    """Return raw regional means (time, region), confounds and coverage of one run."""
    n = len(regions)
    fd_mm = 0.08 + rng.gamma(2, 0.03, N_VOLUMES)
    jumps = rng.random(N_VOLUMES) < (0.5 if number == MOVING else 0.02)
    fd_mm[jumps] += rng.uniform(0.5, 2, jumps.sum())
    fd_mm[0] = np.nan
    motion = rng.normal(size=(N_VOLUMES, 6)) * np.nan_to_num(fd_mm, nan=0.1)[:, None]
    networks = rng.normal(size=(N_VOLUMES, 8)).cumsum(axis=0)
    networks -= networks.mean(axis=0)
    signal = networks[:, np.maximum(regions.network_ids, 0) % 8] + 2 * rng.normal(size=(N_VOLUMES, n))
    signal += 6 * motion @ rng.normal(size=(6, n)) + np.linspace(0, 8, N_VOLUMES)[:, None]
    raw = 1000 + (8 if number == NOISY else 1.5) * signal
    coverage = np.clip(rng.normal(1.02, 0.02, n), 0, 1)
    if number == CUT:  # the field of view ends above the lowest regions
        low = np.argsort(regions.table["z"].to_numpy())
        coverage[low[: n // 6]], coverage[low[n // 6 : n // 4]] = 0.2, 0.7
    censored = (np.nan_to_num(fd_mm) > 0.5) & (number == SCRUBBED)
    names = [f"trans_{i}" for i in range(6)]
    return raw, Confounds(motion, names, censored, 0, fd_mm, 0), coverage


def write(root: Path, n_runs: int, regions: Regions, *, motion: bool = True, **sections: Any) -> Path:
    """Write the study below ``root/results/made``; return the path of its configuration."""
    root.mkdir(parents=True, exist_ok=True)
    dataset = {"kind": "series", "path": "nowhere", "atlas": "toy", "n_chunks": 1}
    content = {"study": "made", "datasets": {"made": dataset}, "shards": {"hdf5": False}} | sections
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    config, study = configuration.load(path), Study(root / "results" / "made")
    job = Job("made", root, config, [], regions, {"made": True})
    folder = study.derivatives("made")
    parcellate._describe_folder(job, folder)
    rng, products, excluded, people = np.random.default_rng(0), [], [], []
    for number in range(n_runs):
        person = f"sub-{number:04d}"
        people.append({"participant_id": person, "site": SITES[number % len(SITES)]})
        row = {"run_id": f"{person}_task-rest", "participant_id": person, "session": "n/a", "offset": "0"}
        row |= {
            "space": "n/a",
            "t_r": "2.0",
            "start_time_s": "n/a",
            "n_volumes": str(N_VOLUMES),
            "image": f"{person}.nii",
            "fingerprint": "0",
        }
        raw, confounds, coverage = recording(number, regions, rng)
        if not motion:
            confounds = without_confounds(N_VOLUMES)
        try:
            result = clean_run(
                raw, T_R, confounds, config.clean, config.exclude, n_used=9 * coverage, coverage=coverage
            )
            products.append(parcellate._write(job, row, result, folder))
        except RunExcluded as reason:
            excluded.append(parcellate._exclusion(job, row, reason, study))
    for entry in products:
        entry |= {key: f"derivatives/made/{entry[key]}" for key in ("path", "traces")}
    receipt = {"stage": "parcellate", "dataset": "made", "chunk": "00", "products": products, "excluded": excluded}
    write_json(study.receipt("parcellate", "made", 0), receipt)
    study.participants("made").parent.mkdir(parents=True)
    pd.DataFrame(people).to_csv(study.participants("made"), sep="\t", index=False)
    lost = exclusion("index", "made", "sub-9999", "sub-9999_task-rest", "x.nii.gz", "no confounds", "expected a table")
    nobody = exclusion("index", "made", "sub-9998", "n/a", "n/a", "no data", "a row in participants.tsv, but no file")
    study.index_excluded("made").write_text(to_tsv([lost, nobody], EXCLUDED_COLUMNS))
    shard.run(
        config=path,
        dataset="made",
        receipt=study.receipt("parcellate", "made", 0),
        output=study.receipt("shard", "made", 0),
    )
    manifest = study.shards("made") / "manifest.parquet"
    collect.run(dataset="made", receipts=[study.receipt("shard", "made", 0)], output=manifest)
    return path


def make_page(config: Path) -> Path:
    """Run the stage `qc`; return the page."""
    study = config.parent / "results" / "made"
    page = study / "qc" / "made" / "index.html"
    qc.run(config=config, dataset="made", output=page)
    return page


if __name__ == "__main__":
    from neuropipe.demo.atlas import make_layout

    target, number = Path(sys.argv[1]), int(sys.argv[2])
    table = make_layout().table
    named = table.assign(label=table.groupby("atlas", sort=False).cumcount() + 1)
    started = time.process_time()
    config = write(target, number, Regions(named.assign(index=range(len(named)))))
    written = time.process_time()
    page = make_page(config)
    pictures = [picture.stat().st_size for picture in (page.parent / "runs").glob("*.svg")]
    sys.stdout.write(
        f"{number} runs: made in {written - started:.1f} s of CPU, page in {time.process_time() - written:.1f} s; "
        f"{page} {page.stat().st_size / 1e6:.2f} MB, {len(pictures)} pictures of {np.mean(pictures) / 1e3:.0f} kB\n"
    )
