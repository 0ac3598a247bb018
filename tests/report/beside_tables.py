"""Made-up optional tables of a study: learning curves, groups, decision curves, places, and a test dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.evaluate import tables

SIZES = (16, 24, 36)
PRIMARY = {"binary": "auroc", "regression": "mae", "multiclass": "balanced_accuracy"}
EXTERNAL = "outside"  # the test dataset


def write(root: Path) -> None:
    """Write every optional table for the runs of ``predictions.parquet`` below `root`."""
    predictions = tables.read([root / "predictions.parquet"], tables.PREDICTIONS, "predictions")
    rng = np.random.default_rng(3)
    runs = predictions.groupby("run_id", sort=False)
    parts = {
        "efficiency": (pd.concat([_efficiency(run, rng) for _, run in runs]), tables.EFFICIENCY),
        "breakdown": (pd.concat([_breakdown(run) for _, run in runs]), tables.BREAKDOWN),
        "net_benefit": (pd.concat([_net_benefit(run) for _, run in runs]), tables.NET_BENEFIT),
        "places": (_places(predictions, rng), tables.PLACES),
    }
    for name, (table, columns) in parts.items():
        tables.write(root / f"{name}.parquet", table, columns)


def _facts(run: pd.DataFrame) -> dict[str, Any]:
    return run[["run_id", "system", "task", "readout", "seed"]].iloc[0].to_dict()


def _efficiency(run: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    kind = str(run["target_type"].iloc[0])
    base, gain = (12.0, -0.8) if kind == "regression" else (0.5, 0.06)
    rows = [
        {"repeat": 0, "fold": "0", "n_people": n, "draw": draw, "metric": PRIMARY[kind]}
        | {"value": base + gain * np.log2(n) + 0.02 * rng.standard_normal()}
        for n in SIZES
        for draw in range(5)
    ]
    return pd.DataFrame(rows).assign(**_facts(run))


def _breakdown(run: pd.DataFrame) -> pd.DataFrame:
    """Return the share told rightly (or the error) of every site and sex, as the primary metric."""
    kind = str(run["target_type"].iloc[0])
    error = (run["y"] - run["yhat"]).abs()
    value = error if kind == "regression" else ((run["score"] > 0.5) == (run["y"] > 0.5)).astype(float)
    rows = []
    for column in ("site", "sex"):
        for group, part in value.groupby(run[column].fillna("").to_numpy()):
            mean = float(part.mean())
            rows.append(
                {"column": column, "group": group, "n": len(part), "metric": PRIMARY[kind], "value": mean}
                | {
                    "ci_low": mean * 0.8,
                    "ci_high": mean * 1.2,
                    "n_positive": len(part) // 2 if kind == "binary" else None,
                }
            )
    return pd.DataFrame(rows).assign(**_facts(run))


def _net_benefit(run: pd.DataFrame) -> pd.DataFrame:
    if run["target_type"].iloc[0] != "binary":
        return tables.frame([], tables.NET_BENEFIT)
    at = np.linspace(0.01, 0.99, 99)
    y, score = run["y"].to_numpy(), run["score"].to_numpy(float)
    odds = at / (1 - at)
    treated = score[None] >= at[:, None]
    benefit = (treated * y).mean(axis=1) - (treated * (1 - y)).mean(axis=1) * odds
    everybody = y.mean() - (1 - y.mean()) * odds
    return pd.DataFrame({"threshold": at, "net_benefit": benefit, "treat_all": everybody}).assign(**_facts(run))


def _places(predictions: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return two clouds per task, apart by site, of the first model's test people and as many training people."""
    parts = []
    for task, rows in predictions[predictions["seed"].notna()].groupby("task", sort=False):
        one = rows[rows["run_id"] == rows["run_id"].iloc[0]]
        one = pd.concat([one, one.assign(role="train", participant_id=one["participant_id"] + "-t")])
        spots = rng.standard_normal((len(one), 2)) + 3 * one["site"].astype("category").cat.codes.to_numpy()[:, None]
        fold = rows["fold"].iloc[0]
        parts.append(one.assign(task=task, label=one["y"].astype(str), x=spots[:, 0], y=spots[:, 1], fold=fold))
    return pd.concat(parts)


def add_test_dataset(root: Path) -> None:
    """Add rows to ``metrics.parquet`` as if every run of every task had been judged on people of another dataset."""
    path = root / "metrics.parquet"
    metrics = tables.read([path], tables.METRICS, "metrics")
    mean = metrics[metrics["fold"] == "mean"]
    away = mean.assign(fold="external", dataset=EXTERNAL, value=mean["value"] * 0.9, n_test=77)
    tables.write(path, pd.concat([metrics, away]), tables.METRICS)
