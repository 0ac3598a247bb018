"""A made-up study for the report: every table that the page reads, with the columns that the stages write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from neuropipe.evaluate import tables
from neuropipe.evaluate.summary import summarise
from neuropipe.paths import Study
from neuropipe.provenance import describe, write_json

SITES = ("Basel", "Lund", "Porto")
DRAWS = 60
# System, readout, seed, and how much of the label its score carries.
SYSTEMS = [
    ("semantoks-demo", "linear", 0, 1.6),
    ("semantoks-demo (random weights)", "linear", 0, 0.7),
    ("fc", "linear", None, 1.3),
    ("confounds", "linear", None, 0.4),
    ("majority", "baseline", None, 0.0),
]


def config(scheme: str) -> dict:
    """Return the study's configuration; `scheme` is that of its one split."""
    split = {"scheme": "holdout", "test": 0.4} if scheme == "holdout" else {"scheme": scheme}
    task = {"datasets": ["demo"], "split": "main", "confounds": ["sex", "site", "mean_fd"]}
    return {
        "study": "synthetic",
        "seed": 0,
        "datasets": {"demo": {"kind": "series", "path": "nowhere", "atlas": "demo457"}},
        "splits": {"main": split},
        "tasks": {
            "diagnosis": {"target": "diagnosis", "kind": "binary", "positive": "patient", **task},
            "age": {"target": "age", "kind": "regression", **task},
        },
        "pretrain": {"semantoks-demo": {"datasets": ["demo"]}},
        "evaluate": {"bootstrap": 200, "permutations": DRAWS},
    }


def participants(n: int) -> pd.DataFrame:
    """Return people with site, diagnosis, age and sex; site and diagnosis are crossed."""
    rng = np.random.default_rng(0)
    number = np.arange(n)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i:03d}" for i in number],
            "site": [SITES[i % 3] for i in number],
            "diagnosis": ["patient" if (i // 3) % 2 else "control" for i in number],
            "age": rng.uniform(18, 65, n).round(1),
            "sex": rng.choice(["F", "M"], n),
        }
    )


def split_table(people: pd.DataFrame, scheme: str) -> pd.DataFrame:
    """Return the frozen split: one holdout, or one fold per site."""
    parts = []
    for fold in ["0"] if scheme == "holdout" else SITES:
        test = np.arange(len(people)) % 5 < 2 if scheme == "holdout" else people["site"] == fold
        part = people[["participant_id", "site"]].assign(
            split="main", scheme=scheme, repeat=0, fold=fold, role=np.where(test, "test", "train"), dataset="demo"
        )
        parts.append(part.assign(person="demo/" + part["participant_id"]))
    return pd.concat(parts, ignore_index=True)


