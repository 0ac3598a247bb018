"""From predictions and nulls, and nothing else, to the table of metrics."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.config import REFERENCES as REFERENCE_OF
from neuropipe.errors import InputError
from neuropipe.evaluate import external, tables, uncertainty
from neuropipe.evaluate.metrics import PRIMARY, THRESHOLD, Metric
from neuropipe.evaluate.testsets import MEAN, POOLED, TestSet, clip_sets, test_sets

TRIVIAL = "majority"
PERFECT = (0.0, 1.0)  # AUROCs whose bootstrap has no width


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric of a run on a test set: the value, its interval, its null (draws,) and its bootstrap (draws,)."""

    value: float
    low: float
    high: float
    method: str
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


def summarise(
    predictions: pd.DataFrame,
    nulls: pd.DataFrame,
    *,
    draws: int,
    seed: int,
    decoded: pd.DataFrame | None = None,
    permutations: int = 0,
) -> pd.DataFrame:
    """Return the metrics of every run with intervals, nulls and comparisons.

    Parameters
    ----------
    predictions, nulls : DataFrame
        Columns of `tables.PREDICTIONS` and `tables.NULLS`.
    draws : int
        Bootstrap draws over persons.
    seed : int
        Of the bootstrap; all runs of a task share the draws, so that differences are paired.
    decoded : DataFrame, optional
        Columns of `tables.DECODING`: the clips of decoding tasks.
    permutations : int
        Of the labels of clips within persons.

    Returns
    -------
    DataFrame
        Columns of `tables.METRICS`. Per run and metric: one row per fold where there are several, the
        primary row ``fold = mean`` and the row ``fold = pooled`` beside it; per test dataset one row
        ``fold = external`` (see `neuropipe.evaluate.external`). Comparisons are with the
        reference (connectivity of series, voxels of maps and slices), of the same readout where there is
        one; a trained model has each row again for the same network before training, and on regression
        for the mean of the training people.
    """
    tested = predictions[predictions["role"] == "test"]
    clips = tables.frame([], tables.DECODING) if decoded is None else decoded[decoded["role"] == "test"]
    if tested.empty and clips.empty:
        raise InputError("The predictions hold no test person; probe, baselines and decode write them.")
    by_run = dict(iter(nulls.groupby("run_id", sort=False)))
    rows: list[dict[str, Any]] = []
    for (task, _), part in tested.groupby(["task", "split"], sort=True):
        sets = {run_id: test_sets(group, by_run.get(run_id)) for run_id, group in part.groupby("run_id", sort=True)}
        rows += _task_rows(task, sets, draws, seed)
    for (task, _), part in clips.groupby(["task", "split"], sort=True):
        groups = part.groupby("run_id", sort=True)
        sets = {run_id: clip_sets(group, permutations, seed) for run_id, group in groups}
        rows += _task_rows(task, sets, draws, seed)
    rows += external.rows(predictions, draws=draws, seed=seed, references=_references)
    table = tables.frame(rows, tables.METRICS)
    table["p_holm"] = _holm(table)
    return table


def _task_rows(task: str, sets: dict[str, list[TestSet]], draws: int, seed: int) -> list[dict[str, Any]]:
    """Return the rows of all runs of a task, by the test sets of each."""
    bootstraps = _bootstraps(sets, draws, [seed, zlib.crc32(task.encode())])
    runs = [_run(run_id, own, bootstraps) for run_id, own in sets.items()]
    return [row for run in runs for row in _rows(run, _references(run, runs))]


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
            bootstrap = bootstraps[run_id, part.name, name]
            interval = _interval(part, name, metric, value, bootstrap)
            estimates[part.name, name] = Estimate(value, *interval, null, bootstrap)
    pooled = sets[-1] if sets[-1].name == POOLED else None
    return Run(sets[:-1] if pooled else sets, pooled, estimates)


