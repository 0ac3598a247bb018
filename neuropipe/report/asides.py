"""What the metrics of a task tell beside its leaderboard: thresholds, what else features tell, confounds, seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pandas as pd

from neuropipe.report import systems
from neuropipe.report.cells import number
from neuropipe.report.systems import System

SUMMARIES = ("mean", "pooled")  # values of `fold` that are no single fold
BESIDE_TASK = ("site_balanced_accuracy", "identification_top1", "share_far")  # what else features tell
DEPENDENCE = "dependence_"  # begins a metric that is about one confound
SEED_MEAN, SEED_SD = "_seed_mean", "_seed_sd"  # end metrics of several seeds together
DELTA = ["delta", "delta_ci_low", "delta_ci_high"]


@dataclass(frozen=True)
class Asides:
    """Tables beside a leaderboard; each may be empty.

    Attributes
    ----------
    thresholds : DataFrame
        Of binary tasks: run_id, fold, threshold and its source, temperature and bias of the calibrated probability that
        it is applied to; one row per fold, or one for all of them.
    features : DataFrame
        What else features tell (`BESIDE_TASK`): run_id, label, metric, value, ci_low, ci_high, null_mean, delta,
        delta_ci_low, delta_ci_high.
    dependence : DataFrame
        How predictions depend on confounds among people with the same target: label, confound, value, ci_low, ci_high,
        p_perm.
    seeds : DataFrame
        Recipes with several seeds: label, value (mean of the primary metric), ci_low, ci_high, sd, icc, kappa.
    """

    thresholds: pd.DataFrame = field(default_factory=pd.DataFrame)
    features: pd.DataFrame = field(default_factory=pd.DataFrame)
    dependence: pd.DataFrame = field(default_factory=pd.DataFrame)
    seeds: pd.DataFrame = field(default_factory=pd.DataFrame)


def read(
    rows: pd.DataFrame, summary: pd.DataFrame, competitors: list[System], metric: str, kind: str, content: str
) -> Asides:
    """Return the tables beside a leaderboard.

    Parameters
    ----------
    rows, summary : DataFrame
        All rows of a task's metrics, and those that stand for the whole split.
    competitors : list of System
        In drawing order.
    metric, kind, content : str
        Primary metric, kind of the task, and what its samples are.
    """
    return Asides(
        thresholds=_thresholds(rows),
        features=_features(summary, competitors),
        dependence=_dependence(summary, competitors),
        seeds=_seeds(rows, metric, kind, content),
    )


def is_aside(metrics: pd.Series) -> pd.Series:
    """Return which names of metrics are shown here and not among the other metrics of a leaderboard."""
    return metrics.isin(BESIDE_TASK) | metrics.str.startswith(DEPENDENCE)


def _thresholds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the recorded thresholds of every run and fold; of runs without folds, that of the summary."""
    columns = ["run_id", "fold", "threshold", "threshold_source", "temperature", "bias"]
    rows = rows.reindex(columns=columns)
    known = rows[rows["threshold"].notna()].drop_duplicates(["run_id", "fold"])
    single = ~known["fold"].isin(SUMMARIES)
    return known[single | ~known["run_id"].isin(known.loc[single, "run_id"])].reset_index(drop=True)


def _features(summary: pd.DataFrame, competitors: list[System]) -> pd.DataFrame:
    """Return what else features tell, with the systems' labels and the difference to the reference."""
    rows = summary[summary["metric"].isin(BESIDE_TASK)]
    compared = rows["reference"].isin(systems.NAMES)
    rows = rows.assign(**{name: rows[name].where(compared) if name in rows else math.nan for name in DELTA})
    rows = rows.assign(compared=compared).sort_values("compared", ascending=False, kind="stable")
    rows = rows.drop_duplicates(["run_id", "metric"])
    labels = {system.run_id: system.label for system in competitors}
    order = {run: place for place, run in enumerate(labels)}
    rows = rows.assign(label=rows["run_id"].map(labels).fillna(rows["system"]), rank=rows["run_id"].map(order))
    columns = ["run_id", "label", "metric", "value", "ci_low", "ci_high", "null_mean", *DELTA]
    return rows.sort_values(["metric", "rank"], kind="stable").reindex(columns=columns)


def _dependence(summary: pd.DataFrame, competitors: list[System]) -> pd.DataFrame:
    """Return how predictions depend on confounds among people with the same target, in drawing order."""
    labels = {system.run_id: system.label for system in competitors}
    rows = summary[summary["metric"].str.startswith(DEPENDENCE) & summary["run_id"].isin(list(labels))]
    rows = rows.drop_duplicates(["run_id", "metric"])
    order = {run: place for place, run in enumerate(labels)}
    rows = rows.assign(
        label=rows["run_id"].map(labels),
        confound=rows["metric"].str.removeprefix(DEPENDENCE),
        rank=rows["run_id"].map(order),
    )
    columns = ["label", "confound", "value", "ci_low", "ci_high", "p_perm"]
    return rows.sort_values(["rank", "confound"], kind="stable").reindex(columns=columns)


def _seeds(rows: pd.DataFrame, metric: str, kind: str, content: str) -> pd.DataFrame:
    """Return what several seeds of one recipe say together; empty where every recipe has one."""
    measures = {f"{metric}{SEED_SD}": "sd", "seed_icc": "icc", "seed_kappa": "kappa"}
    found = []
    for _, own in rows.groupby(["system", "readout"], sort=False):
        mean = own[(own["metric"] == f"{metric}{SEED_MEAN}") & (own["fold"] == "mean")]
        if mean.empty:
            continue
        row = mean.iloc[0].to_dict()
        entry = {"label": systems.label_of(row["system"], row["readout"], "", kind, content)}
        entry |= {name: number(row, name) for name in ("value", "ci_low", "ci_high")}
        for name, column in measures.items():
            values = own.loc[own["metric"] == name, "value"]
            entry[column] = float(values.iloc[0]) if len(values) else math.nan
        found.append(entry)
    return pd.DataFrame(found, columns=["label", "value", "ci_low", "ci_high", "sd", "icc", "kappa"])