def answers(people: pd.DataFrame, split: pd.DataFrame, task: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return predictions and nulls of every system for one task."""
    rng = np.random.default_rng(len(task))
    binary = task == "diagnosis"
    target = (people["diagnosis"] == "patient").astype(float) if binary else people["age"]
    y_of = dict(zip(people["participant_id"], target, strict=True))
    predictions, nulls = [], []
    for system, readout, seed, skill in SYSTEMS:
        readout = {"linear": "logistic" if binary else "ridge"}.get(readout, readout)
        run_id = f"{task}_{system}_{readout}" + ("" if seed is None else f"_seed-{seed}")
        for fold, part in split.groupby("fold", sort=False):
            test = part[part["role"] == "test"].reset_index(drop=True)
            y = test["participant_id"].map(y_of).to_numpy()
            mean = part.loc[part["role"] == "train", "participant_id"].map(y_of).mean()
            noise = 0.0 if system == "majority" else rng.standard_normal(len(y))
            logit = skill * 2 * (y - 0.5) + noise
            yhat = mean + skill / 2 * (y - mean) + 8 * noise * (system != "majority")
            facts = {
                "run_id": run_id, "system": system, "task": task, "readout": readout, "split": "main",
                "split_scheme": part["scheme"].iloc[0], "seed": seed, "target": task, "repeat": 0, "fold": fold,
                "target_type": "binary" if binary else "regression", "positive": "patient" if binary else None,
                "n_train": int((part["role"] == "train").sum()), "n_val": 0, "train_mean": mean,
                "pretrain_overlap_n": 0 if system == "semantoks-demo" else None, "role": "test",
            }  # fmt: skip
            scores = {"score": 1 / (1 + np.exp(-logit)), "logit": logit} if binary else {"yhat": yhat}
            predictions.append(test[["dataset", "participant_id", "person", "site"]].assign(**facts, y=y, **scores))
            if system != "majority":
                for person, label in zip(test["participant_id"], y, strict=True):
                    shuffled = rng.permutation(np.tile([0.0, 1.0], DRAWS // 2)) if binary else rng.choice(y, DRAWS)
                    guess = rng.standard_normal(DRAWS) * (1 if binary else 8) + (0 if binary else mean + 0 * label)
                    nulls.append(
                        {"run_id": run_id, "repeat": 0, "fold": fold, "dataset": "demo", "participant_id": person}
                        | {"y": shuffled.astype(np.float32), "prediction": guess.astype(np.float32)}
                    )
    return tables.frame(pd.concat(predictions), tables.PREDICTIONS), tables.frame(nulls, tables.NULLS)


def write_study(root: Path, scheme: str = "holdout", n: int = 60) -> Path:
    """Write a whole study below `root`; return the path of its configuration."""
    study, people = Study(root), participants(n)
    path = root / "config.yaml"
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config(scheme)))
    split = split_table(people, scheme)
    _write_judged(study, people, split)
    _write_split(study, split)
    _write_data(study, people)
    _write_models(study, split)
    return path


def _write_judged(study: Study, people: pd.DataFrame, split: pd.DataFrame) -> None:
    both = [answers(people, split, task) for task in ("diagnosis", "age")]
    predictions, nulls = (pd.concat(parts, ignore_index=True) for parts in zip(*both, strict=True))
    tables.write(study.root / "predictions.parquet", predictions, tables.PREDICTIONS)
    tables.write(study.root / "nulls.parquet", nulls, tables.NULLS)
    metrics = summarise(predictions, nulls, draws=200, seed=0)
    tables.write(study.root / "metrics.parquet", metrics, tables.METRICS)
    run = "diagnosis_fc_logistic"
    cost = {"run_id": run, "system": "fc", "task": "diagnosis", "readout": "logistic", "measure": "readout_with_null"}
    tables.write(
        study.root / "costs.parquet", tables.frame([cost | {"value": 1.5, "unit": "s"}], tables.COSTS), tables.COSTS
    )
    check = {"check": "shuffled labels score at chance", "where": run, "value": 0.503, "expected": "0.480 to 0.520"}
    write_json(study.root / "leakage.json", {"checks": [check | {"passed": True}]})


def _write_split(study: Study, split: pd.DataFrame) -> None:
    folder = study.split("main")
    folder.mkdir(parents=True)
    split.to_parquet(folder / "splits.parquet", index=False)
    checks = [{"check": "no person and no kin on two sides", "passed": True}]
    audit = {"split": "main", "scheme": split["scheme"].iloc[0], "n_people": 60, "checks": checks, "folds": [{}]}
    write_json(folder / "audit.json", audit | describe("split", settings={"scheme": "holdout"}))


def _write_data(study: Study, people: pd.DataFrame) -> None:
    """Write the manifests, receipts and quality tables; two recordings are left out on the way."""
    rng = np.random.default_rng(5)
    study.participants("demo").parent.mkdir(parents=True)
    people.to_csv(study.participants("demo"), sep="\t", index=False)
    runs = people[["participant_id"]].assign(run_id=people["participant_id"] + "_task-rest")
    runs.to_csv(study.manifest("demo"), sep="\t", index=False)
    study.index_excluded("demo").write_text(
        "stage\tdataset\tparticipant_id\trun_id\tpath\treason\tdetail\n"
        "index\tdemo\tsub-900\tsub-900_task-rest\tsub-900/func/x.nii.gz\tno confounds\texpected a table beside it\n"
    )
    left = {"stage": "parcellate", "dataset": "demo", "participant_id": "sub-901", "run_id": "sub-901_task-rest"}
    left |= {"path": "sub-901.nii.gz", "reason": "too much motion", "detail": "mean FD 0.71 mm, limit 0.5 mm"}
    products = [{"run_id": run, "participant_id": run.split("_")[0]} for run in runs["run_id"]]
    write_json(
        study.receipt("parcellate", "demo", 0), {"stage": "parcellate", "products": products, "excluded": [left]}
    )
    study.shards("demo").mkdir(parents=True)
    runs.to_parquet(study.shards("demo") / "manifest.parquet", index=False)
    study.qc("demo").mkdir(parents=True)
    n = len(runs)
    fd = rng.gamma(4, 0.04, n) + 0.05 * (people["diagnosis"] == "patient")
    quality = runs.assign(mean_fd_mm=fd, max_fd_mm=3 * fd, censored_share=fd / 5, duration_s=300.0)
    quality.assign(tsnr_median=rng.normal(60, 5, n), t_r=2.0).to_parquet(study.qc("demo") / "runs.parquet")
    networks = np.repeat(["Vis", "SomMot", "DorsAttn", "Limbic", "Default", "Subcortex"], 20)
    regions = pd.DataFrame({"index": np.arange(120), "atlas": "demo457", "label": np.arange(1, 121)})
    coverage = np.clip(rng.normal(0.95, 0.04, 120) - 0.25 * (networks == "Limbic") * rng.random(120), 0, 1)
    regions = regions.assign(name=[f"{net}_{i % 20 + 1}" for i, net in enumerate(networks)], network=networks)
    regions.assign(mean_coverage=coverage, share_missing=0.0).to_parquet(study.qc("demo") / "regions.parquet")


def _write_models(study: Study, split: pd.DataFrame) -> None:
    rng, models = np.random.default_rng(7), []
    for fold, part in split.groupby("fold", sort=False):
        folder = study.model("semantoks-demo", 0) / "main" / str(fold)
        folder.mkdir(parents=True)
        steps = np.arange(10, 610, 10)
        decay = np.exp(-steps / 200) + 0.05 * rng.standard_normal(len(steps))
        curve = pd.DataFrame(
            {"step": steps, "lr": 1e-3 * np.minimum(steps / 60, 1), "loss": 2 * decay, "masked": decay}
        )
        curve.assign(seconds=0.4, samples_per_s=80 + rng.normal(0, 3, len(steps))).to_parquet(
            folder / "metrics.parquet"
        )
        rows = [
            {"step": step, "share": step / 600, "split": "main", "fold": str(fold), "task": task, "metric": metric}
            | {"value": chance + gain * step / 600, "sd": 0.05, "chance": chance, "n_people": 36}
            for step in (150, 300, 600)
            for task, metric, chance, gain in (("diagnosis", "auroc", 0.5, 0.3), ("age", "mae", 12.0, -4.0))
        ]
        tables.frame(rows, tables.PROBES).to_parquet(folder / "probes.parquet")
        train = part[part["role"] == "train"]
        train[["dataset", "participant_id"]].to_parquet(folder / "people.parquet", index=False)
        about = {"family": "semantoks", "n_regions": 120, "atlases": ["demo457"], "t_r": 2.0, "model": {"depth": 2}}
        write_json(folder / "config.json", about | describe("pretrain") | {"training": {"n_recordings": len(train)}})
        place = str(folder.relative_to(study.root))
        models.append({"split": "main", "fold": str(fold), "folder": place, "checkpoint_sha256": f"{fold}" * 8})
    write_json(study.model("semantoks-demo", 0) / "receipt.json", {"stage": "pretrain", "models": models})