def _interval(
    part: TestSet, name: str, metric: Metric, value: float, bootstrap: np.ndarray
) -> tuple[float, float, str]:
    """Return interval and method: bootstrap over persons, exact where no draw can differ from a perfect ranking."""
    suffix = "_descriptive" if part.name == POOLED else ""
    if name == "auroc" and value in PERFECT:
        return *uncertainty.perfect_interval(value, part.scored.y[0], part.units), f"exact_pairs{suffix}"
    method = "bootstrap_stratified" if metric.stratified else "bootstrap"
    return *uncertainty.percentile_interval(bootstrap), f"{method}{suffix}"


def reference_names(target_type: str) -> set[str]:
    """Return the systems that a task is compared with; its samples are of one content, so it has one of them."""
    clips = target_type == "decoding"
    return {name for content, name in REFERENCE_OF.items() if (content == "clip") == clips}


def _references(run: Run, runs: list[Run]) -> list[Run]:
    """Return whom to compare with: the reference, a trained model's network before training, the training mean.

    The reference has the same readout where there is one, and embeddings that are joined with a baseline have that
    baseline for a reference too; the twin has the same readout and seed, and of a
    network that was trained for the task it is the one that was trained for it from scratch. That a class is
    told at all is tested by permutation, so the trivial answer is a comparison of numbers only.
    """
    facts = run.facts
    references = reference_names(facts["target_type"])
    if facts["system"] in references:
        return []
    reference = _alike([other for other in runs if other.facts["system"] in references], facts["readout"])
    partner = _alike([o for o in runs if o.facts["system"] == tables.joined_with(facts["system"])], facts["readout"])
    untrained = [facts["system"] + ending for ending in (tables.RANDOM_WEIGHTS, tables.FROM_SCRATCH)]
    wanted = {(name, facts["readout"], str(facts["seed"])) for name in untrained}
    twins = [
        other for other in runs if (other.facts["system"], other.facts["readout"], str(other.facts["seed"])) in wanted
    ]
    trained = pd.notna(facts["seed"]) and not facts["system"].endswith(tables.RANDOM_WEIGHTS)
    asked = trained and facts["target_type"] == "regression"
    means = [other for other in runs if asked and other.facts["system"] == TRIVIAL]
    return list(dict.fromkeys(reference[:1] + partner[:1] + twins[:1] + means[:1]))


def _alike(runs: list[Run], readout: str) -> list[Run]:
    """Return the runs of a readout, or all where there is none."""
    return [run for run in runs if run.facts["readout"] == readout] or runs


def _rows(run: Run, references: list[Run]) -> Iterator[dict[str, Any]]:
    """Yield a run's rows (folds, their mean, pooled), each once per reference that answered for the same people."""
    for name, metric in run.metrics.items():
        for part in run.folds:
            yield from _compared(_set_row(run, part, name, metric), _paired(run, part, name, references))
        if run.pooled:
            yield from _compared(_mean_row(run, name, metric), _resampled(run, name, metric, references))
            yield from _compared(_set_row(run, run.pooled, name, metric), _paired(run, run.pooled, name, references))


