"""Every metric of a run on each of its test sets, with its bootstrap, its interval and its null."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuropipe.evaluate import uncertainty
from neuropipe.evaluate.calibration import Decision
from neuropipe.evaluate.metrics import CALIBRATED, Metric
from neuropipe.evaluate.testsets import POOLED, TestSet

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
    """One system's answer to one task: its folds, all of them pooled (or None), and estimates by (set, metric).

    Of a mean over seeds (`averaged`) the test sets hold the predictions of one of them.
    """

    folds: list[TestSet]
    pooled: TestSet | None
    estimates: dict[tuple[str, str], Estimate]
    averaged: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What a row of metrics says about the run as a whole."""
        return (self.pooled or self.folds[0]).facts

    @property
    def test_train_ratio(self) -> float:
        """Test people per training person, the mean over folds."""
        return float(np.mean([part.facts["n_test"] / part.facts["n_train"] for part in self.folds]))

    def fold_values(self, name: str) -> np.ndarray:
        """Return a metric's value on each fold."""
        return np.array([self.estimates[part.name, name].value for part in self.folds])

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that its predictions allow; of a mean over seeds, those that every seed has."""
        first = self.folds[0]
        return {name: metric for name, metric in first.metrics.items() if (first.name, name) in self.estimates}


def judge(task: str, sets: dict[str, list[TestSet]], draws: int, seed: int, only: str | None = None) -> list[Run]:
    """Return the runs of a task with their estimates of all metrics, or of one, by the test sets of each."""
    bootstraps = _bootstraps(sets, draws, [seed, zlib.crc32(task.encode())], only)
    return [_run(run_id, own, bootstraps) for run_id, own in sets.items()]


def _bootstraps(
    sets: dict[str, list[TestSet]], draws: int, seed: list[int], only: str | None
) -> dict[tuple[str, str, str], np.ndarray]:
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
                if metric.stratified == stratified and only in (None, name)
            ]
            if not chosen:
                continue
            strata = first.scored.y[0].astype(np.int64) if stratified and first.classes else None
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
            if (run_id, part.name, name) not in bootstraps:
                continue
            value = float(metric.compute(part.scored, once)[0])
            has_null = metric.null and part.null is not None and part.null.allows(metric)
            null = metric.compute(part.null, once) if has_null else np.empty(0)
            bootstrap = bootstraps[run_id, part.name, name]
            estimates[part.name, name] = Estimate(
                value, *interval(part, name, metric, value, bootstrap), null, bootstrap
            )
    pooled = sets[-1] if sets[-1].name == POOLED else None
    return Run(sets[:-1] if pooled else sets, pooled, estimates)


def interval(part: TestSet, name: str, metric: Metric, value: float, bootstrap: np.ndarray) -> tuple[float, float, str]:
    """Return interval and method: bootstrap over persons, exact where no draw can differ from a perfect ranking."""
    suffix = "_descriptive" if part.name == POOLED else ""
    if name == "auroc" and value in PERFECT:
        return *uncertainty.perfect_interval(value, part.scored.y[0], part.units), f"exact_pairs{suffix}"
    method = "bootstrap_stratified" if metric.stratified else "bootstrap"
    return *uncertainty.percentile_interval(bootstrap), f"{method}{suffix}"


def about(name: str, metric: Metric, decisions: Sequence[Decision]) -> dict[str, Any]:
    """Return a metric's name and, where it depends on them, calibration and threshold (over folds: means)."""
    row: dict[str, Any] = {"metric": name}
    fitted = [decision for decision in decisions if decision.calibrates]
    if fitted and (metric.thresholded or name in CALIBRATED):
        row["temperature"] = np.mean([decision.temperature for decision in fitted])
        row["bias"] = np.mean([decision.bias for decision in fitted])
    if metric.thresholded:
        row["threshold"] = np.mean([decision.threshold for decision in decisions])
        row["threshold_source"] = "+".join(sorted({decision.source for decision in decisions}))
    return row
