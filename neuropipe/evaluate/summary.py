"""From predictions and nulls, and nothing else, to the table of metrics."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.evaluate import tables, uncertainty
from neuropipe.evaluate.metrics import METRICS, PRIMARY, THRESHOLD, Metric, Scored

REFERENCE = "fc"
MEAN, POOLED = "mean", "pooled"


@dataclass(frozen=True, eq=False)
class TestSet:
    """The test people of one fold (or of all folds, pooled) as one run predicted them.

    Attributes
    ----------
    name : str
        The fold; ``mean`` where the split has one fold only; ``pooled``.
    rows : DataFrame
        Rows of the predictions, sorted by repeat, fold and id.
    scored : Scored
        Labels and predictions, one row.
    null : Scored or None
        One row per draw.
    """

    name: str
    rows: pd.DataFrame
    scored: Scored
    null: Scored | None

    @property
    def people(self) -> tuple[str, ...]:
        """What must be equal for two runs to be compared person by person."""
        return (self.name, *(self.rows["fold"] + "/" + self.rows["dataset"] + "/" + self.rows["participant_id"]))


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric of a run on a test set: the value, its null and its bootstrap."""

    value: float
    null: np.ndarray
    bootstrap: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """One system's answer to one task: its test sets and their estimates by (test set, metric)."""

    run_id: str
    facts: dict[str, Any]
    sets: list[TestSet]
    metrics: dict[str, Metric]
    estimates: dict[tuple[str, str], Estimate]

    @property
    def folds(self) -> list[TestSet]:
        """The test sets that are folds."""
        return [part for part in self.sets if part.name != POOLED]


