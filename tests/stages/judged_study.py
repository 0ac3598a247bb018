"""A small study with planted effects, from shards on: what split, probe, baselines and evaluate read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from neuropipe.paths import Study
from neuropipe.provenance import write_json
from neuropipe.shards.manifest import from_rows, write_parquet
from neuropipe.shards.sample import Sample, pack
from neuropipe.shards.write import write_tar
from neuropipe.signals.regions import Regions

N_PEOPLE, N_REGIONS, N_TIMES = 60, 12, 120
SITES = ("A", "B", "C")

CONFIG = {
    "study": "judged",
    "seed": 3,
    "datasets": {"toy": {"kind": "series", "path": "nowhere", "atlas": "toy"}},
    "splits": {
        "main": {"scheme": "holdout", "test": 0.4, "stratify": ["site", "diagnosis"]},
        "sites": {"scheme": "leave_one_site_out"},
        "folds": {"scheme": "kfold", "n_folds": 5, "stratify": ["diagnosis"]},
    },
    "tasks": {
        "diagnosis": {
            "target": "diagnosis",
            "kind": "binary",
            "positive": "patient",
            "datasets": ["toy"],
            "split": "main",
            "confounds": ["age", "sex", "site", "mean_fd"],
        },
        "age": {
            "target": "age",
            "kind": "regression",
            "datasets": ["toy"],
            "split": "main",
            "confounds": ["age", "sex", "mean_fd"],
        },
        "diagnosis-sites": {
            "target": "diagnosis",
            "kind": "binary",
            "positive": "patient",
            "datasets": ["toy"],
            "split": "sites",
            "confounds": ["sex"],
        },
    },
    "evaluate": {"readouts": ["linear"], "bootstrap": 200, "permutations": 60, "learning_curve_draws": 3},
}


def participants(rng: np.random.Generator) -> pd.DataFrame:
    """People whose diagnosis and age are known, balanced within site."""
    number = np.arange(N_PEOPLE)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i:04d}" for i in number],
            "site": [SITES[i % 3] for i in number],
            "diagnosis": ["patient" if (i // 3) % 2 else "control" for i in number],
            "age": rng.uniform(20, 60, N_PEOPLE).round(1),
            "sex": rng.choice(["F", "M"], N_PEOPLE),
        }
    )


def series(patient: bool, rng: np.random.Generator) -> np.ndarray:
    """Noise in which patients' first four regions share a source."""
    values = rng.standard_normal((N_TIMES, N_REGIONS))
    if patient:
        values[:, :4] += 0.9 * rng.standard_normal((N_TIMES, 1))
    return (values - values.mean(0)) / values.std(0)


def write_study(
    root: Path, *, config: dict | None = None, people: pd.DataFrame | None = None, dataset: str = "toy", seed: int = 0
) -> Path:
    """Write shards, participants and ``config.yaml`` below `root`; return the path of the configuration."""
    rng = np.random.default_rng(seed)
    people = participants(rng) if people is None else people
    study = Study(root)
    samples = []
    for person in people.itertuples():
        for run in range(1 + (person.participant_id == "sub-0000")):  # one person has two recordings
            values, valid = pack(series(person.diagnosis == "patient", rng), "float16")
            if person.participant_id == "sub-0007":
                valid[5] = False
                values[:, 5] = 0
            run_id = f"{person.participant_id}_task-rest_run-{run + 1}"
            facts = {"dataset": dataset, "participant_id": person.participant_id, "run_id": run_id, "t_r": 2.0}
            facts["quality"] = {"mean_fd_mm": rng.uniform(0, 1)}
            samples.append(Sample(f"{dataset}_{run_id}", values, valid, facts))
    folder = study.shards(dataset)
    folder.mkdir(parents=True)
    write_parquet(folder / "manifest.parquet", from_rows(write_tar(folder / "chunk-00-000.tar", samples)))
    Regions.plain("toy", N_REGIONS).write(folder / "regions.tsv")
    path = study.participants(dataset)
    path.parent.mkdir(parents=True)
    people.to_csv(path, sep="\t", index=False, na_rep="n/a")
    written = root / "config.yaml"
    written.write_text(yaml.safe_dump(config or CONFIG))
    return written


def write_embeddings(
    root: Path,
    splits: dict[str, pd.DataFrame],
    *,
    extra: list[str] | None = None,
    datasets: tuple[str, ...] = ("toy",),
) -> Path:
    """Write embeddings of a made-up recipe: `trained` knows diagnosis and age, `random` does not."""
    rng = np.random.default_rng(1)
    study = Study(root)
    tables = [
        pd.read_csv(study.participants(name), sep="\t", dtype={"participant_id": str}).assign(dataset=name)
        for name in datasets
    ]
    people = pd.concat(tables, ignore_index=True)
    folder = study.embeddings("recipe", 0)
    checkpoints = []
    for split, table in splits.items():
        for fold, rows in table.groupby("fold"):
            noise = rng.standard_normal((len(people), 8)).astype(np.float32)
            signal = noise.copy()
            signal[:, 0] += 1.5 * (people["diagnosis"] == "patient")
            signal[:, 1] += people["age"] / 10
            place = folder / split / str(fold)
            place.mkdir(parents=True)
            for name, values in (("trained", signal), ("random", noise)):
                ids = people[["dataset", "participant_id"]].assign(n_recordings=1)
                pd.concat([ids, pd.DataFrame(values).add_prefix("e")], axis=1).to_parquet(place / f"{name}.parquet")
            train = rows[rows["role"] == "train"]
            checkpoints.append(
                {
                    "split": split,
                    "fold": str(fold),
                    "folder": str(place.relative_to(root)),
                    "checkpoint_sha256": f"{split}-{fold}",
                    "mode": "train_side",
                    "people": [*(train["dataset"] + "/" + train["participant_id"]), *(extra or [])],
                }
            )
    write_json(folder / "receipt.json", {"recipe": "recipe", "seed": 0, "checkpoints": checkpoints})
    return folder
