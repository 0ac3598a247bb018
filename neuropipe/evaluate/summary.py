"""From predictions and nulls, and nothing else, to the table of metrics."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.evaluate import tables, uncertainty
from neuropipe.evaluate.metrics import PRIMARY, THRESHOLD, Metric
from neuropipe.evaluate.testsets import MEAN, POOLED, TestSet, test_sets

REFERENCE = "fc"


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric of a run on a test set: the value, its null (draws,) and its bootstrap (draws,)."""

    value: float
    null: np.ndarray
    bootstrap: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """One system's answer to one task: its folds, all of them pooled (or None), and estimates by (set, metric)."""

    folds: list[TestSet]
    pooled: TestSet | None
    estimates: dict[tuple[str, str], Estimate]

    @property
    def facts(self) -> dict[str, Any]:
        """What a row of metrics says about the run as a whole."""
        return (self.pooled or self.folds[0]).facts

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that its predictions allow."""
        return self.folds[0].metrics


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
        primary row ``fold = mean`` and the row ``fold = pooled`` beside it. Comparisons are with the
        connectivity baseline, of the same readout where there is one.
    """
    tested = predictions[predictions["role"] == "test"]
    if tested.empty:
        raise InputError("The predictions hold no test person; probe and baselines write them.")
    by_run = dict(iter(nulls.groupby("run_id", sort=False)))
    rows: list[dict[str, Any]] = []
    for (task, _), part in tested.groupby(["task", "split"], sort=True):
        sets = {run_id: test_sets(group, by_run.get(run_id)) for run_id, group in part.groupby("run_id", sort=True)}
        bootstraps = _bootstraps(sets, draws, [seed, zlib.crc32(task.encode())])
        runs = [_run(run_id, own, bootstraps) for run_id, own in sets.items()]
        for run in runs:
            rows += _rows(run, _reference(run, runs))
    table = tables.frame(rows, tables.METRICS)
    table["p_holm"] = _holm(table)
    return table


def _bootstraps(sets: dict[str, list[TestSet]], draws: int, seed: list[int]) -> dict[tuple[str, str, str], np.ndarray]:
    """Return bootstrap values by (run, test set, metric); runs on the same people share the draws."""
    alike: dict[tuple[str, ...], list[tuple[str, TestSet]]] = {}
    for run_id, parts in sets.items():
        for part in parts:
            alike.setdefault((part.name, *part.people), []).append((run_id, part))
    values: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for members in alike.values():
        first = members[0][1]
        for stratified in (True, False):
            chosen = [
                (run_id, part, name, metric)
                for run_id, part in members
                for name, metric in part.metrics.items()
                if metric.stratified == stratified
            ]
            if not chosen:
                continue
            strata = first.scored.y[0].astype(np.int64) if stratified and first.binary else None
            rng = np.random.default_rng([*seed, zlib.crc32(first.name.encode()), int(stratified)])
            for weight in uncertainty.bootstrap_weights(first.units, strata, draws, rng):
                for run_id, part, name, metric in chosen:
                    values.setdefault((run_id, part.name, name), []).append(metric.compute(part.scored, weight))
    return {key: np.concatenate(parts) for key, parts in values.items()}


def _run(run_id: str, sets: list[TestSet], bootstraps: dict[tuple[str, str, str], np.ndarray]) -> Run:
    estimates = {}
    for part in sets:
        once = np.ones((1, len(part.people)))
        for name, metric in part.metrics.items():
            value = float(metric.compute(part.scored, once)[0])
            has_null = metric.null and part.null is not None
            null = metric.compute(part.null, once) if has_null else np.empty(0)
            estimates[part.name, name] = Estimate(value, null, bootstraps[run_id, part.name, name])
    pooled = sets[-1] if sets[-1].name == POOLED else None
    return Run(sets[:-1] if pooled else sets, pooled, estimates)


