"""From predictions and nulls, and nothing else, to the table of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.config import FROM_SCRATCH, RANDOM_WEIGHTS
from neuropipe.config import REFERENCES as REFERENCE_OF
from neuropipe.errors import InputError
from neuropipe.evaluate import dependence, external, seeds, tables, uncertainty
from neuropipe.evaluate.comparison import paired, resampled
from neuropipe.evaluate.estimates import Run, about, judge
from neuropipe.evaluate.metrics import PRIMARY, Metric
from neuropipe.evaluate.testsets import MEAN, TestSet, clip_sets, test_sets

TRIVIAL = "majority"


def summarise(
    predictions: pd.DataFrame,
    nulls: pd.DataFrame,
    *,
    draws: int,
    seed: int,
    decoded: pd.DataFrame | None = None,
    permutations: int = 0,
    confounds: pd.DataFrame | None = None,
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
        Of the labels of clips within persons, and of what is left of a prediction when its target is known.
    confounds : DataFrame, optional
        Columns of `tables.CONFOUNDS`.

    Returns
    -------
    DataFrame
        Columns of `tables.METRICS`. Per run and metric: one row per fold where there are several, the
        primary row ``fold = mean`` and the row ``fold = pooled`` beside it; per test dataset one row
        ``fold = external`` (see `neuropipe.evaluate.external`). Comparisons are with the
        reference (connectivity of series, voxels of maps and slices), of the same readout where there is
        one; a trained model has each row again for the same network before training, and on regression
        for the mean of the training people. Recipes with several seeds have rows of their own without a seed
        (`neuropipe.evaluate.seeds`), and every run one row per confound (`neuropipe.evaluate.dependence`).
    """
    tested = predictions[predictions["role"] == "test"]
    clips = tables.frame([], tables.DECODING) if decoded is None else decoded[decoded["role"] == "test"]
    if tested.empty and clips.empty:
        raise InputError("The predictions hold no test person; probe, baselines and decode write them.")
    by_run = dict(iter(nulls.groupby("run_id", sort=False)))
    held = dict(iter(predictions[predictions["role"] == "validation"].groupby("run_id", sort=False)))
    rows: list[dict[str, Any]] = []
    for (task, _), part in tested.groupby(["task", "split"], sort=True):
        groups = part.groupby("run_id", sort=True)
        sets = {run_id: test_sets(group, by_run.get(run_id), held.get(run_id)) for run_id, group in groups}
        rows += _task_rows(judge(task, sets, draws, seed))
        if confounds is not None:
            rows += dependence.rows(part, confounds[confounds["task"] == task], permutations, seed)
    for (task, _), part in clips.groupby(["task", "split"], sort=True):
        groups = part.groupby("run_id", sort=True)
        sets = {run_id: clip_sets(group, permutations, seed) for run_id, group in groups}
        rows += _task_rows(judge(task, sets, draws, seed))
    rows += external.rows(predictions, draws=draws, seed=seed, references=_references)
    table = tables.frame(rows, tables.METRICS)
    table["p_holm"] = _holm(table)
    return table


def _task_rows(runs: list[Run]) -> list[dict[str, Any]]:
    """Return the rows of all runs of a task, and of what its seeds have in common."""
    rows = [row for run in runs for row in _rows(run, _references(run, runs))]
    for group in seeds.groups(runs):
        mean = seeds.averaged(group)
        shown = (row for row in _rows(mean, _references(mean, runs)) if row["fold"] == MEAN)
        rows += [row | {"metric": f"{row['metric']}{seeds.MEAN_OVER}"} for row in shown]
        rows += [mean.facts | {"fold": MEAN, **row} for row in seeds.agreement(group)]
    return rows


def reference_names(target_type: str) -> set[str]:
    """Return the systems that a task is compared with; its samples are of one content, so it has one of them."""
    clips = target_type == "decoding"
    return {name for content, name in REFERENCE_OF.items() if (content == "clip") == clips}


