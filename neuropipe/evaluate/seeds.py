"""What several seeds of one recipe say together: their mean, their spread, and how far they agree about people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.evaluate import uncertainty
from neuropipe.evaluate.estimates import PERFECT, Estimate, Run
from neuropipe.evaluate.label_metrics import confusion
from neuropipe.evaluate.testsets import TestSet

MEAN_OVER, SD_OVER = "_seed_mean", "_seed_sd"  # end a metric's name
ICC, KAPPA = "seed_icc", "seed_kappa"


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of every recipe and readout that answered for the same people with two seeds or more."""
    alike: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        if pd.notna(run.facts["seed"]):
            people = tuple(part.people for part in run.folds)
            alike.setdefault((run.facts["system"], run.facts["readout"], people), []).append(run)
    return [sorted(group, key=lambda run: run.facts["seed"]) for group in alike.values() if len(group) > 1]


def averaged(runs: Sequence[Run]) -> Run:
    """Return the mean over seeds as a run: of values, and of bootstrap and null draw by draw, which seeds share."""
    names = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    sets = [*runs[0].folds, *([runs[0].pooled] if runs[0].pooled else [])]
    estimates = {
        (part.name, name): _mean([run.estimates[part.name, name] for run in runs], name)
        for part in sets
        for name in names
    }
    own = re.sub(r"_seed-\d+$", "", sets[0].facts["run_id"])
    facts = {"run_id": f"{own}_seeds", "seed": pd.NA, "checkpoint_sha256": pd.NA}
    sets = [replace(part, facts=part.facts | facts) for part in sets]
    folds = sets[:-1] if runs[0].pooled else sets
    return Run(folds, sets[-1] if runs[0].pooled else None, estimates, averaged=True)


def _mean(parts: Sequence[Estimate], name: str) -> Estimate:
    """Return the mean of one metric on one test set over seeds; without a null where one of them has none."""
    value = float(np.mean([part.value for part in parts]))
    bootstrap = np.mean([part.bootstrap for part in parts], axis=0)
    if name == "auroc" and value in PERFECT:
        low, high, method = parts[0].low, parts[0].high, parts[0].method
    else:
        low, high = uncertainty.percentile_interval(bootstrap)
        method = next((part.method for part in parts if part.method.startswith("bootstrap")), parts[0].method)
    null = np.mean([part.null for part in parts], axis=0) if all(len(part.null) for part in parts) else np.empty(0)
    return Estimate(value, low, high, method, null, bootstrap)


def agreement(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Yield metric and value: standard deviation of every metric over seeds, and agreement about people.

    Agreement is computed on every fold and averaged: the intraclass correlation of log odds, scores or numbers, and
    Cohen's kappa of calls or labels.
    """
    for name in runs[0].metrics:
        if all(name in run.metrics for run in runs):
            yield {"metric": name + SD_OVER, "value": np.std([run.fold_values(name).mean() for run in runs], ddof=1)}
    folds = list(zip(*(run.folds for run in runs), strict=True))
    kind = runs[0].facts["target_type"]
    if kind in ("binary", "regression"):
        yield {"metric": ICC, "value": np.mean([icc(np.stack([_numbers(p) for p in parts], 1)) for parts in folds])}
    if kind != "regression":
        yield {"metric": KAPPA, "value": np.mean([mean_kappa([_labels(part) for part in parts]) for parts in folds])}


def _numbers(part: TestSet) -> np.ndarray:
    scored = part.scored
    return (scored.prediction if scored.logit is None else scored.logit)[0]


def _labels(part: TestSet) -> np.ndarray:
    return (part.scored.calls if part.facts["target_type"] == "binary" else part.scored.prediction)[0]


def icc(ratings: np.ndarray) -> float:
    """Return the intraclass correlation of absolute agreement of single ratings, ICC(2,1) of Shrout & Fleiss (1979).

    Parameters
    ----------
    ratings : ndarray (n_people, n_seeds)
    """
    n, k = ratings.shape
    if n < 2:
        return np.nan
    people, raters = ratings.mean(axis=1), ratings.mean(axis=0)
    between = k * ((people - ratings.mean()) ** 2).sum() / (n - 1)
    judges = n * ((raters - ratings.mean()) ** 2).sum() / (k - 1)
    rest = ((ratings - people[:, None] - raters + ratings.mean()) ** 2).sum() / ((n - 1) * (k - 1))
    spread = between + (k - 1) * rest + k * (judges - rest) / n
    return float((between - rest) / spread) if spread > 0 else np.nan


def mean_kappa(labels: Sequence[np.ndarray]) -> float:
    """Return the mean over pairs of seeds of Cohen's (1960) kappa; NaN where all say one label of everyone."""
    found = [_kappa(first, second) for first, second in combinations(labels, 2)]
    return float(np.nanmean(found)) if np.isfinite(found).any() else np.nan


def _kappa(first: np.ndarray, second: np.ndarray) -> float:
    cells = confusion(first[None], second[None], np.ones((1, len(first))))[0] / len(first)
    expected = cells.sum(axis=0) @ cells.sum(axis=1)
    return (np.trace(cells) - expected) / (1 - expected) if expected < 1 else np.nan
