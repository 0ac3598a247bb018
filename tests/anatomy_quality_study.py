"""A study of made-up maps or slices of any number, as volumes, shard and collect leave it: for the quality page.

``python tests/anatomy_quality_study.py FOLDER 500`` writes one on the grid of CAT12 and makes its page.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.ndimage import gaussian_filter

from neuropipe import config as configuration
from neuropipe.bids.index import EXCLUDED_COLUMNS, RUN_COLUMNS, exclusion, to_tsv
from neuropipe.paths import Study
from neuropipe.provenance import write_json
from neuropipe.shards import manifest as manifests
from neuropipe.shards.sample import Sample
from neuropipe.shards.write import write_tar
from neuropipe.stages import qc

SITES = ("Basel", "Lund", "Porto", "Gent")
COARSE, CAT12 = (24, 29, 24), (121, 145, 121)
# By position: what was planted in a map.
SHIFTED, NOISY, COPIED, COPY, SMALL = 3, 4, 5, 6, 7
LEFT_OUT = 2  # not in the shards: its grade is beyond the limit


def brain(number: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return a smooth map (x, y, z) in [0, 1] of an ellipsoid's rim; one is shifted, one is small."""
    axes = [np.linspace(-1.25, 1.25, n) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    if number == SHIFTED:
        x = x - 0.5
    size = (0.75 if number == SMALL else 1.0) + 0.02 * rng.standard_normal()
    radius = np.sqrt((x / 0.95) ** 2 + y**2 + (z / 0.9) ** 2) / size
    texture = gaussian_filter(rng.standard_normal(shape), max(shape) / 40)
    rim = np.exp(-(((radius - 0.8) / 0.22) ** 2)) * (radius < 1)
    return np.clip(rim * (0.8 + 0.25 * texture / texture.std()), 0, 1).astype(np.float32)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return twice the shared voxels over the sum of both."""
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def write(
    root: Path, n_maps: int, shape: tuple[int, int, int] = COARSE, *, content: str = "volume", **sections: Any
) -> Path:
    """Write the study below ``root/results/made``; return the path of its configuration."""
    root.mkdir(parents=True, exist_ok=True)
    kind = {"kind": "cat12"} if content == "volume" else {"kind": "images"}
    given = {"study": "made", "datasets": {"made": kind | {"path": "nowhere", "n_chunks": 1}}} | sections
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(given))
    configuration.load(path)
    study, rng = Study(root / "results" / "made"), np.random.default_rng(0)
    people = [_person(number, rng) for number in range(n_maps)]
    arrays = _arrays(n_maps, shape, content, rng)
    rows = write_tar(
        study.shards("made") / "chunk-00-000.tar",
        [_sample(number, array, content) for number, array in arrays.items()],
    )
    manifests.write_parquet(study.shards("made") / "manifest.parquet", manifests.from_rows(rows))
    _write_group(study, arrays, people, content, shape, rng)
    excluded = []
    if content == "volume":
        lost = {"stage": "volumes", "dataset": "made", "participant_id": name(LEFT_OUT), "run_id": name(LEFT_OUT)}
        lost |= {"path": "x.nii", "reason": "poor image quality", "detail": "grade 4.9 is beyond 4 (max_iqr_grade)"}
        excluded = [lost | {"quality": {"iqr_grade": 4.9, "tiv_ml": 1400.0, "total_ml": 600.0}}]
    write_json(study.receipt("volumes", "made", 0), {"stage": "volumes", "products": [], "excluded": excluded})
    study.participants("made").parent.mkdir(parents=True)
    pd.DataFrame(people).to_csv(study.participants("made"), sep="\t", index=False, na_rep="n/a")
    listed = dict.fromkeys(RUN_COLUMNS, "n/a") | {"run_id": name(LEFT_OUT), "image": "gone.nii", "beside": ""}
    study.manifest("made").write_text(to_tsv([listed], RUN_COLUMNS))
    gone = exclusion("index", "made", "sub-9999", "sub-9999", "x.nii", "no map", "expected mwp1*.nii")
    study.index_excluded("made").write_text(to_tsv([gone], EXCLUDED_COLUMNS))
    return path


def name(number: int) -> str:
    return f"sub-{number:04d}"


def _person(number: int, rng: np.random.Generator) -> dict[str, Any]:
    sex = ("female", "male")[number % 2]
    age = np.nan if number == 1 else round(rng.uniform(20, 80), 1)
    return {"participant_id": name(number), "site": SITES[number % len(SITES)], "age": age, "sex": sex}


def _arrays(n_maps: int, shape: tuple[int, ...], content: str, rng: np.random.Generator) -> dict[int, np.ndarray]:
    arrays = {}
    for number in range(n_maps):
        volume = brain(number, shape, rng)
        if content == "image":
            middle = shape[2] // 2
            volume = np.moveaxis(volume[:, :, middle : middle + 1 + number % 5], 2, 0)
        elif number == LEFT_OUT:
            continue
        arrays[number] = arrays[COPIED] if number == COPY else volume.astype(np.float16)
    return arrays


def _sample(number: int, array: np.ndarray, content: str) -> Sample:
    facts = {"dataset": "made", "participant_id": name(number), "run_id": name(number)}
    return Sample(f"made_{name(number)}", array, None, facts, content)


def _write_group(
    study: Study,
    arrays: dict[int, np.ndarray],
    people: list[dict[str, Any]],
    content: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> None:
    """Write what `collect` measures over everyone: ``runs.parquet``, ``group.npz`` and the grid."""
    voxel_mm = 1.5 * 121 / shape[0]
    rows = []
    mean = np.mean([array.astype(np.float32) for array in arrays.values()], axis=0) if content == "volume" else None
    for number, array in arrays.items():
        values = array.astype(np.float32)
        row = {"run_id": name(number), "participant_id": name(number)}
        row |= {"mean": float(values.mean()), "sd": float(values.std())}
        if mean is not None:
            grade = 5.2 if number == NOISY else float(np.clip(rng.normal(2.3, 0.3), 1.2, 3.4))
            age = people[number]["age"]
            tiv = 1350 + 130 * (people[number]["sex"] == "male") + 80 * rng.standard_normal()
            row |= {"iqr_grade": grade, "tiv_ml": tiv, "total_ml": float(values.sum()) * voxel_mm**3 / 1000}
            row["total_ml"] -= 2 * (0 if np.isnan(age) else age - 50)
            row["group_dice"] = dice(values > 0.2, mean > 0.2)
            row["group_correlation"] = float(np.corrcoef(values.ravel(), mean.ravel())[0, 1])
        rows.append(row)
    manifests.write_parquet(study.qc("made") / "runs.parquet", pd.DataFrame(rows))
    if mean is not None:
        np.savez(study.qc("made") / "group.npz", mean=mean, mask=mean > 0.2)
        affine = np.diag([voxel_mm] * 3 + [1.0])
        grid = {"space": "MNI152NLin2009cAsym", "shape": list(shape), "affine": affine.tolist()}
        write_json(study.shards("made") / "grid.json", grid)


def make_page(config: Path) -> Path:
    """Run the stage `qc`; return the page."""
    page = config.parent / "results" / "made" / "qc" / "made" / "index.html"
    qc.run(config=config, dataset="made", output=page)
    return page


if __name__ == "__main__":
    target, number = Path(sys.argv[1]), int(sys.argv[2])
    config = write(target, number, CAT12)
    started = time.process_time()
    page = make_page(config)
    sheets = [sheet.stat().st_size for sheet in (page.parent / "sheets").glob("*.png")]
    sys.stdout.write(
        f"{number} maps: page in {time.process_time() - started:.1f} s of CPU; {page} "
        f"{page.stat().st_size / 1e6:.2f} MB, {len(sheets)} pictures of {sum(sheets) / 1e6:.2f} MB together\n"
    )
