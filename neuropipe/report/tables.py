"""The leaderboards: from rows of ``metrics.parquet`` to what a reader compares."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from neuropipe.config import EXTERNAL, Task
from neuropipe.report import asides, curves, systems
from neuropipe.report.asides import SUMMARIES, Asides
from neuropipe.report.cells import number, word
from neuropipe.report.read import Results
from neuropipe.report.systems import System

PRIMARY = {
    "binary": "auroc",
    "multiclass": "balanced_accuracy",
    "regression": "mae",
    "decoding": "balanced_accuracy",
}
LOWER_IS_BETTER = frozenset({"mae", "brier", "ece"})
NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "mcc": "Matthews correlation",
    "brier": "Brier score",
    "brier_skill": "Brier skill",
    "ece": "Calibration error (ECE)",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "macro_f1": "Macro F1",
    "mae": "Mean absolute error",
    "r2": "R²",
    "pearson_r": "Pearson r",
    "bias_slope": "Bias slope",
    "age_bias_slope": "Age-bias slope",
    "site_balanced_accuracy": "Site told (balanced accuracy)",
    "identification_top1": "Told again by a second session (top 1)",
    "share_far": "Share of test people far from the training people",
}
RUN = ["run_id", "system", "readout", "seed"]
TEXT = [*RUN, "fold", "reference", "dataset", "threshold_source"]

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Difference:
    """A system's value minus that of a reference, on the same people.

    Attributes
    ----------
    value, low, high : float
        Difference of the metric and its 95 % interval; NaN where there is none.
    p_corrected : float
        p of the comparison, Holm-corrected over tasks and readouts of the system.
    """

    value: float
    low: float
    high: float
    p_corrected: float


@dataclass(frozen=True)
class Entry:
    """One row of a leaderboard; a number that the study does not have is NaN.

    Attributes
    ----------
    system : System
        Who competes.
    value, ci_low, ci_high : float
        Primary metric and its 95 % interval.
    ci_method : str
        How the interval was made.
    pooled : float
        The same metric over the pooled folds; NaN for a single test set.
    differences : dict of str to Difference
        By the name of the reference system.
    p_perm, null_mean : float
        Permutation p-value, and mean metric under permuted labels.
    n_train, n_test : float
        People.
    n_seen : float
        Test people (or their kin) whom pretraining saw; NaN without pretraining.
    """

    system: System
    value: float
    ci_low: float
    ci_high: float
    ci_method: str
    pooled: float
    differences: dict[str, Difference]
    p_perm: float
    null_mean: float
    n_train: float
    n_test: float
    n_seen: float = math.nan


@dataclass(frozen=True)
class Board:
    """The leaderboard of one task.

    Attributes
    ----------
    name : str
        Of the task.
    task : Task
        Its section of the configuration.
    metric : str
        Primary metric.
    entries : list of Entry
        In drawing order.
    chance : float or None
        What knowing nothing gives.
    others : DataFrame
        The other metrics: system label by metric.
    folds : DataFrame
        Primary metric of single folds; empty for a single test set.
    nulls : dict of str to ndarray
        By run: the primary metric under each permutation of the labels, averaged over folds.
    content : {"series", "volume", "image", "clip"}
        What it judges, which decides what models are compared with.
    asides : Asides
        Thresholds, what else features tell, dependence on confounds, several seeds.
    """

    name: str
    task: Task
    metric: str
    entries: list[Entry]
    chance: float | None
    others: pd.DataFrame
    folds: pd.DataFrame
    nulls: dict[str, np.ndarray]
    content: str = "series"
    asides: Asides = field(default_factory=Asides)

    @property
    def reference(self) -> systems.Reference:
        """What models are compared with, in words."""
        return systems.REFERENCES[self.content]

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value wins."""
        return self.metric in LOWER_IS_BETTER

    def of_role(self, role: str) -> list[Entry]:
        """Return the entries of a role, the best first."""
        found = [entry for entry in self.entries if entry.system.role == role and math.isfinite(entry.value)]
        return sorted(found, key=lambda entry: entry.value, reverse=not self.lower_is_better)

    def best(self, role: str) -> Entry | None:
        """Return the best entry of a role."""
        return next(iter(self.of_role(role)), None)

    def gain(self, difference: float) -> float:
        """Return a difference of the metric as a gain: positive is better."""
        return -difference if self.lower_is_better else difference

    def judge(self, difference: Difference) -> Verdict:
        """Return whether the interval of a difference excludes zero, and on which side."""
        low, high = sorted((self.gain(difference.low), self.gain(difference.high)))
        if not (math.isfinite(low) and math.isfinite(high)) or low <= 0 <= high:
            return "undecided"
        return "better" if low > 0 else "worse"

    def twin(self, entry: Entry, role: str) -> Entry | None:
        """Return the entry of a role that `entry` is compared with: of the same readout and seed where there is one.

        The comparison is fixed beforehand in this way; taking the best readout of the other role
        would compare with a maximum.
        """
        found = [other for other in self.entries if other.system.role == role and math.isfinite(other.value)]
        twins = (f"{entry.system.name}{systems.RANDOM}", f"{entry.system.name}{systems.SCRATCH}")
        found = [other for other in found if other.system.name in twins] or found
        found = [other for other in found if other.system.readout == entry.system.readout] or found
        found = [other for other in found if other.system.seed == entry.system.seed] or found
        return next(iter(found), None)

    def joined(self, entry: Entry) -> Entry | None:
        """Return the entry of a model's embeddings joined with the reference, of the same readout and seed."""
        names = {f"{entry.system.name}{systems.BESIDE}{name}" for name in systems.NAMES}
        same = (entry.system.readout, entry.system.seed)
        found = (e for e in self.of_role("combined") if e.system.name in names)
        return next((e for e in found if (e.system.readout, e.system.seed) == same), None)

    def difference(self, entry: Entry, other: Entry) -> Difference:
        """Return the difference of two entries; without an interval where the study did not compare the two."""
        bare = Difference(entry.value - other.value, math.nan, math.nan, math.nan)
        return entry.differences.get(other.system.name, bare)