def _compared(row: dict[str, Any], comparisons: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the row once per comparison, or alone."""
    return [row | comparison for comparison in comparisons] or [row]


def _about(name: str, metric: Metric) -> dict[str, Any]:
    threshold = {"threshold": THRESHOLD, "threshold_source": "fixed"} if metric.thresholded else {}
    return {"metric": name, **threshold}


def _set_row(run: Run, part: TestSet, name: str, metric: Metric) -> dict[str, Any]:
    """Return the row of one test set: interval over persons, null."""
    estimate = run.estimates[part.name, name]
    return {
        **part.facts,
        **_about(name, metric),
        "value": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "ci_method": estimate.method,
        **_null(estimate.value, estimate.null, metric),
    }


def _test_train_ratio(run: Run) -> float:
    return float(np.mean([part.facts["n_test"] / part.facts["n_train"] for part in run.folds]))


def _fold_values(run: Run, name: str) -> np.ndarray:
    return np.array([run.estimates[part.name, name].value for part in run.folds])


def _mean_row(run: Run, name: str, metric: Metric) -> dict[str, Any]:
    """Return the row of the mean over folds: corrected resampled interval, null."""
    values = _fold_values(run, name)
    low, high = np.clip(uncertainty.corrected_interval(values, _test_train_ratio(run)), *metric.bounds)
    nulls = [run.estimates[part.name, name].null for part in run.folds]
    return {
        **run.facts,
        **_about(name, metric),
        "fold": MEAN,
        "value": values.mean(),
        "ci_low": low,
        "ci_high": high,
        "ci_method": "corrected_resampled",
        **_null(values.mean(), np.mean(nulls, axis=0), metric),
    }


def _resampled(run: Run, name: str, metric: Metric, references: list[Run]) -> Iterator[dict[str, Any]]:
    """Yield the mean difference over folds from each reference: corrected resampled interval and test."""
    people, ratio = [part.people for part in run.folds], _test_train_ratio(run)
    for reference in references:
        if name not in reference.metrics or people != [part.people for part in reference.folds]:
            continue
        differences = _fold_values(run, name) - _fold_values(reference, name)
        low, high = uncertainty.corrected_interval(differences, ratio)
        t, p = uncertainty.nadeau_bengio(differences, ratio) if metric.better else (np.nan, np.nan)
        yield {
            "reference": reference.facts["system"],
            "delta": differences.mean(),
            "delta_ci_low": low,
            "delta_ci_high": high,
            "t_nb": t,
            "p_nb": p,
        }


def _null(value: float, null: np.ndarray, metric: Metric) -> dict[str, float]:
    if len(null) == 0 or not np.isfinite(null).any():
        return {}
    return {"null_mean": np.nanmean(null), "p_perm": uncertainty.permutation_p(value, null, metric.better)}


def _paired(run: Run, part: TestSet, name: str, references: list[Run]) -> Iterator[dict[str, Any]]:
    """Yield the difference on one test set from each reference that answered for the same people."""
    mine = run.estimates[part.name, name]
    for reference in references:
        sets = [*reference.folds, *([reference.pooled] if reference.pooled else [])]
        twin = next((other for other in sets if other.name == part.name and other.people == part.people), None)
        if twin is None or name not in reference.metrics:
            continue
        other = reference.estimates[part.name, name]
        low, high = _difference_interval(part, twin, name, mine, other)
        compared = {"reference": reference.facts["system"], "delta": mine.value - other.value}
        yield compared | {"delta_ci_low": low, "delta_ci_high": high}


def _difference_interval(
    part: TestSet, twin: TestSet, name: str, mine: Estimate, other: Estimate
) -> tuple[float, float]:
    """Return the interval of a paired difference.

    DeLong's for AUROCs of unrelated people, from the two exact intervals where one of them is perfect
    (it has no variance to count with), else by the bootstrap draws that both share.
    """
    if name == "auroc" and (mine.value in PERFECT or other.value in PERFECT):
        return uncertainty.recovered_difference((mine.value, mine.low, mine.high), (other.value, other.low, other.high))
    if name == "auroc" and part.units.max() + 1 == len(part.units):
        scores = np.concatenate([part.scored.prediction, twin.scored.prediction])
        return uncertainty.delong_difference(part.scored.y[0], scores)[1:]
    return uncertainty.percentile_interval(mine.bootstrap - other.bootstrap)


def _holm(table: pd.DataFrame) -> pd.Series:
    """Return Holm's adjusted p of each system's primary comparisons with one reference, over its tasks and readouts."""
    adjusted = pd.Series(np.nan, index=table.index)
    primary = table[(table["fold"] == MEAN) & (table["metric"] == table["target_type"].map(PRIMARY))]
    for _, rows in primary.groupby(["system", "seed", "reference"], dropna=False):
        adjusted[rows.index] = uncertainty.holm(rows["p_nb"].to_numpy(float))
    return adjusted