def _reference(run: Run, runs: list[Run]) -> Run | None:
    """Return the connectivity baseline to compare with: of the same readout where there is one."""
    if run.facts["system"] == REFERENCE:
        return None
    candidates = [other for other in runs if other.facts["system"] == REFERENCE]
    same = [other for other in candidates if other.facts["readout"] == run.facts["readout"]]
    return (same or candidates or [None])[0]


def _rows(run: Run, reference: Run | None) -> Iterator[dict[str, Any]]:
    """Yield a run's rows: folds, their mean, and pooled."""
    for name, metric in run.metrics.items():
        for part in run.folds:
            yield _set_row(run, part, name, metric, reference)
        if run.pooled:
            yield _mean_row(run, name, metric, reference)
            yield _set_row(run, run.pooled, name, metric, reference)


def _about(name: str, metric: Metric) -> dict[str, Any]:
    threshold = {"threshold": THRESHOLD, "threshold_source": "fixed"} if metric.thresholded else {}
    return {"metric": name, **threshold}


def _set_row(run: Run, part: TestSet, name: str, metric: Metric, reference: Run | None) -> dict[str, Any]:
    """Return the row of one test set: bootstrap interval over persons, null, paired difference."""
    estimate = run.estimates[part.name, name]
    low, high = uncertainty.percentile_interval(estimate.bootstrap)
    method = "bootstrap_stratified" if metric.stratified else "bootstrap"
    return {
        **part.facts,
        **_about(name, metric),
        "value": estimate.value,
        "ci_low": low,
        "ci_high": high,
        "ci_method": f"{method}_descriptive" if part.name == POOLED else method,
        **_null(estimate.value, estimate.null, metric),
        **_paired(part, name, estimate, reference),
    }


def _mean_row(run: Run, name: str, metric: Metric, reference: Run | None) -> dict[str, Any]:
    """Return the row of the mean over folds: corrected resampled interval and test, null."""
    ratio = float(np.mean([part.facts["n_test"] / part.facts["n_train"] for part in run.folds]))
    estimates = [run.estimates[part.name, name] for part in run.folds]
    values = np.array([estimate.value for estimate in estimates])
    low, high = np.clip(uncertainty.corrected_interval(values, ratio), *metric.bounds)
    row = {
        **run.facts,
        **_about(name, metric),
        "fold": MEAN,
        "value": values.mean(),
        "ci_low": low,
        "ci_high": high,
        "ci_method": "corrected_resampled",
        **_null(values.mean(), np.mean([estimate.null for estimate in estimates], axis=0), metric),
    }
    people = [part.people for part in run.folds]
    if reference is None or name not in reference.metrics or people != [part.people for part in reference.folds]:
        return row
    differences = values - np.array([reference.estimates[part.name, name].value for part in run.folds])
    low, high = uncertainty.corrected_interval(differences, ratio)
    t, p = uncertainty.nadeau_bengio(differences, ratio) if metric.better else (np.nan, np.nan)
    compared = {"reference": reference.facts["system"], "delta": differences.mean(), "t_nb": t, "p_nb": p}
    return row | compared | {"delta_ci_low": low, "delta_ci_high": high}


def _null(value: float, null: np.ndarray, metric: Metric) -> dict[str, float]:
    if len(null) == 0 or not np.isfinite(null).any():
        return {}
    return {"null_mean": np.nanmean(null), "p_perm": uncertainty.permutation_p(value, null, metric.better)}


def _paired(part: TestSet, name: str, estimate: Estimate, reference: Run | None) -> dict[str, Any]:
    """Return the difference from the reference on the same people; DeLong's interval for an AUROC."""
    if reference is None or name not in reference.metrics:
        return {}
    others = [*reference.folds, *([reference.pooled] if reference.pooled else [])]
    twin = next((other for other in others if other.name == part.name and other.people == part.people), None)
    if twin is None:
        return {}
    other = reference.estimates[part.name, name]
    compared = {"reference": reference.facts["system"], "delta": estimate.value - other.value}
    if name == "auroc" and part.units.max() + 1 == len(part.units):
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