def board(results: Results, name: str) -> Board | None:
    """Return the leaderboard of a task; None where it has no metrics."""
    rows = _rows(results, name)
    return _board(results, name, rows[rows["fold"] != EXTERNAL], results.nulls)


def external(results: Results, name: str) -> dict[str, Board]:
    """Return the leaderboard of every test dataset of a task that no training saw, by the dataset's name."""
    rows = _rows(results, name)
    found = {}
    for place, part in rows[rows["fold"] == EXTERNAL].groupby("dataset", sort=True):
        one = _board(results, name, part, None)
        if one is not None:
            found[str(place)] = replace(one, name=f"{name}, tested on {place}", folds=one.folds.iloc[:0])
    return found


def _rows(results: Results, name: str) -> pd.DataFrame:
    """Return the metrics of a task, with text in text columns."""
    return as_text(results.metrics[results.metrics["task"] == name])


def as_text(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of metrics with text, empty where it is missing, in the columns `TEXT`."""
    return rows.assign(**{c: rows[c].astype("string").fillna("") if c in rows else "" for c in TEXT})


def _board(results: Results, name: str, rows: pd.DataFrame, nulls: pd.DataFrame | None) -> Board | None:
    task = results.config.tasks[name]
    metric = PRIMARY[task.kind]
    summary, pooled = _summaries(rows)
    primary = summary[summary["metric"] == metric]
    if primary.empty:
        return None
    content = results.config.samples(name)
    competitors = systems.make(primary[RUN].drop_duplicates(), task.kind, content)
    entries = [entry(system, primary, pooled[pooled["metric"] == metric]) for system in competitors]
    single = rows[(rows["metric"] == metric) & ~rows["fold"].isin(SUMMARIES)]
    single = single.drop_duplicates(["run_id", "fold"])  # a row per reference
    several = single["fold"].nunique() > 1
    return Board(
        name=name,
        task=task,
        metric=metric,
        entries=entries,
        chance=_chance(task, entries, results.predictions, name),
        others=_others(summary, competitors, metric),
        folds=single if several else single.iloc[:0],
        nulls=_nulls(nulls, competitors, metric),
        content=content,
        asides=asides.read(rows, summary, competitors, metric, task.kind, content),
    )


def _summaries(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that stand for a whole split, and the pooled rows.

    The mean over folds stands for the split where there is one; else the pooled value; else the only fold.
    """
    rank = rows["fold"].map({"mean": 0, "pooled": 1}).fillna(2)
    rows = rows.assign(rank=rank)
    best = rows.groupby(["run_id", "metric"])["rank"].transform("min")
    summary = rows[rows["rank"] == best].drop_duplicates(["run_id", "metric", "reference"])
    folded = (best == 0).any()
    return summary, rows[(rows["fold"] == "pooled") & folded]


def _nulls(nulls: pd.DataFrame | None, competitors: list[System], metric: str) -> dict[str, np.ndarray]:
    """Return the null distribution of every system that has one."""
    if nulls is None:
        return {}
    draws = {system.run_id: curves.null_draws(system.rows(nulls), metric) for system in competitors}
    return {run: values for run, values in draws.items() if values is not None}


def entry(system: System, primary: pd.DataFrame, pooled: pd.DataFrame) -> Entry:
    """Return a system's row of a leaderboard from rows of its primary metric, over the split and pooled."""
    rows = system.rows(primary).to_dict("records")
    row, beside = rows[0], system.rows(pooled).to_dict("records")
    return Entry(
        system=system,
        value=number(row, "value"),
        ci_low=number(row, "ci_low"),
        ci_high=number(row, "ci_high"),
        ci_method=word(row, "ci_method"),
        pooled=number(beside[0], "value") if beside else math.nan,
        differences={word(r, "reference"): _difference(r) for r in rows if word(r, "reference")},
        p_perm=number(row, "p_perm"),
        null_mean=number(row, "null_mean"),
        n_train=number(row, "n_train"),
        n_test=number(row, "n_test"),
        n_seen=number(row, "pretrain_overlap_n"),
    )


def _difference(row: dict[str, Any]) -> Difference:
    return Difference(
        number(row, "delta"), number(row, "delta_ci_low"), number(row, "delta_ci_high"), number(row, "p_holm")
    )


def _chance(task: Task, entries: list[Entry], predictions: pd.DataFrame | None, name: str) -> float | None:
    """Return what knowing nothing about a person gives on the primary metric."""
    if task.kind == "binary":
        return 0.5
    trivial = [entry.value for entry in entries if entry.system.role == "majority"]
    if trivial:
        return trivial[0]
    if task.kind == "multiclass" and predictions is not None:
        classes = predictions.loc[predictions["task"] == name, "y"].nunique()
        return 1 / classes if classes else None
    return None


def _others(summary: pd.DataFrame, competitors: list[System], primary: str) -> pd.DataFrame:
    """Return the metrics beside the primary one: a row per system, a column per metric."""
    summary = summary[summary["run_id"].isin([system.run_id for system in competitors])]
    summary = summary[~asides.is_aside(summary["metric"])]
    known = [metric for metric in NAMES if metric != primary and (summary["metric"] == metric).any()]
    rest = [metric for metric in dict.fromkeys(summary["metric"]) if metric not in NAMES]
    table = {}
    for system in competitors:
        mine = system.rows(summary).drop_duplicates("metric").set_index("metric")["value"]
        table[system.label] = [float(mine.get(metric, math.nan)) for metric in known + rest]
    return pd.DataFrame.from_dict(table, orient="index", columns=known + rest)
