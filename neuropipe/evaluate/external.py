"""External validation: how well people of a dataset are told that no training saw.

Every training fold's readout or network answers for the same external people. The value is the mean over these folds
of the metric, that is, what a single training may expect; scores of different folds are never mixed. The interval is
over the external people, who are independent of every training: each bootstrap draw is one set of people for all folds
and all systems, so that differences are paired.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.config import EXTERNAL
from neuropipe.evaluate import uncertainty
from neuropipe.evaluate.comparison import difference_interval
from neuropipe.evaluate.estimates import Estimate, about, interval
from neuropipe.evaluate.metrics import Metric
from neuropipe.evaluate.testsets import TestSet, test_sets


@dataclass(frozen=True, eq=False)
class External:
    """What one run says of one test dataset.

    Attributes
    ----------
    facts : dict
        What a row of metrics says about the run and the people.
    models : list of TestSet
        The same people in the same order, once per training fold.
    estimates : dict of str to Estimate
        By metric, of the mean over `models`.
    """

    facts: dict[str, Any]
    models: list[TestSet]
    estimates: dict[str, Estimate] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: pd.DataFrame, validation: pd.DataFrame | None) -> External:
        """Gather a run's predictions of one dataset, read as its validation people suggest; see `test_sets`."""
        sets = test_sets(rows, None, validation)
        models = sets[:-1] if len(sets) > 1 else sets  # the last of several pools them
        repeated = {"fold": EXTERNAL, "n_test": models[0].facts["n_test"]}
        return cls(sets[-1].facts | repeated, models)

    @property
    def people(self) -> list[str]:
        """Ids of the people in order, without the fold."""
        return [name.partition("/")[2] for name in self.models[0].people]

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that the predictions allow."""
        return self.models[0].metrics

    def compute(self, metric: Metric, weight: np.ndarray) -> np.ndarray:
        """Return the mean over folds of a metric (draws,) with weights of people (draws, n)."""
        return np.mean([metric.compute(model.scored, weight) for model in self.models], axis=0)

    def estimate(self, name: str, bootstrap: np.ndarray) -> None:
        """Take up a metric's bootstrap (draws,), with its value and interval; there is no null."""
        first, metric = self.models[0], self.metrics[name]
        value = float(self.compute(metric, np.ones((1, len(first.people))))[0])
        own = interval(first, name, metric, value, bootstrap)
        self.estimates[name] = Estimate(value, *own, np.empty(0), bootstrap)


def rows(
    predictions: pd.DataFrame, *, draws: int, seed: int, references: Callable[[Any, list], list]
) -> Iterator[dict[str, Any]]:
    """Yield rows of `tables.METRICS` for every run, test dataset and metric, once per reference.

    They have ``fold = external`` and the name of the test dataset under ``dataset``; there is no permutation null.

    Parameters
    ----------
    predictions : DataFrame
        Columns of `tables.PREDICTIONS`; those with ``role = external`` are judged.
    draws, seed : int
        Of the bootstrap over external people.
    references : callable
        Of a run and all runs (both with ``facts``): whom it is compared with.
    """
    outside = predictions[predictions["role"] == EXTERNAL]
    held = dict(iter(predictions[predictions["role"] == "validation"].groupby("run_id", sort=False)))
    for (task, _, dataset), part in outside.groupby(["task", "split", "dataset"], sort=True):
        runs = [External.of(group, held.get(name)) for name, group in part.groupby("run_id", sort=True)]
        _estimate(runs, draws, [seed, zlib.crc32(f"{task}/{dataset}".encode())])
        for run in runs:
            others = [other for other in references(run, runs) if other.people == run.people]
            for name, metric in run.metrics.items():
                row = _row(run, name, metric)
                compared = [row | _difference(run, other, name) for other in others if name in other.metrics]
                yield from compared or [row]


def _estimate(runs: list[External], draws: int, seed: list[int]) -> None:
    """Fill in the estimates of runs; those on the same people share the draws of the bootstrap."""
    alike: dict[tuple[str, ...], list[External]] = {}
    for run in runs:
        alike.setdefault(tuple(run.people), []).append(run)
    for members in alike.values():
        first = members[0].models[0]
        for stratified in (True, False):
            strata = first.scored.y[0].astype(np.int64) if stratified and first.classes else None
            rng = np.random.default_rng([*seed, int(stratified)])
            values: dict[tuple[int, str], list[np.ndarray]] = {}
            for weight in uncertainty.bootstrap_weights(first.units, strata, draws, rng):
                for place, run in enumerate(members):
                    for name, metric in run.metrics.items():
                        if metric.stratified == stratified:
                            values.setdefault((place, name), []).append(run.compute(metric, weight))
            for (place, name), parts in values.items():
                members[place].estimate(name, np.concatenate(parts))


def _row(run: External, name: str, metric: Metric) -> dict[str, Any]:
    """Return the row of one metric, without a comparison."""
    found = run.estimates[name]
    decisions = [decision for model in run.models for decision in model.decisions]
    said = {"value": found.value, "ci_low": found.low, "ci_high": found.high, "ci_method": found.method}
    return {**run.facts, **about(name, metric, decisions), **said}


def _difference(run: External, other: External, name: str) -> dict[str, Any]:
    """Return the columns of a comparison: the mean difference over folds, and its interval over people."""
    mine, theirs, first = run.estimates[name], other.estimates[name], run.models[0]
    # DeLong's interval is of one ranking, not of a mean over several.
    low, high, _ = difference_interval(first, other.models[0], name, mine, theirs, ranks=False)
    compared = {"reference": other.facts["system"], "delta": mine.value - theirs.value}
    return compared | {"delta_ci_low": low, "delta_ci_high": high}