def _references(run: Run, runs: list[Run]) -> list[Run]:
    """Return whom to compare with: the reference, a trained model's network before training, the training mean.

    The reference has the same readout where there is one, and embeddings that are joined with a baseline have that
    baseline for a reference too; the twin has the same readout and seed, and of a
    network that was trained for the task it is the one that was trained for it from scratch. That a class is
    told at all is tested by permutation, so the trivial answer is a comparison of numbers only. What went through
    ComBat is also compared with itself before.
    """
    facts = run.facts
    references = reference_names(facts["target_type"])
    if facts["system"] in references:
        return []
    reference = _alike([other for other in runs if other.facts["system"] in references], facts["readout"])
    partner = _alike([o for o in runs if o.facts["system"] == tables.joined_with(facts["system"])], facts["readout"])
    before = tables.unharmonised(facts["system"])
    ending = facts["system"].removeprefix(before)
    untrained = [before + other + ending for other in (RANDOM_WEIGHTS, FROM_SCRATCH)]
    wanted = {(name, facts["readout"], str(facts["seed"])) for name in untrained}
    twin_before = {(before, facts["readout"], str(facts["seed"]))} if ending else set()
    twins = [
        other for other in runs if (other.facts["system"], other.facts["readout"], str(other.facts["seed"])) in wanted
    ]
    plain = [o for o in runs if (o.facts["system"], o.facts["readout"], str(o.facts["seed"])) in twin_before]
    trained = pd.notna(facts["seed"]) and not before.endswith(RANDOM_WEIGHTS)
    asked = trained and facts["target_type"] == "regression"
    means = [other for other in runs if asked and other.facts["system"] == TRIVIAL]
    return list(dict.fromkeys(reference[:1] + partner[:1] + plain[:1] + twins[:1] + means[:1]))


def _alike(runs: list[Run], readout: str) -> list[Run]:
    """Return the runs of a readout, or all where there is none."""
    return [run for run in runs if run.facts["readout"] == readout] or runs


def _rows(run: Run, references: list[Run]) -> Iterator[dict[str, Any]]:
    """Yield a run's rows (folds, their mean, pooled), each once per reference that answered for the same people."""
    for name, metric in run.metrics.items():
        for part in run.folds:
            yield from _compared(_set_row(run, part, name, metric), paired(run, part, name, references))
        if run.pooled:
            yield from _compared(_mean_row(run, name, metric), resampled(run, name, metric, references))
            yield from _compared(_set_row(run, run.pooled, name, metric), paired(run, run.pooled, name, references))


def _compared(row: dict[str, Any], comparisons: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the row once per comparison, or alone."""
    return [row | comparison for comparison in comparisons] or [row]


def _set_row(run: Run, part: TestSet, name: str, metric: Metric) -> dict[str, Any]:
    """Return the row of one test set: interval over persons, null."""
    estimate = run.estimates[part.name, name]
    return {
        **part.facts,
        **about(name, metric, part.decisions),
        "value": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "ci_method": estimate.method,
        **_null(estimate.value, estimate.null, metric),
    }


def _mean_row(run: Run, name: str, metric: Metric) -> dict[str, Any]:
    """Return the row of the mean over folds: corrected resampled interval, null."""
    values = run.fold_values(name)
    low, high = np.clip(uncertainty.corrected_interval(values, run.test_train_ratio), *metric.bounds)
    nulls = [run.estimates[part.name, name].null for part in run.folds]
    return {
        **run.facts,
        **about(name, metric, run.pooled.decisions),
        "fold": MEAN,
        "value": values.mean(),
        "ci_low": low,
        "ci_high": high,
        "ci_method": "corrected_resampled",
        **_null(values.mean(), np.mean(nulls, axis=0), metric),
    }


def _null(value: float, null: np.ndarray, metric: Metric) -> dict[str, float]:
    if len(null) == 0 or not np.isfinite(null).any():
        return {}
    return {"null_mean": np.nanmean(null), "p_perm": uncertainty.permutation_p(value, null, metric.better)}


def _holm(table: pd.DataFrame) -> pd.Series:
    """Return Holm's adjusted p of each system's primary comparisons with one reference, over its tasks and readouts."""
    adjusted = pd.Series(np.nan, index=table.index)
    primary = table[(table["fold"] == MEAN) & (table["metric"] == table["target_type"].map(PRIMARY))]
    for _, rows in primary.groupby(["system", "seed", "reference"], dropna=False):
        adjusted[rows.index] = uncertainty.holm(rows["p_nb"].to_numpy(float))
    return adjusted