def summarise(predictions: pd.DataFrame, nulls: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """Return the metrics of every run with intervals, nulls and comparisons.

    Parameters
    ----------
    predictions, nulls : DataFrame
        Columns of `tables.PREDICTIONS` and `tables.NULLS`.
    draws : int
        Bootstrap draws over persons.
    seed : int
        Of the bootstrap; all runs of a task share the draws, so that differences are paired.

    Returns
    -------
    DataFrame
        Columns of `tables.METRICS`. Per run and metric: one row per fold where there are several, the
        primary row ``fold = mean`` and the row ``fold = pooled`` beside it.
    """
    tested = predictions[predictions["role"] == "test"]
    if tested.empty:
        raise InputError("The predictions hold no test person; probe and baselines write them.")
    by_run = dict(iter(nulls.groupby("run_id", sort=False)))
    rows: list[dict[str, Any]] = []
    for (task, _), part in tested.groupby(["task", "split"], sort=True):
        sets = {name: _test_sets(group, by_run.get(name)) for name, group in part.groupby("run_id", sort=True)}
        bootstraps = _bootstraps(sets, draws, [seed, zlib.crc32(task.encode())])
        runs = [_run(name, own, bootstraps) for name, own in sets.items()]
        for run in runs:
            rows += _rows(run, _reference(run, runs))
    table = tables.frame(rows, tables.METRICS)
    table["p_holm"] = _holm(table)
    return table


def _test_sets(rows: pd.DataFrame, nulls: pd.DataFrame | None) -> list[TestSet]:
    """Return a run's test sets: its folds and, of several, all of them pooled."""
    keys = ["repeat", "fold", "dataset", "participant_id"]
    rows = rows.sort_values(keys, ignore_index=True)
    if (twice := rows[rows.duplicated(keys)]).size:
        raise InputError(
            f"The predictions of {rows['run_id'].iloc[0]} name {', '.join(twice['participant_id'].unique()[:5])} more "
            "than once in a fold; give each file once."
        )
    if nulls is not None:
        nulls = rows[keys].merge(nulls, on=keys, how="left")
        if nulls["prediction"].isna().any():
            raise InputError(
                f"The nulls of {rows['run_id'].iloc[0]} do not cover its test people; give both of one run."
            )
    folds = list(rows.groupby(["repeat", "fold"], sort=False).indices.items())
    if len(folds) == 1:
        return [_test_set(MEAN, rows, nulls)]
    parts = [_test_set(fold, rows.iloc[at], None if nulls is None else nulls.iloc[at]) for (_, fold), at in folds]
    return [*parts, _test_set(POOLED, rows, nulls)]


def _test_set(name: str, rows: pd.DataFrame, nulls: pd.DataFrame | None) -> TestSet:
    regression = rows["target_type"].iloc[0] == "regression"
    prediction = rows["yhat" if regression else "score"].to_numpy(float)
    logit = rows["logit"].to_numpy(float)
    mean = rows["train_mean"].to_numpy(float)[None]
    known = np.isfinite(logit).all()
    scored = Scored(rows["y"].to_numpy(float)[None], prediction[None], logit[None] if known else None, mean)
    if nulls is None:
        return TestSet(name, rows, scored, None)
    y, null = (np.stack(nulls[column].to_list(), axis=1).astype(float) for column in ("y", "prediction"))
    if known:  # the null of a readout that gives log odds is written as log odds too
        return TestSet(name, rows, scored, Scored(y, 1 / (1 + np.exp(-null)), null, mean))
    return TestSet(name, rows, scored, Scored(y, null, None, mean))


def _metrics(part: TestSet) -> dict[str, Metric]:
    """Return the metrics that a test set's predictions allow."""
    every = METRICS[part.rows["target_type"].iloc[0]]
    return {name: metric for name, metric in every.items() if part.scored.logit is not None or not metric.probability}


def _bootstraps(sets: dict[str, list[TestSet]], draws: int, seed: list[int]) -> dict[tuple[str, str, str], np.ndarray]:
    """Return bootstrap values by (run, test set, metric); runs on the same people share the draws."""
    alike: dict[tuple[str, ...], list[tuple[str, TestSet]]] = {}
    for run_id, parts in sets.items():
        for part in parts:
            alike.setdefault(part.people, []).append((run_id, part))
    values: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for members in alike.values():
        first = members[0][1]
        units = pd.factorize(first.rows["person"])[0]
        binary = first.rows["target_type"].iloc[0] == "binary"
        for stratified in (True, False):
            chosen = [
                (run_id, part, name, metric)
                for run_id, part in members
                for name, metric in _metrics(part).items()
                if metric.stratified == stratified
            ]
            if not chosen:
                continue
            strata = first.rows["y"].to_numpy(np.int64) if stratified and binary else None
            rng = np.random.default_rng([*seed, zlib.crc32(first.name.encode()), int(stratified)])
            for weight in uncertainty.bootstrap_weights(units, strata, draws, rng):
                for run_id, part, name, metric in chosen:
                    values.setdefault((run_id, part.name, name), []).append(metric.compute(part.scored, weight))
    return {key: np.concatenate(parts) for key, parts in values.items()}


def _run(run_id: str, sets: list[TestSet], bootstraps: dict[tuple[str, str, str], np.ndarray]) -> Run:
    metrics = _metrics(sets[0])
    estimates = {}
    for part in sets:
        once = np.ones((1, len(part.rows)))
        for name, metric in metrics.items():
            value = float(metric.compute(part.scored, once)[0])
            has_null = metric.null and part.null is not None
            null = metric.compute(part.null, once) if has_null else np.empty(0)
            estimates[part.name, name] = Estimate(value, null, bootstraps[run_id, part.name, name])
    first = sets[0].rows.iloc[0]
    facts = {name: first[name] for name in (*tables.RUN, *tables.FOLD) if name in tables.METRICS}
    return Run(run_id, facts, sets, metrics, estimates)


def _reference(run: Run, runs: list[Run]) -> Run | None:
    """Return the connectivity baseline to compare with: of the same readout where there is one."""
    if run.facts["system"] == REFERENCE:
        return None
    candidates = [other for other in runs if other.facts["system"] == REFERENCE]
    same = [other for other in candidates if other.facts["readout"] == run.facts["readout"]]
    return (same or candidates or [None])[0]


def _rows(run: Run, reference: Run | None) -> list[dict[str, Any]]:
    """Return a run's rows: folds, their mean, and pooled."""
    several = len(run.folds) > 1
    rows = []
    for name, metric in run.metrics.items():
        if several:
            rows += [_set_row(run, part, name, metric, reference) for part in run.folds]
            rows += [_mean_row(run, name, metric, reference)]
        rows += [_set_row(run, part, name, metric, reference) for part in run.sets if part.name in (MEAN, POOLED)]
    return rows


def _common(run: Run, rows: pd.DataFrame, name: str, metric: Metric) -> dict[str, Any]:
    """Return what every row says: of whom, by what, how many."""
    per_fold = rows.drop_duplicates(["repeat", "fold"])
    checkpoints = rows["checkpoint_sha256"].unique()
    return {
        **run.facts,
        "run_id": run.run_id,
        "checkpoint_sha256": checkpoints[0] if len(checkpoints) == 1 else pd.NA,
        "pretrain_overlap_n": per_fold["pretrain_overlap_n"].sum(min_count=1),
        "dataset": "+".join(sorted(rows["dataset"].unique())),
        "repeat": rows["repeat"].iloc[0] if rows["repeat"].nunique() == 1 else pd.NA,
        "n_train": round(per_fold["n_train"].mean()),
        "n_val": round(per_fold["n_val"].mean()),
        "n_test": len(rows),
        "prevalence": rows["y"].mean() if rows["target_type"].iloc[0] == "binary" else np.nan,
        "metric": name,
        "threshold": THRESHOLD if metric.thresholded else np.nan,
        "threshold_source": "fixed" if metric.thresholded else pd.NA,
    }


def _set_row(run: Run, part: TestSet, name: str, metric: Metric, reference: Run | None) -> dict[str, Any]:
    """Return the row of one test set: bootstrap interval over persons, null, paired difference."""
    estimate = run.estimates[part.name, name]
    low, high = uncertainty.percentile_interval(estimate.bootstrap)
    method = "bootstrap_stratified" if metric.stratified else "bootstrap"
    return {
        **_common(run, part.rows, name, metric),
        "fold": part.name,
        "value": estimate.value,
        "ci_low": low,
        "ci_high": high,
        "ci_method": f"{method}_descriptive" if part.name == POOLED else method,
        **_null(estimate.value, estimate.null, metric),
        **_paired(part, name, estimate, reference),
    }


def _mean_row(run: Run, name: str, metric: Metric, reference: Run | None) -> dict[str, Any]:
    """Return the row of the mean over folds: corrected resampled interval, null, corrected resampled test."""
    ratio = float(np.mean([len(part.rows) / part.rows["n_train"].iloc[0] for part in run.folds]))
    estimates = [run.estimates[part.name, name] for part in run.folds]
    values = np.array([estimate.value for estimate in estimates])
    low, high = uncertainty.corrected_interval(values, ratio)
    row = {
        **_common(run, pd.concat([part.rows for part in run.folds]), name, metric),
        "fold": MEAN,
        "value": values.mean(),
        "ci_low": low,
        "ci_high": high,
        "ci_method": "corrected_resampled",
        **_null(values.mean(), np.mean([estimate.null for estimate in estimates], axis=0), metric),
    }
    if reference is None or name not in reference.metrics or not _same_people(run, reference):
        return row
    differences = values - np.array([reference.estimates[part.name, name].value for part in run.folds])
    low, high = uncertainty.corrected_interval(differences, ratio)
    t, p = uncertainty.nadeau_bengio(differences, ratio)
    compared = {"reference": reference.facts["system"], "delta": differences.mean(), "t_nb": t, "p_nb": p}
    return row | compared | {"delta_ci_low": low, "delta_ci_high": high}


def _same_people(run: Run, reference: Run) -> bool:
    return [part.people for part in run.folds] == [part.people for part in reference.folds]


def _null(value: float, null: np.ndarray, metric: Metric) -> dict[str, float]:
    if len(null) == 0 or not np.isfinite(null).any():
        return {"null_mean": np.nan, "p_perm": np.nan}
    return {"null_mean": np.nanmean(null), "p_perm": uncertainty.permutation_p(value, null, metric.better)}


def _paired(part: TestSet, name: str, estimate: Estimate, reference: Run | None) -> dict[str, Any]:
    """Return the difference from the reference on the same people; DeLong's interval for an AUROC."""
    if reference is None or name not in reference.metrics:
        return {}
    twin = next((other for other in reference.sets if other.people == part.people), None)
    if twin is None:
        return {}
    other = reference.estimates[part.name, name]
    compared = {"reference": reference.facts["system"], "delta": estimate.value - other.value}
    if name == "auroc" and part.rows["person"].is_unique:
        scores = np.concatenate([part.scored.prediction, twin.scored.prediction])
        _, low, high = uncertainty.delong_difference(part.scored.y[0], scores)
    else:
        low, high = uncertainty.percentile_interval(estimate.bootstrap - other.bootstrap)
    return compared | {"delta_ci_low": low, "delta_ci_high": high}


def _holm(table: pd.DataFrame) -> pd.Series:
    """Return Holm's adjusted p of each system's primary comparisons over all its tasks and readouts."""
    adjusted = pd.Series(np.nan, index=table.index)
    primary = table[(table["fold"] == MEAN) & (table["metric"] == table["target_type"].map(PRIMARY))]
    for _, rows in primary.groupby(["system", "seed"], dropna=False):
        adjusted[rows.index] = uncertainty.holm(rows["p_nb"].to_numpy(float))
    return adjusted
